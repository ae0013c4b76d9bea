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

from recc.ir.node import COL, RANK, RANK2, REAL, ROW, Axis, Node, Span, make, result_dtype
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
    dot,
    exp,
    is_zero,
    mul,
    neg,
    rename,
    sub,
    total,
)


def _register(name: str, arity: int, builder: Any = None, vjp: Any = None, linear: str = "no") -> None:
    OPS[name] = Op(name, arity, linear=linear, vjp=vjp)
    STRUCTURAL[name] = builder or _same_axes(name)


def _same_axes(name: str) -> Any:
    def construct(*args: Node, span: Span | None = None, **attrs: Any) -> Node:
        axes = [axis for arg in args for axis in arg.axes]
        return make(name, args, axes, result_dtype(args), span, **attrs)

    return construct


def _along_rows(name: str) -> Any:
    """A linear map along ROW: zero of zero."""

    def construct(a: Node, span: Span | None = None, **attrs: Any) -> Node:
        return a if is_zero(a) else make(name, (a,), a.axes, a.dtype, span, **attrs)

    return construct


def _drop_row(name: str) -> Any:
    def construct(a: Node, span: Span | None = None) -> Node:
        if ROW not in a.axes:
            return a
        return make(name, (a,), [x for x in a.axes if x != ROW], a.dtype, span)

    return construct


def _add_row(name: str) -> Any:
    def construct(a: Node, span: Span | None = None) -> Node:
        return a if is_zero(a) else make(name, (a,), [*a.axes, ROW], a.dtype, span)

    return construct


# --- rows ---------------------------------------------------------------------------------------------------

_register("cumsum", 1, _along_rows("cumsum"), lambda y, g: (build("rcumsum", g),), "sum")
_register("rcumsum", 1, _along_rows("rcumsum"), None, "sum")
_register("end", 1, _drop_row("end"), lambda y, g: (build("put_end", g),), "sum")
_register("put_end", 1, _add_row("put_end"), lambda y, g: (build("end", g),), "sum")
_register("first", 1, _drop_row("first"), lambda y, g: (build("put_first", g),), "sum")
_register("put_first", 1, _add_row("put_first"), lambda y, g: (build("first", g),), "sum")
_register("until_end", 1, _along_rows("until_end"), lambda y, g: (build("until_end", g),), "sum")


def _shift(a: Node, init: Node, span: Span | None = None) -> Node:
    """Rows moved down by one, `init` in front."""
    axes = [*a.axes, *init.axes, ROW]
    return make("shift", (a, init), axes, result_dtype((a, init)), span)


_register("shift", 2, _shift, lambda y, g: (build("unshift", g), build("first", g)), "sum")
_register("unshift", 1, _along_rows("unshift"), None, "sum")


# --- decays and scores ----------------------------------------------------------------------------------------


def _gap(high: Node, low: Node, span: Span | None = None) -> Node:
    """exp(high - low), elementwise, for log decays with high <= low."""
    if is_zero(high) and is_zero(low):
        return ONE
    return make("gap", (high, low), [*high.axes, *low.axes], REAL, span)


_register("gap", 2, _gap, lambda y, g: (mul(g, y), neg(mul(g, y))))


def _tail(b: Node, span: Span | None = None) -> Node:
    """exp(b[end] - b[t]) up to row `end`, 0 after it: what is left of row t when the chunk ends."""
    return make("tail", (b,), b.axes, REAL, span)


def _vjp_tail(y: Node, g: Node) -> tuple:
    weight = mul(g, y)
    return (sub(build("put_end", total(weight, (ROW,))), weight),)


_register("tail", 1, _tail, _vjp_tail)


def _decay(bx: Node, by: Node, *, strict: bool, span: Span | None = None) -> Node:
    """exp(bx[t] - by[s]) for s <= t (s < t when strict), else 0. Scalar decays only: no dims."""
    axes = [axis for b in (bx, by) for axis in b.axes] + [ROW, COL]
    return make("decay", (bx, by), axes, REAL, span, strict=strict)


def _vjp_decay(y: Node, g: Node) -> tuple:
    weight = mul(g, y)
    bx, by = y.args
    to_x = None if is_zero(bx) else total(weight, (COL,))
    to_y = None if is_zero(by) else neg(rename(total(weight, (ROW,)), {COL: ROW}))
    return to_x, to_y


_register("decay", 2, _decay, _vjp_decay)


def _levels(log_decay: Node, span: Span | None = None) -> Node:
    """The decays across the halves of a chunk, of its halves, and so on: what scores with a decay per channel need."""
    return make("levels", (log_decay,), log_decay.axes, REAL, span)


_register("levels", 1, _levels, lambda y, g: (None,))  # scores give their derivative to b itself


def _since(b: Node, levels: Node, *, before: bool, span: Span | None = None) -> Node:
    """exp(b): the decay from the chunk's start up to each row, or up to the row before."""
    return make("since", (b, levels), (*b.axes, *levels.axes), REAL, span, before=before)


def _until(b: Node, log_decay: Node, levels: Node, span: Span | None = None) -> Node:
    """`tail` for a decay per channel: exp(b[end] - b[t]) up to row `end`, 0 after it."""
    return make("until", (b, log_decay, levels), (*b.axes, *levels.axes, *log_decay.axes), REAL, span)


