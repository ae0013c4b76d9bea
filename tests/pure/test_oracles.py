"""Every spec against references that others wrote, or that follow from a closed form: values, final states, gradients.

All in float64. The error allowed is what rounding leaves after some tens of steps; a larger one is a finding about an
equation, not about a tolerance.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracles import ORACLES
from torch import Tensor

import recc
from recc.frontend import parse_text
from recc.ir.interpreter import init_params, run
from recc.ir.node import walk
from recc.ir.program import Recurrence
from recc.runtime.samples import CORNERS, sample_inputs

SPECS = Path(__file__).parents[2] / "specs"
CASES = [(spec, source) for spec, sources in ORACLES.items() for source in sources]
TOLERANCE = 1e-12  # relative to the largest entry
COMPILED = 1e-9  # what a compiled op promises in float64
SINGLE = 1e-5  # some tens of roundings of float32
# A compiled op takes differences of cumulative sums. Where decays of -30 make a gradient vanish, what is left of it is
# the rounding of what cancelled, which is relative to the largest of all entries.
CANCELLED = 1e-13
# Slots that forget all hold the same, and a softmax over equals has no gradient: what is left of it is rounding, too.
CANCELS = {("gsa", "decay_strong")}
# naive_retention computes its decays itself, so it has no gradient for them; scales of 8-bit numbers have none.
NO_GRADIENT = {
    ("retnet", "g"),
    ("quamba_decode", "scale"),
    *(("quamba", f"s{name}") for name in ("x", "dt", "A", "B", "C")),
}
# Sums of what is not negative.
NORMALISERS = {("linear_attention", "z"), ("slstm", "n"), ("lightnet", "z"), ("rwkv4", "b"), ("aaren", "c"),
               ("spikegpt", "b")}  # fmt: skip
# Numbers of tokens.
COUNTS = {("rat", "n"), *((spec, "t") for spec in ("atlas", "titans", "titans_mlp", "ttt_linear", "ttt_mlp"))}

Tensors = dict[str, Tensor]
Function = Callable[[Tensors, Tensors, Tensors], tuple[Tensors, Tensors]]


def load(spec: str) -> Recurrence:
    path = SPECS / f"{spec}.rec"
    (rec,) = parse_text(path.read_text(), str(path))
    return rec


def problem(
    rec: Recurrence, corner: str | None = None, time: int = 21, seed: int = 0
) -> tuple[Tensors, Tensors, Tensors]:
    """Inputs from the declared domains, fresh params, and a random state to start from."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: size for name, size in rec.example.items() if name not in ("T", "heads")}
    inputs = sample_inputs(rec, sizes, 2, time, 2, torch.float64, generator, corner)
    params = init_params(rec, sizes, 2, torch.float64, generator=generator)
    _, shapes = run(rec, {name: x[:, :0] for name, x in inputs.items()}, params)
    start = {s.name: torch.empty_like(shapes[s.name]).normal_(generator=generator) for s in rec.states if not s.delay}
    start = {name: x.abs() if (rec.name, name) in NORMALISERS else x for name, x in start.items()}
    start = {name: (10 * x.abs()).floor() if (rec.name, name) in COUNTS else x for name, x in start.items()}
    return inputs, params, start


def compare(actual: Tensor, expected: Tensor, what: str, allowed: Tensor) -> None:
    assert actual.shape == expected.shape, what
    error = (actual - expected).abs().max()
    assert error <= allowed, f"{what}: error {error:.1e}, largest entry {expected.abs().max():.1e}"


def known(final: Tensors, names: Tensors) -> Tensors:
    """The final states that an oracle knows, `C*exp(m)` being one state rescaled by another."""
    result = {}
    for name in names:
        state, _, scale = name.partition("*exp(")
        value = final[state]
        if scale:
            factor = final[scale.rstrip(")")].exp()
            value = value * factor.reshape(factor.shape + (1,) * (value.dim() - factor.dim()))
        result[name] = value
    return result


def check(
    function: Function,
    spec: str,
    source: str,
    tensors: tuple[Tensors, Tensors, Tensors],
    tolerance: float = TOLERANCE,
    cancelled: float = 0,
) -> None:
    """`function` (inputs, params, start) -> (outputs, final) against the oracle, values and gradients."""
    leaves = {}
    for kind, group in zip(("input", "param", "state"), tensors, strict=True):
        leaves |= {f"{kind} {name}": x.requires_grad_() for name, x in group.items()}
    outputs, final = function(*tensors)
    expected, expected_final = ORACLES[spec][source](*tensors)
    assert set(outputs) == set(expected)
    ours, theirs = {**outputs, **known(final, expected_final)}, {**expected, **expected_final}
    weights = {name: torch.randn_like(x) for name, x in theirs.items()}
    for values in (ours, theirs):
        loss = sum((values[name] * weight.conj()).real.sum() for name, weight in weights.items())
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        values |= {f"gradient of {name}": x for name, x in zip(leaves, gradients, strict=True)}
    largest = max(x.abs().max() for x in theirs.values() if x is not None)
    for name, value in theirs.items():
        if value is None:
            param = name.split()[-1]
            assert (spec, param) in NO_GRADIENT or param in starts(load(spec)), name
        else:
            compare(ours[name], value, name, tolerance * value.abs().max() + cancelled * largest)


