"""Scans over the rows of a chunk, and what a whole chunk leaves. Generated files carry this text along.

Rows, `rows` and `end` are as in `primitives.py`.
"""

import triton
import triton.language as tl
from recc.backends.triton.primitives import tile_at_row, tile_logaddexp, tile_unshift


@triton.jit
def _linear(a, x, later_a, later_x):
    return later_a * a, later_a * x + later_x


@triton.jit
def _max(a, x, later_a, later_x):
    return later_a + a, tl.maximum(later_a + x, later_x)


@triton.jit
def _logsumexp(a, x, later_a, later_x):
    return later_a + a, tile_logaddexp(later_a + x, later_x)


@triton.jit
def _tile_prefix(a, x, kind: tl.constexpr):
    if kind == "linear":
        _, h = tl.associative_scan((a, x), 0, _linear)
    elif kind == "max":
        _, h = tl.associative_scan((a, x), 0, _max)
    else:
        _, h = tl.associative_scan((a, x), 0, _logsumexp)
    return h


@triton.jit
def tile_scan(a, x, init, rows, kind: tl.constexpr):
    """All rows of h[t] = a[t] h[t-1] + x[t], h[-1] = init (or the same over max or logsumexp)."""
    if kind == "linear":
        entered = a * init + x
    elif kind == "max":
        entered = tl.maximum(a + init, x)
    else:
        entered = tile_logaddexp(a + init, x)
    return _tile_prefix(a, tl.where(rows == 0, entered, x), kind)


@triton.jit
def tile_rscan(a, g, last, rows, end):
    """All rows of l[t] = a[t+1] l[t+1] + g[t], and at row `end` l = last + g; nothing flows back over `end`."""
    gains = tl.where(rows < end, tile_unshift(a, rows), 0.0)
    value = g + tl.where(rows == end, last, 0.0)
    return tl.flip(_tile_prefix(tl.flip(gains, 0), tl.flip(value, 0), "linear"), 0)


@triton.jit
def _times(a, b):
    return a * b


@triton.jit
def tile_span_gain(a, rows, end, kind: tl.constexpr):
    """The gain of a whole chunk."""
    if kind == "linear":
        return tl.reduce(tl.where(rows <= end, a, 1.0), 0, _times)
    return tl.sum(tl.where(rows <= end, a, 0.0), 0)


@triton.jit
def tile_span_sum(a, x, rows, end, kind: tl.constexpr):
    """What a whole chunk leaves of its inputs when nothing enters it."""
    return tile_at_row(_tile_prefix(a, x, kind), rows, end)


@triton.jit
def tile_span_rsum(a, g, rows, end):
    """a[0] l[0] of tile_rscan(a, g, 0): every row's value, decayed on its way to the chunk's start."""
    return tl.sum(tl.where(rows <= end, tl.associative_scan(a, 0, _times) * g, 0.0), 0)
