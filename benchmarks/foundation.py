"""`make bench`: the compiled ops against a public hand-written chunked form and against the sequential reference.

Everything that is compared runs in one process, in interleaved rounds; what is kept are medians and their ratios.
Before anything is timed, the results are compared, too. Writes foundation.json, foundation.md and foundation.png to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from memory import peak_of
from report import markdown, plot, target
from rich.console import Console
from rivals import fla
from torch import Tensor

import recc
from recc.frontend import parse_text
from recc.ir.interpreter import run as reference
from recc.library import find
from recc.tuning.measure import machine, median, ratio, rounds, whole

BATCH, HEADS, TIME, LONG, SIZE, THREADS = 2, 4, 2048, 16384, 64, 2
RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parent.parent
console = Console(highlight=False)
Run = Callable[..., Tensor]


# --- inputs and what runs on them -------------------------------------------------------------------------------


def draw(spec: str, time_steps: int, seed: int = 0) -> dict[str, Tensor]:
    """Inputs as a layer would give them: keys of norm 1, decays near 1, write strengths in (0, 1)."""
    random = torch.Generator().manual_seed(seed)

    def normal(*dims: int) -> Tensor:
        return torch.randn(BATCH, time_steps, HEADS, *dims, generator=random)

    inputs = {"q": normal(SIZE), "k": F.normalize(normal(SIZE), dim=-1), "v": normal(SIZE)}
    if spec == "gla":
        inputs |= {"g": F.logsigmoid(normal(SIZE) + 3)}
    else:
        inputs |= {"g": F.logsigmoid(normal() + 3), "beta": normal().sigmoid()}
    return {name: x.requires_grad_() for name, x in inputs.items()}


def naive_chunk() -> Run:
    """fla-core's chunked form of the gated delta rule in plain torch."""
    function = fla("gated_delta_rule/naive.py").naive_chunk_gated_delta_rule
    return lambda q, k, v, g, beta: function(q, k, v, g, beta)[0]


def loop(spec: str) -> Run:
    """The sequential reference: the step run token by token in plain torch, differentiated by autograd."""
    rec = parse_text(*find(spec))[0]
    return lambda **inputs: reference(rec, inputs)[0]["o"]


