"""Grids: states of which each column follows from itself a token before and from the column before it at this token.

A token is then a row of cells. Cell (t, y) waits for (t-1, y) and (t, y-1) alone, so all cells with the same t + y can
be computed at once. How a spec selects columns does not matter: every expression is written out for each column, where
selections are constants that fold away. The columns' steps must then be one function, with 0 beside the first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable
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
        found = _along(axis, component, plan)
        if isinstance(found, Grid):
            return found
        why = Reason(found, place)
    return why


def _along(axis: Axis, component: Component, plan: Plan) -> Grid | str:
    columns = plan.recurrence.dims[dim_of(axis)]
    assert columns is not None
    updates = {name: plan.updates[name] for name in component.states}
    try:
        parts = written_out(updates.values(), dim_of(axis), columns)
    except _Mixed as error:
        return f"along {axis}, `{error}` has no form for one column"
    cells = [{name: _at(parts[update], axis, y) for name, update in updates.items()} for y in range(columns)]
    beside = {name: _beside(plan, name) for name in component.states}
    steps: list[dict[str, Node]] = []
    for y, cell in enumerate(cells):
        before = {cells[y - 1][name]: beside[name] for name in cell} if y else {}
        found = _of_any_column(cell, y, axis, before)
        if isinstance(found, str):
            return found
        steps.append(found)
    general = steps[-1]
    if any(step != general for step in steps[1:]):
        return f"along {axis}, columns have different formulas"
    nothing = dict.fromkeys(beside.values(), ZERO)
    if list(steps[0].values()) != rebuild(general.values(), nothing.get):
        return f"along {axis}, the first column is not what the others are with 0 beside them"
    if columns > 1 and not any(node in nothing for node in walk(*general.values())):
        return f"along {axis}, no column reads the one beside it"
    return Grid(axis, columns, beside, general)


def _beside(plan: Plan, name: str) -> Node:
    state = plan.recurrence.state(name)
    return leaf("state", state.axes, state.dtype, name=name, when="beside")


def _of_any_column(cell: dict[str, Node], y: int, axis: Axis, before: dict[Node, Node]) -> dict[str, Node] | str:
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

    found = rebuild(cell.values(), general)
    return strange[0] if strange else dict(zip(cell, found, strict=True))


# --- expressions, written out for each column -----------------------------------------------------------------


class _Mixed(Exception):
    """An op that has no form for one column."""


def written_out(roots: Iterable[Node], dim: str, size: int) -> dict[Node, dict[Places, Node]]:
    """Each node below `roots` at each element of its axes of `dim`, a leaf as a node `column` (of it, at places).
    Raises _Mixed."""
    done: dict[Node, dict[Places, Node]] = {}
    for node in walk(*roots):
        axes = [axis for axis in node.axes if dim_of(axis) == dim]
        every = product(range(size), repeat=len(axes))
        done[node] = {
            places: _element(node, dict(places), dim, size, done)
            for places in (tuple(zip(axes, indices, strict=True)) for indices in every)
        }
    return done


def _at(parts: dict[Places, Node], axis: Axis, y: int) -> Node:
    return parts.get(((axis, y),)) or parts[()]


def _element(node: Node, at: dict[Axis, int], dim: str, size: int, done: dict[Node, dict[Places, Node]]) -> Node:
    """`node` at one element: at tells where, along each of its axes of `dim`."""

    def of(arg: Node, at: dict[Axis, int]) -> Node:
        return done[arg][tuple((axis, at[axis]) for axis in arg.axes if dim_of(axis) == dim)]

    def kept(axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(axis for axis in axes if dim_of(axis) != dim)

    attrs: dict[str, Any] = dict(node.attrs)
    if not node.args:
        return _leaf(node, at, kept(node.axes)) if at else node
    if node.op == "rename":
        back = {new: old for old, new in node["mapping"]}
        rest = tuple((old, new) for old, new in node["mapping"] if dim_of(old) != dim)
        inner = of(node.args[0], {back.get(axis, axis): index for axis, index in at.items()})
        return build("rename", inner, mapping=rest)
    if node.op in ("dot", "sum", "amax"):
        summed = [axis for axis in node["over"] if dim_of(axis) == dim]
        rest = kept(node["over"])
        ways = (at | dict(zip(summed, indices, strict=True)) for indices in product(range(size), repeat=len(summed)))
        return _summed(node.op, [[of(arg, way) for arg in node.args] for way in ways], rest)
    if node.op in ("take", "put") and dim_of(node["axis"]) == dim:
        if node.op == "take":
            return of(node.args[0], at | {node["axis"]: node["index"] % size})
        return of(node.args[0], at) if at[node["axis"]] == node["index"] % size else ZERO
    if node.op in STRUCTURAL and node.op not in ("take", "put"):
        raise _Mixed(node.op)
    return _folded(node.op, [of(arg, at) for arg in node.args], attrs)


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


def _summed(op: str, terms: list[list[Node]], rest: tuple[Axis, ...]) -> Node:
    parts = [dot(*args, rest) if op == "dot" else _reduced(op, args[0], rest) for args in terms]
    value = parts[0]
    for part in parts[1:]:
        value = build("maximum", value, part) if op == "amax" else add(value, part)
    return value


def _reduced(op: str, value: Node, over: tuple[Axis, ...]) -> Node:
    return total(value, over) if op == "sum" else build("amax", value, over=over)


def _folded(op: str, args: list[Node], attrs: dict[str, Any]) -> Node:
    """`op` of what may be numbers by now; truth values are 0 and 1."""
    if op == "where" and is_const(args[0]):
        return args[1] if args[0]["value"] else args[2]
    if op in _NUMBERS and all(map(is_const, args)):
        return const(float(_NUMBERS[op](*(arg["value"] for arg in args))))
    return build(op, *args, **attrs)


OPS["column"] = Op("column", 0)  # of a leaf: one element along some axes
