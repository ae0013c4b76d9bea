"""Scans of complex numbers, whose parts are tiles of their own. Generated files carry this text along.

Each takes the parts of its arguments side by side and returns both of its own; the rest is as in `primitives.py`.
"""

import triton
import triton.language as tl
from recc.backends.triton.primitives import tile_at_row, tile_unshift


@triton.jit
def _pair_linear(a, b, x, y, later_a, later_b, later_x, later_y):
    re = later_a * a - later_b * b
    im = later_a * b + later_b * a
    return re, im, later_a * x - later_b * y + later_x, later_a * y + later_b * x + later_y


@triton.jit
def _pair_times(a, b, later_a, later_b):
    return later_a * a - later_b * b, later_a * b + later_b * a


@triton.jit
def tile_pair_scan(a, b, x, y, init_x, init_y, rows):
    """All rows of h[t] = g[t] h[t-1] + z[t], h[-1] = init, with g = a + ib and z = x + iy."""
    first = rows == 0
    entered_x = x + tl.where(first, a * init_x - b * init_y, 0.0)
    entered_y = y + tl.where(first, a * init_y + b * init_x, 0.0)
    _, _, re, im = tl.associative_scan((a, b, entered_x, entered_y), 0, _pair_linear)
    return re, im


@triton.jit
def tile_pair_rscan(a, b, x, y, last_x, last_y, rows, end):
    """All rows of l[t] = g[t+1] l[t+1] + z[t], and at row `end` l = last + z; nothing flows back over `end`."""
    a = tl.where(rows < end, tile_unshift(a, rows), 0.0)
    b = tl.where(rows < end, tile_unshift(b, rows), 0.0)
    x = x + tl.where(rows == end, last_x, 0.0)
    y = y + tl.where(rows == end, last_y, 0.0)
    flipped = (tl.flip(a, 0), tl.flip(b, 0), tl.flip(x, 0), tl.flip(y, 0))
    _, _, re, im = tl.associative_scan(flipped, 0, _pair_linear)
    return tl.flip(re, 0), tl.flip(im, 0)


@triton.jit
def tile_pair_span_gain(a, b, rows, end):
    """The gain of a whole chunk."""
    a = tl.where(rows <= end, a, 1.0)
    b = tl.where(rows <= end, b, 0.0)
    return tl.reduce((a, b), 0, _pair_times)


@triton.jit
def tile_pair_span_sum(a, b, x, y, rows, end):
    """What a whole chunk leaves of its inputs when nothing enters it."""
    _, _, re, im = tl.associative_scan((a, b, x, y), 0, _pair_linear)
    return tile_at_row(re, rows, end), tile_at_row(im, rows, end)


@triton.jit
def tile_pair_span_rsum(a, b, x, y, rows, end):
    """g[0] l[0] of tile_pair_rscan(g, z, 0): every row's value, decayed on its way to the chunk's start."""
    re, im = tl.associative_scan((a, b), 0, _pair_times)
    there = rows <= end
    return tl.sum(tl.where(there, re * x - im * y, 0.0), 0), tl.sum(tl.where(there, re * y + im * x, 0.0), 0)
