"""Newton's method on the rows of a chunk. Generated files carry this along.

`dim` is the negative axis of the rows; `end` is None when every chunk is full, else the last valid row of each.
"""

import torch
from recc.backends.torch.matrices import times
from recc.backends.torch.primitives import _valid, shift
from recc.backends.torch.scans import _prefix

PLAIN, CLIPPED = 5, 8  # iterations: as many at first, so many more with slopes clipped once a channel's residual grows


def newton(step, slopes, enter, taken, rows_of, dim, rows, end, dense):
    """The trajectory s[t] = step(s[t-1], *taken[t]) of all rows, s[-1] = enter; coupled states stand along a new axis.

    step(*states, *taken) gives the next states, slopes(...) these and the derivatives of each by each state. enter: the
    states [n, (heads,) dims]; taken: tensors with the rows at the axis in rows_of, or without (None). Channels are the
    elements of the states, or with `dense` all of a head together. Each is accepted when its residual is at rounding
    level. What is not after PLAIN + CLIPPED iterations is finished row by row. Nothing waits for a GPU.
    """
    count = len(enter)
    host = _waits(enter[0])
    eps = torch.finfo(enter[0].dtype).eps
    valid = None if end is None else _valid(enter[0].unsqueeze(dim).expand(*_with_rows(enter[0], rows, dim)), dim, end)
    first_guess = [x.expand(_with_rows(s, rows, dim)) for s, x in zip(
        enter, step(*(torch.zeros_like(s).unsqueeze(dim) for s in enter), *taken)[:count])]  # fmt: skip
    states = first_guess
    done = clipped = torch.zeros((), dtype=torch.bool, device=enter[0].device)
    before, spent = torch.inf, torch.zeros((), device=enter[0].device)
    for iteration in range(PLAIN + CLIPPED + 1):
        found = slopes(*(shift(s, x, dim) for s, x in zip(states, enter)), *taken)
        ahead = found[:count]
        gaps = [x - s for x, s in zip(ahead, states)]
        gaps = gaps if valid is None else [torch.where(valid, x, 0.0) for x in gaps]
        off = _largest([x.abs() / s.abs().clamp_min(1.0) for x, s in zip(gaps, states)])
        worst = off.amax(tuple(range(dim, 0)) if dense else dim, keepdim=True)
        accepted = ~done & (worst <= 8 * eps)
        again = ~done & ~(worst <= 10 * before) & ~clipped
        clipped, before = clipped | again, torch.where(again, torch.inf, worst)
        done, spent = done | accepted, torch.where(accepted, iteration + 1, spent)
        moved = _linear(found[count:], gaps, clipped, dim, dense)
        # An accepted trajectory is off by roundings: one step more, and nothing of it is left to see.
        moved = [torch.where(done & (clipped | ~d.isfinite()), x, s + d) for x, s, d in zip(ahead, states, moved)]
        moved = [torch.where(again, guess, s) for guess, s in zip(first_guess, moved)]
        still = done & ~accepted if iteration < PLAIN + CLIPPED else ~accepted  # the last residual is that of `states`
        states = [torch.where(still, s, x) for s, x in zip(states, moved)]
        if host and bool(done.all()):
            break
    spent = torch.where(done, spent, PLAIN + CLIPPED)
    _note(step, spent, done, torch.where(done, worst, 0.0))
    if not (host and bool(done.all())):
        wrong = ~(off <= 8 * eps)
        wrong = wrong if valid is None else wrong & valid
        wrong = wrong.any(tuple(range(dim + 1, 0)), keepdim=True) if dense and dim < -1 else wrong
        first = torch.where(wrong.any(dim, keepdim=True), wrong.int().argmax(dim, keepdim=True), rows)
        states = _finish(step, enter, taken, rows_of, dim, states, torch.where(done, rows, first), host)
    if valid is not None:  # the rows after the end are no part of the trajectory
        states = [torch.where(valid, s, 0.0) for s in states]
    return states[0] if count == 1 else torch.stack(states, dim)


def _waits(x):
    """Whether a look at values costs nothing: else control flow must not depend on them."""
    return x.device.type == "cpu"


