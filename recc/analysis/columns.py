"""Grids: states of which each column follows from itself a token before and from the column before it at this token.

A token is then a row of cells. Cell (t, y) waits for (t-1, y) and (t, y-1) alone, so all cells with the same t + y can
be computed at once. How a spec selects columns does not matter: every expression is written out for each column, where
selections are constants that fold away. The columns' steps must then be one function, with 0 beside the first.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from recc.analysis.plan import Component, Plan, Reason
from recc.ir.node import COMPLEX, HEADS, Axis, Node, dim_of, make, rebuild, walk
from recc.ir.ops import ONE, OPS, STRUCTURAL, ZERO, Op, add, build, const, dot, is_const, leaf, total

Places = tuple[tuple[Axis, int], ...]  # the element along each axis of the dim that is written out

_NUMBERS: dict[str, Callable[..., float]] = {
    **{name: getattr(operator, name) for name in ("lt", "le", "gt", "ge", "eq", "ne")},
    "maximum": max, "minimum": min, "abs": abs, "floor": math.floor,
}  # fmt: skip


@dataclass(frozen=True)
class Grid:
    """The step of a cell, for all cells of `axis` at once. updates: the next states in terms of the states' old values
    (the cell above), of `beside`, the leaves for the next states of the cell before it on the row, and of what else the
    step reads."""

    axis: Axis
    columns: int
    beside: dict[str, Node]
    updates: dict[str, Node]


def grid_of(component: Component, plan: Plan) -> Grid | Reason:
    """The grid that the states of a component form, or why they form none."""
    rec, listing = plan.recurrence, ", ".join(component.states)
    place = rec.place(component.states[0])
    states = [rec.state(name) for name in component.states]
    if any(node.dtype == COMPLEX for name in component.states for node in walk(plan.updates[name])):
        return Reason(f"a grid is of real numbers, and {listing} computes with complex ones", place)
    if len({state.axes for state in states}) > 1:
        return Reason(f"the states of a cell have one type, and {listing} differ", place)
    sized = [axis for axis in states[0].axes if axis != HEADS and rec.dims.get(dim_of(axis)) is not None]
    why = Reason(f"no dim of {listing} has a fixed size, so its columns cannot be told apart", place)
    for axis in sized:
        columns = rec.dims[dim_of(axis)]
        assert columns is not None
        beside = tuple(_beside(plan, name) for name in component.states)
        found = _along(axis, columns, tuple(plan.updates[name] for name in component.states), beside)
        if not isinstance(found, str):
            return Grid(axis, columns, *(dict(zip(component.states, nodes, strict=True)) for nodes in (beside, found)))
        why = Reason(found, place)
    return why


@functools.lru_cache(maxsize=64)  # the strategy asks several times
def _along(axis: Axis, columns: int, updates: tuple[Node, ...], beside: tuple[Node, ...]) -> tuple[Node, ...] | str:
    """The formulas of any column, or why there are none."""
    written, before = _Columns(dim_of(axis), columns), dict[Node, Node]()
    steps: list[tuple[Node, ...]] = []
    for y in range(columns):
        try:
            cell = [written.at(update, axis, y) for update in updates]
        except _Mixed as error:
            return f"along {axis}, `{error}` has no form for one column"
        found = _of_any_column(cell, y, axis, before)
        if isinstance(found, str):
            return found
        steps.append(found)
        before = dict(zip(cell, beside, strict=True))
    general = steps[-1]
    if any(step != general for step in steps[1:]):
        return f"along {axis}, columns have different formulas"
    nothing = dict.fromkeys(beside, ZERO)
    if steps[0] != tuple(rebuild(general, nothing.get)):
        return f"along {axis}, the first column is not what the others are with 0 beside them"
    if columns > 1 and not any(node in nothing for node in walk(*general)):
        return f"along {axis}, no column reads the one beside it"
    return general


def _beside(plan: Plan, name: str) -> Node:
    state = plan.recurrence.state(name)
    return leaf("state", state.axes, state.dtype, name=name, when="beside")


def _of_any_column(cell: list[Node], y: int, axis: Axis, before: dict[Node, Node]) -> tuple[Node, ...] | str:
    """The formulas of column y, with the whole tensors in the place of their columns y and of the column before."""
    strange: list[str] = []

    def general(node: Node) -> Node | None:
        if node in before:
            return before[node]
        if node.op != "column":
            return None
        if node["places"] != ((axis, y),):
            strange.append(f"column {y + 1} along {axis} reads {node['of']['name']} at another one")
        return node["of"]

    found = tuple(rebuild(cell, general))
    return strange[0] if strange else found


# --- expressions, written out for each column -----------------------------------------------------------------


class _Mixed(Exception):
    """An op that has no form for one column."""


class _Columns:
    """Expressions at single elements of their axes of one dim, of `size`. A leaf becomes a node `column` (of it, at
    places). What is asked for is computed, and nothing else: a matrix over the dim has many elements."""

    def __init__(self, dim: str, size: int) -> None:
        self.dim, self.size = dim, size
        self.axes: dict[tuple[Axis, ...], list[Axis]] = {}
        self.done: dict[tuple[Node, Places], Node] = {}

    def at(self, node: Node, axis: Axis, index: int) -> Node:
        """`node` at one place along `axis`. Raises _Mixed."""
        wanted = self._element(node, {axis: index})
        stack = [wanted]
        while stack:
            element = stack[-1]
            below = [] if element in self.done else self._below(*element)
            missing = [other for other in below if other not in self.done]
            if missing:
                stack += missing
                continue
            stack.pop()
            if element not in self.done:
                self.done[element] = self._value(*element, [self.done[other] for other in below])
        return self.done[wanted]

    def _own(self, axes: tuple[Axis, ...]) -> list[Axis]:
        if axes not in self.axes:
            self.axes[axes] = [axis for axis in axes if dim_of(axis) == self.dim]
        return self.axes[axes]

    def _rest(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(axis for axis in axes if dim_of(axis) != self.dim)

    def _element(self, node: Node, at: Mapping[Axis, int]) -> tuple[Node, Places]:
        return node, tuple((axis, at[axis]) for axis in self._own(node.axes))

    def _below(self, node: Node, places: Places) -> list[tuple[Node, Places]]:
        """The elements that an element is made of; of a sum those of its first term, then those of its second."""
        at = dict(places)
        match node.op:
            case "rename":
                back = {new: old for old, new in node["mapping"]}
                at = {back.get(axis, axis): index for axis, index in at.items()}
            case "dot" | "sum" | "amax":
                summed = self._own(node["over"])
                ways = product(range(self.size), repeat=len(summed))
                every = [at | dict(zip(summed, indices, strict=True)) for indices in ways]
                return [self._element(arg, way) for way in every for arg in node.args]
            case "take" if dim_of(node["axis"]) == self.dim:
                at |= {node["axis"]: node["index"] % self.size}
            case "put" if dim_of(node["axis"]) == self.dim and at[node["axis"]] != node["index"] % self.size:
                return []
        return [self._element(arg, at) for arg in node.args]

    def _value(self, node: Node, places: Places, parts: list[Node]) -> Node:
        if not node.args:
            return _leaf(node, dict(places), self._rest(node.axes)) if places else node
        match node.op:
            case "rename":
                mapping = tuple((old, new) for old, new in node["mapping"] if dim_of(old) != self.dim)
                return build("rename", parts[0], mapping=mapping)
            case "dot":
                pairs = zip(parts[::2], parts[1::2], strict=True)
                return functools.reduce(add, (dot(*pair, self._rest(node["over"])) for pair in pairs))
            case "sum":
                return functools.reduce(add, (total(part, self._rest(node["over"])) for part in parts))
            case "amax":
                largest = (build("amax", part, over=self._rest(node["over"])) for part in parts)
                return functools.reduce(lambda a, b: build("maximum", a, b), largest)
            case "take" | "put" if dim_of(node["axis"]) == self.dim:
                return parts[0] if parts else ZERO
            case op if op in STRUCTURAL and op not in ("take", "put"):
                raise _Mixed(op)
        return _folded(node.op, parts, dict(node.attrs))


def _leaf(node: Node, at: dict[Axis, int], axes: tuple[Axis, ...]) -> Node:
    match node.op:
        case "iota":
            return const(next(iter(at.values())))
        case "ones":
            return leaf("ones", axes) if axes else ONE
        case "eye" if len(at) == 2:
            return ONE if len(set(at.values())) == 1 else ZERO
        case _:
            return make("column", (), axes, node.dtype, of=node, places=tuple(sorted(at.items())))


def _folded(op: str, args: list[Node], attrs: dict[str, Any]) -> Node:
    """`op` of what may be numbers by now; truth values are 0 and 1."""
    if op == "where" and is_const(args[0]):
        return args[1] if args[0]["value"] else args[2]
    if op in _NUMBERS and all(map(is_const, args)):
        return const(float(_NUMBERS[op](*(arg["value"] for arg in args))))
    return build(op, *args, **attrs)


OPS["column"] = Op("column", 0)  # of a leaf: one element along some axes