_register("since", 2, _since, lambda y, g: (mul(g, y), None))
_register("until", 3, _until, lambda y, g: (*_vjp_tail(y, g), None, None))

# Scores take (x, bx, y, by, levels), where bx is by or, when `before`, by less the row's own log decay, and
# levels = levels(that log decay). Only the levels are computed with; bx and by are there for the derivative.


def _score(
    x: Node, bx: Node, y: Node, by: Node, levels: Node, *, over: Axis, before: bool, span: Span | None = None
) -> Node:
    """sum_k x[t, k] y[s, k] exp(bx[t, k] - by[s, k]) for s <= t (s < t when `before`), else 0."""
    axes = [axis for a in (x, bx, y, by) for axis in a.axes if axis != over] + [ROW, COL]
    return make("score", (x, bx, y, by, levels), axes, result_dtype((x, y)), span, over=over, before=before)


def _score_rows(a: Node, y: Node, levels: Node, *, over: Axis, before: bool, span: Span | None = None) -> Node:
    """sum_s a[t, s] y[s, k] exp(bx[t, k] - by[s, k]): the contraction of a score's cotangent with y."""
    axes = [axis for n in (a, y, levels) for axis in n.axes if axis != COL] + [over]
    return make("score_rows", (a, y, levels), axes, result_dtype((a, y)), span, over=over, before=before)


def _score_cols(a: Node, x: Node, levels: Node, *, over: Axis, before: bool, span: Span | None = None) -> Node:
    """sum_t a[t, s] x[t, k] exp(bx[t, k] - by[s, k]), with s called ROW again."""
    axes = [axis for n in (a, x, levels) for axis in n.axes if axis != COL] + [over]
    return make("score_cols", (a, x, levels), axes, result_dtype((a, x)), span, over=over, before=before)


def _vjp_score(z: Node, g: Node) -> tuple:
    x, _, y, _, levels = z.args
    facts = {"over": z["over"], "before": z["before"]}
    dx = build("score_rows", g, y, levels, **facts)
    dy = build("score_cols", g, x, levels, **facts)
    return dx, mul(x, dx), dy, neg(mul(y, dy)), None


_register("score", 5, _score, _vjp_score)
_register("score_rows", 3, _score_rows)
_register("score_cols", 3, _score_cols)


# --- triangular systems -----------------------------------------------------------------------------------------


def _inverse(lower: Node, span: Span | None = None) -> Node:
    """(I - lower)^-1 for strictly lower triangular `lower` [ROW, COL] or [ROW, RANK, COL, RANK']."""
    return make("inverse", (lower,), lower.axes, lower.dtype, span)


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


def _stack(*args: Node, axis: Axis, span: Span | None = None) -> Node:
    """`args` side by side along a new `axis`."""
    return make("stack", args, [*(x for a in args for x in a.axes), axis], result_dtype(args), span, axis=axis)


_register(
    "stack",
    -1,
    _stack,
    lambda y, g: tuple(build("take", g, axis=y["axis"], index=i, size=len(y.args)) for i in range(len(y.args))),
    "sum",
)


# --- scans --------------------------------------------------------------------------------------------------
# kind: linear h = a h' + x; max h = max(a + h', x); logsumexp h = log(exp(a + h') + exp(x)).


def _scan(a: Node, x: Node, init: Node, *, kind: str = "linear", span: Span | None = None) -> Node:
    """All rows of h[t] = a[t] (x) h[t-1] (+) x[t], h[-1] = init."""
    axes = [axis for arg in (a, x, init) for axis in arg.axes] + [ROW]
    return make("scan", (a, x, init), axes, result_dtype((a, x, init)), span, kind=kind)


def _rscan(a: Node, g: Node, tail: Node, span: Span | None = None) -> Node:
    """All rows of l[t] = a[t+1] l[t+1] + g[t], where a[end+1] l[end+1] is `tail` at row `end`, and 0 after it."""
    axes = [axis for arg in (a, g, tail) for axis in arg.axes] + [ROW]
    return make("rscan", (a, g, tail), axes, result_dtype((a, g, tail)), span)


def _summary(name: str) -> Any:
    def construct(*args: Node, span: Span | None = None, **attrs: Any) -> Node:
        axes = [axis for arg in args for axis in arg.axes if axis != ROW]
        return make(name, args, axes, result_dtype(args), span, **attrs)

    return construct


def _split_tail(g: Node) -> tuple[Node, Node]:
    """A cotangent as (part on the rows, part that arrives at row `end`)."""
    if g.op == "put_end":
        return ZERO, g.args[0]
    if g.op == "add":
        parts = [_split_tail(arg) for arg in g.args]
        return add(parts[0][0], parts[1][0]), add(parts[0][1], parts[1][1])
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
    rows, tail = _split_tail(g)
    flow = build("rscan", slope, rows, tail)
    to_init = build("enter", slope, rows, tail)
    return mul(flow, to_a), mul(flow, to_x), to_init


_register("scan", 3, _scan, _vjp_scan)
_register("rscan", 3, _rscan)
_register("enter", 3, lambda a, g, tail, span=None: _enter(a, g, tail))
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