def _with_rows(x, rows, dim):
    shape = list(x.shape)
    shape.insert(len(shape) + 1 + dim, rows)
    return shape


def _largest(parts):
    """The elementwise maximum, NaN where one is."""
    most = parts[0]
    for x in parts[1:]:
        most = torch.maximum(most, x)
    return most


def _linear(slopes, gaps, clipped, dim, dense):
    """d[t] = J[t] d[t-1] + gap[t], d[-1] = 0; J no larger than 1 where `clipped`."""
    if len(gaps) == 1 and not dense:
        slope = _full(slopes[0], gaps[0])
        slope = torch.where(clipped, slope.clamp(-1.0, 1.0), slope)
        return [_prefix(slope, gaps[0], dim, torch.mul, torch.mul, torch.add)]
    count, sizes = len(gaps), gaps[0].shape[dim + 1 :] if dense else ()
    ends = 1 if dense else 0
    like = gaps[0].unsqueeze(-1).expand(*gaps[0].shape, gaps[0].shape[-1]) if dense else gaps[0]
    entries = [_full(x, like) for x in slopes]
    lines = [torch.stack(entries[i * count : (i + 1) * count], -1 - ends) for i in range(count)]
    matrix = torch.stack(lines, -2 - 2 * ends)  # [..., rows, (dims,) k, (D,) k, (D)]
    matrix = matrix.flatten(-4, -3).flatten(-2) if dense else matrix.movedim(dim - 2, -3)
    vector = torch.stack(gaps, -1 - ends)
    vector = vector.flatten(-2) if dense else vector.movedim(dim - 1, -2)
    limit = clipped if clipped.dim() == 0 else _as_matrices(clipped, dim, dense)
    norm = matrix.abs().sum(-1, keepdim=True).amax(-2, keepdim=True)
    matrix = torch.where(limit, matrix / norm.clamp_min(1.0), matrix)
    moved = _prefix(matrix, vector.unsqueeze(-1), -3, times, times, torch.add).squeeze(-1)
    if dense:
        return list(moved.unflatten(-1, (count, *sizes)).unbind(-2))
    return [x.movedim(-1, dim) for x in moved.unbind(-1)]


def _as_matrices(flags, dim, dense):
    """Flags [n, (heads,) 1, dims] of channels, as they meet their matrices [..., rows, k, k]."""
    return flags.unsqueeze(-1) if dense else flags.movedim(dim, -1).unsqueeze(-1).unsqueeze(-1)


def _full(x, like):
    """A slope, which may be a number, in the shape of `like`."""
    x = x if torch.is_tensor(x) else like.new_tensor(x)
    return x.expand(torch.broadcast_shapes(x.shape, like.shape))


def _finish(step, enter, taken, rows_of, dim, states, first, host):
    """`states` from row `first` on by the step itself, one row after the other; first [n, (heads,) 1, dims]."""
    rows = states[0].shape[dim]
    states = [s.clone() for s in states]
    start = int(first.min()) if host else 0
    held = [x.unsqueeze(dim) if start == 0 else s.narrow(dim, start - 1, 1) for x, s in zip(enter, states)]
    for row in range(start, rows):
        here = [x if at is None else x.narrow(at, row, 1) for x, at in zip(taken, rows_of)]
        ahead = step(*held, *here)
        for s, x in zip(states, ahead):
            place = s.narrow(dim, row, 1)
            place.copy_(torch.where(row >= first, x, place))
        held = [s.narrow(dim, row, 1) for s in states]
    return states


def _note(step, spent, done, residual):
    """Adds a solve to what `Op.statistics` tells, on its device, without waiting for it."""
    counts = getattr(step, "counts", None)
    if counts is None or counts.device != spent.device:
        counts = step.counts = torch.zeros(5, dtype=torch.float64, device=spent.device)
    if spent.numel():
        counts[0] += spent.numel()
        counts[1] += spent.double().sum()
        counts[2] += (~done.expand(spent.shape)).sum()
        counts[3:] = torch.maximum(counts[3:], torch.stack([spent.max().double(), residual.max().double()]))
