"""Operations of a tile program where each channel has a decay of its own: of the keys, or of what is written."""

from __future__ import annotations

from typing import Any

from recc.ir.node import COL, REAL, ROW, Axis, Node, make, result_dtype
from recc.ir.ops import add, build, conj, mul, neg, sub, total
from recc.tile.ops import _register


def _levels(log_decay: Node) -> Node:
    """The decays across the halves of a chunk, of its halves, and so on: what scores with a decay per channel need."""
    return make("levels", (log_decay,), log_decay.axes, REAL)


_register("levels", 1, _levels, lambda y, g: (None,))  # scores give their derivative to b itself


def _channel_since(b: Node, levels: Node, *, before: bool) -> Node:
    """`since` for a decay per channel, read off its levels."""
    return make("channel_since", (b, levels), (*b.axes, *levels.axes), REAL, before=before)


def _channel_tail(b: Node, log_decay: Node, levels: Node) -> Node:
    """`tail` for a decay per channel: exp(b[end] - b[t]) up to row `end`, 0 after it."""
    return make("channel_tail", (b, log_decay, levels), (*b.axes, *levels.axes, *log_decay.axes), REAL)


def _vjp_channel_tail(y: Node, g: Node) -> tuple:
    weight = mul(g, y)
    return sub(build("put_end", total(weight, (ROW,))), weight), None, None


_register("channel_since", 2, _channel_since, lambda y, g: (mul(g, y), None))
_register("channel_tail", 3, _channel_tail, _vjp_channel_tail)

# A score takes x, bx, y, by for its derivative, bx being by or, when `before`, by less the row's own log decay; what it
# is computed with are its levels and the sides, x and y with their part of the decay of each level.


def _side(name: str) -> Any:
    def construct(x: Node, levels: Node, *, before: bool = False) -> Node:
        return make(name, (x, levels), (*x.axes, *levels.axes), result_dtype((x,)), before=before)

    return construct


_register("late_side", 2, _side("late_side"))
_register("early_side", 2, _side("early_side"))


def _score(x: Node, bx: Node, y: Node, by: Node, levels: Node, *, over: Axis, before: bool) -> Node:
    """sum_k x[t, k] y[s, k] exp(bx[t, k] - by[s, k]) for s <= t (s < t when `before`), else 0."""
    axes = [axis for a in (x, bx, y, by) for axis in a.axes if axis != over] + [ROW, COL]
    sides = build("late_side", x, levels, before=before), build("early_side", y, levels)
    return make("score", (x, bx, y, by, levels, *sides), axes, result_dtype((x, y)), over=over, before=before)


def _score_rows(a: Node, early: Node, levels: Node, *, over: Axis, before: bool) -> Node:
    """sum over s < t of a[t, s] y[s, k] exp(bx[t, k] - by[s, k]): the contraction of a score's cotangent with y."""
    axes = [axis for n in (a, early, levels) for axis in n.axes if axis != COL] + [over]
    return make("score_rows", (a, early, levels), axes, result_dtype((a, early)), over=over, before=before)


def _score_cols(a: Node, late: Node, levels: Node, *, over: Axis) -> Node:
    """sum over t > s of a[t, s] x[t, k] exp(bx[t, k] - by[s, k]), with s called ROW again."""
    axes = [axis for n in (a, late, levels) for axis in n.axes if axis != COL] + [over]
    return make("score_cols", (a, late, levels), axes, result_dtype((a, late)), over=over)


def _vjp_score(z: Node, g: Node) -> tuple:
    x, _, y, _, levels, *_ = z.args
    x, y = conj(x), conj(y)
    dx = build("score_rows", g, build("early_side", y, levels), levels, over=z["over"], before=z["before"])
    dy = build("score_cols", g, build("late_side", x, levels, before=z["before"]), levels, over=z["over"])
    to_bx, to_by = mul(x, dx), neg(mul(y, dy))
    if not z["before"]:  # a token's score with itself has no decay: it must not enter, only to cancel, the two above
        same = build("diagonal", g)
        dx, dy = add(dx, mul(same, y)), add(dy, mul(same, x))
    return dx, to_bx, dy, to_by, None, None, None


def _diagonal(a: Node) -> Node:
    """a[t, t]."""
    return make("diagonal", (a,), [x for x in a.axes if x != COL], a.dtype)


_register("diagonal", 1, _diagonal, linear="sum")
_register("score", 5, lambda x, bx, y, by, levels, *_, **attrs: _score(x, bx, y, by, levels, **attrs), _vjp_score)
_register("score_rows", 3, _score_rows)
_register("score_cols", 3, _score_cols)

# Where the channels that decay are those of what is written, a decay stands between a score and the sum with it.


def decayed_sum(a: Node, bx: Node, y: Node, by: Node, levels: Node, *, over: Axis, before: bool) -> Node:
    """sum over s <= t of a[t, s] y[s, m] exp(bx[t, m] - by[s, m]) (s < t when `before`), m being `over`."""
    value = build("score_rows", a, build("early_side", y, levels), levels, over=over, before=before)
    if not before:
        value = add(value, mul(build("diagonal", a), y))
    return build("decayed_sum", value, a, bx, y, by, levels, over=over, before=before)


def _decayed_sum(value: Node, *args: Node, over: Axis, before: bool) -> Node:
    return make("decayed_sum", (value, *args), value.axes, value.dtype, over=over, before=before)


def _vjp_decayed_sum(z: Node, g: Node) -> tuple:
    _, a, bx, y, by, levels = z.args
    a, y, attrs = conj(a), conj(y), {"over": z["over"], "before": z["before"]}
    earlier = build("score_rows", a, build("early_side", y, levels), levels, **attrs)
    dy = build("score_cols", a, build("late_side", g, levels, before=z["before"]), levels, over=z["over"])
    to_bx, to_by = mul(g, earlier), neg(mul(y, dy))
    dy = dy if z["before"] else add(dy, mul(build("diagonal", a), g))
    return None, build("score", g, bx, y, by, levels, **attrs), to_bx, dy, to_by, None


_register("decayed_sum", 6, _decayed_sum, _vjp_decayed_sum)
