"""`make gpu`: the gpu tests, a quick tune, recc beside public kernels, and where Newton's method passes the loop.

Each spec is measured in a process of its own, so that a kernel that fails takes no other result along. Results are
written after each case: a run that is cut keeps what it has. Writes gpu.json and gpu.md to benchmarks/results/; where
there is no GPU, it says so and measures nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from gpu_cases import (
    AGREE,
    ATTENTION,
    COPY,
    DECODE,
    FORWARD,
    LIBRARIES,
    PASSES,
    SHAPES,
    SPECS,
    STEPS,
    Shape,
    Tensors,
    difference,
    op_run,
    own,
    own_step,
    rivals,
    state_of,
    task_of,
)
from gpu_report import markdown

from recc.runtime import cache
from recc.tuning import measure
from recc.tuning.tune import Task

ROOT = Path(__file__).parent.parent
SHARES = {"tests": 0.3, "tune": 0.15, "crossover": 0.1}  # of the budget; the rest is the benchmark's
TUNED = ("gla", "simple_gla", "gated_delta_net")  # at the first shape
ROUNDS = 9


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=530, help="seconds in all (default: 530)")
    parser.add_argument("--only", nargs="+", default=list(SPECS), choices=SPECS, metavar="SPEC")
    parser.add_argument("--skip", nargs="+", default=[], choices=("tests", "tune", "crossover", "bench"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--child", help=argparse.SUPPRESS)  # the process of one spec
    parser.add_argument("--until", type=float, help=argparse.SUPPRESS)  # when it must have ended, by time.time()
    return parser.parse_args()


# --- the process of one spec ----------------------------------------------------------------------------------------


class Late(Exception):
    """A call did not end in its time."""


@contextmanager
def within(seconds: float):
    """Raises Late in the block when its time is over, as soon as Python gets a turn."""

    def end(*_: Any) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def imported(spec: str, device: str) -> None:
    """Imports what the calls of a spec will: an import that is cut in the middle leaves a module that stays broken."""
    import torch.fx.experimental.symbolic_shapes  # noqa: F401 - sympy, which ops of torch.library need when traced

    for module in LIBRARIES.get(spec, ()) if device == "cuda" else ():
        try:
            import_module(module)
        except Exception as error:  # as its cases will say once more
            print(f"{spec}: {module}: {_said(error)}", flush=True)


def measure_spec(spec: str, clock: measure.Clock, until: float, write: Callable[[list[dict]], None],
                 shapes: tuple[Shape, ...] = SHAPES, device: str = "cuda",
                 made: Callable[..., Task] = task_of) -> list[dict]:  # fmt: skip
    """Every shape and pass of a spec: first all of recc and the copies, then beside its rivals, whose own tuning takes
    long. until: by clock.now(). write: called with all results after each case."""
    imported(spec, device)
    results: dict[tuple[str, str], dict] = {}
    todo = [(stage, shape, passes) for stage in (False, True) for shape in shapes for passes in PASSES]
    for place, (beside, shape, passes) in enumerate(todo):
        left = until - clock.now()
        if left <= 0:
            break
        entry = results.setdefault((str(shape), passes), {"spec": spec, "shape": str(shape), "pass": passes,
                                                          "seconds": {}, "missing": {}})  # fmt: skip
        # Compiling comes with the first pass of a shape, so a case may take what three have.
        slot = min(left, 3 * left / (len(todo) - place))
        try:
            with within(slot):
                measure_case(made(spec, shape, device), spec, passes, beside, entry, clock, clock.now() + slot / 2)
        except Late:
            entry["missing"].setdefault("rivals" if beside else "recc", f"not within {slot:.0f} s")
        except Exception as error:  # out of memory, or a kernel that fails: the next case may be fine
            entry["missing"]["rivals" if beside else "recc"] = _said(error)
        write([entry for entry in results.values() if entry["seconds"] or entry["missing"]])
        if device == "cuda":
            torch.cuda.empty_cache()
    return list(results.values())


def measure_case(task: Task, spec: str, passes: str, beside: bool, entry: dict, clock: measure.Clock,
                 until: float) -> None:  # fmt: skip
    """Times one case into `entry`, interleaved. beside: with the rivals, where there are any."""
    names = [item.name for item in (*task.rec.inputs, *task.rec.params)]
    x: Tensors = dict(zip(names, task.tensors(), strict=True))
    calls: dict[str, Callable[[], object]] = {}
    others = dict(rivals(spec)) if beside else {}
    if beside and not others:
        return
    for name, form in own(task):
        add(calls, entry, name, lambda form=form: _own_call(task, form, x, passes))
    for name, run in others.items():
        if passes != DECODE:
            add(calls, entry, name, lambda run=run, name=name: _call(task, run, x, passes, name != ATTENTION))
        elif name in STEPS:
            add(calls, entry, name, lambda name=name: _graphed(task, STEPS[name](spec, task, x)))
    if not beside:
        calls[COPY] = copied(task, x, passes)
    timed = {name: measure.whole(call, clock) for name, call in calls.items()}
    entry["seconds"] |= measure.rounds(timed, ROUNDS, until, clock.now)


def add(calls: dict, entry: dict, name: str, make: Callable[[], Callable[[], object]]) -> None:
    """The call, once it has run; else the reason why it is missing."""
    try:
        call = make()
        call()
        calls[name] = call
    except Late:
        entry["missing"][name] = "did not compile in its time"
        raise
    except Exception as error:
        entry["missing"][name] = _said(error)


def _own_call(task: Task, form: dict, x: Tensors, passes: str) -> Callable[[], object]:
    if passes == DECODE:
        return _graphed(task, own_step(task, form, x))
    return _call(task, op_run(task, form), x, passes, True)


def _graphed(task: Task, step: Callable[[], object]) -> Callable[[], object]:
    step()
    return measure.graphed(step) if task.device == "cuda" else step


def _call(task: Task, run: Callable, x: Tensors, passes: str, compared: bool) -> Callable[[], object]:
    """A forward pass, or both. Raises ValueError where the output is not what it should be."""
    if compared and (apart := difference(task, run, x)) > AGREE:
        raise ValueError(f"differs by {apart:.1e}; not timed")
    if passes == FORWARD:
        return torch.no_grad()(lambda: run(x))
    with torch.no_grad():
        dy = torch.randn_like(run(x))
    leaves = list(x.values())
    return lambda: torch.autograd.grad(run(x), leaves, dy, allow_unused=True)


def copied(task: Task, x: Tensors, passes: str) -> Callable[[], object]:
    """A copy that moves as many bytes as the pass must read and write at least: each input and state once, each result
    once."""
    inputs = sum(value.numel() * value.element_size() for value in x.values())
    if passes == DECODE:
        moved = 2 * sum(value.numel() * value.element_size() for value in state_of(task, x).values())
    else:
        output = task.rec.outputs[0]
        count = task.batch * task.time * task.heads
        for axis in output.axes:
            count *= task.sizes[axis] if axis != "heads" else 1
        outputs = count * torch.finfo(task.dtype).bits // 8
        moved = inputs + outputs if passes == FORWARD else 3 * inputs + 2 * outputs
    source = torch.zeros(max(moved // 2, 1), dtype=torch.uint8, device=task.device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


# --- all of it ------------------------------------------------------------------------------------------------------


def store(folder: Path, results: dict) -> None:
    """Both files, each in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    cache.write(folder / "gpu.json", (json.dumps(results, indent=1) + "\n").encode())
    cache.write(folder / "gpu.md", markdown(results).encode())