def both_passes(run: Run, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The output and the gradients of all inputs."""
    output = run(**inputs)
    return output.detach(), *torch.autograd.grad(output.square().mean(), list(inputs.values()))


def difference(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> float:
    """The largest difference of two results, relative to the size of what is compared."""
    return max(((x - y).norm() / y.norm()).item() for x, y in zip(a, b, strict=True))


# --- timing -----------------------------------------------------------------------------------------------------


def measure_ops(count: int) -> dict:
    """Forward + backward at T = 2048, and the compiled ops at T = 16384, all interleaved."""
    runs: dict[str, tuple[str, Run, int]] = {
        "gdn chunk": ("gated_delta_net", recc.load("gated_delta_net", strategy="chunk"), TIME),
        "gdn fla naive chunk": ("gated_delta_net", naive_chunk(), TIME),
        "gdn reference": ("gated_delta_net", loop("gated_delta_net"), TIME),
        "gla chunk": ("gla", recc.load("gla", strategy="chunk"), TIME),
        "gla reference": ("gla", loop("gla"), TIME),
        "gdn chunk long": ("gated_delta_net", recc.load("gated_delta_net", strategy="chunk"), LONG),
        "gla chunk long": ("gla", recc.load("gla", strategy="chunk"), LONG),
    }
    inputs = {key: draw(*key) for key in {(spec, steps) for spec, _, steps in runs.values()}}
    console.print("comparing results ...")
    short = {name: both_passes(run, inputs[spec, steps]) for name, (spec, run, steps) in runs.items() if steps == TIME}
    agreement = {
        "gdn chunk, fla naive chunk": difference(short["gdn chunk"], short["gdn fla naive chunk"]),
        "gdn chunk, reference": difference(short["gdn chunk"], short["gdn reference"]),
        "gla chunk, reference": difference(short["gla chunk"], short["gla reference"]),
    }
    assert max(agreement.values()) < 1e-3, f"results differ, so times mean nothing: {agreement}"
    console.print(f"timing {count} rounds ...")
    cases = {
        name: whole(lambda r=run, key=(spec, steps): both_passes(r, inputs[key]))
        for name, (spec, run, steps) in runs.items()
    }
    times = rounds(cases, count)
    return {"seconds": times, "median_s": {name: median(row) for name, row in times.items()}, "agreement": agreement}


def measure_step(tokens: int = 300) -> float:
    """Median seconds of one decode step of the gated delta rule at batch 2."""
    op = recc.load("gated_delta_net")
    token = [x[:, 0].detach() for x in draw("gated_delta_net", 1).values()]
    state = {"S": torch.zeros(BATCH, HEADS, SIZE, SIZE)}
    times = []
    with torch.no_grad():
        for _ in range(tokens):
            began = time.perf_counter()
            _, state = op.step(*token, state)
            times.append(time.perf_counter() - began)
    return statistics.median(times)


def measure_commands(count: int) -> dict[str, float]:
    """Median wall time of commands, Python's start included."""
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "recc compile specs/gla.rec": ["compile", str(ROOT / "specs" / "gla.rec"), "-o", f"{folder}/gla.py"],
            "recc --help": ["--help"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(count):
            for name, arguments in commands.items():
                began = time.perf_counter()
                subprocess.run([sys.executable, "-m", "recc", *arguments], check=True, capture_output=True, cwd=ROOT)
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(t) for name, t in times.items()}


def measure_memory() -> dict[str, dict[int, int]]:
    """Peak bytes of forward + backward beyond the inputs, each in a process of its own; nothing where none can tell."""
    if sys.platform != "linux":
        return {}
    lengths = (TIME, 2 * TIME, 4 * TIME, LONG)
    return {spec: {steps: peak_of(spec, steps) for steps in lengths} for spec in ("gated_delta_net", "gla")}


# --- results ----------------------------------------------------------------------------------------------------


def targets(results: dict) -> list[dict]:
    """Each figure with what it must reach: at least a bound, or at most one (written as a negative number)."""
    times, commands = results["ops"]["seconds"], results["commands"]
    gdn, gla = "gated_delta_net: ", "gla: "
    rows = [
        (gdn + "fla-core's naive chunk over recc chunk", ratio(times, "gdn fla naive chunk", "gdn chunk"), 1.5),
        (gdn + "sequential reference over recc chunk", ratio(times, "gdn reference", "gdn chunk"), 15),
        (gla + "sequential reference over recc chunk", ratio(times, "gla reference", "gla chunk"), 15),
        (gdn + "T = 16384 over T = 2048", ratio(times, "gdn chunk long", "gdn chunk"), -9),
        (gla + "T = 16384 over T = 2048", ratio(times, "gla chunk long", "gla chunk"), -9),
        ("recc compile specs/gla.rec", commands["recc compile specs/gla.rec"], -2),
        ("recc --help", commands["recc --help"], -0.3),
    ]
    for spec, peaks in results["memory"].items():
        rows.append((f"{spec}: peak memory, T = 16384 over T = 2048", peaks[LONG] / peaks[TIME], -9))
    return [target(what, value, bound, "s" if what.startswith("recc ") else "x") for what, value, bound in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    args = parser.parse_args()
    torch.set_num_threads(THREADS)
    results: dict = {
        "machine": machine() | {"fla-core": metadata.version("fla-core")},
        "shape": {"B": BATCH, "H": HEADS, "T": TIME, "K": SIZE, "V": SIZE, "dtype": "float32"},
    }
    results["ops"] = measure_ops(args.rounds)
    results["step_s"] = measure_step()
    console.print("measuring memory and commands ...")
    results["memory"] = measure_memory()
    results["commands"] = measure_commands(5)
    results["targets"] = targets(results)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "foundation.json").write_text(json.dumps(results, indent=2) + "\n")
    (args.output / "foundation.md").write_text(markdown(results))
    plot(results, args.output / "foundation.png")
    print(markdown(results))


if __name__ == "__main__":
    main()
