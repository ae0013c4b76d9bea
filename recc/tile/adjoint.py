"""Reverse mode on expressions: cotangents flow from users to arguments by the op registry's rules.

It serves tile programs and step programs alike; the result is again made of nodes of the registry.
"""

from __future__ import annotations

from collections.abc import Iterable

from recc.ir.node import BOOL, Axis, GradientOf, Node, Span, Spans, walk
from recc.ir.ops import OPS, ZERO, add, broadcast_back, is_zero, sub


def cotangents(
    seeds: Iterable[tuple[Node, Node]],
    wrt: Iterable[Node],
    keep: frozenset[Axis] = frozenset(),
    spans: Spans | None = None,
) -> dict[Node, Node]:
    """d(sum of seed . output)/d(leaf) for each leaf in `wrt`; literal 0 where nothing depends on it.

    seeds: pairs (output, its cotangent). keep: axes that a seed has and its output has not, which tell several
    derivatives apart. spans: takes up whose gradient each new node computes. Raises KeyError for an op that has no
    derivative.
    """
    seeds, wrt = list(seeds), list(wrt)
    roots = [output for output, _ in seeds]
    order = list(walk(*roots))
    targets = set(wrt)
    matters: set[Node] = set()  # nodes that some target flows into
    for node in order:
        if node in targets or any(arg in matters for arg in node.args):
            matters.add(node)
    flow: dict[Node, Node] = {}
    known = set(order)
    for output, seed in seeds:
        flow[output] = add(flow.get(output, ZERO), broadcast_back(seed, output, keep))
    for node in reversed(order):
        if node not in flow or node not in matters or not node.args or is_zero(flow[node]):
            continue
        rule = OPS[node.op].vjp
        if rule is None:
            raise KeyError(f"op {node.op!r} has no derivative")
        for arg, cotangent in zip(node.args, rule(node, flow[node]), strict=True):
            if cotangent is None or arg not in matters or arg.dtype == BOOL or is_zero(cotangent):
                continue
            flow[arg] = _plus(flow.get(arg, ZERO), broadcast_back(cotangent, arg, keep))
            if spans is not None and node in spans:
                _place(flow[arg], spans, spans[node], known)
    return {leaf: flow.get(leaf, ZERO) for leaf in wrt}


def _place(root: Node, spans: Spans, span: Span, known: set[Node]) -> None:
    """Says of `root` and what is new below it that it belongs to the gradient of what is written at `span`."""
    todo = [root]
    while todo:
        node = todo.pop()
        if node not in known:
            known.add(node)
            todo += node.args
            if node.args:
                spans.setdefault(node, GradientOf(span.line, span.col, span.end_line, span.end_col))


def _plus(a: Node, b: Node) -> Node:
    """a + b; a negated operand is subtracted."""
    if b.op == "neg" and not is_zero(a):
        return sub(a, b.args[0])
    return sub(b, a.args[0]) if a.op == "neg" and not is_zero(b) else add(a, b)
