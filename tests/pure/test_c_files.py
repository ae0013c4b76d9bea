"""Native code as files: what `recc compile --emit c` and `so` write, called from C, gives the numbers of the op."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from recc.backends.c import build
from recc.backends.c.header import Interface
from recc.backends.c.kernel import generate
from recc.backends.c.vectors import Real

import recc
from recc.analysis import analyse
from recc.cli import main
from recc.frontend import parse_text
from recc.library import find
from recc.tile import pairs

pytestmark = pytest.mark.skipif(not build.find_compiler(), reason="needs a C compiler")

BATCH = 2
REALS = {torch.float32: "float", torch.float64: "double"}


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def compiled(*words: str) -> str:
    """What the machine's compiler says about these files and options."""
    done = subprocess.run([*build.find_compiler().command, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


def printed(program: str) -> dict[str, float]:
    out = subprocess.run([f"./{program}"], capture_output=True, text=True, check=True).stdout
    return {line.split()[0]: float(line.split()[1]) for line in out.splitlines()}


class Example:
    """What the example should print: its inputs drawn as it draws them, its results by the torch backend."""

    def __init__(self, name: str, dtype: torch.dtype = torch.float32, text: str | None = None, **dims: int) -> None:
        text, path = (text, "<test>") if text else find(name)
        rec = parse_text(text, path, dims=dims)[0]
        sizes = {dim: size or rec.example[dim] for dim, size in rec.dims.items()}
        self.sizes = sizes | {"heads": rec.example.get("heads", 2)}
        self.time, self.dtype, self.seed = rec.example.get("T", 33), dtype, 1
        kernel = generate(analyse(rec), self.sizes, Real(REALS[dtype], 8), 16)
        made = Interface(rec, kernel, Real(REALS[dtype], 8), self.sizes, name)
        self.values: dict[str, torch.Tensor] = {}
        for direction, kinds in (("forward", ("in", "param", "first")), ("backward", ("d_out", "d_last"))):
            for kind, field, item in made.fields(direction):
                if kind in kinds:
                    self.values[field] = self.drawn(kind, item)
        self.op = recc.loads(text, path=path, strategy="sequential", **dims)
        self.results = self._results(made)

    def drawn(self, kind: str, item) -> torch.Tensor:
        lead = {"in": [BATCH, self.time], "d_out": [BATCH, self.time], "param": []}.get(kind, [BATCH])
        shape = [*lead, *(self.sizes[axis.partition("'")[0]] for axis in item.axes), *[2] * (item.dtype == "complex")]
        values = self.numbers(kind, item, shape)
        return torch.view_as_complex(values) if item.dtype == "complex" else values

    def numbers(self, kind: str, item, shape: list[int]) -> torch.Tensor:
        count = torch.Size(shape).numel()
        domain = item.domain if kind in ("in", "param") else None
        if kind == "first" and item.init is not None and item.init.op == "const":
            return torch.full(shape, float(item.init["value"]), dtype=self.dtype)
        draws = torch.tensor([self.uniform() for _ in range(count)], dtype=torch.float64).reshape(shape)
        if domain is not None and domain.unit:
            return torch.where(draws < 0.5, -1.0, 1.0).div(shape[-1] ** 0.5).to(self.dtype)
        low, high = (domain.low, domain.high) if domain is not None else (None, None)
        if low is None:
            low, high = (-1.0, 1.0) if high is None else (high - 1.0, high)
        return (low + ((low + 1.0 if high is None else high) - low) * draws).to(self.dtype)

    def uniform(self) -> float:
        self.seed = (self.seed * 1664525 + 1013904223) % 2**32
        return (self.seed >> 8) / 2**24

    def _results(self, made: Interface) -> dict[str, tuple[float, float]]:
        """(checksum, sum of the magnitudes that it adds up) by field."""
        given = {f: x.requires_grad_() for f, x in self.values.items() if f.startswith(("in_", "param_", "first_"))}
        fields = {(kind, item.name): field for kind, field, item in made.fields("forward")}
        states = {name: given[field] for (kind, name), field in fields.items() if kind == "first"}
        tensors = [x for field, x in given.items() if not field.startswith("first_")]
        *outputs, final = self.op(*tensors, initial_state=states, return_final_state=True)
        results = {fields["out", item["name"]]: x for item, x in zip(self.op.outputs, outputs)}
        results |= {fields["last", name]: x for name, x in final.items()}
        loss = sum((x * self.values[f"d_{field}"].conj()).real.sum() for field, x in results.items())
        grads = torch.autograd.grad(loss, list(given.values()))
        results |= {f"d_{field}": x for field, x in zip(given, grads)}
        return {field: self.checksum(x) for field, x in results.items()}

    @staticmethod
    def checksum(x: torch.Tensor) -> tuple[float, float]:
        x = torch.view_as_real(x) if x.is_complex() else x
        flat = x.detach().double().flatten()
        terms = flat * ((torch.arange(flat.numel()) * 37 % 101).double() / 101 + 0.5)
        return float(terms.sum()), float(terms.abs().sum())


def agrees(found: dict[str, float], example: Example, limit: float) -> None:
    assert set(found) == set(example.results)
    for field, (want, size) in example.results.items():
        assert abs(found[field] - want) <= limit * (size + 0.1), field


# --- what is written, called from C ---------------------------------------------------------------------------------

RECURRENCES = ["gla", "gated_delta_net", "gru", "hgrn", "lru", "mlstm"]


@pytest.mark.parametrize("name", RECURRENCES)
def test_the_example_prints_the_numbers_of_the_op(name, capsys):
    assert main(["compile", name, "--emit", "c", "-o", f"{name}.c"]) == 0
    assert capsys.readouterr().out == f"wrote {name}.c, {name}.h, {name}_example.c\n"
    said = compiled("-O1", *build.flags()[1:-1], "-Wall", "-Wextra", f"{name}_example.c", "-c")
    assert said == ""
    compiled("-O1", "-march=native", "-std=c11", f"{name}_example.c", f"{name}.c", "-o", "example", "-lm")
    agrees(printed("example"), Example(name), 2e-6)


def test_past_values_and_params_in_double():
    layer = """recurrence layer
dim D, V
input x : D
param W : V x D
state S : V = 0
output y : V
u = W @ x
S[t] = 0.5 * S[t-1] + u[t-1]
y = S[t] + u
example T = 40, heads = 3, D = 5, V = 6
"""
    Path("layer.rec").write_text(layer)
    assert main(["compile", "layer.rec", "--emit", "c", "--dtype", "float64", "--dims", "V=3,D=9", "-o", "a.c"]) == 0
    assert "#define LAYER_V 3" in Path("a.h").read_text() and "double *work" in Path("a.h").read_text()
    compiled("-O1", "-std=c11", "a_example.c", "a.c", "-o", "example", "-lm")
    agrees(printed("example"), Example("a", torch.float64, layer, V=3, D=9), 1e-13)


def test_heads_write_parts_of_what_they_share():
    assert main(["compile", "gla_layer", "--emit", "c", "--dtype", "float64", "-o", "gla_layer.c"]) == 0
    header = Path("gla_layer.h").read_text()
    assert "[batch, time, heads, D]; written; the sum over heads is the output" in header
    compiled("-O1", "-std=c11", "gla_layer_example.c", "gla_layer.c", "-o", "example", "-lm")
    agrees(printed("example"), Example("gla_layer", torch.float64), 1e-12)


def test_a_task_may_be_a_sequence_with_all_its_heads():
    layer = """recurrence layer
dim D, K
input x : D shared
param W : D x K
param U : K x D
state h : K = 0
output y : D shared
h[t] = 0.5 * h[t-1] + x @ W
y = tanh(sum(h[t] @ U, over=heads))
example T = 40, heads = 3, D = 9, K = 6
"""
    Path("layer.rec").write_text(layer)
    assert main(["compile", "layer.rec", "--emit", "c", "--dtype", "float64", "-o", "layer.c"]) == 0
    assert "A task is one sequence with its 3 heads" in Path("layer.h").read_text()
    compiled("-O1", "-std=c11", "layer_example.c", "layer.c", "-o", "example", "-lm")
    agrees(printed("example"), Example("layer", torch.float64, layer), 1e-13)


@pytest.mark.skipif(not build.sanitizer_environment(), reason="needs address sanitizing")
@pytest.mark.parametrize("name", ["gated_delta_net", "gru", "lru"])
def test_nothing_is_read_or_written_outside_of_what_the_header_asks_for(name):
    assert main(["compile", name, "--emit", "c", "-o", "a.c"]) == 0
    compiled("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-std=c11",
             "a_example.c", "a.c", "-o", "example", "-lm")  # fmt: skip
    done = subprocess.run(
        ["./example"], capture_output=True, text=True, env=os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    )
    assert done.returncode == 0 and not done.stderr, done.stderr


@pytest.mark.parametrize("target, lanes", [("x86-64-v2", 4), ("x86-64-v3", 8), ("x86-64-v4", 16), ("generic", 4)])
def test_the_target_decides_the_width(target, lanes, capsys):
    assert main(["compile", "ema", "--emit", "c", "--target", target]) == 0
    assert f"enum {{ LANES_N = {lanes} }};" in capsys.readouterr().out


def test_the_library_is_built_and_linked(capsys):
    assert main(["compile", "simple_gla", "--emit", "so", "--target", "generic", "-o", "libmemory.so"]) == 0
    assert sorted(path.name for path in Path().iterdir()) == ["libmemory.so", "memory.h", "memory_example.c"]
    compiled("-std=c11", "memory_example.c", "./libmemory.so", "-o", "example", "-lm")
    agrees(printed("example"), Example("simple_gla"), 2e-6)


@pytest.mark.parametrize("kind, output", [("c", "memory.c"), ("so", "libmemory.so")])
def test_the_command_that_the_example_gives_builds_it(kind, output):
    assert main(["compile", "gla", "--emit", kind, "-o", output]) == 0
    (command,) = (line for line in Path("memory_example.c").read_text().splitlines() if line.startswith("//     cc "))
    compiled(*command.split()[2:])
    assert "out_o" in printed("memory_example")


def test_what_has_no_gradient_has_no_field_for_one():
    lines = ["recurrence r", "dim D", "input x, y : D", "param p : D", "state h : D = 0", "output h"]
    text = "\n".join([*lines, "h[t] = 0.5 * h[t-1] + x + stopgrad(y * p)", "example D = 3"]) + "\n"
    Path("r.rec").write_text(text)
    assert main(["compile", "r.rec", "--emit", "c", "-o", "r.c"]) == 0
    header = Path("r.h").read_text()
    assert "in_y" in header and "param_p" in header and "d_in_x" in header
    assert "d_in_y" not in header and "d_param_p" not in header and "Nothing depends on y, p" in header
    compiled("-O1", "-std=c11", "r_example.c", "r.c", "-o", "example", "-lm")
    assert set(printed("example")) == {"out_h", "last_h", "d_in_x", "d_first_h"}
    op = recc.loads(text, backend="c")
    x, y, p = torch.randn(1, 4, 2, 3), torch.randn(1, 4, 2, 3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    assert not any(grad.any() for grad in torch.autograd.grad(op(x, y, p).sum(), [y, p]))


@pytest.mark.parametrize("language", [("-std=c99", "-x", "c"), ("-std=c++11", "-x", "c++")])
def test_the_header_is_c_and_cpp(language):
    assert main(["compile", "gla", "--emit", "c", "-o", "gla.c"]) == 0
    Path("user").write_text(
        '#include "gla.h"\n#include "gla.h"\nint main(void) { gla_forward_args a; return a.heads = 0; }\n'
    )
    assert compiled("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-c", *language, "user") == ""


# --- what goes wrong ------------------------------------------------------------------------------------------------


def test_what_native_code_does_not_serve_is_a_diagnostic(capsys, monkeypatch):
    monkeypatch.delitem(pairs.FUNCTIONS, "exp")
    assert main(["compile", "lru", "--emit", "c", "-o", "lru.c"]) == 1
    err = capsys.readouterr().err
    assert "error[E0601]: native code does not serve `lru`" in err and "`exp` has no form for complex values" in err
    assert "lru.rec:17:10" in err and not list(Path().iterdir())


@pytest.mark.parametrize("words, problem", [
    (["--emit", "so"], "a library has no form as text"),
    (["--emit", "c", "-o", "gla.h"], "write it as `-o gla.c`"),
    (["--emit", "c", "--target", "sm_90"], "there are native, x86-64-v4"),
    (["--emit", "c", "--strategy", "chunk"], "no form for `--strategy chunk`"),
    (["--emit", "c", "-o", "missing/gla.c"], "cannot be written"),
    (["--emit", "so", "-o", "missing/libgla.so"], "cannot be written"),
])  # fmt: skip
def test_bad_usage_writes_nothing(words, problem, capsys):
    assert main(["compile", "gla", *words]) == 2
    assert problem in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_a_failing_build_writes_nothing(capsys, monkeypatch):
    def fails(*args, **options):
        raise build.BuildError("cc could not build it")

    monkeypatch.setattr(build, "compile_file", fails)
    assert main(["compile", "gla", "--emit", "so", "-o", "libgla.so"]) == 2
    assert "cc could not build it" in capsys.readouterr().err and not list(Path().iterdir())


def test_without_a_size_it_says_which(capsys):
    Path("bare.rec").write_text("recurrence bare\ndim D\ninput x : D\nstate h : D = 0\noutput h\nh[t] = h[t-1] + x\n")
    assert main(["compile", "bare.rec", "--emit", "c"]) == 2
    assert "`--dims D=64`" in capsys.readouterr().err
    assert main(["compile", "bare.rec", "--emit", "c", "--dims", "D=64"]) == 0
