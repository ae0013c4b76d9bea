"""How sequences are cut into chunks for kernels, and the two passes. Generated files carry this text along.

Kernels read and write tensors where they lie: inputs and outputs as [batch, heads, time, dims] by their strides. The
chunks of a sequence follow each other. What passes from kernel to kernel is [chunks, heads, tile], as wide as the
inputs but for what must be float32.
"""

import functools

import torch
import triton.language as tl
from recc.backends.torch.layout import (
    all_parts,
    chunk_bound,
    declared,
    dim_of,
    from_parts,
    ordered,
    real_dtype,
    working_dtype,
)
from recc.backends.torch.op import Op
from recc.backends.torch.passes import ArgumentError, Passes, _returned, check_once, register

from recc.strategies.outer import outer_chunk

DOTS = {torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@functools.cache
def processors_of(device):
    """How many multiprocessors a device has; 1 where programs run one after the other."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


class Chunks:
    """The chunks of a call: sequences of one length are cut by arithmetic, packed ones by tables; see `places.py`.

    count: how many chunks there are, or at most are where sequences are packed; table: int64 [sequences + 1, 3];
    owners: int64 [count]. Nothing here waits for the device. every: of so many chunks of a sequence, the states that
    enter the first are kept.
    """

    def __init__(self, batch, time, heads, rows, cu_seqlens, reverse, dtype, device, every=1, processors=None):
        self.processors = processors or processors_of(device)
        self.batch, self.time, self.heads, self.rows = batch, time, heads or 1, rows
        self.dtype, self.device = dtype, device
        packed = cu_seqlens is not None
        self.sequences = cu_seqlens.shape[0] - 1 if packed else batch
        self.count = chunk_bound(batch, time, rows, self.sequences if packed else None)
        self.table, self.owners = self._tables(cu_seqlens, every) if packed else (None, None)
        self.fixed = {"ROWS": rows, "LEVELS": rows.bit_length() - 1, "STEP": -1 if reverse else 1,
                      "DOT": DOTS.get(dtype, tl.float32), "PACKED": packed}  # fmt: skip

    def _tables(self, cu_seqlens, every):
        """Where packed sequences lie, and which of them each chunk belongs to."""
        bounds = cu_seqlens.to(self.device, torch.int64)
        counts = torch.div(bounds.diff() + self.rows - 1, self.rows, rounding_mode="floor")
        kept = torch.div(counts + every - 1, every, rounding_mode="floor")
        starts, kept = (torch.cat([bounds.new_zeros(1), x.cumsum(0)]) for x in (counts, kept))
        return torch.stack([bounds, starts, kept], 1), self.owners_of(starts, self.count)

    @staticmethod
    def owners_of(starts, count):
        """The sequence of each of `count` parts, -1 beyond the last; starts: each sequence's first part, int64."""
        part = torch.arange(count, device=starts.device)
        owners = torch.searchsorted(starts[1:].contiguous(), part, right=True)
        return torch.where(part < starts[-1], owners, -1)

    def outer(self, programs, more, tokens=None):
        """Outer chunks for walks by so many programs a sequence; see `outer_chunk`. tokens: of each, where fixed."""
        each = self.count // max(self.sequences, 1)  # of packed sequences the mean
        if tokens is None:
            return Outer(self, outer_chunk(programs * self.sequences, each, self.rows, self.processors, more))
        return Outer(self, max(tokens // self.rows, 1))

    @property
    def like(self):
        """A float32 tensor on the device."""
        return torch.empty((), device=self.device)

    def empty(self, *sizes):
        """Memory for what passes between kernels, in the inputs' dtype."""
        return torch.empty(sizes, dtype=self.dtype, device=self.device)

    def wide(self, *sizes):
        """Memory in float32."""
        return torch.empty(sizes, dtype=torch.float32, device=self.device)

    def summed(self, *sizes):
        """Memory in float32 for what is added up over all chunks: zero for those that there only might be."""
        make = torch.zeros if self.fixed["PACKED"] else torch.empty
        return make(sizes, dtype=torch.float32, device=self.device)

    @staticmethod
    def block(size, least):
        """A power of two that holds `size` places."""
        return max(least, 1 << max(size - 1, 0).bit_length())

    def part(self, block, most, *others):
        """How many of `block` places one program takes: `most`, with those of the dims beside it in a tile that is
        scanned, `others`."""
        for size in others:
            most //= self.block(size, 1)
        return min(block, max(1, most))

    @staticmethod
    def turn(block, most):
        """How many of `block` places a turn of a loop takes: all where they are `most` at most. Otherwise half of
        `most`: what the turns add up is there beside them."""
        return block if block <= most else max(1, most // 2)


class Outer:
    """The outer chunks of a call, of `chunks` chunks each; where that is 0, every sequence is one.

    count: how many there are, or at most are where sequences are packed; table: the first of each sequence and the end
    of the last, int64 [sequences + 1]; owners: int64 [count].
    """

    def __init__(self, call, chunks):
        self.call, self.chunks, self.several = call, chunks, chunks > 0
        self.fixed = {**call.fixed, "OUTER": self.several}
        self.table = self.owners = None
        self.count = call.sequences
        if self.several and call.table is not None:
            self.count = -(-call.count // chunks) + call.sequences
            counts = torch.div(call.table[:, 1].diff() + chunks - 1, chunks, rounding_mode="floor")
            self.table = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
            self.owners = call.owners_of(self.table, self.count)
        elif self.several:
            self.count *= -(-call.count // max(call.sequences, 1) // chunks)

    def wide(self, *sizes):
        """Memory in float32 for each outer chunk."""
        return self.call.wide(self.count, *sizes)


class KernelPasses(Passes):
    """The passes of a recurrence whose tile functions launch kernels on whole tensors.

    processors: of the device that they are planned for, where that is not the tensors' own.
    """

    processors = None

    def forward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        sizes = self._sizes(inputs, params, states)
        chunks = self._chunks(inputs, sizes, cu_seqlens, reverse, self.meta["inner"])
        outputs = self._empty_outputs(inputs[0], sizes)
        sequences = None if cu_seqlens is None else cu_seqlens.shape[0] - 1
        saved = self._empty_saved(chunk_bound(*inputs[0].shape[:2], self.rows, sequences), inputs, sizes)
        if sequences is not None:  # there may be fewer chunks
            saved = [x.zero_() for x in saved]
        finals = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in states]
        self._forward_tiles(
            chunks,
            *all_parts(tokens, inputs, self.inputs),
            *self._fixed(params),
            *all_parts(ordered, states, self.states),
            *all_parts(tokens, outputs, self.outputs),
            *all_parts(ordered, finals, self.states),
            *saved,
        )
        return _returned((*outputs, *finals, *saved), tensors)

    def backward(self, *arguments):
        *tensors, cu_seqlens, reverse = arguments
        carried, count = len(self.states), len(self.outputs)
        grads, tensors = tensors[: count + carried], tensors[count + carried :]
        saved, tensors = tensors[: len(self.saved)], tensors[len(self.saved) :]
        inputs, params, states = self._split(tensors)
        chunks = self._chunks(inputs, self._sizes(inputs, params, states), cu_seqlens, reverse, self.rows)
        gradients = self.meta["gradients"]
        out = {f"d_{item['name']}": torch.empty_like(x, memory_format=torch.contiguous_format)
               for x, item in zip(inputs, self.inputs)}  # fmt: skip
        entered = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in states]
        items = {f"d_{item['name']}": item for item in self.inputs}
        written = [name for name in gradients if name in out]
        sums = self._backward_tiles(
            chunks,
            *all_parts(tokens, inputs, self.inputs),
            *all_parts(tokens, grads, self.outputs),
            *saved,
            *self._fixed(params),
            *all_parts(ordered, grads[count:][::-1], self.states[::-1]),
            *all_parts(tokens, [out[name] for name in written], [items[name] for name in written]),
            *all_parts(ordered, entered[::-1], self.states[::-1]),
        )
        shared, sums = {f"d_{item['name']}": item for item in self.params}, iter(sums)
        named = {name: from_parts(sums, shared[name]) for name in gradients if name in shared}
        found = [x if name in gradients else torch.zeros_like(x) for name, x in out.items()]
        for x, item in zip(params, self.params):
            value = named.get(f"d_{item['name']}")
            given = None if value is None else declared(value, item).to(x.dtype).expand(x.shape).contiguous()
            found.append(torch.zeros_like(x) if given is None else given)
        found += [value.to(x.dtype) for x, value in zip(states, entered)]
        return _returned(found, (*grads, *tensors))

    def _fixed(self, params):
        return [x.to(torch.float32).contiguous() for x in all_parts(ordered, params, self.params)]

    def _empty_saved(self, chunks, inputs, sizes):
        """The states that enter chunks, and what is kept of each token, in the dtype of the inputs."""
        batch, time = inputs[0].shape[:2]
        known = {**sizes, "@t": time}
        shapes = [(batch if "@t" in item["tile"] else chunks, *(known[dim_of(axis)] for axis in item["tile"]))
                  for item in self.saved]  # fmt: skip
        return [inputs[0].new_empty(shape, dtype=real_dtype(inputs[0])) for shape in shapes]

    def _chunks(self, inputs, sizes, cu_seqlens, reverse, rows):
        if working_dtype(inputs) != torch.float32:
            raise ArgumentError(f'{self.name}: kernels compute in float32, not float64; use backend="torch"')
        if cu_seqlens is not None:
            check_once(cu_seqlens, inputs[0].shape[1])
        first = inputs[0]
        place = (*first.shape[:2], sizes.get("heads"), rows, cu_seqlens, reverse, real_dtype(first), first.device)
        return Chunks(*place, every=self.rows // rows, processors=self.processors)


class KernelOp(Op):
    """An op whose passes are kernels."""

    def __init__(self, meta, forward_tiles, backward_tiles, step_tiles, initial_tiles):
        self.meta = meta
        self.name, self.rows = meta["name"], meta["chunk"]
        self.inputs, self.params = meta["inputs"], meta["params"]
        self.states, self.outputs = meta["states"], meta["outputs"]
        self._step_tiles, self._initial_tiles = step_tiles, initial_tiles
        self.__name__, self.__doc__ = self.name, meta["doc"]
        self._forward, self.passes = register(KernelPasses(meta, forward_tiles, backward_tiles))


def tokens(x, item):
    """[batch, time, (heads,) dims] as a view [batch, (heads,) time, dims], its dims in the tile's order."""
    x = ordered(x, item)
    return x.transpose(1, 2) if "heads" in item["axes"] else x
