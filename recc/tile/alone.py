"""The step of one head alone, so that heads can be tasks that know nothing of each other.

A value that is summed over heads on its way into a result, and by nothing but linear ops afterwards, is left as each
head's part of it: whoever runs the heads adds the parts. What has no heads at all is the first head's part, and nothing
is the part of the others. The adjoint of this step gives the gradient of a tensor that heads share in parts, too.

Where a step needs such a sum before its end, the heads are one more dim of it instead, and a task has all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from recc.ir.node import HEADS, Node, Spans, make, walk
from recc.ir.ops import OPS, ZERO, build, const, is_zero, leaf, where
from recc.tile.program import TileProgram

INNER = "heads'"  # the heads as a dim: its size is that of `heads`
NUMBER = leaf("task", axis=HEADS)  # of the head that is computed


def one_head(program: TileProgram) -> TileProgram:
    """The program without heads: of one head where that is possible, else with heads as a dim."""
    joins = _joins(program)
    if any(node in joins for c in program.carries for node in walk(c.new)):
        return _as_dim(program)
    spans = Spans(program.spans)
    stores = {}
    for name, node in program.stores.items():
        joined = HEADS in node.axes and any(
            below in joins for below in walk(node)
        )  # a sum that each head takes up again
        part = None if joined else node if HEADS in node.axes else _part(node, joins, spans)
        if part is None:
            return _as_dim(program)
        stores[name] = part

    def without(node: Node) -> Node:
        if node.op == "iota" and HEADS in node.axes:
            return NUMBER
        return make(node.op, (), [a for a in node.axes if a != HEADS], node.dtype, **dict(node.attrs))

    return _mapped(replace(program, stores=stores, spans=spans), without)


def has_all_heads(program: TileProgram) -> bool:
    """Whether heads are a dim of the program, so that a task is a whole sequence."""
    return any(INNER in node.axes for node in walk(*program.roots, *program.loads.values(), *program.params.values()))


def _joins(program: TileProgram) -> set[Node]:
    """The nodes that need more than one head."""
    return {node for node in walk(*program.roots, *program.names) if node.args and _named(node.attrs)}


def _named(value: Any) -> bool:
    """Whether attributes speak of the axis of heads."""
    return value == HEADS or (isinstance(value, tuple) and any(map(_named, value)))


def _part(node: Node, joins: set[Node], spans: Spans) -> Node | None:
    """One head's part of a value without heads, or None where heads cannot have parts of it."""
    if not any(below in joins for below in walk(node)):
        return node if is_zero(node) else where(build("eq", NUMBER, const(0)), node, ZERO)
    apart = [any(below in joins for below in walk(arg)) for arg in node.args]
    new: Node | None = None
    if node in joins:
        if node.op in ("sum", "dot") and not any(apart):
            new = build(node.op, *node.args, over=tuple(axis for axis in node["over"] if axis != HEADS))
    else:
        rule = OPS[node.op].linear
        linear = {
            "sum": [True] * len(apart),
            "each": apart if sum(apart) == 1 else [],
            "first": [True, *[False] * (len(apart) - 1)],
            "rest": [False, *[True] * (len(apart) - 1)],
        }.get(rule, [])
        if linear and not any(joined and not may for joined, may in zip(apart, linear)):
            args = [_part(arg, joins, spans) if may else arg for arg, may in zip(node.args, linear)]
            new = None if None in args else build(node.op, *args, **dict(node.attrs))  # type: ignore[arg-type]
    return None if new is None else spans.inherit(new, node)


def _as_dim(program: TileProgram) -> TileProgram:
    def inner(value: Any) -> Any:
        return tuple(map(inner, value)) if isinstance(value, tuple) else INNER if value == HEADS else value

    def renamed(node: Node) -> Node:
        size = node.op == "size"  # a number, whoever has the heads
        attrs = dict(node.attrs) if size else {key: inner(value) for key, value in node.attrs}
        return make(node.op, (), [inner(axis) for axis in node.axes], node.dtype, **attrs)

    return _mapped(program, renamed, inner)


def _mapped(
    program: TileProgram, leaf_of: Callable[[Node], Node], attribute: Callable[[Any], Any] | None = None
) -> TileProgram:
    """The program with other leaves, and with other attributes or without names for what would need them."""
    spans, done = Spans(program.spans), {}
    leaves = [*program.loads.values(), *program.params.values(), *(c.old for c in program.carries)]
    for node in walk(*leaves, *program.roots, *program.names):
        if not node.args:
            done[node] = leaf_of(node)
        elif all(arg in done for arg in node.args) and (attribute is not None or not _named(node.attrs)):
            attrs = {key: attribute(value) if attribute else value for key, value in node.attrs}
            done[node] = spans.inherit(build(node.op, *(done[arg] for arg in node.args), **attrs), node)
    names: dict[Node, str] = {}
    for node, name in program.names.items():
        if node in done:
            names.setdefault(done[node], name)

    def each(group: dict[str, Node]) -> dict[str, Node]:
        return {name: done[node] for name, node in group.items()}

    return replace(
        program,
        loads=each(program.loads),
        params=each(program.params),
        carries=tuple(replace(c, old=done[c.old], new=done[c.new]) for c in program.carries),
        stores=each(program.stores),
        names=names,
        notes={done[node]: note for node, note in program.notes.items() if node in done},
        spans=spans,
    )
