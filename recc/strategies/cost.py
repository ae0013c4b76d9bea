"""How long a component takes in one fused sequential loop, and by Newton's method or a scan, from its step graph.

A sequential step waits for the longest path from a state to its next value; with many channels it is the device's
throughput, or its memory, that limits. Newton's method does several times the work and waits for little. So the one
wins where a device has many channels at a time, the other where it has few and many tokens. A channel is an element of
a sequence's state, with all states that are coupled there; the passes are fused kernels, forward, in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from recc.analysis.plan import Component, Nonlinear, Plan
from recc.ir.node import Node, walk
from recc.ir.ops import OPS, leaf
from recc.strategies.devices import devices
from recc.tile.solve import slopes_of

FUNCTION = 8  # operations that an exp, tanh or division counts for
TYPICAL = 64  # multiply-adds of a sum over a dim whose size is not fixed
_CHEAP = set(
    "add sub mul neg where maximum minimum abs sign lt le gt ge eq ne relu stopgrad surrogate clip_gradient".split()
)
_FREE = {"rename", "take", "put"}
_SUMS = {"dot", "sum", "amax"}
ITERATIONS = 4  # of Newton's method on a mild cell, besides the evaluation that checks the residual
MARGIN = 1.3  # how much better the prediction must be, for that check and for windows that are finished token by token
WINDOW = 1024  # tokens that a block of a GPU solves at a time


@dataclass(frozen=True)
class Shape:
    """What is solved where: tokens in a sequence, channels at a time (sequences x elements of the state)."""

    tokens: int = 4096
    channels: int = 1024
    device: str = "cpu"


@dataclass(frozen=True)
class Cell:
    """What the loop over tokens holds of a component, hoisted work aside. path: (operations, functions, contractions)
    on the longest way from a state to its next value. work: operations a channel and step. parallel: the strategy for
    all tokens at once, newton or scan, None where the step is not elementwise; pass_work: operations of a pass of it.
    bytes: read and written a channel and step."""

    path: tuple[int, int, int]
    work: float
    parallel: str | None
    pass_work: float
    bytes: float


def cell_of(component: Component, plan: Plan) -> Cell:
    """The step of a nonlinear component as the model sees it."""
    rec, count = plan.recurrence, len(component.states)
    states = [rec.state(name) for name in component.states]
    olds = [leaf("state", s.axes, s.dtype, name=s.name, when="old") for s in states]
    step = [plan.updates[name] for name in component.states]
    live = _live(step, olds)
    taken = {arg for node in live for arg in node.args if arg not in live and arg.op in OPS and _moves(arg)}
    work, parallel, pass_work = sum(map(_weight, live)), None, 0.0
    if component.structure in ("scalar", "diagonal") or component.structure.startswith("block"):
        compose = 2 * (2 * count**3 + 2 * count**2)
        if isinstance(component.kind, Nonlinear):
            slopes = slopes_of(tuple(step), tuple(olds), None)
            parallel, pass_work = "newton", sum(map(_weight, _live([*step, *slopes], olds))) + compose
        elif count == 1:
            parallel, pass_work = "scan", work + compose
    moved = 4.0 * (len(taken) + 1)  # of the states, one is mostly the output
    return Cell(_path(step, live), work, parallel, pass_work, moved)


def _moves(node: Node) -> bool:
    return any(below.op in ("input", "state") for below in walk(node))


def _live(roots: list[Node], olds: list[Node]) -> dict[Node, None]:
    """What depends on the states, arguments first."""
    live = dict.fromkeys(olds)
    for node in walk(*roots):
        if any(arg in live for arg in node.args):
            live[node] = None
    return live


def _weight(node: Node) -> float:
    if not node.args or node.op in _FREE:
        return 0.0
    if node.op in _SUMS:
        return float(TYPICAL)
    return 1.0 if node.op in _CHEAP else float(FUNCTION)


def _path(step: list[Node], live: dict[Node, None]) -> tuple[int, int, int]:
    longest: dict[Node, tuple[int, int, int]] = {}
    for node in live:
        before = [longest[arg] for arg in node.args if arg in longest]
        sums, functions, operations = max(((c, f, o) for o, f, c in before), default=(0, 0, 0))
        sums += node.op in _SUMS
        functions += _weight(node) == FUNCTION
        operations += _weight(node) == 1
        longest[node] = (operations, functions, sums)
    return max((longest[node] for node in step if node in longest), key=lambda p: (p[2], p[1], p[0]), default=(0, 0, 0))


def seconds(cell: Cell, shape: Shape) -> dict[str, float]:
    """The predicted time of each strategy that can serve, a fused kernel each."""
    device, tokens = devices()[shape.device], shape.tokens
    all_channels = tokens * shape.channels
    memory = all_channels * cell.bytes / device.bandwidth
    operations, functions, sums = cell.path
    wait = device.step + operations * device.operation + functions * device.function + sums * device.contraction
    found = {"sequential": max(tokens * wait, all_channels * cell.work / device.throughput, memory)}
    if cell.parallel is not None:
        passes = ITERATIONS + 1 if cell.parallel == "newton" else 1
        windows = -(-tokens // WINDOW) * passes * device.window
        found[cell.parallel] = max(memory, passes * all_channels * cell.pass_work / device.throughput, windows)
    return found


def prefers(cell: Cell, shape: Shape) -> str:
    """The strategy that the model chooses."""
    found = seconds(cell, shape)
    margin = MARGIN if cell.parallel == "newton" else 1.0
    parallel = cell.parallel or "sequential"
    return parallel if found[parallel] * margin < found["sequential"] else "sequential"


def solves(component: Component, plan: Plan, tokens: int, channels: int, device: str) -> bool:
    """Whether Newton's method is preferred to the loop over tokens. device: an architecture; one that is not in the
    table counts as H100, whose constants are estimates."""
    known = device if device in devices() else "h100"
    return prefers(cell_of(component, plan), Shape(tokens, channels, known)) == "newton"


def crossover(cell: Cell, device: str, tokens: int = Shape.tokens) -> int:
    """The number of channels from which the sequential loop is preferred; 1 where it always is."""
    if cell.parallel is None:
        return 1
    low, high = 0, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if prefers(cell, Shape(tokens, middle, device)) != "sequential" else (low, middle)
    return high


CHANNELS = 1, 4096  # few and many, for people


def predictions(component: Component, plan: Plan) -> dict[str, dict[str, Any]]:
    """For each device: what it is, seconds by channels and strategy, and the crossover: the number of channels below
    which the parallel strategy is preferred, under `newton_below` or `scan_below`."""
    cell, found = cell_of(component, plan), {}
    for name, device in devices().items():
        times = {str(n): seconds(cell, Shape(channels=n, device=name)) for n in CHANNELS}
        below = {f"{cell.parallel or 'newton'}_below": crossover(cell, name)}
        found[name] = {"device": device.name, "source": device.source, "seconds": times, **below}
    return found
