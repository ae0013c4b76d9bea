"""How sequences are cut into chunks, and tensors into tiles. Generated files carry this text along.

Chunks are ordered by their place in their sequence, as torch's PackedSequence orders tokens: all first chunks, then
all second ones, and so on, longest sequences first. A step of the loop over chunks is then a contiguous span, whether
the sequences are a batch of one length or packed one after the other.
"""

import torch


class Layout:
    """n chunks of `rows` tokens. spans: (lo, hi) per step. end: last valid row of each chunk [n], None if all are full.

    index [n, rows] holds the token of each row where sequences are packed (rows past the end repeat the last token).
    """

    def __init__(self, batch, time, rows, cu_seqlens, reverse, device):
        self.batch, self.time, self.rows, self.reverse = batch, time, rows, reverse
        self.index = self.order = self.end = None
        if cu_seqlens is None:
            self.places = -(-time // rows)
            self.n = self.places * batch
            self.spans = [(place * batch, (place + 1) * batch) for place in range(self.places)]
            if time % rows:
                self.end = torch.full((self.n,), rows - 1, device=device)
                self.end[self.n - batch :] = (time - 1) % rows
        else:
            self._pack(cu_seqlens, device)

    def _pack(self, cu_seqlens, device):
        bounds = cu_seqlens.to("cpu", torch.int64)
        lengths = bounds.diff()
        counts = -(-lengths // self.rows)
        order = torch.argsort(counts, descending=True, stable=True)
        self.order = order.to(device)
        self.places = int(counts.max()) if len(counts) else 0
        active = [int((counts > place).sum()) for place in range(self.places)]
        edges = [0]
        for count in active:
            edges.append(edges[-1] + count)
        self.n = edges[-1]
        self.spans = list(zip(edges[:-1], edges[1:]))
        if self.n == 0:
            self.index = torch.zeros(0, self.rows, dtype=torch.int64, device=device)
            return
        sequence = torch.cat([order[:count] for count in active])
        place = torch.repeat_interleave(torch.arange(self.places), torch.tensor(active))
        left = lengths[sequence] - place * self.rows  # tokens from this chunk to the end of its sequence
        row = torch.minimum(torch.arange(self.rows), (left - 1).unsqueeze(1)) + (place * self.rows).unsqueeze(1)
        first, last = bounds[sequence].unsqueeze(1), bounds[sequence + 1].unsqueeze(1) - 1
        self.index = (last - row if self.reverse else first + row).to(device)
        self.end = torch.clamp(left - 1, max=self.rows - 1).to(device)

    def segments(self, length):
        """The places of all sequences in groups of `length`, in order."""
        return [Segment(self, at, min(at + length, self.places)) for at in range(0, self.places, length)]

    def states(self, x, dims, dtype):
        """[sequences, (heads,) dims] to the order of chunks and of sorted dims."""
        lead = x.dim() - len(dims)
        x = x.permute(*range(lead), *(lead + d for d in dims)).to(dtype)
        return x if self.order is None else x.index_select(0, self.order)

    def back(self, x, dims, dtype):
        """The inverse of `states`."""
        lead = x.dim() - len(dims)
        x = x.permute(*range(lead), *(lead + dims.index(d) for d in range(len(dims)))).to(dtype)
        if self.order is None:
            return x.contiguous()
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        return out.index_copy_(0, self.order, x.contiguous())


class Segment:
    """Some successive places of a layout: the spans of their chunks, counted from the segment's first."""

    def __init__(self, layout, first, last):
        spans = layout.spans[first:last]
        self.layout, self.places, self.rows = layout, last - first, layout.rows
        self.lo, self.hi = spans[0][0], spans[-1][1]
        self.n = self.hi - self.lo
        self.tokens = first * layout.rows, min(last * layout.rows, layout.time)  # of a batch of one length
        self.spans = [(lo - self.lo, hi - self.lo) for lo, hi in spans]
        self.end = None if layout.end is None else layout.end[self.lo : self.hi]
        self.index = None if layout.index is None else layout.index[self.lo : self.hi]

    def _part(self, x):
        """The segment's tokens of [batch, time, ...] where sequences are a batch."""
        lo, hi = self.tokens
        return x[:, self.layout.time - hi : self.layout.time - lo] if self.layout.reverse else x[:, lo:hi]

    def load(self, x, dims, dtype, fill=True):
        """From [batch, time, (heads,) dims], the tiles [n, (heads,) rows, ordered dims]; without rows where a chunk is
        one token. fill: rows past the end repeat the last token; otherwise they are zero. dims: their order.
        """
        lead = x.dim() - len(dims)  # 2, or 3 with heads
        if self.index is not None:
            x = x[0].index_select(0, self.index.flatten()).unflatten(0, (self.n, self.rows))
            if not fill:
                late = torch.arange(self.rows, device=x.device) > self.end.unsqueeze(1)
                x = x.masked_fill(late.view(self.n, self.rows, *[1] * (x.dim() - 2)), 0)
            x = x.permute(0, *range(2, lead), 1, *(lead + d for d in dims))
        else:
            x = self._part(x).flip(1) if self.layout.reverse else self._part(x)
            missing = self.places * self.rows - x.shape[1]
            if missing:
                more = x[:, -1:].expand(-1, missing, *x.shape[2:])
                x = torch.cat([x, more if fill else torch.zeros_like(more)], 1)
            x = x.unflatten(1, (self.places, self.rows))
            x = x.permute(1, 0, *range(3, lead + 1), 2, *(lead + 1 + d for d in dims))
            x = x.reshape(self.n, *x.shape[2:])
        x = x.to(dtype).contiguous()
        return x if self.rows > 1 else x.squeeze(lead - 1)

    def store(self, out, x, dims):
        """The inverse of `load`: writes tiles to the segment's tokens of `out`."""
        lead = out.dim() - len(dims)
        if self.rows == 1:
            x = x.unsqueeze(lead - 1)
        back = [lead + dims.index(d) for d in range(len(dims))]
        x = x.permute(0, lead - 1, *range(1, lead - 1), *back)  # [n, rows, (heads,) dims]
        if self.index is not None:
            valid = torch.arange(self.rows, device=x.device) <= self.end.unsqueeze(1)
            out[0, self.index[valid]] = x[valid].to(out.dtype)
            return
        x = x.unflatten(0, (self.places, -1)).transpose(0, 1)
        part = self._part(out)
        if part.shape[1] == self.places * self.rows and not self.layout.reverse:
            part.unflatten(1, (self.places, self.rows)).copy_(x)
        else:
            x = x.flatten(1, 2)[:, : part.shape[1]]
            part.copy_(x.flip(1) if self.layout.reverse else x)


def chunk_bound(batch, time, rows, sequences):
    """How many chunks there are, or at most are when `sequences` of them are packed (None: a batch of one length)."""
    places = (time + rows - 1) // rows
    return places * batch if sequences is None else places + sequences


# --- a tensor of a spec, as its entry in the op's description says ---------------------------------------------


def dim_of(axis):
    return axis.partition("'")[0]


def working_dtype(tensors):
    wide = any(x.dtype in (torch.float64, torch.complex128) for x in tensors)
    return torch.float64 if wide else torch.float32


def dtype_of(dtype, item):
    """`dtype`, or the complex dtype of its precision for what the spec declares complex."""
    if item["dtype"] != "complex":
        return dtype if not dtype.is_complex else (torch.float64 if dtype == torch.complex128 else torch.float32)
    return torch.complex128 if dtype in (torch.float64, torch.complex128) else torch.complex64


def tile_order(item):
    """Where each dim of the tile order stands among the declared dims (heads aside)."""
    declared = [axis for axis in item["axes"] if axis != "heads"]
    return [declared.index(axis) for axis in item["tile"] if axis != "heads"]


def ordered(x, item):
    """The declared order of dims to the tile's."""
    places = tile_order(item)
    lead = x.dim() - len(places)
    return x.permute(*range(lead), *(lead + place for place in places))


def declared(x, item):
    """The tile's order of dims to the declared one."""
    places = tile_order(item)
    lead = x.dim() - len(places)
    return x.permute(*range(lead), *(lead + places.index(d) for d in range(len(places))))


# --- complex tensors, for code that has real numbers alone ----------------------------------------------------


def real_dtype(x):
    """The dtype of a tensor's real part."""
    return torch.view_as_real(x).dtype if x.is_complex() else x.dtype


def parts(x, item):
    """A tensor as code for real numbers takes it: itself, or views of its real and its imaginary part."""
    if item["dtype"] != "complex":
        return (x,)
    if not x.is_complex():
        return x, torch.zeros_like(x)
    x = torch.view_as_real(x.resolve_conj())
    return x[..., 0], x[..., 1]


def all_parts(view, tensors, items):
    """The parts of all tensors in order, as `view` (tensor, item) shows them."""
    return [part for x, item in zip(tensors, items) for part in parts(view(x, item), item)]


def from_parts(found, item):
    """The next tensor of an iterator over parts."""
    return torch.complex(next(found), next(found)) if item["dtype"] == "complex" else next(found)
