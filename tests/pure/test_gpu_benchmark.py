"""The control flow of `make gpu` on a machine without a GPU: cases, budgets, what is written when, the report."""

from __future__ import annotations

import ast
import copy
import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import recc

FOLDER = Path(recc.__file__).parent.parent / "benchmarks"
if not (FOLDER / "gpu.py").is_file():
    pytest.skip("the benchmarks lie in the checkout", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import crossover  # noqa: E402
import gpu  # noqa: E402
import gpu_cases  # noqa: E402
import gpu_report  # noqa: E402

SMALL = (gpu_cases.Shape(1, 24, 2, 8), gpu_cases.Shape(2, 16, 2, 8))
MACHINE = {"gpu": "a GPU", "cuda": "12", "torch": "2", "triton": "3", "python": "3", "recc": "0"}


class Clock:
    """A second a call."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def seconds(self, run):
        run()
        self.time += 1.0
        return 1.0


def wide(spec, shape, device):
    return gpu_cases.task_of(spec, shape, device, torch.float32)


@pytest.fixture(autouse=True)
def rivals_of_torch(monkeypatch, tmp_path):
    """In place of kernels for a GPU: one rival that is right, one that is wrong, one that fails."""
    monkeypatch.setenv("RECC_CACHE_DIR", str(tmp_path))

    def broken(x):
        raise RuntimeError("0 active drivers")

    loop = recc.load("simple_gla", strategy="sequential")
    found = {"fla-core": lambda x: loop(**x), "wrong": lambda x: 2 * loop(**x), "broken": broken}
    monkeypatch.setattr(gpu, "rivals", lambda spec: found.items())
    monkeypatch.setitem(gpu.STEPS, "fla-core", lambda spec, task, x: lambda: None)


def measured(clock, until, spec="simple_gla", written=None, **options):
    return gpu.measure_spec(spec, clock, until, lambda r: written is not None and written.append(copy.deepcopy(r)),
                            shapes=SMALL, device="cpu", made=wide, **options)  # fmt: skip


def test_every_case_is_measured_beside_its_rivals():
    written = []
    found = measured(Clock(), 1e6, written=written)
    assert len(found) == len(SMALL) * 3 and len(written) == 2 * len(found)
    for entry in found:
        assert {"recc", "copy", "fla-core"} <= set(entry["seconds"])
        if entry["pass"] != gpu_cases.DECODE:
            assert entry["missing"]["wrong"].startswith("ValueError: differs by 1.0")
            assert "0 active drivers" in entry["missing"]["broken"] and "wrong" not in entry["seconds"]
    # The first half of what was written is recc alone: a run that is cut there has all of it.
    half = written[len(found) - 1]
    assert [set(entry["seconds"]) for entry in half] == [{"recc", "copy"}] * len(found)


def test_a_run_that_is_cut_keeps_what_it_has():
    found = measured(Clock(), 10.0)
    assert 0 < len(found) < len(SMALL) * 3
    assert all(entry["seconds"] for entry in found[:1])


def test_a_call_that_does_not_end_is_left(monkeypatch):
    monkeypatch.setattr(gpu, "rivals", lambda spec: {"fla-core": lambda x: time.sleep(60)}.items())
    began = time.perf_counter()
    found = measured(gpu.measure.WallClock(), time.perf_counter() + 6)
    assert time.perf_counter() - began < 15
    late = [entry["missing"]["fla-core"] for entry in found if "fla-core" in entry["missing"]]
    assert late and set(late) == {"did not compile in its time"}


@pytest.mark.parametrize("spec", gpu_cases.SPECS)
def test_every_spec_has_a_task(spec):
    task = gpu_cases.task_of(spec, gpu_cases.SHAPES[0], "cpu")
    memory = "K" in task.sizes
    assert task.heads * task.sizes["K" if memory else "D"] == 96 * 128
    small = wide(spec, SMALL[0], "cpu")
    names = [item.name for item in (*small.rec.inputs, *small.rec.params)]
    x = dict(zip(names, small.tensors(), strict=True))
    assert gpu_cases.difference(small, gpu_cases.op_run(small, {"backend": "torch"}), x) < 1e-5


def parameters(name):
    """The names of the parameters of a function of fla.ops, which is not imported: that takes half a minute."""
    for file in Path(find_spec("fla").submodule_search_locations[0]).glob("ops/*/*.py"):
        text = file.read_text()
        if f"def {name}(" in text:
            found = [x for x in ast.parse(text).body if isinstance(x, ast.FunctionDef) and x.name == name]
            if found:
                return [argument.arg for argument in found[0].args.args]
    raise LookupError(name)


@pytest.mark.skipif(find_spec("fla") is None, reason="fla-core is not installed")
@pytest.mark.parametrize("spec", gpu_cases._FLA)
def test_rivals_take_the_inputs_that_specs_have(spec, monkeypatch):
    """What fla-core's functions are called with is what they take, and the specs have it."""
    small, asked = wide(spec, SMALL[0], "cpu"), []
    names = [item.name for item in (*small.rec.inputs, *small.rec.params)]
    x = dict(zip(names, small.tensors(), strict=True))

    def function(name):
        def call(*args, **named):
            asked.append(dict(zip(parameters(name), args)) | named)
            assert len(args) <= len(parameters(name)) and set(named) <= set(parameters(name))
            return next(iter(asked[-1].values())), None

        return call

    monkeypatch.setattr(gpu_cases, "_fla", function)
    gpu_cases._FLA[spec](x)
    gpu_cases.fla_step(spec, small, x)()
    assert asked[1]["initial_state"].shape[:1] == (1,) and "initial_state" not in asked[0]
    assert {"q", "x"} & set(asked[0]) and asked[0].keys() >= asked[1].keys() & {"q", "k", "v", "beta", "x"}


def test_mamba_ssm_is_called_as_it_wants(monkeypatch):
    """By its published signatures: the result is the recurrence's, and a step's that of its first token."""

    def scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False):
        state, found = u.new_zeros(*u.shape[:2], A.shape[1]), []
        for t in range(u.shape[2]):
            state = update(state, u[..., t], delta[..., t], A, B[..., t])
            found.append((state * C[:, None, :, t]).sum(-1) + D * u[..., t])
        return torch.stack(found, -1)

    def update(state, x, dt, A, B):
        return (dt[..., None] * A).exp() * state + (dt * x)[..., None] * B[:, None]

    def step(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
        state.copy_(update(state, x, dt, A, B))
        return (state * C[:, None]).sum(-1) + D * x

    for name, function in (("selective_scan_interface.selective_scan_fn", scan),
                           ("triton.selective_state_update.selective_state_update", step)):  # fmt: skip
        module, _, word = name.rpartition(".")
        monkeypatch.setitem(sys.modules, f"mamba_ssm.ops.{module}", SimpleNamespace(**{word: function}))
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.triton"):
        monkeypatch.setitem(sys.modules, name, SimpleNamespace(__path__=[]))
    small = wide("mamba", SMALL[1], "cpu")
    names = [item.name for item in (*small.rec.inputs, *small.rec.params)]
    x = dict(zip(names, small.tensors(), strict=True))
    assert gpu_cases.difference(small, gpu_cases._mamba, x) < 1e-5
    first = gpu_cases._mamba(x)[:, 0, 0]
    torch.testing.assert_close(gpu_cases.STEPS["mamba-ssm"]("mamba", small, x)(), first.detach())


def test_gpu_clock(monkeypatch):
    """On a device of which everything is done at once, each event a millisecond after the one before."""
    marks = iter(range(100))

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.time = next(marks)

        def synchronize(self):
            pass

        def elapsed_time(self, later):
            return float(later.time - self.time)

    empty = torch.empty
    monkeypatch.setattr(gpu.measure.torch, "empty", lambda *sizes, dtype, device: empty(4, dtype=dtype))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    ran = []
    assert gpu.measure.GpuClock().seconds(lambda: ran.append(1)) == 1e-3 and ran == [1]


def test_machine_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    found = gpu.measure.machine("cuda")
    assert found["gpu"] == "a GPU" and {"cuda", "torch", "triton", "python", "recc"} <= set(found)


def test_report():
    entry = {"spec": "gla", "shape": "B1", "pass": "forward", "missing": {"flash attention": "OutOfMemory"},
             "seconds": {"recc": [2e-3, 2e-3], "fla-core": [3e-3, 3e-3], "copy": [1e-3] * 3}}  # fmt: skip
    results = {"machine": MACHINE, "tests": "12 passed", "tune": {"gla": "best"}, "cases": [entry], "failed": {}}
    text = gpu_report.markdown(results)
    assert "a GPU; cuda 12, torch 2" in text and "tests/gpu: 12 passed" in text
    assert "| gla | B1 | 2.0 ms | 3.0 ms | 1.0 ms | 1.50x | 50% |" in text
    assert "- gla, B1, forward: flash attention: OutOfMemory" in text


def test_without_a_gpu_nothing_is_invented(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path)])
    gpu.main()
    assert "nothing was timed" in capsys.readouterr().out
    assert "nothing was timed" in (tmp_path / "gpu.md").read_text()
    assert json.loads((tmp_path / "gpu.json").read_text()) == {"machine": None, "cases": []}
    (tmp_path / "gpu.json").write_text("measured before")
    gpu.main()
    assert (tmp_path / "gpu.json").read_text() == "measured before"


