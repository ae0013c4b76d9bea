"""The operations of a tile program beyond those of a step: what a chunk of C tokens needs that one token does not.

A tile has the axis ROW (the tokens of a chunk, in order); a pair of row axes, ROW by COL, occurs in scores. Chunks of a
sequence that is no multiple of C end at a row `end` before the last; rows after it repeat a valid one, so nothing
but the way out of a chunk (`end`, `until_end`, the summaries) has to know.

Log decays `b` are inclusive cumulative sums of natural logarithms, kept in float64, and only differences that are
<= 0 within the mask are exponentiated, in the working precision.

Each op's derivative is made of ops of this list: the set is closed, so the adjoint of a tile program is one.
"""

from __future__ import annotations

from typing import Any

from recc.ir.node import COL, RANK, RANK2, REAL, ROW, Axis, Node, make, result_dtype
from recc.ir.ops import (  # fmt: skip
    HALF,
    ONE,
    OPS,
    STRUCTURAL,
    ZERO,
    Op,
    add,
    build,
    conj,
    const,
    dot,
    exp,
    is_zero,
    mul,
    rename,
    spread,
    sub,
    where,
)


def _register(name: str, arity: int, builder: Any = None, vjp: Any = None, linear: str = "no") -> None:
    OPS[name] = Op(name, arity, linear=linear, vjp=vjp)
    STRUCTURAL[name] = builder or _same_axes(name)


def _same_axes(name: str) -> Any:
    def construct(*args: Node, **attrs: Any) -> Node:
        axes = [axis for arg in args for axis in arg.axes]
        return make(name, args, axes, result_dtype(args), **attrs)

    return construct


def _along_rows(name: str) -> Any:
    """A linear map along ROW: zero of zero."""

    def construct(a: Node, **attrs: Any) -> Node:
        return a if is_zero(a) else make(name, (a,), a.axes, a.dtype, **attrs)

    return construct


def _drop_row(name: str) -> Any:
    def construct(a: Node, **attrs: Any) -> Node:
        if ROW not in a.axes:
            return a
        return make(name, (a,), [x for x in a.axes if x != ROW], a.dtype, **attrs)

    return construct


def _add_row(name: str) -> Any:
    def construct(a: Node) -> Node:
        return a if is_zero(a) else make(name, (a,), [*a.axes, ROW], a.dtype)

    return construct


# --- rows ---------------------------------------------------------------------------------------------------

_register("cumsum", 1, _along_rows("cumsum"), lambda y, g: (build("rcumsum", g),), "sum")


def _rcumsum(a: Node) -> Node:
    """Inclusive sums up the rows. What stands in row `end` alone reaches every row up to it."""
    rows, tail = split_tail(a)
    reach = ZERO if is_zero(tail) else build("until_end", spread(tail, (ROW,)))
    return add(rows if is_zero(rows) else make("rcumsum", (rows,), rows.axes, rows.dtype), reach)


_register("rcumsum", 1, _rcumsum, None, "sum")
_register("end", 1, _drop_row("end"), lambda y, g: (build("put_end", g),), "sum")
_register("put_end", 1, _add_row("put_end"), lambda y, g: (build("end", g),), "sum")
_register("first", 1, _drop_row("first"), lambda y, g: (build("put_first", g),), "sum")
_register("put_first", 1, _add_row("put_first"), lambda y, g: (build("first", g),), "sum")
_register("at_row", 1, _drop_row("at_row"), None, "sum")  # row `at`, zero where there is none
_register("if_end", 1, _along_rows("if_end"), None, "sum")  # row `at` of `put_end`
_register("until_end", 1, _along_rows("until_end"), lambda y, g: (build("until_end", g),), "sum")


def _shift(a: Node, init: Node) -> Node:
    """Rows moved down by one, `init` in front."""
    axes = [*a.axes, *init.axes, ROW]
    return make("shift", (a, init), axes, result_dtype((a, init)))


_register("shift", 2, _shift, lambda y, g: (build("unshift", g), build("first", g)), "sum")
_register("unshift", 1, _along_rows("unshift"), None, "sum")


# --- decays and scores ----------------------------------------------------------------------------------------


LEAST = -1000.0


def _bounded(g: Node) -> Node:
    """A log decay, no less than LEAST, where exp is 0 in every dtype: a sum with -1e30 in it would lose all others."""
    return g if g.op == "const" else make("bounded", (g,), g.axes, REAL)


