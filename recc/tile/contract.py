"""Sums of wide products, taken apart: what does not depend on the summed axis comes out of the sum.

The adjoint of an outer product or of a state's update sums products such as (a S + k u) o over an axis. Multiplied out,
each term with a wide factor (a state, its cotangent) is one multiply-add an element, the others are products
of vectors, and terms that occur in several cotangents are the same node and are computed once.
"""

from __future__ import annotations

from recc.ir.node import GRID, HEADS, Axis, Node, Spans, digest, walk
from recc.ir.ops import ONE, add, build, div, dot, is_zero, mul, neg, rename, spread, sub, total
from recc.tile.turned import as_it_lies

MOST = 12  # terms; beyond that the sum stays as it is

Term = tuple[bool, tuple[Node, ...]]  # negative or not, factors


def contract(roots: list[Node], spans: Spans) -> list[Node]:
    """The same values, every sum over products of wide values taken apart. spans: takes up what is new."""
    done: dict[Node, Node] = {}
    for node in walk(*roots):
        args = tuple(done[arg] for arg in node.args)
        new = node if args == node.args else build(node.op, *args, **dict(node.attrs))
        done[node] = spans.inherit(_contracted(new) if new.op in ("sum", "dot") else new, node)
    return [done[root] for root in roots]


def _dims(node: Node) -> set[Axis]:
    return set(node.axes) - {GRID, HEADS}


def _contracted(node: Node) -> Node:
    if set(node["over"]) & {GRID, HEADS} or len(set().union(*(_dims(arg) for arg in node.args))) < 2:
        return node
    terms = _expand(node.args[0])
    for arg in node.args[1:]:
        terms = _product(terms, _expand(arg))
    if terms is None or (len(terms) == 1 and len(terms[0][1]) == 1) or _multiplies(node, terms):
        return node
    found = None
    for negative, factors in terms:
        value = _reduce(list(factors), tuple(node["over"]))
        found = (neg(value) if negative else value) if found is None else (sub if negative else add)(found, value)
    return spread(found, node.axes)


def _multiplies(node: Node, terms: list[Term]) -> bool:
    """Whether a product of two matrices would become several, or one of tiles with other axes: one product of a sum is
    cheaper than a sum of them."""
    over, args = set(node["over"]), [_dims(arg) for arg in node.args]
    if node.op != "dot" or not (args[0] - args[1] and args[1] - args[0]):
        return False
    sides = [_sides([factor for factor in factors if over & set(factor.axes)]) for _, factors in terms]
    formed = [set().union(*map(_dims, side)) for pair in sides for side in pair]
    apart = any(over & set(factor.axes) not in (set(), over) for _, factors in terms for factor in factors)
    if apart or any(not any(axes <= arg for arg in args) for axes in formed):
        return True
    return sum(all(any(len(_dims(factor)) > 1 for factor in side) for side in pair) for pair in sides) > 1


def _expand(node: Node) -> list[Term] | None:
    """The terms of a wide value; what is no wider than a vector, or the same at every token, is a factor as it is."""
    if is_zero(node):
        return []
    if len(_dims(node)) < 2 or GRID not in node.axes:
        return [(False, (node,))]
    match node.op:
        case "neg":
            terms = _expand(node.args[0])
            return None if terms is None else [(not negative, factors) for negative, factors in terms]
        case "add" | "sub":
            first, second = (_expand(arg) for arg in node.args)
            if first is None or second is None or len(first) + len(second) > MOST:
                return None
            flip = node.op == "sub"
            return first + [(negative != flip, factors) for negative, factors in second]
        case "mul":
            return _product(_expand(node.args[0]), _expand(node.args[1]))
        case "div" if len(_dims(node.args[1])) < 2:
            return _product(_expand(node.args[0]), [(False, (div(ONE, node.args[1]),))])
        case "rename":
            terms, table = _expand(node.args[0]), dict(node["mapping"])
            return terms and [(negative, tuple(rename(f, table) for f in factors)) for negative, factors in terms]
    return [(False, (node,))]


def _product(a: list[Term] | None, b: list[Term] | None) -> list[Term] | None:
    if a is None or b is None or len(a) * len(b) > MOST:
        return None
    return [(n != m, (*x, *y)) for n, x in a for m, y in b]


def _reduce(factors: list[Node], over: tuple[Axis, ...]) -> Node:
    """The sum over `over` of a product: one axis after the other, but together where both sides have them."""
    factors, left = [f for f in factors if f.op != "ones"], sorted(over, reverse=True)
    while left:
        axis, *left = left
        inside = [f for f in factors if axis in f.axes]
        factors = [f for f in factors if axis not in f.axes]
        one, other = _sides(inside)
        if not (one and other):
            factors.append(as_it_lies(total(_times(inside or [spread(ONE, (axis,))]), (axis,))))
            continue
        sides = _times(one), _times(other)
        both = {a for a in left if all(a in side.axes for side in sides) and not any(a in f.axes for f in factors)}
        factors.append(as_it_lies(dot(*sides, (axis, *sorted(both)))))
        left = [axis for axis in left if axis not in both]
    return _times(factors)


def _sides(factors: list[Node]) -> tuple[list[Node], list[Node]]:
    """The two sides of a contraction: what is wide and what is not; but a product of wide factors with different axes,
    which would be wider than each, is never formed."""
    wide, slim = [f for f in factors if len(_dims(f)) > 1], [f for f in factors if len(_dims(f)) <= 1]
    widest = max((set(f.axes) for f in wide), key=len, default=set())
    if all(set(f.axes) <= widest for f in wide):
        return wide, slim
    return [f for f in factors if set(f.axes) <= widest], [f for f in factors if not set(f.axes) <= widest]


def _times(factors: list[Node]) -> Node:
    """The product, in an order of its own, so that equal products are one node: small factors first."""
    result = ONE
    for factor in sorted(factors, key=lambda f: (len(_dims(f)), digest(f))):
        result = mul(result, factor)
    return result