def stage(command: list[str], seconds: float, **environment: str) -> tuple[int | None, str]:
    """Exit code and last line of a command; None where it was stopped at its time."""
    try:
        done = subprocess.run(command, timeout=seconds, cwd=ROOT, env=os.environ | environment, capture_output=True,
                              text=True)  # fmt: skip
    except subprocess.TimeoutExpired as late:
        said = late.stdout.decode() if isinstance(late.stdout, bytes) else late.stdout or ""
        return None, (said.strip().splitlines() or [""])[-1]
    return done.returncode, ((done.stdout + done.stderr).strip().splitlines() or [""])[-1]


def run_tests(seconds: float) -> str:
    cores = os.cpu_count() or 1
    workers = ["-n", str(cores - 2)] if cores >= 8 else []  # what takes long is compiling
    code, line = stage([sys.executable, "-m", "pytest", "-q", "tests/gpu", *workers], seconds)
    return line if code is not None else f"stopped after {seconds:.0f} s: {line}"


def run_tune(seconds: float) -> dict[str, str]:
    """A quick tune of some specs, for what remains of the time."""
    found, ends, shape = {}, time.time() + seconds, SHAPES[0]
    for place, spec in enumerate(TUNED):
        share = (ends - time.time()) / (len(TUNED) - place)
        if share < 5:
            found[spec] = "no time was left"
            continue
        sizes = ["--batch", shape.batch, "--time", shape.time, "--heads", shape.heads, "--dim",
                 f"K={shape.D},V={shape.D}"]  # fmt: skip
        command = [sys.executable, "-m", "recc", "tune", spec, "--device", "cuda", "--passes", "training",
                   "--budget", f"{share * 0.6:.0f}s", *map(str, sizes)]  # fmt: skip
        code, line = stage(command, share)
        found[spec] = line.strip() if code is not None else f"stopped after {share:.0f} s"
    return found


