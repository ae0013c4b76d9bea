"""The tasks of benchmarks/tasks: their targets against definitions by hand, and that a model of each spec trains."""

from __future__ import annotations

import sys
from itertools import accumulate
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
if not (ROOT / "benchmarks" / "tasks").is_dir():
    pytest.skip("the benchmarks lie in the checkout", allow_module_level=True)
sys.path.insert(0, str(ROOT))

from benchmarks.tasks import __main__ as tasks  # noqa: E402
from benchmarks.tasks.models import Model  # noqa: E402
from benchmarks.tasks.problems import TASKS  # noqa: E402


def sample(name: str, time: int = 12):
    (task,) = [task for task in TASKS if task.name == name]
    tokens, targets, counts = task.sample(3, time, torch.Generator().manual_seed(0))
    assert tokens.shape == targets.shape == counts.shape
    assert int(tokens.max()) < task.tokens and int(targets.max()) < task.classes
    return tokens.tolist(), targets.tolist(), counts.tolist()


@pytest.mark.parametrize("name, size", [("parity", 2), ("counting", 5)])
def test_sums(name, size):
    tokens, targets, _ = sample(name)
    assert targets == [[total % size for total in accumulate(row)] for row in tokens]


def test_permutations():
    tokens, targets, _ = sample("permutations")
    for row, places in zip(tokens, targets, strict=True):
        held = list(range(5))
        for swap, place in zip(row, places, strict=True):
            if swap < 4:
                held[swap], held[swap + 1] = held[swap + 1], held[swap]
            assert held.index(0) == place


def test_recall():
    tokens, targets, counts = sample("recall", 32)
    for row, answers, asked in zip(tokens, targets, counts, strict=True):
        pairs = {row[i]: row[i + 1] - 16 for i in range(0, 16, 2)}
        assert asked == [False] * 16 + [True] * 16 and len(pairs) == 8
        assert answers[16:] == [pairs[key] for key in row[16:]]


@pytest.mark.parametrize("spec", tasks.SPECS)
def test_models(spec):
    torch.manual_seed(0)
    logits = Model(spec, 5, 3)(torch.randint(5, (2, 9)))
    assert logits.shape == (2, 9, 3) and bool(logits.isfinite().all())
