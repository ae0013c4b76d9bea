"""How long a nonlinear component takes in one fused sequential loop and by Newton's method, from its step graph.

A sequential step waits for the longest path from a state to its next value; with many channels it is the device's
throughput, or its memory, that limits. Newton's method does several times the work and waits for little. So the one
wins where a device has many channels at a time, the other where it has few and many tokens. A channel is an element of
a sequence's state, with all states that are coupled there; the passes are fused kernels, forward, in float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recc.analysis.plan import Component, Plan
from recc.ir.node import Node, walk
from recc.ir.ops import OPS, leaf
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
class Device:
    """Constants of a device, in seconds, operations and bytes a second. step: what a step costs besides its path.

    operation, function: until an addition, or an exp, is there for the next to use; contraction: the same for a sum
    over a dim. window: an iteration over a window of tokens, on one block. source: where the numbers are from.
    """

    name: str
    step: float
    operation: float
    function: float
    contraction: float
    throughput: float
    bandwidth: float
    window: float
    source: str


# One table for all. Fit `cpu` anew by timing para_gru and indrnn alone on one core, with 1 and with 2048 channels.
DEVICES: Mapping[str, Device] = {
    "cpu": Device("one CPU core", 50e-9, 1.5e-9, 35e-9, 80e-9, 13e9, 12e9, 0.0, "measured"),
    "h100": Device(
        "H100", 0.0, 2.5e-9, 35e-9, 1.5e-6, 12e12, 3e12, 4e-6, "estimated from published figures, not measured"
    ),
}


@dataclass(frozen=True)
class Shape:
    """What is solved where: tokens in a sequence, channels at a time (sequences x elements of the state)."""

    tokens: int = 4096
    channels: int = 1024
    device: str = "cpu"


@dataclass(frozen=True)
class Cell:
    """What the loop over tokens holds of a component, hoisted work aside. path: (operations, functions, contractions)
    on the longest way from a state to its next value. work: operations a channel and step; newton: those of an
    iteration, scan included, None where the Jacobian is not elementwise. bytes: read and written a channel and step."""

    path: tuple[int, int, int]
    work: float
    newton: float | None
    bytes: float


def cell_of(component: Component, plan: Plan) -> Cell:
    """The step of a nonlinear component as the model sees it."""
    rec, count = plan.recurrence, len(component.states)
    states = [rec.state(name) for name in component.states]
    olds = [leaf("state", s.axes, s.dtype, name=s.name, when="old") for s in states]
    step = [plan.updates[name] for name in component.states]
    live = _live(step, olds)
    taken = {arg for node in live for arg in node.args if arg not in live and arg.op in OPS and _moves(arg)}
    work, newton = sum(map(_weight, live)), None
    if component.structure == "diagonal" or component.structure.startswith("block"):
        slopes = slopes_of(tuple(step), tuple(olds), None)
        scan = 2 * (2 * count**3 + 2 * count**2)
        newton = sum(map(_weight, _live([*step, *slopes], olds))) + scan
    return Cell(_path(step, live), work, newton, 4.0 * (len(taken) + 1))  # of the states, one is mostly the output


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
    device, tokens = DEVICES[shape.device], shape.tokens
    all_channels = tokens * shape.channels
    memory = all_channels * cell.bytes / device.bandwidth
    operations, functions, sums = cell.path
    wait = device.step + operations * device.operation + functions * device.function + sums * device.contraction
    found = {"sequential": max(tokens * wait, all_channels * cell.work / device.throughput, memory)}
    if cell.newton is not None:
        passes = ITERATIONS + 1
        windows = -(-tokens // WINDOW) * passes * device.window
        found["newton"] = max(memory, passes * all_channels * cell.newton / device.throughput, windows)
    return found


def prefers(cell: Cell, shape: Shape) -> str:
    """The strategy that the model chooses."""
    found = seconds(cell, shape)
    return "newton" if found.get("newton", float("inf")) * MARGIN < found["sequential"] else "sequential"


def crossover(cell: Cell, device: str, tokens: int = Shape.tokens) -> int:
    """The number of channels from which the sequential loop is preferred; 1 where it always is."""
    low, high = 0, 1 << 24
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if prefers(cell, Shape(tokens, middle, device)) == "newton" else (low, middle)
    return high


CHANNELS = 1, 4096  # few and many, for people


def predictions(component: Component, plan: Plan) -> dict[str, dict[str, Any]]:
    """For each device: what it is, seconds by channels and strategy, and the crossover."""
    cell, found = cell_of(component, plan), {}
    for name, device in DEVICES.items():
        times = {str(n): seconds(cell, Shape(channels=n, device=name)) for n in CHANNELS}
        below = 1 if cell.newton is None else crossover(cell, name)
        found[name] = {"device": device.name, "source": device.source, "seconds": times, "newton_below": below}
    return found
