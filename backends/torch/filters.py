"""Powers of a transition that is the same at every token, and convolutions by FFT. Generated files carry this text.

`dim` is the negative axis number of the rows; `end` is None when every chunk is full, else the last valid row of each
chunk [n], int64. Powers are squared in float64: a rounding of A^(2^i) would be one of every later row.
"""

import functools

import torch


def _wide(a):
    return a.to(torch.complex128 if a.is_complex() else torch.float64)


def krylov(a, v, dim, rows):
    """a^t v on row t for an elementwise a; both have an axis `dim` of size one."""
    dtype = torch.result_type(a, v)
    found, power = v.to(dtype), _wide(a)
    found = found.expand(torch.broadcast_shapes(a.shape, v.shape))
    while found.shape[dim] < rows:
        found, power = torch.cat([found, found * power.to(dtype)], dim), power * power
    return found.narrow(dim, 0, rows)


def gather(a, g, dim):
    """The sum of a^(s-t) g[s] over s >= t, on row t, for an elementwise a with an axis `dim` of size one."""
    return _gathered(_wide(a), g, dim, torch.mul, torch.mul)


def krylov_of(a, v, dim, rows, product, square):
    """A^t v on row t for a matrix. product, square: A applied to rows, and to itself, as equations of einsum."""
    dtype = torch.result_type(a, v)
    found, power = _leading(v.to(dtype), product), _wide(a)
    while found.shape[dim] < rows:
        later = torch.einsum(product, power.to(dtype), found)
        found, power = torch.cat([found.expand(later.shape), later], dim), torch.einsum(square, power, power)
    return found.narrow(dim, 0, rows)


def gather_of(a, g, dim, product, square):
    """The sum of A^(s-t) g[s] over s >= t, on row t, for a matrix; see krylov_of."""
    apply, multiply = functools.partial(torch.einsum, product), functools.partial(torch.einsum, square)
    return _gathered(_wide(a), _leading(g, product), dim, apply, multiply)


def _leading(x, product):
    """x with the leading axes that an equation of einsum gives its second operand."""
    return x[(None,) * (len(product.partition(",")[2].partition("->")[0]) - x.dim())]


def _gathered(power, g, dim, apply, multiply):
    """By doubling: with the sums over 2^i rows known, those over twice as many are the two halves."""
    dtype, step, rows = torch.promote_types(g.dtype, _narrow(power, g)), 1, g.shape[dim]
    found = g.to(dtype)
    while step < rows:
        later = apply(power.to(dtype), found.narrow(dim, step, rows - step))
        kept = found.narrow(dim, 0, rows - step).expand(later.shape)
        rest = found.narrow(dim, rows - step, step)
        found = torch.cat([kept + later, rest.expand([*later.shape[:dim], step, *later.shape[dim:][1:]])], dim)
        power, step = multiply(power, power), 2 * step
    return found


def _narrow(power, g):
    """The dtype of `power` in the precision of g."""
    wide = g.dtype in (torch.float64, torch.complex128)
    if power.is_complex():
        return torch.complex128 if wide else torch.complex64
    return torch.float64 if wide else torch.float32


# Twice as many points as rows, so that nothing comes round from the end of a chunk to its beginning.


def convolve(k, u, dims, rows, product):
    """The sum of k[t-s] u[s] over s <= t, on row t. dims: the rows of k, of u and of the result; product: of two
    spectra, as an equation of einsum, which may sum over axes."""
    return _filtered(k, u, dims, rows, product, lambda spectrum: spectrum)


def correlate(x, g, dims, rows, product):
    """The sum of conj(x[s-t]) g[s] over s >= t, on row t; see convolve."""
    return _filtered(x, g, dims, rows, product, torch.conj)


def _filtered(a, b, dims, rows, product, first):
    real = not (a.is_complex() or b.is_complex())
    into, back = (torch.fft.rfft, torch.fft.irfft) if real else (torch.fft.fft, torch.fft.ifft)
    a, b = (into(x, n=2 * rows, dim=dim) for x, dim in zip((a, b), dims))
    return back(torch.einsum(product, first(a), b), n=2 * rows, dim=dims[2]).narrow(dims[2], 0, rows)


def turned(x, dim, end):
    """Rows in reverse order from each chunk's last valid one on; 0 after it."""
    if end is None:
        return x.flip(dim)
    view = [1] * x.dim()
    view[0], view[dim] = end.shape[0], x.shape[dim]
    rows = end.unsqueeze(1) - torch.arange(x.shape[dim], device=x.device)
    found = x.gather(dim, rows.clamp(min=0).view(view).expand(x.shape))
    return torch.where((rows >= 0).view(view), found, 0)


def pick(x, dim, end, chunks):
    """Of rows that are the same for every chunk, that of each chunk's end: [n, ...]."""
    if end is None:
        return x.select(dim, -1).expand(chunks, *x.shape[:dim], *x.shape[dim:][1:])
    return x.movedim(dim, 0).index_select(0, end)


def unpick(g, dim, end, rows):
    """The transpose of pick."""
    shape = [rows, *g.shape[1:]]
    if end is None:
        out = g.new_zeros(shape)
        out[-1] = g.sum(0)
    else:
        out = g.new_zeros(shape).index_put_((end,), g, accumulate=True)  # in an order of its own, unlike index_add_
    return out.movedim(0, dim)