def run_bench(specs: list[str], until: float, results: dict, folder: Path) -> None:
    """A process for each spec, one after the other; what each has written is kept even if it is stopped."""
    for place, spec in enumerate(specs):
        share = (until - time.time()) / (len(specs) - place)
        if share < 5:
            results["cut"] = f"no time was left for {', '.join(specs[place:])}"
            break
        with tempfile.TemporaryDirectory() as work:
            file = Path(work) / "part.json"
            ends = time.time() + share
            command = [sys.executable, __file__, "--child", spec, "--until", str(ends - 2), "--output", str(file)]
            code, line = stage(command, share + 5)
            cases = json.loads(file.read_text()) if file.is_file() else []
        results["cases"] += cases
        if code != 0:
            results["failed"][spec] = f"stopped after {share:.0f} s" if code is None else line[:200]
        store(folder, results)
        print(f"{spec}: {len(cases)} cases in {share - (ends - time.time()):.0f} s", flush=True)


def main() -> None:
    args = parse()
    if args.child:
        until = args.until - time.time() + time.perf_counter()
        write = lambda cases: cache.write(args.output, json.dumps(cases).encode())  # noqa: E731
        measure_spec(args.child, measure.GpuClock(), until, write)
        return
    if not torch.cuda.is_available():
        print("there is no GPU on this machine: nothing was run, nothing was timed")
        if not (args.output / "gpu.json").is_file():
            store(args.output, {"machine": None, "cases": []})
        return
    began = time.time()
    results: dict[str, Any] = {"machine": measure.machine("cuda"), "tests": "not run", "tune": {}, "cases": [],
                               "failed": {}}  # fmt: skip
    store(args.output, results)
    if "tests" not in args.skip:
        results["tests"] = run_tests(SHARES["tests"] * args.budget)
        print(f"tests/gpu: {results['tests']}", flush=True)
        store(args.output, results)
    if "tune" not in args.skip:
        results["tune"] = run_tune(SHARES["tune"] * args.budget)
        print("\n".join(f"tune {spec}: {line}" for spec, line in results["tune"].items()), flush=True)
    if "crossover" not in args.skip:
        seconds = SHARES["crossover"] * args.budget
        script = Path(__file__).with_name("crossover.py")
        command = [sys.executable, str(script), "--budget", f"{0.7 * seconds:.0f}", "--output", str(args.output)]
        print(f"crossover: {stage(command, seconds)[1]}", flush=True)
    if "bench" not in args.skip:
        run_bench(args.only, began + args.budget - 5, results, args.output)
    store(args.output, results)
    print(markdown(results))


if __name__ == "__main__":
    main()