def test_a_run_in_one_go(tmp_path, monkeypatch, capsys):
    """Tests, tune and a process for each spec: one writes, one fails, one does not end."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.measure, "machine", lambda device: MACHINE)
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--output", str(tmp_path), "--only", "gla", "kda", "hgrn"])
    case = {"spec": "gla", "shape": "B1", "pass": "forward", "seconds": {"recc": [1.0]}, "missing": {}}
    asked = []

    def stage(command, seconds, **environment):
        asked.append((command, seconds))
        if "--child" not in command:
            return 0, "said"
        spec, file = command[command.index("--child") + 1], command[command.index("--output") + 1]
        if spec != "kda":
            Path(file).write_text(json.dumps([{**case, "spec": spec}]))
        return {"gla": 0, "kda": 1, "hgrn": None}[spec], "an illegal memory access"

    monkeypatch.setattr(gpu, "stage", stage)
    gpu.main()
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [x["spec"] for x in results["cases"]] == ["gla", "hgrn"]
    assert results["failed"]["kda"] == "an illegal memory access" and "stopped after" in results["failed"]["hgrn"]
    assert results["tests"] == "said" and set(results["tune"]) == set(gpu.TUNED)
    assert "pytest" in asked[0][0] and asked[0][1] < 200 and asked[1][1] < 30
    assert "## forward" in capsys.readouterr().out


def test_a_stage_ends_in_its_time():
    began = time.perf_counter()
    script = "import time; print('so far', flush=True); time.sleep(60)"
    assert gpu.stage([sys.executable, "-c", script], 2.0) == (None, "so far")
    assert time.perf_counter() - began < 20
    assert gpu.stage([sys.executable, "-c", "print('done')"], 60) == (0, "done")


def test_the_crossover_without_a_gpu_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["crossover.py", "--output", str(tmp_path)])
    crossover.main()
    assert "nothing was written" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_crossover_of_points(tmp_path):
    forms = {form: recc.load("para_gru", backend="torch", strategy=form) for form in crossover.FORMS}
    written = []
    points = crossover.sweep(forms, float("inf"), written.append, "cpu", (1, 2), (8,))
    assert [p["channels"] for p in points] == [1, 2] and all(p["gap"] < 1e-6 for p in points) and len(written) == 2
    times = ((64, 4.0, 1.0), (1024, 4.0, 3.0), (4096, 4.0, 8.0))
    points = [
        {"channels": n, "tokens": 1024, "gap": 0.0, "seconds": {"sequential": a, "newton": b}} for n, a, b in times
    ]
    points.append({"channels": 64, "tokens": 4096, "gap": 1.0, "seconds": None})
    results = {"machine": MACHINE, "points": points}
    text = crossover.markdown(results)
    assert "| 64 | 4e+03 / 1e+03 | differ |" in text and "| 4,096 | 4e+03 / 8e+03 | - |" in text
    assert "T = 1,024: 1,024 to 4,096" in text and "T = 4,096: never" in text
    crossover.plot(results, tmp_path / "crossover.png")
    assert (tmp_path / "crossover.png").stat().st_size > 1000
