"""The tile operations that torch has no single call for. Generated files carry this text along.

`dim` is a negative axis number; `end` is None when every chunk is full, else the last valid row of each chunk
[n], int64. Log decays are natural logarithms, cumulative and in float64; what they become has the working dtype.
"""

import math

import torch
import torch.nn.functional as F  # noqa: F401 - for the generated functions


def softplus(x):
    """log(1 + exp(x)) without torch's switch to x above a threshold, so that it is smooth in float64 too."""
    return torch.logaddexp(x, x.new_zeros(()))


def gelu(x):
    """x times the normal distribution function; in float32 F.gelu is three times as far from that."""
    return x * torch.special.ndtr(x)


def as_complex(real, imag):
    """real + i imag, either of which may be a number."""
    if not torch.is_tensor(real):
        real = imag.new_tensor(real)
    if not torch.is_tensor(imag):
        imag = real.new_tensor(imag)
    return torch.complex(*torch.broadcast_tensors(real, imag))


def stacked(dim, *parts):
    """The parts along a new axis `dim`; some of them may be numbers."""
    like = next(part for part in parts if torch.is_tensor(part))
    parts = [part if torch.is_tensor(part) else like.new_tensor(part) for part in parts]
    return torch.stack(torch.broadcast_tensors(*parts), dim)


def surrogate(value, smooth):
    """`value`, with the gradient of `smooth`."""
    return value.detach() + torch.where(smooth.isfinite(), smooth - smooth.detach(), 0.0)


def clip_gradient(x, limit):
    """`x`, whose gradient is cut to [-limit, limit]."""
    if x.requires_grad:
        x = x.view_as(x)
        x.register_hook(lambda grad: grad.clamp(-limit, limit))
    return x


def put(x, dim, index, size):
    """Zeros with a new axis `dim` of `size`, holding x at `index`."""
    shape = list(x.shape)
    shape.insert(len(shape) + 1 + dim, size)
    out = x.new_zeros(shape)
    out.select(dim, index).copy_(x)
    return out


def starts_chunks(count, rows, offset):
    """Whether chunks of `rows` tokens that are entered with these counts of tokens have a count of `offset`, modulo
    `rows`, at their first token. Waits for a GPU."""
    return bool((count.remainder(rows) == offset % rows).all())


# --- rows -------------------------------------------------------------------------------------------------


def cumsum(x, dim):
    """Inclusive sums down the rows, in float64: differences of log decays must not lose what is small."""
    return x.double().cumsum(dim)


def rcumsum(x, dim):
    """Inclusive sums up the rows, the last axis or the one before: the transpose of cumsum, as a triangle's product."""
    if dim == -1:
        return x @ x.new_ones(x.shape[-1], x.shape[-1]).tril_()
    return x.new_ones(x.shape[-2], x.shape[-2]).triu_() @ x


def _end_index(end, x, dim):
    shape = list(x.shape)
    shape[dim] = 1
    view = [1] * x.dim()
    view[0] = x.shape[0]
    return end.view(view).expand(shape)


def at_end(x, dim, end):
    """The last valid row of each chunk."""
    if end is None:
        return x.select(dim, -1)
    return x.gather(dim, _end_index(end, x, dim)).squeeze(dim)


def put_end(x, dim, end, rows):
    """Zeros with x in the last valid row."""
    if end is None:
        return put(x, dim, rows - 1, rows)
    shape = list(x.shape)
    shape.insert(len(shape) + 1 + dim, rows)
    out = x.new_zeros(shape)
    return out.scatter_(dim, _end_index(end, out, dim), x.unsqueeze(dim))


def _valid(x, dim, end):
    view = [1] * x.dim()
    view[dim] = x.shape[dim]
    rows = torch.arange(x.shape[dim], device=x.device).view(view)
    view[dim] = 1
    view[0] = end.shape[0]
    return rows <= end.view(view)


def until_end(x, dim, end, fill=0.0):
    """x with the rows after the last valid one filled."""
    return x if end is None else torch.where(_valid(x, dim, end), x, fill)


def shift(x, init, dim):
    """Rows moved down by one, `init` in front."""
    init = init.unsqueeze(dim).expand([*x.shape[:dim], 1, *(x.shape[dim:][1:])])
    return torch.cat([init, x.narrow(dim, 0, x.shape[dim] - 1)], dim)


def unshift(x, dim):
    """Rows moved up by one, zero at the last: the transpose of shift."""
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    return torch.cat([x.narrow(dim, 1, x.shape[dim] - 1), zero], dim)


# --- decays and scores --------------------------------------------------------------------------------------


