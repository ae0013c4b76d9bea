"""How a state crosses many chunks at once: what a schedule of two levels is made from.

A state that leaves a chunk depends on the one that enters as `T S + R`, for the product and the sum of the state's
class. An outer chunk, which is many chunks, does so too. Its R is what leaves when nothing enters: the same walk from
zero. Its T is the product of its chunks' transitions:

- where T acts elementwise, the product of its factors, and over (max, +) or (logsumexp, +) their sum;
- where T mixes one axis, a matrix: the same walk without what the chunk writes, from the identity, whose columns
  stand where the state's have stood. All columns of a state cross alike.

So nothing here is derived anew for a strategy: both are read off the expression of the state that leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from recc.ir.node import GRID, HEADS, Axis, Node, dim_of, walk
from recc.ir.ops import ONE, OPS, ZERO, add, build, dot, leaf, mul, rename, spread
from recc.tile.program import Carry, TileProgram

ELEMENTWISE = ("add", "sub", "neg", "mul", "div", "where")
SEMIRINGS = ("maximum", "logaddexp")
FROM = "_from"  # the axis `K_from` of a matrix T [K, K_from]: where in the entering state a value comes from
NOTHING = {"linear": 0.0, "maximum": float("-inf"), "logaddexp": float("-inf")}


@dataclass(frozen=True)
class Crossing:
    """How the state of `carry` crosses an outer chunk.

    own: R, and `nothing`, the number from which it is walked. transition: T as a carry of its own, None where it
    changes nothing; begin: what T is walked from: 1, 0 over a semiring, None for the identity matrix. total: T as a
    tile. leaving: the state that leaves, of `carry.old`, `own` and `total`.
    """

    carry: Carry
    own: Node
    nothing: float
    transition: Carry | None
    begin: float | None
    total: Node | None
    leaving: Node

    @property
    def dense(self) -> bool:
        """Whether T is a matrix."""
        return self.transition is not None and self.begin is None


class _No(Exception):
    """A state that leaves a chunk is not affine in the one that enters, or crosses it in another way."""


def source_axis(axis: Axis) -> Axis:
    """The axis of T over which the entering state is summed."""
    return f"{axis}{FROM}"


def crossing(carry: Carry, program: TileProgram) -> Crossing | None:
    """How a state crosses an outer chunk; None where that has no form here, as for states that depend on each other."""
    beside = {c.old for c in program.carries if c.level == carry.level and c is not carry}
    if beside & set(walk(carry.new)):
        return None
    try:
        return _semiring(carry) if _kind(carry.new, carry.old) in SEMIRINGS else _linear(carry)
    except _No:
        return None


def _made(carry: Carry, kind: str, step: Node | None, begin: float | None) -> Crossing:
    """The crossing whose transition is `step`, applied once a chunk to what `begin` says; None: T changes nothing."""
    own = leaf("tile", carry.old.axes, carry.old.dtype, name=f"{carry.name}.own")
    plus = "add" if kind == "linear" else kind
    if step is None:
        return Crossing(carry, own, NOTHING[kind], None, None, None, build(plus, carry.old, own))
    old = leaf("carry", step.axes, step.dtype, name=f"{carry.name}.T")
    total = leaf("tile", step.axes, step.dtype, name=f"{carry.name}.total")
    times = add if kind != "linear" else mul
    transition = Carry(old["name"], old, times(step, old), carry.level)
    return Crossing(carry, own, NOTHING[kind], transition, begin, total, build(plus, times(total, carry.old), own))


# --- elementwise and dense -----------------------------------------------------------------------------------------


def _linear(carry: Carry) -> Crossing:
    depends = _dependent(carry.new, carry.old)
    if all(node.op in ELEMENTWISE for node in depends if node is not carry.old):
        step = _Image(carry.old, ONE, depends, {}).of(carry.new)
        if step == ONE or step.op == "ones":
            return _made(carry, "linear", None, None)
        return _made(carry, "linear", spread(step, (GRID,)), 1.0)
    mixed = {axis for node in depends if node.op == "dot" for axis in node["over"] if axis in carry.old.axes}
    if len(mixed) != 1:
        raise _No
    (axis,) = mixed
    columns = tuple(a for a in carry.old.axes if a not in (GRID, HEADS, axis))
    source = source_axis(axis)
    axes = tuple(a for a in carry.old.axes if a not in columns) + (source,)
    old = leaf("carry", axes, carry.old.dtype, name=f"{carry.name}.T")
    new = _Image(carry.old, old, depends, dict.fromkeys(columns, source)).of(carry.new)
    if set(new.axes) != set(axes):
        raise _No
    own = leaf("tile", carry.old.axes, carry.old.dtype, name=f"{carry.name}.own")
    total = leaf("tile", old.axes, carry.old.dtype, name=f"{carry.name}.total")
    leaving = add(dot(total, rename(carry.old, {axis: source}), (source,)), own)
    return Crossing(carry, own, 0.0, Carry(old["name"], old, new, carry.level), None, total, leaving)


def _dependent(new: Node, old: Node) -> set[Node]:
    """What of `new` depends on `old`, which is among it."""
    found = {old}
    for node in walk(new):
        if any(arg in found for arg in node.args):
            found.add(node)
    if new not in found:
        raise _No
    return found


class _Image:
    """The part of a value that is linear in `old`, with `image` in its place. columns: axes of `old` that `image` has
    under another name, or not at all."""

    def __init__(self, old: Node, image: Node, depends: set[Node], columns: dict[Axis, Axis]) -> None:
        self.depends, self.columns, self.known = depends, columns, {old: image}

    def of(self, node: Node) -> Node:
        for below in walk(node):
            if below in self.depends and below not in self.known:
                self.known[below] = self._of(below)
        return self.known[node]

    def _of(self, node: Node) -> Node:
        own = [arg in self.depends for arg in node.args]
        match OPS[node.op].linear:
            case "sum":
                args = [self.known[arg] if mine else ZERO for arg, mine in zip(node.args, own)]
            case "each" if sum(own) == 1:
                args = [self.known[arg] if mine else self._beside(arg) for arg, mine in zip(node.args, own)]
            case "first" if own == [True, False]:
                args = [self.known[node.args[0]], self._beside(node.args[1])]
            case "rest" if not own[0]:
                rest = [self.known[arg] if mine else ZERO for arg, mine in zip(node.args[1:], own[1:])]
                args = [self._beside(node.args[0]), *rest]
            case _:
                raise _No
        return build(node.op, *args, **dict(node.attrs))

    def _beside(self, node: Node) -> Node:
        """A factor, which must not tell columns apart."""
        if not set(node.axes) & set(self.columns):
            return node
        if node.op != "ones":
            raise _No
        return leaf("ones", tuple(dict.fromkeys(self.columns.get(axis, axis) for axis in node.axes)), node.dtype)


# --- semirings -----------------------------------------------------------------------------------------------------


def _kind(new: Node, old: Node) -> str:
    """The sum that the state's class has: `linear`, or an op of SEMIRINGS."""
    ops = {node.op for node in _dependent(new, old)} & set(SEMIRINGS) if old in set(walk(new)) else set()
    if len(ops) > 1:
        raise _No
    return next(iter(ops), "linear")


def _semiring(carry: Carry) -> Crossing:
    depends = _dependent(carry.new, carry.old)
    gain: dict[Node, Node] = {carry.old: ZERO}
    for node in walk(carry.new):
        if node not in depends or node is carry.old:
            continue
        own = [arg for arg in node.args if arg in depends]
        if len(own) != 1 or node.op not in (*SEMIRINGS, "add", "mul"):
            raise _No
        others = [arg for arg in node.args if arg is not own[0]]
        if node.op == "mul" and any(arg.op != "ones" for arg in others):
            raise _No
        gain[node] = add(gain[own[0]], others[0]) if node.op == "add" else gain[own[0]]
    step = gain[carry.new]
    kind = _kind(carry.new, carry.old)
    return _made(carry, kind, None, None) if step == ZERO else _made(carry, kind, spread(step, (GRID,)), 0.0)


def dims_from(crossings: list[Crossing]) -> dict[str, str]:
    """The dims that matrices T have beside those of the spec, each with the dim whose size it has."""
    found = {}
    for own in crossings:
        for axis in own.total.axes if own.dense and own.total is not None else ():
            if axis.endswith(FROM):
                found[dim_of(axis)] = dim_of(axis).removesuffix(FROM)
    return found
