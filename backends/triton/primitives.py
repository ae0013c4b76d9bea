"""The tile operations that Triton has no single call for. Generated files carry this text along.

Rows of a chunk are the first axis of every tile. `rows` counts them, aligned with the tile (0, 1, 2 ... along the first
axis); `end` is the last row that holds a token. Log decays are natural logarithms; their sums are float64.
"""

import triton
import triton.language as tl

# --- functions ------------------------------------------------------------------------------------------------


@triton.jit
def tile_log1p(x):
    """log(1 + x), exact to rounding for small x, too (Kahan)."""
    u = 1.0 + x
    return tl.where(u == 1.0, x, tl.log(u) * (x / tl.where(u == 1.0, 1.0, u - 1.0)))


@triton.jit
def tile_expm1(x):
    """exp(x) - 1, exact to rounding for small x, too (Kahan)."""
    u = tl.exp(x)
    safe = tl.where((u == 1.0) | (u <= 0.0) | (u > 1e30), 2.0, u)
    return tl.where(u == 1.0, x, tl.where(safe == u, (u - 1.0) * x / tl.log(safe), u - 1.0))


@triton.jit
def tile_tanh(x):
    u = tl.exp(-2.0 * tl.abs(x))
    small = x * (1.0 - x * x * (1.0 / 3.0 - x * x * (2.0 / 15.0)))
    return tl.where(tl.abs(x) < 0.05, small, tl.where(x < 0, -1.0, 1.0) * (1.0 - u) / (1.0 + u))


@triton.jit
def tile_softplus(x):
    """log(1 + exp(x))."""
    return tl.maximum(x, 0.0) + tile_log1p(tl.exp(-tl.abs(x)))


@triton.jit
def tile_logsigmoid(x):
    return tl.minimum(x, 0.0) - tile_log1p(tl.exp(-tl.abs(x)))


@triton.jit
def tile_gelu(x):
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def tile_sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, 0.0))


@triton.jit
def tile_power(x, y):
    """x ** y; NaN where x is negative and y is no whole number."""
    both = tl.zeros_like(x + y)
    base, exponent = x + both, y + both
    size = tl.where(exponent == 0, 1.0, tl.exp2(exponent * tl.log2(tl.abs(base))))
    half = exponent * 0.5
    sign = tl.where(half == tl.floor(half), 1.0, tl.where(exponent == tl.floor(exponent), -1.0, float("nan")))
    return tl.where(base < 0, sign * size, size)


@triton.jit
def tile_whole_power(x, N: tl.constexpr):
    """x ** N for a whole number N > 0."""
    result = x
    for _ in tl.static_range(N - 1):
        result = result * x
    return result


@triton.jit
def tile_logaddexp(x, y):
    """log(exp(x) + exp(y)); both may be -inf."""
    top = tl.maximum(x, y)
    gap = tl.where(x == y, 0.0, -tl.abs(x - y))
    return top + tile_log1p(tl.exp(gap))


# --- products -------------------------------------------------------------------------------------------------


@triton.jit
def tile_dot(a, b, DOT: tl.constexpr):
    """a @ b in the precision of DOT, summed in float32. The longer side stands in the rows, which warps share.

    Products that feed each other share rows alone among their warps, and where there are too few rows each warp has all
    of the result. A turned product is none of those, so small ones are turned, too.
    """
    if b.shape[1] > a.shape[0] or a.shape[0] < 64:
        return tl.trans(tl.dot(tl.trans(b.to(DOT)), tl.trans(a.to(DOT)), input_precision="ieee"))
    return tl.dot(a.to(DOT), b.to(DOT), input_precision="ieee")


@triton.jit
def tile_dot_apart(a, b, still, DOT: tl.constexpr):
    """a @ b as tile_dot has it, in a loop of one turn. still: a zero that the compiler does not know, so that the loop
    stays: it does not see then which products feed each other, and warps share the rows and columns of each."""
    found = tl.zeros((a.shape[0], b.shape[1]), tl.float32)
    for _ in range(still + 1):
        found = tile_dot(a, b, DOT)
    return found


