"""Recurrences with elementwise gains over the rows of a chunk, in log2(rows) passes. Generated files carry this along.

`dim` is the negative axis of the rows; `end` is None when every chunk is full, else the last valid row of each.
"""

import math

import torch
from recc.backends.torch.primitives import _valid, put_end, unshift, until_end


def _compose(kind):
    """(gain of two steps in a row, a gain applied to a value, the sum of two values)"""
    if kind == "linear":
        return torch.mul, torch.mul, torch.add
    return torch.add, torch.add, torch.maximum if kind == "max" else torch.logaddexp


def _every(x, start, dim, count=None):
    """Every second row from `start`."""
    index = [slice(None)] * x.dim()
    index[dim] = slice(start, None if count is None else start + 2 * count, 2)
    return x[tuple(index)]


def _prefix(a, x, dim, gains, act, plus):
    """h[t] = act(a[t], h[t-1]) plus x[t] for all rows by odd-even reduction: depth log T, work linear in T. h[-1] is
    nothing: row 0 is x[0]."""
    rows = x.shape[dim]
    if rows == 1:
        return x
    pairs = rows // 2
    a_odd, x_odd = _every(a, 1, dim, pairs), _every(x, 1, dim, pairs)
    a_pair = gains(a_odd, _every(a, 0, dim, pairs))
    x_pair = plus(act(a_odd, _every(x, 0, dim, pairs)), x_odd)
    odd = _prefix(a_pair, x_pair, dim, gains, act, plus)
    out = torch.empty_like(x)
    _every(out, 1, dim).copy_(odd)
    _every(out, 0, dim, 1).copy_(x.narrow(dim, 0, 1))
    evens = (rows - 1) // 2
    if evens:
        later = plus(act(_every(a, 2, dim, evens), odd.narrow(dim, 0, evens)), _every(x, 2, dim, evens))
        _every(out, 2, dim, evens).copy_(later)
    return out


def _thin(a, dim):
    """Gains with their repeated axes taken once (a param's gain is the same in every chunk): scans broadcast them."""
    for axis in range(a.dim()):
        if axis != a.dim() + dim and a.stride(axis) == 0 and a.shape[axis] > 1:
            a = a.narrow(axis, 0, 1)
    return a


def scan(a, x, init, dim, kind):
    """All rows of h[t] = a[t] h[t-1] + x[t] with h[-1] = init (or the same over max or logsumexp)."""
    gains, act, plus = _compose(kind)
    shape = torch.broadcast_shapes(a.shape, x.shape)
    first = plus(act(a.select(dim, 0), init), x.select(dim, 0))
    x = x.expand(shape).to(first.dtype, copy=True)
    x.select(dim, 0).copy_(first)
    return _prefix(_thin(a, dim), x, dim, gains, act, plus)


def rscan(a, g, tail, dim, end):
    """All rows of l[t] = a[t+1] l[t+1] + g[t], and at row `end` l = tail + g. Rows after `end` keep what g has."""
    rows = a.shape[dim]
    value = g if g is not None else put_end(tail, dim, end, rows)
    if g is not None and tail is not None:
        value = g + put_end(tail, dim, end, rows)
    value = value.expand(torch.broadcast_shapes(a.shape, value.shape))
    gains = unshift(_thin(a, dim), dim)  # row t now holds a[t+1]
    if end is not None:  # nothing flows back over the end of a chunk
        gains = torch.where(_valid(gains, dim, end - 1), gains, 0.0)
    return _prefix(gains.flip(dim), value.flip(dim).contiguous(), dim, *_compose("linear")).flip(dim)


def span_gain(a, dim, kind, end):
    """The gain of a whole chunk."""
    shape = a.select(dim, 0).shape
    if kind == "linear":
        return until_end(_thin(a, dim), dim, end, 1.0).prod(dim).expand(shape)
    return until_end(_thin(a, dim), dim, end).sum(dim).expand(shape)


def _total(a, x, dim, gains, act, plus):
    """The last row of _prefix, without the others."""
    while x.shape[dim] > 1:
        rows = x.shape[dim]
        pairs = rows // 2
        a_odd, x_odd = _every(a, 1, dim, pairs), _every(x, 1, dim, pairs)
        x_pair = plus(act(a_odd, _every(x, 0, dim, pairs)), x_odd)
        a_pair = gains(a_odd, _every(a, 0, dim, pairs))
        if rows % 2:
            x_pair = torch.cat([x_pair, x.narrow(dim, rows - 1, 1)], dim)
            a_pair = torch.cat([a_pair, a.narrow(dim, rows - 1, 1)], dim)
        a, x = a_pair, x_pair
    return x.select(dim, 0)


def span_sum(a, x, dim, kind, end):
    """What a whole chunk leaves of its inputs when nothing enters it."""
    shape = torch.broadcast_shapes(a.shape, x.shape)
    a, x = _thin(a, dim), x.expand(shape)
    if end is not None:
        a = until_end(a, dim, end, 1.0 if kind == "linear" else 0.0)
        x = until_end(x, dim, end, 0.0 if kind == "linear" else -math.inf)
    return _total(a, x, dim, *_compose(kind))


def span_rsum(a, g, dim, end):
    """a[0] l[0] of rscan(a, g, None)."""
    # a[0] (g[0] + a[1] (g[1] + ...)): the forward sum of a[t] g[t], decayed by the gains before it, seen from the back.
    shape = torch.broadcast_shapes(a.shape, g.shape)
    a = until_end(_thin(a, dim), dim, end, 1.0)
    g = until_end(g.expand(shape), dim, end)
    return _total(a.flip(dim), (a * g).flip(dim), dim, *_compose("linear"))
