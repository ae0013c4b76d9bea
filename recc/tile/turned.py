"""Renames of wide values, moved to narrow ones: a matrix is read as it lies.

`x @ W` along W's first axis is written as a product with a transposed W. The product of W itself with x under W's own
labels has the same values under other labels; and where vectors are renamed, nothing moves.
"""

from __future__ import annotations

from collections.abc import Mapping

from recc.ir.node import GRID, HEADS, Axis, Node, Spans, walk
from recc.ir.ops import OPS, STRUCTURAL, build, dot, leaf, rename, total


def turned(roots: list[Node], spans: Spans) -> list[Node]:
    """The same values, no wide one renamed where what it is multiplied with or made of can be. spans: takes up what is
    new."""
    done: dict[Node, Node] = {}
    for node in walk(*roots):
        args = tuple(done[arg] for arg in node.args)
        new = node if args == node.args else build(node.op, *args, **dict(node.attrs))
        done[node] = spans.inherit(as_it_lies(new), node)
    return [done[root] for root in roots]


def as_it_lies(node: Node) -> Node:
    """A rename of what is made of vectors as what is made of renamed ones; a sum over a renamed matrix, or a product of
    one with a vector, as that with the matrix itself, and the result renamed."""
    match node.op:
        case "rename" if _is_wide(node) and _of_vectors(node.args[0]):
            return relabelled(node.args[0], dict(node["mapping"]))
        case "sum" if (wide := node.args[0]).op == "rename" and _is_wide(wide):
            table = dict(wide["mapping"])
            return rename(total(wide.args[0], _back(node["over"], table)), table)
        case "dot":
            for wide, slim in (node.args, node.args[::-1]):
                if wide.op == "rename" and _is_wide(wide) and set(slim.axes) - {GRID, HEADS} <= set(node["over"]):
                    table = dict(wide["mapping"])
                    own = rename(slim, {new: old for old, new in table.items()})
                    args = (wide.args[0], own) if wide is node.args[0] else (own, wide.args[0])
                    return rename(dot(*args, _back(node["over"], table)), table)
    return node


def relabelled(node: Node, table: Mapping[Axis, Axis]) -> Node:
    """A value made of vectors under other labels; what is made of anything else is renamed as it is."""
    if not any(axis in table for axis in node.axes):
        return node
    if node.op == "ones":
        return leaf("ones", tuple(table.get(axis, axis) for axis in node.axes))
    if not _is_wide(node) or not _is_elementwise(node):
        return rename(node, dict(table))
    return build(node.op, *(relabelled(arg, table) for arg in node.args), **dict(node.attrs))


def _back(over: tuple[Axis, ...], table: Mapping[Axis, Axis]) -> tuple[Axis, ...]:
    old = {new: old for old, new in table.items()}
    return tuple(old.get(axis, axis) for axis in over)


def _is_wide(node: Node) -> bool:
    """Whether a value is a matrix at every token; one that is the same at all is turned once."""
    return GRID in node.axes and len(set(node.axes) - {GRID, HEADS}) > 1


def _is_elementwise(node: Node) -> bool:
    return bool(node.args) and node.op in OPS and node.op not in STRUCTURAL


def _of_vectors(node: Node) -> bool:
    """Whether a value is made, element by element, of what is no wider than a vector."""
    if len(set(node.axes) - {GRID, HEADS}) < 2 or node.op == "ones":
        return True
    return _is_elementwise(node) and all(_of_vectors(arg) for arg in node.args)