def starts(rec: Recurrence) -> set[str]:
    """The params that give states their starts, which are passed here."""
    return {node["name"] for s in rec.states if s.init for node in walk(s.init) if node.op == "param"}


def reference(rec: Recurrence) -> Function:
    return lambda x, p, s: run(rec, x, p, initial_state=s)


def compiled(rec: Recurrence, spec: str, backend: str) -> Function:
    """The op that `recc.load` makes, with its default strategy; for `c`, of native code where that serves."""
    op = recc.load(spec, backend="torch" if backend == "torch" else None)

    def call(x: Tensors, p: Tensors, s: Tensors) -> tuple[Tensors, Tensors]:
        state = {**run(rec, {name: value[:, :0] for name, value in x.items()}, p)[1], **s}  # delays start at 0
        result, final = op(**x, **p, initial_state=state, return_final_state=True)
        results = result if isinstance(result, tuple) else (result,)
        return dict(zip((y.name for y in rec.outputs), results, strict=True)), final

    return call


def test_every_spec_has_an_oracle():
    assert {path.stem for path in SPECS.glob("*.rec")} == set(ORACLES)


@pytest.mark.parametrize(("spec", "source"), CASES, ids=[f"{spec}: {source}" for spec, source in CASES])
def test_the_reference_equals_its_oracle(spec: str, source: str):
    rec = load(spec)
    torch.manual_seed(0)
    check(reference(rec), spec, source, problem(rec))


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("spec", ORACLES)
def test_the_reference_equals_its_oracle_at_the_ends_of_domains(spec: str, corner: str):
    """Against the first oracle: the others are chunked, and lose digits of a gradient to decays of -30."""
    if (spec, corner) == ("hgrn", "low"):
        pytest.skip("the oracle takes the logarithm of the gate, which is 0 here")
    rec, source = load(spec), next(iter(ORACLES[spec]))
    torch.manual_seed(0)
    check(reference(rec), spec, source, problem(rec, corner), cancelled=CANCELLED * ((spec, corner) in CANCELS))


@pytest.mark.parametrize(("spec", "shared"), [("mamba2", ("B", "C")), ("kda", ("q", "k"))])
def test_grouped_heads(spec: str, shared: tuple[str, ...]):
    """One B and C for all heads as in Mamba-2; fewer heads for q and k than for v, where fla repeats them itself."""
    rec = load(spec)
    inputs, params, start = problem(rec)
    for name in shared:
        inputs[name] = inputs[name][:, :, :1].clone()
    torch.manual_seed(0)
    source = next(iter(ORACLES[spec]))
    check(reference(rec), spec, source, (inputs, params, start))


@pytest.mark.parametrize("spec", ORACLES)
def test_the_compiled_op_equals_the_oracle(spec: str, backend: str):
    """Over several chunks, the last of them not full."""
    rec, source = load(spec), next(iter(ORACLES[spec]))
    torch.manual_seed(0)
    check(compiled(rec, spec, backend), spec, source, problem(rec, time=75), COMPILED, CANCELLED)


@pytest.mark.parametrize("corner", CORNERS)
@pytest.mark.parametrize("spec", ORACLES)
def test_the_compiled_op_equals_the_oracle_at_the_ends_of_domains(spec: str, corner: str, backend: str):
    if (spec, corner) == ("hgrn", "low"):
        pytest.skip("the oracle takes the logarithm of the gate, which is 0 here")
    rec, source = load(spec), next(iter(ORACLES[spec]))
    torch.manual_seed(0)
    check(compiled(rec, spec, backend), spec, source, problem(rec, corner, time=35), COMPILED, CANCELLED)


@pytest.mark.parametrize("spec", ORACLES)
def test_the_compiled_op_in_float32_equals_the_oracle(spec: str, backend: str):
    rec, source = load(spec), next(iter(ORACLES[spec]))
    single = [{name: x.to(narrow(x.dtype)) for name, x in group.items()} for group in problem(rec, time=75)]
    outputs, final = compiled(rec, spec, backend)(*single)
    exact = [{name: x.to(wide(x.dtype)) for name, x in group.items()} for group in single]
    expected, expected_final = ORACLES[spec][source](*exact)
    assert all(x.dtype == narrow(x.dtype) for x in (*outputs.values(), *final.values()))
    for name, x in {**expected, **expected_final}.items():
        compare({**outputs, **known(final, expected_final)}[name], x, name, SINGLE * x.abs().max())


def narrow(dtype: torch.dtype) -> torch.dtype:
    return torch.complex64 if dtype.is_complex else torch.float32


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64