@triton.jit
def tile_wide_dot(a, b, DOT: tl.constexpr):
    """a @ b of what crosses outer chunks, where rounding adds up over a sequence: at least 11 bits of both, in tf32."""
    if DOT == tl.float32:
        return tl.dot(a, b, input_precision="ieee")
    return tl.dot(a, b, input_precision="tf32")


@triton.jit
def _tile_halved_dot(a, b):
    left, right = tl.split(tl.permute(tl.reshape(a, (a.shape[0], 2, a.shape[1] // 2)), (0, 2, 1)))
    upper, lower = tl.split(tl.permute(tl.reshape(b, (2, b.shape[0] // 2, b.shape[1])), (1, 2, 0)))
    return tl.dot(left, upper, input_precision="ieee") + tl.dot(right, lower, input_precision="ieee")


@triton.jit
def tile_exact_dot(a, b):
    """a @ b in float32. A thread holds whole rows and columns of what it multiplies: long sums are taken in parts."""
    if a.shape[1] < 64:
        found = tl.dot(a, b, input_precision="ieee")
    else:
        left, right = tl.split(tl.permute(tl.reshape(a, (a.shape[0], 2, a.shape[1] // 2)), (0, 2, 1)))
        upper, lower = tl.split(tl.permute(tl.reshape(b, (2, b.shape[0] // 2, b.shape[1])), (1, 2, 0)))
        found = _tile_halved_dot(left, upper) + _tile_halved_dot(right, lower)
    return found


@triton.jit
def tile_dot_add(a, b, more, DOT: tl.constexpr):
    """a @ b + more: the sum goes on in the registers of `more`."""
    if b.shape[1] > a.shape[0] or a.shape[0] < 64:
        turned = tl.dot(tl.trans(b.to(DOT)), tl.trans(a.to(DOT)), tl.trans(more), input_precision="ieee")
        return tl.trans(turned)
    return tl.dot(a.to(DOT), b.to(DOT), more, input_precision="ieee")


# --- rows -----------------------------------------------------------------------------------------------------


@triton.jit
def tile_cumsum(x):
    """Inclusive sums down the rows, in float64: differences of log decays must not lose what is small."""
    return tl.cumsum(x.to(tl.float64), 0)


@triton.jit
def tile_rcumsum(x):
    """Inclusive sums up the rows."""
    return tl.flip(tl.cumsum(tl.flip(x, 0), 0), 0)


@triton.jit
def tile_at_row(x, rows, row):
    """One row of a tile."""
    return tl.sum(tl.where(rows == row, x, 0.0), 0)


@triton.jit
def tile_columns(x, columns):
    """Some columns of a tile, or places of a vector."""
    if len(x.shape) == 1:
        found = tl.gather(x, columns, 0)
    else:
        found = tl.gather(x, tl.broadcast_to(columns[None, :], (x.shape[0], columns.shape[0])), 1)
    return found


@triton.jit
def tile_shift(x, init, rows):
    """Rows moved down by one, `init` in front."""
    above = tl.gather(x, tl.broadcast_to(tl.maximum(rows - 1, 0), x.shape), 0)
    return tl.where(rows == 0, init, above)


@triton.jit
def tile_unshift(x, rows):
    """Rows moved up by one, zero at the last: the transpose of shift."""
    last = x.shape[0] - 1
    below = tl.gather(x, tl.broadcast_to(tl.minimum(rows + 1, last), x.shape), 0)
    return tl.where(rows == last, 0.0, below)


@triton.jit
def tile_sum_before(x, rows, end):
    """For each row, the sum of those before it; 0 after `end`."""
    wide = x.to(tl.float64)
    return tl.where(rows <= end, tl.cumsum(wide, 0) - wide, 0.0).to(x.dtype)


# --- decays and scores ----------------------------------------------------------------------------------------


@triton.jit
def tile_tail(b, rows, end):
    """exp(b[end] - b[t]) up to row `end`, 0 after it."""
    return tl.exp(tl.where(rows <= end, tile_at_row(b, rows, end) - b, float("-inf")).to(tl.float32))


@triton.jit
def tile_since(b):
    return tl.exp(b.to(tl.float32))


@triton.jit
def tile_decay_matrix(bx, by, rows, before: tl.constexpr):
    """[t, s]: exp(bx[t] - by[s]) where s <= t (`before`: s < t), else 0."""
    seen = rows[:, None] > rows[None, :] if before else rows[:, None] >= rows[None, :]
    # A float64 as two float32: differences are as exact, in half the registers.
    high_x, high_y = bx.to(tl.float32), by.to(tl.float32)
    low_x, low_y = (bx - high_x).to(tl.float32), (by - high_y).to(tl.float32)
    gap = (high_x[:, None] - high_y[None, :]) + (low_x[:, None] - low_y[None, :])
    return tl.exp(tl.where(seen, gap, float("-inf")))


@triton.jit
def tile_sum_between(w, rows, before: tl.constexpr):
    """[j]: the sum of w[t, s] over the pairs that row j lies between, s < j <= t (`before`: j < t)."""
    # What column j - 1 has up to it in the rows from j on: sums of rows, no differences, and no row is turned round.
    begun = tl.cumsum(w, 1)
    below = rows[:, None] > rows[None, :] + 1 if before else rows[:, None] > rows[None, :]
    return tile_shift(tl.sum(tl.where(below, begun, 0.0), 0), 0.0, rows)


@triton.jit
def tile_diagonal(a, rows):
    return tl.sum(tl.where(rows[:, None] == rows[None, :], a, 0.0), 1)


# A decay of its own for each channel k does not factor out of a score. It does within a pair of row blocks,
# measured from the boundary between them: exp(b[t] - b[s]) = exp(b[t] - ref) exp(ref - b[s]), both factors <= 1.
# Halving a chunk again and again meets every pair s < t exactly once, at the level where its two halves part. The
# factors of a level are products of those below: one exp a row serves all levels, and nothing can overflow.
# With `step` = exp(log decay), a block's rows hold `down`, the decay from the block's start to the row before, and
# `up`, the decay from the row to the block's end; both are 1 in blocks of one row. Levels are turns of a loop, which is
# not unrolled: tiles of one level alone are there at a time.


@triton.jit
def tile_merge(down, up, step, half):
    """`down` and `up` of blocks of 2 * half rows from those of blocks of `half` rows, a power of two."""
    rows = tl.arange(0, step.shape[0])
    late = (rows & half) != 0
    # `down * step` at the last row of a half is the decay of all of it; each row takes that of the other half.
    last = tl.where(late, (rows & ~half) | (half - 1), rows | (2 * half - 1))
    other = tl.gather(down * step, tl.broadcast_to(last[:, None], step.shape), 0)
    return tl.where(late[:, None], down * other, down), tl.where(late[:, None], up, up * other)


@triton.jit
def tile_pairs(rows, half):
    """[t, s]: whether t is in the later and s in the earlier half of one block of 2 * half rows, a power of two."""
    t, s = rows[:, None], rows[None, :]
    return ((t ^ s) < 2 * half) & ((t & half) != 0) & ((s & half) == 0)


@triton.jit
def tile_since_start(log_decay, before: tl.constexpr, levels: tl.constexpr):
    """The decay from the chunk's start up to each row (`before`: up to the row before)."""
    step = tl.exp(log_decay)
    down, up = tl.full(step.shape, 1.0, step.dtype), tl.full(step.shape, 1.0, step.dtype)
    for level in range(levels):
        down, up = tile_merge(down, up, step, 1 << level)
    return down if before else down * step


@triton.jit
def tile_until_last(log_decay, rows, end, levels: tl.constexpr):
    """The decay from each row to row `end`, 0 after it."""
    step = tl.where(rows <= end, tl.exp(log_decay), 1.0)
    down, up = tl.full(step.shape, 1.0, step.dtype), tl.full(step.shape, 1.0, step.dtype)
    for level in range(levels):
        down, up = tile_merge(down, up, step, 1 << level)
    return tl.where(rows <= end, up, 0.0)


@triton.jit
def tile_score(x, y, log_decay, rows, before: tl.constexpr, levels: tl.constexpr, DOT: tl.constexpr, more=0.0):
    """[t, s]: sum_k x[t, k] y[s, k] exp(b[t, k] - b[s, k]) for s <= t (`before`: b[t - 1], for s < t), else 0."""
    step = tl.exp(log_decay)
    down, up = tl.full(step.shape, 1.0, step.dtype), tl.full(step.shape, 1.0, step.dtype)
    found = tl.zeros((x.shape[0], y.shape[0]), tl.float32) + more
    for level in range(levels):
        late = x * down if before else x * down * step
        pairs = tile_dot(late, tl.trans((y * up).to(DOT)), DOT)
        found += tl.where(tile_pairs(rows, 1 << level), pairs, 0.0)
        down, up = tile_merge(down, up, step, 1 << level)
    if not before:
        found += tl.where(rows[:, None] == rows[None, :], tl.sum(x * y, 1)[:, None], 0.0)
    return found


@triton.jit
def tile_score_rows(a, y, log_decay, rows, before: tl.constexpr, levels: tl.constexpr, DOT: tl.constexpr, more=0.0):
    """[t, k]: sum over s < t of a[t, s] y[s, k] exp(b[t, k] - b[s, k]) (`before`: b[t - 1])."""
    step = tl.exp(log_decay)
    down, up = tl.full(step.shape, 1.0, step.dtype), tl.full(step.shape, 1.0, step.dtype)
    found = tl.zeros(y.shape, tl.float32) + more
    for level in range(levels):
        pairs = tl.where(tile_pairs(rows, 1 << level), a, 0.0)
        part = tile_dot(pairs, y * up, DOT)
        found += part * (down if before else down * step)
        down, up = tile_merge(down, up, step, 1 << level)
    return found


@triton.jit
def tile_score_cols(a, x, log_decay, rows, before: tl.constexpr, levels: tl.constexpr, DOT: tl.constexpr, more=0.0):
    """[s, k]: sum over t > s of a[t, s] x[t, k] exp(b[t, k] - b[s, k]) (`before`: b[t - 1])."""
    step = tl.exp(log_decay)
    down, up = tl.full(step.shape, 1.0, step.dtype), tl.full(step.shape, 1.0, step.dtype)
    found = tl.zeros(x.shape, tl.float32) + more
    for level in range(levels):
        pairs = tl.where(tile_pairs(rows, 1 << level), a, 0.0)
        late = x * down if before else x * down * step
        found += tile_dot(tl.trans(pairs.to(DOT)), late, DOT) * up
        down, up = tile_merge(down, up, step, 1 << level)
    return found


@triton.jit
def tile_unit_inverse(lower, first: tl.constexpr, levels: tl.constexpr):
    """(I - lower)^-1 of a strictly lower triangular matrix, float32; diagonal blocks of `first` rows are I.

    By doubling: with the inverses of two neighbouring diagonal blocks A and B known, the block below A and left of B
    is B^-1 L A^-1.
    """
    rows = tl.arange(0, lower.shape[0])
    inverse = tl.where(rows[:, None] == rows[None, :], 1.0, 0.0)
    inverse += tl.where(tile_pairs(rows, first), lower, 0.0)
    for level in range(1, levels):
        corner = tl.where(tile_pairs(rows, first << level), lower, 0.0)
        corner = tile_exact_dot(inverse, corner)
        inverse += tile_exact_dot(corner, inverse)
    return inverse
