"""Linear recurrences with small matrices over the rows of a chunk. Generated files carry this along.

outs, ins: the axes of a matrix J that it maps to and from, as negative axis numbers; both are brought to the end, and
back. `end` is None when every chunk is full, else the last valid row of each.
"""

import torch
from recc.backends.torch.primitives import _product, _valid, put_end, unshift, until_end
from recc.backends.torch.scans import _every, _prefix, _total


def times(a, b):
    """Products of small matrices."""
    return _product(a, b) if a.shape[-1] <= 4 else a @ b


def _matrices(x, dim, outs, ins):
    """J as [..., rows, m, m]."""
    k = len(outs)
    x = x.movedim((dim, *outs, *ins), tuple(range(-1 - 2 * k, 0)))
    return x.flatten(-k).flatten(-1 - k, -2)


def _vectors(x, dim, outs):
    """[..., rows, m] of what has the axes that J maps to."""
    k = len(outs)
    return x.movedim((dim, *outs), tuple(range(-1 - k, 0))).flatten(-k)


def _spread_out(x, sizes, places):
    """The last axis as axes of `sizes` at `places`."""
    return x.unflatten(-1, sizes).movedim(tuple(range(-len(sizes), 0)), places)


def matrix_scan(matrix, x, init, at, end):
    """All rows of h[t] = J[t] h[t-1] + x[t], h[-1] = init; after the end h stays. at: (rows, outs, ins) of J."""
    dim, outs, ins = at
    places = _places(matrix, dim, outs, ins)
    gains = _whole(matrix, dim, outs, ins, end)
    value = _vectors(until_end(x, places[0], end), places[0], places[1:]).unsqueeze(-1)
    shape = torch.broadcast_shapes(gains.shape[:-2], value.shape[:-2])
    value = value.expand(*shape, *value.shape[-2:]).clone()
    enter = _vectors(init.unsqueeze(places[0]), places[0], places[1:]).unsqueeze(-1)
    value.narrow(-3, 0, 1).add_(times(gains.narrow(-3, 0, 1), enter))
    found = _prefix(gains, value, -3, times, times, torch.add).squeeze(-1)
    sizes = [x.shape[place] for place in places[1:]]
    return found.unflatten(-1, sizes).movedim(tuple(range(-1 - len(sizes), 0)), places)


def matrix_sum(matrix, x, at, end):
    """The last row of matrix_scan from a state of zero."""
    dim, outs, ins = at
    places = _places(matrix, dim, outs, ins)
    value = _vectors(until_end(x, places[0], end), places[0], places[1:]).unsqueeze(-1)
    found = _total(_whole(matrix, dim, outs, ins, end), value, -3, times, times, torch.add).squeeze(-1)
    return _spread_out(found, [x.shape[place] for place in places[1:]], places[1:])


def matrix_rscan(matrix, g, tail, at, end):
    """All rows of l[t] = J[t+1]^T l[t+1] + g[t], and at row `end` l = tail + g. at: (rows, outs, ins) of J."""
    dim, outs, ins = at
    places = _places(matrix, dim, outs, ins)
    value = g if g is not None else put_end(tail, places[0], end, matrix.shape[dim])
    if g is not None and tail is not None:
        value = g + put_end(tail, places[0], end, matrix.shape[dim])
    sizes = [value.shape[place] for place in places[1:]]
    gains = unshift(_matrices(matrix, dim, outs, ins).mT, -3)
    if end is not None:
        gains = torch.where(_valid(gains, -3, end - 1), gains, 0.0)
    value = _vectors(value, places[0], places[1:]).unsqueeze(-1)
    found = _prefix(gains.flip(-3), value.flip(-3), -3, times, times, torch.add).flip(-3).squeeze(-1)
    return found.unflatten(-1, sizes).movedim(tuple(range(-1 - len(sizes), 0)), places)


def _places(matrix, dim, outs, ins):
    """Where the rows and the axes in `outs` stand once those in `ins` are gone, counted from the end."""
    left = [axis for axis in range(-matrix.dim(), 0) if axis not in ins]
    return tuple(left.index(axis) - len(left) for axis in (dim, *outs))


def _whole(matrix, dim, outs, ins, end):
    """J as [..., rows, m, m], the identity after the end."""
    x = _matrices(matrix, dim, outs, ins)
    return (
        x if end is None else torch.where(_valid(x, -3, end), x, torch.eye(x.shape[-1], dtype=x.dtype, device=x.device))
    )


def matrix_gain(matrix, at, end):
    """The product of all rows' matrices, the last one first."""
    dim, outs, ins = at
    x = _whole(matrix, dim, outs, ins, end)
    while x.shape[-3] > 1:
        pairs = x.shape[-3] // 2
        odd = x[..., 2 * pairs :, :, :]
        x = torch.cat([times(_every(x, 1, -3, pairs), _every(x, 0, -3, pairs)), odd], -3)
    x = x.squeeze(-3)
    sizes = [matrix.shape[axis] for axis in outs]
    left = [axis for axis in range(-matrix.dim(), 0) if axis != dim]
    places = tuple(left.index(axis) - len(left) for axis in (*outs, *ins))
    return x.unflatten(-1, sizes).unflatten(-1 - len(sizes), sizes).movedim(tuple(range(-len(places), 0)), places)


def matrix_rsum(matrix, g, at, end):
    """J[0]^T l[0] of matrix_rscan where nothing comes from behind the chunk."""
    dim, outs, ins = at
    places = _places(matrix, dim, outs, ins)
    gains = _whole(matrix, dim, outs, ins, end).mT
    value = _vectors(until_end(g, places[0], end), places[0], places[1:]).unsqueeze(-1)
    found = _total(gains.flip(-3), times(gains, value).flip(-3), -3, times, times, torch.add).squeeze(-1)
    return _spread_out(found, [g.shape[place] for place in places[1:]], places[1:])
