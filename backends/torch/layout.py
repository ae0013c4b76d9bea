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
        return [Segment(self, self.spans[at : at + length]) for at in range(0, len(self.spans), length)]

    def tiles(self, x, dims, dtype, fill=True):
        """[batch, time, (heads,) dims] to [n, (heads,) rows, sorted dims]; without rows where a chunk is one token.

        fill: rows past the end repeat the last token; otherwise they are zero. dims: how the dims are to be ordered.
        """
        lead = x.dim() - len(dims)  # 2, or 3 with heads
        if self.index is not None:
            x = x[0].index_select(0, self.index.flatten()).unflatten(0, (self.n, self.rows))
            if not fill and self.n:
                late = torch.arange(self.rows, device=x.device) > self.end.unsqueeze(1)
                x = x.masked_fill(late.view(self.n, self.rows, *[1] * (x.dim() - 2)), 0)
            order = (0, *range(2, lead), 1, *(lead + d for d in dims))
            x = x.permute(order)
        else:
            if self.reverse:
                x = x.flip(1)
            missing = self.places * self.rows - self.time
            if missing:
                more = x[:, -1:].expand(-1, missing, *x.shape[2:])
                x = torch.cat([x, more if fill else torch.zeros_like(more)], 1)
            x = x.unflatten(1, (self.places, self.rows))
            order = (1, 0, *range(3, lead + 1), 2, *(lead + 1 + d for d in dims))
            x = x.permute(order).reshape(self.n, *(x.shape[axis] for axis in order[2:]))
        x = x.to(dtype).contiguous()
        return x if self.rows > 1 else x.squeeze(lead - 1)

    def tensor(self, x, dims, dtype):
        """The inverse of `tiles`: back to [batch, time, (heads,) dims in declared order]."""
        inverse = [dims.index(d) for d in range(len(dims))]
        with_heads = x.dim() - len(dims) - (self.rows > 1) == 2
        if self.rows == 1:
            x = x.unsqueeze(2 if with_heads else 1)
        row = 2 if with_heads else 1
        heads = (1,) if with_heads else ()
        x = x.permute(0, row, *heads, *(row + 1 + d for d in inverse))  # [n, rows, (heads,) dims]
        if self.index is not None:
            out = x.new_zeros(self.time, *x.shape[2:], dtype=dtype)
            if self.n:
                valid = torch.arange(self.rows, device=x.device) <= self.end.unsqueeze(1)
                out[self.index[valid]] = x[valid].to(dtype)
            return out.unsqueeze(0)
        x = x.unflatten(0, (self.places, self.batch)).transpose(0, 1).to(dtype)
        x = x.reshape(self.batch, self.places * self.rows, *x.shape[3:])[:, : self.time]
        return x.flip(1) if self.reverse else x.contiguous()

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

    def __init__(self, layout, spans):
        self.lo, self.hi = spans[0][0], spans[-1][1]
        self.spans = [(lo - self.lo, hi - self.lo) for lo, hi in spans]
        self.end = None if layout.end is None else layout.end[self.lo : self.hi]

    def of(self, tiles):
        """The segment's part of each tile."""
        return [x[self.lo : self.hi] for x in tiles]


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
