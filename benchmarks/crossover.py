"""Newton's method and the fused loop on one cell, by channels and tokens: where on this GPU the one passes the other.

Writes crossover.json, crossover.md and crossover.png to benchmarks/results/, after each point; a point is kept only if
both give the same. Where there is no GPU, it says so and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

import recc
from recc.runtime import cache
from recc.tuning import measure

CELL = "para_gru"
CHANNELS = (64, 256, 1024, 4096, 16384, 65536)
TOKENS = (1024, 4096, 16384, 65536)
MOST = 1 << 28  # elements of one tensor, of which a call has five
FORMS = ("sequential", "newton")
ROUNDS = 5
AGREE = 1e-4  # largest difference of states, which lie in [-1, 1]


def drawn(channels: int, tokens: int, device: str) -> list[torch.Tensor]:
    """Inputs of one sequence and mild params (deviation 0.5), float32."""
    generator = torch.Generator(device).manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    return [*(draw(1, tokens, 1, channels) for _ in range(3)), *(0.5 * draw(1, channels) for _ in range(3))]


def point(ops: dict[str, Any], channels: int, tokens: int, device: str, clock: measure.Clock) -> dict[str, Any]:
    """Median seconds of the forward pass by form, iterations, and by how much the forms differ."""
    tensors = drawn(channels, tokens, device)
    with torch.no_grad():
        results = [ops[form](*tensors) for form in FORMS]
        gap = float((results[0] - results[1]).abs().max())
        del results
        cases = {form: measure.whole(lambda form=form: ops[form](*tensors), clock) for form in FORMS}
        times = measure.rounds(cases, ROUNDS)
    found = {"channels": channels, "tokens": tokens, "gap": gap}
    return found | {"seconds": {form: measure.median(times[form]) for form in FORMS}}


def sweep(ops: dict[str, Any], until: float, write: Any, device: str = "cuda", channels: tuple[int, ...] = CHANNELS,
          tokens: tuple[int, ...] = TOKENS) -> list[dict[str, Any]]:  # fmt: skip
    """Points from small to large, as far as the time `until` allows; those on which the forms differ are named only."""
    points: list[dict[str, Any]] = []
    sizes = sorted(((n, t) for n in channels for t in tokens if n * t <= MOST), key=lambda size: size[0] * size[1])
    clock = measure.clock_of(device)
    for n, t in sizes:
        if time.time() > until:
            break
        found = point(ops, n, t, device, clock)
        points.append(found if found["gap"] <= AGREE else found | {"seconds": None})
        write(points)
    return points


def crossing(points: list[dict[str, Any]], tokens: int) -> str:
    """The measured channels between which the loop becomes the faster form."""
    row = sorted((p["channels"], p["seconds"]) for p in points if p["tokens"] == tokens and p["seconds"])
    wins = [n for n, seconds in row if seconds["newton"] < seconds["sequential"]]
    loses = [n for n, seconds in row if seconds["newton"] >= seconds["sequential"]]
    if not wins or not loses:
        return "newton at all" if wins else "never"
    return f"{max(wins):,} to {min(loses):,}" if max(wins) < min(loses) else "not one point"


def markdown(results: dict[str, Any]) -> str:
    points, machine = results["points"], results["machine"]
    lines = [f"# Newton's method and the fused loop: {CELL}", "", f"{machine.get('gpu')}, torch {machine['torch']}, "
             "float32, one sequence, forward; milliseconds of the loop / of Newton's method.", ""]  # fmt: skip
    tokens = sorted({p["tokens"] for p in points})
    lines += ["| channels | " + " | ".join(f"T = {t:,}" for t in tokens) + " |", "|---" * (len(tokens) + 1) + "|"]
    known = {(p["channels"], p["tokens"]): p["seconds"] for p in points}
    for n in sorted({p["channels"] for p in points}):
        cells = []
        for t in tokens:
            seconds = known.get((n, t), "")
            times = "differ" if seconds is None else seconds and " / ".join(f"{1e3 * seconds[f]:.3g}" for f in FORMS)
            cells.append(times or "-")
        lines.append(f"| {n:,} | {' | '.join(cells)} |")
    lines += ["", "The loop becomes the faster form between these numbers of channels:", ""]
    lines += [f"- T = {t:,}: {crossing(points, t)}" for t in tokens]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], path: Path) -> None:
    """Seconds a token by channels, a line for each length and form."""
    from recc.tuning.chart import INK, OURS, PALE, pyplot

    plt = pyplot()
    figure, panel = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for form, colour in zip(FORMS, (INK, OURS)):
        for t in sorted({p["tokens"] for p in results["points"]}):
            known = [p for p in results["points"] if p["tokens"] == t and p["seconds"]]
            row = sorted((p["channels"], p["seconds"][form] / t) for p in known)
            if row:
                panel.plot(*zip(*row), "o-", color=colour, markersize=4, linewidth=1)
                panel.annotate(f"{form}, T = {t:,}", row[-1], (5, 0), textcoords="offset points", fontsize=7,
                               color=colour)  # fmt: skip
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xlabel("channels")
    panel.set_ylabel("seconds a token")
    panel.grid(color=PALE, alpha=0.2, linewidth=0.6)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--budget", type=float, default=120, help="seconds in all (default: 120)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        print("there is no GPU on this machine: nothing was timed, nothing was written")
        return
    results: dict[str, Any] = {"machine": measure.machine("cuda"), "points": []}

    def write(points: list[dict[str, Any]]) -> None:
        results["points"] = points
        cache.write(args.output / "crossover.json", (json.dumps(results, indent=1) + "\n").encode())
        cache.write(args.output / "crossover.md", markdown(results).encode())

    ops = {form: recc.load(CELL, backend="triton", strategy=form) for form in FORMS}
    sweep(ops, time.time() + args.budget, write)
    results["statistics"] = ops["newton"].statistics()
    write(results["points"])
    plot(results, args.output / "crossover.png")
    print(f"{len(results['points'])} points in {args.output / 'crossover.md'}")


if __name__ == "__main__":
    main()