_register("bounded", 1, _bounded, lambda y, c: (where(build("gt", y.args[0], const(LEAST)), c, ZERO),))


# Functions of cumulative log decays take them as values, and the log decay g of each row for the derivative: sums
# over just those rows that lie between two tokens do not cancel, which differences of derivatives to b would.


def _tail(b: Node, g: Node) -> Node:
    """exp(b[end] - b[t]) up to row `end`, 0 after it: what is left of row t when the chunk ends."""
    return make("tail", (b, g), (*b.axes, *g.axes), REAL)


_register("tail", 2, _tail, lambda y, c: (None, build("sum_before", mul(c, y))))


def _since(b: Node, g: Node, *, before: bool) -> Node:
    """exp(b), b the log decay from the chunk's start up to each row, or (`before`) up to the row before."""
    if is_zero(b):
        return ONE
    return make("since", (b, g), (*b.axes, *g.axes), REAL, before=before)


def _vjp_since(y: Node, c: Node) -> tuple:
    later = build("rcumsum", mul(c, y))
    return None, build("unshift", later) if y["before"] else later


_register("since", 2, _since, _vjp_since)
_register("sum_before", 1, _along_rows("sum_before"), None, "sum")


def _decay(bx: Node, by: Node, g: Node, *, before: bool) -> Node:
    """exp(bx[t] - by[s]) for s <= t (`before`: s < t, and bx is up to the row before t), else 0. No dims."""
    axes = [axis for b in (bx, by, g) for axis in b.axes] + [ROW, COL]
    return make("decay", (bx, by, g), axes, REAL, before=before)


def _vjp_decay(y: Node, c: Node) -> tuple:
    g = y.args[2]
    return None, None, None if is_zero(g) else build("sum_between", mul(c, y), before=y["before"])


def _sum_between(w: Node, *, before: bool) -> Node:
    """For each row j, the sum of w[t, s] over the pairs that it lies between: s < j <= t (`before`: j < t)."""
    return make("sum_between", (w,), [x for x in w.axes if x != COL], w.dtype, before=before)


_register("decay", 3, _decay, _vjp_decay)
_register("sum_between", 1, _sum_between)


# --- triangular systems -----------------------------------------------------------------------------------------


def _inverse(lower: Node) -> Node:
    """(I - lower)^-1 for strictly lower triangular `lower` [ROW, COL] or [ROW, RANK, COL, RANK']."""
    return make("inverse", (lower,), lower.axes, lower.dtype)


def _vjp_inverse(y: Node, g: Node) -> tuple:
    # d(I - L)^-1 = T dL T, so the cotangent of L is T^T G T^T. Axes: T[t, s], G[t, s].
    mid, mid2 = {ROW: "@a", RANK: "@a'"}, {COL: "@b", RANK2: "@b'"}
    ranked = RANK in y.axes
    left = rename(y, {**mid, COL: ROW, RANK2: RANK})  # T^T[t, a] = T[a, t]
    right = rename(y, {**mid2, ROW: COL, RANK: RANK2})  # T^T[b, s] = T[s, b]
    inner = rename(g, {**mid, **mid2})
    over_a = ("@a", "@a'") if ranked else ("@a",)
    over_b = ("@b", "@b'") if ranked else ("@b",)
    return (dot(dot(left, inner, over_a), right, over_b),)


_register("inverse", 1, _inverse, _vjp_inverse)


def _solution(value: Node, lower: Node, right: Node) -> Node:
    """(I - lower)^-1 right, which `value` computes."""
    return make("solution", (value, lower, right), value.axes, value.dtype)


def _vjp_solution(y: Node, g: Node) -> tuple:
    """With z = (I - L)^-T g, the cotangent of the right side is z and that of L is z y^T: no product with an inverse
    but z, and no derivative of the inverse itself."""
    value, lower, right = y.args
    inverse = next(arg for arg in value.args if arg.op == "inverse")
    ranked = RANK in lower.axes
    moved = {ROW: COL, RANK: RANK2} if ranked else {ROW: COL}
    turned = rename(inverse, {**moved, **{other: axis for axis, other in moved.items()}})
    z = dot(conj(turned), rename(g, moved), tuple(moved.values()))
    columns = tuple(axis for axis in value.axes if axis not in lower.axes)
    both = spread(z, value.axes), rename(value, moved)
    return None, dot(both[0], conj(both[1]), columns) if columns else mul(both[0], conj(both[1])), z


