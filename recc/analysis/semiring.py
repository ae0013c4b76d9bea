"""Affine updates over (max, +) and (logsumexp, +): s' = (+)(gain + s, bias)."""

from __future__ import annotations

from recc.analysis.plan import Semiring
from recc.ir.node import Node, walk
from recc.ir.ops import ZERO, add, build, sub

_SUMS = {"maximum": "max", "logaddexp": "logsumexp"}
_Form = tuple[Node | None, Node | None]  # gain and bias, None where there is none: a fixed value has no gain


def match(update: Node, old: Node) -> Semiring | None:
    """The semiring form of `update` in the state leaf `old`, or None. Additions distribute over both sums."""
    moving = {old}
    for node in walk(update):
        if moving.intersection(node.args):
            moving.add(node)
    kinds = {node.op for node in moving} & set(_SUMS)
    if len(kinds) != 1:
        return None
    op = kinds.pop()
    forms: dict[Node, _Form | None] = {old: (ZERO, None)}
    for node in walk(update):
        if node not in forms:
            forms[node] = _form(node, forms, op) if node in moving else (None, node)
    gain, bias = forms[update] or (None, None)
    return None if gain is None or bias is None else Semiring(_SUMS[op], gain, bias)


def _form(node: Node, forms: dict[Node, _Form | None], op: str) -> _Form | None:
    """The form of a node that depends on the state, from those of its arguments; None if it has none."""
    match node.op, [forms[arg] for arg in node.args]:
        case name, [(a, b), (c, d)] if name == op:
            return _sum(op, a, c), _sum(op, b, d)
        case "add", [(gain, bias), (None, fixed)] | [(None, fixed), (gain, bias)]:
            return add(gain, fixed), None if bias is None else add(bias, fixed)
        case "sub", [(gain, bias), (None, fixed)]:
            return sub(gain, fixed), None if bias is None else sub(bias, fixed)
    return None


def _sum(op: str, a: Node | None, b: Node | None) -> Node | None:
    return build(op, a, b) if a is not None and b is not None else a if b is None else b
