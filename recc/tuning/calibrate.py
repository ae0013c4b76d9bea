"""The constants of the cost model, fitted to the device at hand by a few short runs of fused loops.

With one channel a step takes its latency, which is linear in the operations, functions and sums on its longest path:
four cells give four equations. With many channels the device's throughput or bandwidth limits.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import recc
from recc import library
from recc.analysis import analyse
from recc.frontend import parse_text
from recc.strategies import devices
from recc.strategies.cost import ITERATIONS, WINDOW, Cell, cell_of
from recc.strategies.devices import CALIBRATED, Device
from recc.tuning.measure import clock_of

REPEATS = 7  # of which the median counts
TOKENS = 4096
MANY = {"cpu": 2048, "cuda": 65536}  # channels that keep a device busy
CHAIN = """recurrence chain
dim D
input x : D
param a : D
state h : D = 0
output h
p    = relu(a * relu(a * h[t-1] + x) + x)
h[t] = relu(a * relu(a * p + x) + x)
"""


def key_of(kind: str) -> str:
    """The name of a device in the table: `cpu`, or a GPU's architecture. kind: cpu or cuda."""
    from recc.tuning.store import arch_of

    return "cpu" if kind == "cpu" else arch_of(kind)


def possible(kind: str) -> bool:
    """Whether the loops that are timed can be made: with a C compiler, or Triton."""
    from recc.backends.c import build

    return build.usable() if kind == "cpu" else torch.cuda.is_available()


def calibrate(kind: str) -> Device:
    """Measures the device and keeps its constants for the cost model. kind: cpu (one core) or cuda. Seconds."""
    with _one_thread():
        cells = {name: _cell(name) for name in ("indrnn", "chain", "para_gru", "elman")}
        waits = {name: _seconds(kind, name, 64 if name == "elman" else 1) / TOKENS for name in cells}
        paths = [[1.0, *map(float, cell.path)] for cell in cells.values()]
        step, operation, function, contraction = _solved(paths, list(waits.values()))
        many = MANY[kind]
        work, moved = cells["para_gru"].work, cells["indrnn"].bytes
        throughput = work * many * TOKENS / _seconds(kind, "para_gru", many)
        bandwidth = moved * many * TOKENS / _seconds(kind, "indrnn", many)
        window = 0.0
        if kind == "cuda":
            seconds = _seconds(kind, "para_gru", 1, "newton")
            window = seconds * WINDOW / (TOKENS * (ITERATIONS + 1))
    name = "one CPU core" if kind == "cpu" else torch.cuda.get_device_name()
    found = Device(name, step, operation, function, contraction, throughput, bandwidth, window, CALIBRATED)
    devices.record(key_of(kind), found)
    return found


def _text(name: str) -> str:
    return CHAIN if name == "chain" else library.find(name)[0]


def _cell(name: str) -> Cell:
    plan = analyse(parse_text(_text(name))[0])
    return cell_of(plan.components[0], plan)


def _solved(rows: list[list[float]], values: list[float]) -> list[float]:
    """Non-negative constants that explain the values: a constant that would be negative is taken out, one at a time."""
    matrix, wanted = torch.tensor(rows, dtype=torch.float64), torch.tensor(values, dtype=torch.float64)
    left = list(range(matrix.shape[1]))
    while left:
        found = torch.linalg.lstsq(matrix[:, left], wanted.unsqueeze(1)).solution.squeeze(1)
        if bool((found >= 0).all()):
            break
        left.pop(int(found.argmin()))
    table = dict(zip(left, found.tolist())) if left else {}
    return [table.get(place, 0.0) for place in range(matrix.shape[1])]


def _seconds(kind: str, name: str, channels: int, strategy: str = "sequential") -> float:
    """The median time of a forward pass over TOKENS tokens of one head and `channels` elements."""
    form: dict[str, Any] = {"backend": "c"} if kind == "cpu" else {"backend": "triton", "strategy": strategy}
    op, clock = recc.loads(_text(name), **form), clock_of(kind)
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return (0.5 * torch.randn(*shape, generator=generator)).to(kind)

    inputs = [draw(1, TOKENS, 1, channels) for _ in op.inputs]
    params = [draw(1, *[channels] * (len(item["axes"]) - 1)) for item in op.params]
    with torch.no_grad():
        op(*inputs, *params)
        return statistics.median(clock.seconds(lambda: op(*inputs, *params)) for _ in range(REPEATS))


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