def decay_of(exponent, dtype):
    """exp of a log decay."""
    return exponent.to(dtype).exp_() if exponent.dtype != dtype else exponent.exp()


def tail(b, dim, end, dtype):
    """exp(b[end] - b[t]) up to the last valid row, 0 after it."""
    gap = at_end(b, dim, end).unsqueeze(dim) - b
    return until_end(gap, dim, end, -math.inf).to(dtype).exp_()


def triangle(rows, strict, like):
    """1 where s <= t (s < t when strict), else 0; [t, s]."""
    return like.new_ones(rows, rows).tril_(-1 if strict else 0)


def decay_matrix(bx, by, strict, dtype):
    """exp(bx[t] - by[s]) where s <= t (s < t when strict), else 0; rows are the last axis of bx and by."""
    gap = (bx.unsqueeze(-1) - by.unsqueeze(-2)).to(dtype)
    rows = torch.arange(gap.shape[-1], device=gap.device)
    late = rows.unsqueeze(-1) < rows if not strict else rows.unsqueeze(-1) <= rows
    return gap.masked_fill_(late, -math.inf).exp_()


def sum_between(w, before):
    """[j], the sum of w[t, s] over the pairs that row j lies between: s < j <= t (before: s < j < t)."""
    rows = w.shape[-1]
    below = w.new_ones(rows, rows).triu_(1 if before else 0)  # [j, t]
    return (below @ w).tril_(-1).sum(-1)


def sum_before(x, dim, end):
    """[j], the sum of the rows before row j, up to the last valid row."""
    wide = x.double()
    return until_end(wide.cumsum(dim) - wide, dim, end).to(x.dtype)


# A decay of its own for each channel k does not factor out of a score. It does within a pair of row blocks,
# measured from the boundary between them: exp(b[t] - b[s]) = exp(b[t] - ref) exp(ref - b[s]), both factors <= 1.
# Halving a chunk again and again meets every pair s < t exactly once, at the level where its two halves part. The
# factors of a level are products of those below: one exp a row serves all levels, and nothing can overflow.


def levels(log_decay):
    """For each level, from halves of one row up: (decay from the boundary to each later row, decay from each earlier
    row to the boundary), each [..., blocks, half, K]; last, both for the whole chunk [..., rows, K], measured from its
    start and to its end. Rows must be a power of two."""
    down = log_decay.exp()  # from the last boundary to each row
    up = torch.ones_like(down)  # from each row to the next boundary
    found, half = [], 1
    while half < down.shape[-2]:
        (low, late), (early, _) = _halves(down, half), _halves(up, half)
        found.append((late.clone(), early.clone() if half > 1 else None))  # None: all ones
        early.mul_(late[..., -1:, :])
        late.mul_(low[..., -1:, :])
        half *= 2
    return [*found, (down, up)]


def since_start(levels, before):
    """The decay from the chunk's start up to each row, or up to the row before."""
    return _later(levels[-1][0], before)


def until_last(log_decay, levels, dim, end):
    """The decay from each row to the last valid one, 0 after it."""
    if end is None:
        return levels[-1][1]
    valid = until_end(log_decay.double().clamp_min(-1000.0), dim, end)
    left = valid.sum(dim, keepdim=True) - valid.cumsum(dim)
    return until_end(left, dim, end, -math.inf).to(log_decay.dtype).exp_()


def _later(late, before):
    """The decays to each later row, or up to the row before it: those of the rows above, 1 for the first."""
    if not before:
        return late
    return torch.cat([torch.ones_like(late[..., :1, :]), late[..., :-1, :]], -2)


