"""One call of a recurrence in native code: its sizes, its tensors as the kernel sees them, and its tasks."""

from __future__ import annotations

from array import array
from functools import cached_property, lru_cache
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch
from recc.backends.c.blocks import cores
from recc.backends.c.grouping import LARGE, NONE, Groups, of_batch, of_packed
from recc.backends.c.kernel import side_by_side
from recc.backends.c.pages import empty
from recc.backends.torch.layout import chunk_bound, dim_of, dtype_of, working_dtype
from recc.backends.torch.passes import check_bounds

if TYPE_CHECKING:
    from recc.backends.c.passes import Missing, Native, NativePasses


class Call:
    """One call's sizes, and the words that tell the kernel where each tensor lies. Holds on to all of them."""

    def __init__(
        self,
        passes: NativePasses,
        inputs: Any,
        params: Any,
        states: Any,
        cu_seqlens: Any,
        reverse: bool,
        build: bool = True,
    ) -> None:
        self.passes, self.alive = passes, []
        self.dtype = working_dtype(inputs)
        self.sizes: dict[str, int] = {}
        for tensors, items, lead in (
            (inputs, passes.inputs, 2),
            (params, passes.params, 0),
            (states, passes.states, 1),
        ):
            for x, item in zip(tensors, items):
                self.sizes |= {dim_of(axis): size for axis, size in zip(item["axes"], x.shape[lead:])}
        self.heads = self.sizes.get("heads", 1)
        batch, self.time = inputs[0].shape[:2]
        self.sequences = batch if cu_seqlens is None else cu_seqlens.shape[0] - 1
        self.native = passes.native(self.sizes, self.dtype)
        rows = self.native.chunk
        self.bound = chunk_bound(batch, self.time, rows, None if cu_seqlens is None else self.sequences)
        self.reverse = reverse
        if not build:
            return
        if cu_seqlens is None:
            self.offsets, self.chunks = None, _evenly(self.sequences, -(-self.time // rows))
        else:
            self.offsets = cu_seqlens.to("cpu", torch.int64).contiguous()
            bounds = self.offsets.tolist()
            check_bounds(bounds, self.time)
            counts = [-(-(end - start) // rows) for start, end in pairwise(bounds)]
            self.chunks = array("q", accumulate(counts, initial=0))

    # What tasks of one head each add to, heads have parts of: such tensors have heads until `whole` adds them up.

    def in_parts(self, item: dict) -> bool:
        return "heads" not in item["axes"] and not self.passes.all_heads

    def tokens(self, item: dict, time: int, parts: bool = True, zero: bool = False) -> torch.Tensor:
        """A new tensor [batch, time, (heads,) dims] to write to."""
        return self._new((self.sequences if self.offsets is None else 1, time), item, parts, zero)

    def fixed(self, item: dict, count: int, parts: bool = False, zero: bool = False) -> torch.Tensor:
        """A new tensor [count, (heads,) dims]."""
        return self._new((count,), item, parts, zero)

    def _new(self, lead: tuple, item: dict, parts: bool, zero: bool) -> torch.Tensor:
        heads = (self.heads,) if "heads" in item["axes"] or (parts and self.in_parts(item)) else ()
        own = (self.sizes[dim_of(axis)] for axis in item["axes"] if axis != "heads")
        return (torch.zeros if zero else empty)(*lead, *heads, *own, dtype=dtype_of(self.dtype, item))

    def part_view(self, x: torch.Tensor, item: dict, lead: int) -> list[int]:
        """`view` of what may be in parts."""
        return self.view(x, {**item, "axes": ("heads", *item["axes"])} if self.in_parts(item) else item, lead)

    def whole(self, x: torch.Tensor, item: dict, lead: int) -> torch.Tensor:
        """The sum of the heads' parts, in their order."""
        return added(x, lead) if self.in_parts(item) else x

    def real(self, x: torch.Tensor, item: dict, lead: int) -> torch.Tensor:
        """x in the working precision, its dims contiguous."""
        dtype = dtype_of(self.dtype, item)
        x = x if x.dtype is dtype else x.to(dtype)  # a call of torch costs a microsecond where it does nothing, too
        x = x.resolve_conj() if x.is_complex() else x
        first = lead + ("heads" in item["axes"])
        want = 1
        for size, stride in zip(reversed(x.shape[first:]), reversed(x.stride()[first:])):
            if size != 1 and stride != want:
                x = x.contiguous()
                break
            want *= size
        self.alive.append(x)
        return x

    def view(self, x: torch.Tensor, item: dict, lead: int) -> list[int]:
        """Where x [lead, (heads,) dims] begins, and its strides along batch, time and heads in real numbers."""
        self.alive.append(x)
        stride = [step * (1 + x.is_complex()) for step in x.stride()]
        head = stride[lead] if "heads" in item["axes"] else 0
        batch = stride[0] if lead else 0
        return [x.data_ptr(), batch, stride[1] if lead == 2 else 0, head]

    def given(self, inputs: Any, params: Any) -> dict:
        passes = self.passes
        views = {("in", i["name"]): self.view(self.real(x, i, 2), i, 2) for i, x in zip(passes.inputs, inputs)}
        return views | {
            ("param", i["name"]): self.view(self.real(x, i, 0), i, 0) for i, x in zip(passes.params, params)
        }

    def run(self, direction: str, views: dict) -> None:
        """One pass. Groups take the first tokens of packed sequences, so single sequences come after them in the
        forward pass, from the states that groups leave, and before them in the backward pass."""
        groups, heads = self.groups, 1 if self.passes.all_heads else self.heads
        # groups have parts of the params' gradients before those of single sequences
        packed = groups.order is not None
        single = self._moved(views, groups.count if packed else groups.count - groups.members)
        alone = [(single, groups.members, self.sequences)]
        wide = views
        if packed and direction == "forward":
            last = {("first", i["name"]): views["last", i["name"]] for i in self.passes.states}
            alone.append(({**single, **last}, 0, groups.members))
        elif packed:
            alone = [(single, 0, self.sequences)]
            wide = views | {("d_last", i["name"]): views["d_first", i["name"]] for i in self.passes.states}
        if direction == "backward":
            self._alone(direction, alone, heads)
        if groups.count:
            native, tokens = self._of(groups.together), groups.together * (groups.tokens or self.time)
            native.run(direction, self._words(native, direction, wide), range(groups.count * heads), tokens)
        if direction == "forward":
            self._alone(direction, alone, heads)

    def _alone(self, direction: str, ranges: list, heads: int) -> None:
        for views, low, high in ranges:
            if low < high:
                words = self._words(self.native, direction, views)
                self.native.run(direction, words, range(low * heads, high * heads), self.tokens_each)

    def _words(self, native: Native, direction: str, views: dict) -> list[int]:
        offsets = 0 if self.offsets is None else self.offsets.data_ptr()
        head = [self.heads, self.time, int(self.reverse), offsets, self.chunks.buffer_info()[0]]
        head += self.groups.addresses if native.kernel.grouped else []
        return [*head, *(word for field in getattr(native.kernel, direction) for word in views[field])]

    def _moved(self, views: dict, rows: int) -> dict:
        """The views with so many rows before those of the params' gradients."""
        step = rows * self.dtype.itemsize
        return {
            field: [at + step * batch, batch, time, head] if field[0] == "d_param" else [at, batch, time, head]
            for field, (at, batch, time, head) in views.items()
        }

    @cached_property
    def groups(self) -> Groups:
        """What is computed side by side."""
        kernel, packed = self.native.kernel, self.offsets is not None
        if kernel is None or kernel.sequences is None or (packed and (kernel.matrices < LARGE or self._apart())):
            return NONE
        lengths = self.offsets.diff().tolist() if packed else []
        together = self.passes.options.sequences or side_by_side(self.native.registers)
        while together > 1:
            groups = of_packed(lengths, kernel.chunk, together) if packed else of_batch(self.sequences, together)
            if groups.count and _even(groups.count * self.heads):
                return groups if self._of(together).problem is None else NONE
            together //= 2
        return NONE

    def _apart(self) -> bool:
        """Whether heads have parts of what a state passes on, which a second kernel cannot take up."""
        return self.heads > 1 and any(self.in_parts(item) for item in self.passes.states)

    def _of(self, sequences: int) -> Native | Missing:
        return self.passes.native(self.sizes, self.dtype, sequences)

    @property
    def needed(self) -> Native | Missing:
        """The kernel that has yet to be built: that of groups is, where there are any."""
        rest = self.offsets is not None or self.sequences > self.groups.members
        return self.native if rest or not self.groups.count else self._of(self.groups.together)

    @property
    def parts(self) -> int:
        """Rows of the params' gradients: one for each group, and for each sequence that is computed alone."""
        single = self.sequences if self.offsets is not None else self.sequences - self.groups.members
        return self.groups.count + single

    @property
    def tasks(self) -> int:
        return self.sequences * (1 if self.passes.all_heads else self.heads)

    @property
    def tokens_each(self) -> int:
        """Tokens of a sequence, on average."""
        return -(-self.time // max(self.sequences, 1)) if self.offsets is not None else self.time


@lru_cache(maxsize=256)
def _evenly(sequences: int, chunks: int) -> array:
    """The number of each sequence's first saved state, where each has so many chunks."""
    return array("q", [chunks * n for n in range(max(sequences, 1))])


def _even(tasks: int) -> bool:
    """Whether so many tasks of one length keep all cores busy: a few should come out even."""
    return tasks >= cores() and (tasks % cores() == 0 or tasks >= 4 * cores())


def added(parts: torch.Tensor, dim: int) -> torch.Tensor:
    """The sum along `dim`, one after the other: its bits depend on nothing else that is in the tensor."""
    first, *others = parts.unbind(dim) if parts.shape[dim] else (parts.sum(dim),)
    if not others:
        return first
    total = first + others[0]
    for part in others[1:]:
        total += part
    return total
