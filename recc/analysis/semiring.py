"""Affine updates over (max, +) and (logsumexp, +): s' = (+)(gain + s, bias)."""

from __future__ import annotations

from recc.analysis.plan import Semiring
from recc.ir.node import Node, walk
from recc.ir.ops import ZERO, add, build, sub

_SUMS = {"maximum": "max", "logaddexp": "logsumexp"}


def match(update: Node, old: Node) -> Semiring | None:
    """The semiring form of `update` in the state leaf `old`, or None. Additions distribute over both sums."""
    kinds = {node.op for node in walk(update) if node.op in _SUMS and any(leaf is old for leaf in walk(node))}
    if len(kinds) != 1:
        return None
    op = kinds.pop()
    terms = _terms(update, old, op)
    if terms is None:
        return None
    gains = [node for node, has in terms if has]
    biases = [node for node, has in terms if not has]
    if not gains or not biases:
        return None
    return Semiring(_SUMS[op], _fold(op, gains), _fold(op, biases))


def _fold(op: str, nodes: list[Node]) -> Node:
    result = nodes[0]
    for node in nodes[1:]:
        result = build(op, result, node)
    return result


def _terms(node: Node, old: Node, op: str) -> list[tuple[Node, bool]] | None:
    """(coefficient, whether the state is added to it) for each operand of the n-ary sum, or None."""
    if node is old:
        return [(ZERO, True)]
    if all(leaf is not old for leaf in walk(node)):
        return [(node, False)]
    match node.op:
        case name if name == op:
            left, right = _terms(node.args[0], old, op), _terms(node.args[1], old, op)
            return None if left is None or right is None else left + right
        case "add":
            for moving, fixed in (node.args, node.args[::-1]):
                if all(leaf is not old for leaf in walk(fixed)):
                    inner = _terms(moving, old, op)
                    return None if inner is None else [(add(c, fixed), has) for c, has in inner]
        case "sub" if all(leaf is not old for leaf in walk(node.args[1])):
            inner = _terms(node.args[0], old, op)
            return None if inner is None else [(sub(c, node.args[1]), has) for c, has in inner]
    return None