def _halves(x, half):
    """Rows in blocks of 2 * half, as (earlier rows, later rows): [..., blocks, half, K]."""
    *lead, rows, columns = x.shape
    return x.view(*lead, rows // (2 * half), 2, half, columns).unbind(-3)


def _corner(a, half):
    """The blocks of [t, s] that pair later with earlier rows of each 2 * half: a view [..., blocks, half, half]."""
    rows = a.shape[-1]
    count, stride = rows // (2 * half), a.stride()
    shape = [*a.shape[:-2], count, half, half]
    strides = [*stride[:-2], 2 * half * (stride[-2] + stride[-1]), stride[-2], stride[-1]]
    return a.as_strided(shape, strides, a.storage_offset() + half * stride[-2])


def late_side(x, levels, before):
    """For each level, the later rows of x times the decay from the boundary to them (`before`: to the row before)."""
    return [_halves(x, 1 << level)[1] * _later(late, before) for level, (late, _) in enumerate(levels[:-1])]


def early_side(y, levels):
    """For each level, the earlier rows of y times the decay from them to the boundary."""
    halves = [(_halves(y, 1 << level)[0], early) for level, (_, early) in enumerate(levels[:-1])]
    return [rows if early is None else rows * early for rows, early in halves]


def score(late, early, x=None, y=None):
    """[t, s] = sum_k x[t, k] y[s, k] exp(b[t, k] - b[s, k]) for s < t, from the sides of x and y; with x and y
    themselves, for s = t too. Else 0."""
    rows = 2 * late[-1].shape[-2]
    lead = torch.broadcast_shapes(late[-1].shape[:-3], early[-1].shape[:-3])
    out = late[-1].new_zeros(*lead, rows, rows)
    for level, (later, earlier) in enumerate(zip(late, early)):
        block = (later * earlier).sum(-1, keepdim=True) if level == 0 else later @ earlier.mT
        _corner(out, 1 << level).copy_(block)
    if x is not None:
        out.diagonal(dim1=-2, dim2=-1).copy_((x * y).sum(-1))
    return out


def score_rows(a, early, levels, before):
    """[t, k] = sum over s < t of a[t, s] y[s, k] exp(b[t, k] - b[s, k]), b[t - 1] if `before`; `early` is y's side."""
    return _contract(a, early, [_later(late, before) for late, _ in levels[:-1]], 1)


def score_cols(a, late, levels):
    """[s, k] = sum over t > s of a[t, s] x[t, k] exp(b[t, k] - b[s, k]); `late` is x's side."""
    return _contract(a, late, [early for _, early in levels[:-1]], 0)


def _contract(a, others, decays, side):
    """The sum over the other side's rows: side 1 makes the later rows' values, side 0 those of the earlier ones."""
    lead = torch.broadcast_shapes(a.shape[:-2], others[-1].shape[:-3])
    out = a.new_zeros(*lead, a.shape[-1], others[-1].shape[-1])
    for level, (other, decay) in enumerate(zip(others, decays)):
        pairs = _corner(a, 1 << level) if side else _corner(a, 1 << level).mT
        found = _product(pairs, other) if level < 2 else pairs @ other
        part = _halves(out, 1 << level)[side]
        part.add_(found) if decay is None else part.addcmul_(decay, found)
    return out


def _diagonal(a, half, odd):
    """The diagonal blocks of `half` rows with an even or an odd number: a view [..., blocks, half, half]."""
    rows, stride = a.shape[-1], a.stride()
    shape = [*a.shape[:-2], rows // (2 * half), half, half]
    across = half * (stride[-2] + stride[-1])
    strides = [*stride[:-2], 2 * across, stride[-2], stride[-1]]
    return a.as_strided(shape, strides, a.storage_offset() + odd * across)


def unit_inverse(lower, axes):
    """(I - lower)^-1 of strictly lower triangular matrices [t, s] or, with ranks, [t, r, s, r'].

    By doubling: with the inverses of two neighbouring diagonal blocks A and B known, the block below A and left of B
    is B^-1 L A^-1. Batched products of growing size; a triangular solve a matrix is slower than those.
    """
    shape, half = lower.shape, 1
    if axes == 4:  # the ranks of one token do not read each other: blocks of their number are I
        half = shape[-1]
        lower = lower.reshape(*shape[:-4], shape[-4] * half, shape[-2] * half)
    size = lower.shape[-1]
    inverse = torch.eye(size, dtype=lower.dtype, device=lower.device).repeat(*lower.shape[:-2], 1, 1)
    first = half
    while half < size:
        block = _corner(lower, half)
        if half > first:
            block = _diagonal(inverse, half, 1) @ (block @ _diagonal(inverse, half, 0))
        _corner(inverse, half).copy_(block)
        half *= 2
    return inverse.reshape(shape)


def _product(a, b):
    """a @ b for an a of very few columns, as outer products: torch multiplies such matrices one number at a time."""
    found = a[..., :1] * b[..., :1, :]
    for column in range(1, a.shape[-1]):
        found.addcmul_(a[..., column, None], b[..., column, None, :])
    return found


# --- the loop over chunks ---------------------------------------------------------------------------------------


def leave(state, count, done):
    """The first `count` sequences' states; those of sequences that have ended are appended to `done`."""
    if state.shape[0] > count:
        done.append(state[count:])
        state = state[:count]
    return state


def arrive(state, ends, count):
    """`state` with the cotangents of the sequences that end here appended, up to `count` of them."""
    if state.shape[0] < count:
        state = torch.cat([state, ends[state.shape[0] : count]])
    return state


def joined(parts, like):
    """The parts along the first axis; without any, nothing of `like`."""
    return torch.cat(parts) if parts else like[:0]
