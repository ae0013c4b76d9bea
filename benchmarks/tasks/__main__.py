"""What classes of recurrences learn: one layer of each, trained on short sequences and tested on longer ones.

python -m benchmarks.tasks            # all, a few minutes on two cores; writes docs/tasks.png
python -m benchmarks.tasks --quick    # a few steps of each, and nothing is written
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from benchmarks.tasks.models import Model
from benchmarks.tasks.problems import TASKS, Task

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "tasks.json"
# One of each class, from the least to the most that a transition can do.
SPECS = {
    "gla": "diagonal, between 0 and 1",
    "mamba_signed": "diagonal, between -1 and 1",
    "delta_net": "one factor I - beta k k', beta up to 1",
    "delta_net_signed": "one such factor, beta up to 2",
    "delta_product": "two such factors a token",
    "gru": "nonlinear, dense",
}
SEEDS, BATCH, RATE = 2, 32, 4e-3


@dataclass(frozen=True)
class Result:
    """accuracy: on the last half of longer sequences, of the best seed; chance: of guessing."""

    task: str
    spec: str
    accuracy: float
    chance: float
    seconds: float


def train(task: Task, spec: str, steps: int, seed: int) -> float:
    """The accuracy after training, on sequences of the task's test length."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = Model(spec, task.tokens, task.classes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    for step in range(steps):
        # Short sequences first: what a step does must be found before it can be applied many times.
        time_now = task.train if task.name == "recall" else max(4, min(task.train, 4 + step * 2 * task.train // steps))
        tokens, targets, counts = task.sample(BATCH, time_now, generator)
        loss = F.cross_entropy(model(tokens)[counts], targets[counts])
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        tokens, targets, counts = task.sample(256, task.test, generator)
        counts = counts & (torch.arange(counts.shape[1]) >= counts.shape[1] // 2)
        return float((model(tokens).argmax(-1) == targets)[counts].float().mean())


def run(task: Task, spec: str, steps: int) -> Result:
    start = time.perf_counter()
    accuracy = max(train(task, spec, steps, seed) for seed in range(SEEDS))
    return Result(task.name, spec, accuracy, 1 / task.classes, time.perf_counter() - start)


def plot(results: list[Result], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(TASKS), figsize=(11, 3.2), sharey=True, layout="constrained")
    for axis, task in zip(axes, TASKS):
        own = {result.spec: result for result in results if result.task == task.name}
        names = [name for name in SPECS if name in own][::-1]
        axis.barh(names, [own[name].accuracy for name in names], color="#4477aa")
        axis.axvline(1 / task.classes, color="#bb5566", linestyle="--", linewidth=1)
        axis.set(xlim=(0, 1), title=task.name, xlabel="accuracy")
    figure.suptitle("one layer, best of two seeds; dashed: guessing", fontsize=10)
    figure.savefig(path, dpi=150)


def table(results: list[Result]) -> str:
    lines = [
        "| spec | transition | " + " | ".join(task.name for task in TASKS) + " |",
        "|---|---|" + "---|" * len(TASKS),
    ]
    for spec, transition in SPECS.items():
        own = {result.task: f"{result.accuracy:.2f}" for result in results if result.spec == spec}
        lines.append(f"| `{spec}` | {transition} | " + " | ".join(own.get(task.name, "") for task in TASKS) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps of each, and nothing is written")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--only", nargs="*", default=[], help="tasks or specs")
    args = parser.parse_args()
    results = []
    for task in TASKS:
        for spec in SPECS:
            if {task.name, spec} & set(args.only) or not args.only:
                results.append(run(task, spec, 4 if args.quick else args.steps))
                print(f"{task.name:12} {spec:18} {results[-1].accuracy:.3f}  {results[-1].seconds:.0f} s", flush=True)
    if args.quick or args.only:
        return
    RESULTS.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    plot(results, ROOT / "docs" / "tasks.png")
    print(table(results))


if __name__ == "__main__":
    main()