_register("solution", 3, _solution, _vjp_solution)


def _stack(*args: Node, axis: Axis) -> Node:
    """`args` side by side along a new `axis`."""
    return make("stack", args, [*(x for a in args for x in a.axes), axis], result_dtype(args), axis=axis)


_register(
    "stack",
    -1,
    _stack,
    lambda y, g: tuple(build("take", g, axis=y["axis"], index=i, size=len(y.args)) for i in range(len(y.args))),
    "sum",
)


# --- scans --------------------------------------------------------------------------------------------------
# kind: linear h = a h' + x; max h = max(a + h', x); logsumexp h = log(exp(a + h') + exp(x)).


def _scan(a: Node, x: Node, init: Node, *, kind: str = "linear") -> Node:
    """All rows of h[t] = a[t] (x) h[t-1] (+) x[t], h[-1] = init."""
    axes = [axis for arg in (a, x, init) for axis in arg.axes] + [ROW]
    return make("scan", (a, x, init), axes, result_dtype((a, x, init)), kind=kind)


def _rscan(a: Node, g: Node, tail: Node) -> Node:
    """All rows of l[t] = a[t+1] l[t+1] + g[t], where a[end+1] l[end+1] is `tail` at row `end`, and 0 after it."""
    axes = [axis for arg in (a, g, tail) for axis in arg.axes] + [ROW]
    return make("rscan", (a, g, tail), axes, result_dtype((a, g, tail)))


def _summary(name: str) -> Any:
    def construct(*args: Node, **attrs: Any) -> Node:
        axes = [axis for arg in args for axis in arg.axes if axis != ROW]
        return make(name, args, axes, result_dtype(args), **attrs)

    return construct


def split_tail(g: Node) -> tuple[Node, Node]:
    """A cotangent as (part on the rows, part that arrives at row `end`)."""
    if g.op == "put_end":
        return ZERO, g.args[0]
    if g.op == "add":
        parts = [split_tail(arg) for arg in g.args]
        return add(parts[0][0], parts[1][0]), add(parts[0][1], parts[1][1])
    if g.op == "sub":
        parts = [split_tail(arg) for arg in g.args]
        return sub(parts[0][0], parts[1][0]), sub(parts[0][1], parts[1][1])
    return g, ZERO


def _vjp_scan(h: Node, g: Node) -> tuple:
    a, x, init = h.args
    before = build("shift", h, init)
    match h["kind"]:
        case "linear":
            slope, to_a, to_x = conj(a), conj(before), ONE
        case "max":
            stay = build("mul", build("add", ONE, build("sign", sub(add(a, before), x))), HALF)
            slope, to_a, to_x = stay, stay, sub(ONE, stay)
        case _:
            slope = exp(sub(add(a, before), h))
            to_a, to_x = slope, exp(sub(x, h))
    rows, tail = split_tail(g)
    flow = build("rscan", slope, rows, tail)
    to_init = build("enter", slope, rows, tail)
    return mul(flow, to_a), mul(flow, to_x), to_init


_register("scan", 3, _scan, _vjp_scan)
_register("rscan", 3, _rscan)
_register("enter", 3, lambda a, g, tail: _enter(a, g, tail))
# Products and sums of a whole chunk, which the loop over chunks needs in place of its rows.
_register("span_gain", 1, _summary("span_gain"))
_register("span_sum", 2, _summary("span_sum"))
_register("span_rsum", 2, _summary("span_rsum"))


def _enter(a: Node, g: Node, tail: Node) -> Node:
    """a[0] l[0] of rscan(a, g, tail), without its rows: the cotangent of the state that entered the chunk."""
    gain = build("span_gain", a, kind="linear")
    return add(mul(gain, tail), ZERO if is_zero(g) else build("span_rsum", a, g))


def leave(h: Node) -> Node:
    """end(scan(a, x, init)) without its rows: the state that leaves the chunk, affine in the one that enters."""
    a, x, init = h.args
    kind = h["kind"]
    gain = build("span_gain", a, kind=kind)
    inner = build("span_sum", a, x, kind=kind)
    match kind:
        case "linear":
            return add(mul(gain, init), inner)
        case "max":
            return build("maximum", add(gain, init), inner)
        case _:
            return build("logaddexp", add(gain, init), inner)
