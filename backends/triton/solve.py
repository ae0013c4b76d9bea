"""What a kernel of Newton's method does in each of its iterations. Generated files carry this text along.

A tile has a window of tokens in its rows; where it has a second axis, that is one of channels. `row` counts the rows,
aligned with the tile. A channel is one element of every coupled state, and is solved or not as a whole.
"""

import triton
import triton.language as tl


@triton.jit
def _latter(x, before, seen, later_x, later_before, later_seen):
    return later_x, tl.where(later_seen != 0, later_before, x), later_seen | 1


@triton.jit
def newton_before(x, first, row):
    """Rows moved down by one, `first` in front. As a scan: a gather along a long axis takes far more registers."""
    seen = tl.zeros(x.shape, tl.int32)
    _, before, _ = tl.associative_scan((x, x, seen), 0, _latter)
    return tl.where(row == 0, first, before)


@triton.jit
def newton_off(gap, now):
    """How far each row is from a step of the one before it, relative to the state where that is large; inf for NaN."""
    off = tl.abs(gap) / tl.maximum(tl.abs(now), 1.0)
    return tl.where(off < float("inf"), off, float("inf"))


@triton.jit
def newton_judged(worst, last, done, clipped, TOLERANCE: tl.constexpr):
    """Which channels are accepted now, and which start again: those whose residual grows tenfold, or is not finite."""
    accepted = (done == 0) & (worst <= TOLERANCE)
    again = (done == 0) & (clipped == 0) & (worst > TOLERANCE) & ((worst < 10.0 * last) == 0)
    return accepted, again


@triton.jit
def newton_scale(norm, clipped):
    """The factor that brings matrices to a norm of at most 1 where `clipped`."""
    return tl.where(clipped, 1.0 / tl.maximum(norm, 1.0), 1.0)


@triton.jit
def newton_entry(slope, clipped):
    """An entry of a Jacobian, finite where `clipped`."""
    return tl.where(clipped, tl.minimum(tl.maximum(slope, -1e30), 1e30), slope)


@triton.jit
def newton_moved(now, ahead, move, guess, accepted, clipped, again, moves):
    """The next iterate. An accepted one takes a last step; nothing moves but where `moves`."""
    plain = (tl.abs(move) < float("inf")) & ((accepted & clipped) == 0)
    moved = tl.where(accepted & (plain == 0), ahead, now + move)
    return tl.where(moves, tl.where(again, guess, moved), now)


@triton.jit
def newton_note(counts_ptr, channels, spent, sequential, most, residual):
    """Adds to what `Op.statistics` tells; sums of whole numbers, so their order does not matter."""
    tl.atomic_add(counts_ptr, channels.to(tl.float64))
    tl.atomic_add(counts_ptr + 1, spent.to(tl.float64))
    tl.atomic_add(counts_ptr + 2, sequential.to(tl.float64))
    tl.atomic_max(counts_ptr + 3, most.to(tl.float64))
    tl.atomic_max(counts_ptr + 4, residual.to(tl.float64))
