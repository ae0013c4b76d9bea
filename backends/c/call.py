"""One call of a recurrence in native code: its sizes, its tensors as the kernel sees them, and its tasks."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from recc.backends.c.blocks import cores
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
            self.offsets, lengths = None, torch.full((self.sequences,), self.time, dtype=torch.int64)
        else:
            self.offsets = cu_seqlens.to("cpu", torch.int64).contiguous()
            check_bounds(self.offsets.tolist(), self.time)
            lengths = self.offsets.diff()
        counts = (lengths + (rows - 1)) // rows
        self.chunks = counts.cumsum(0) - counts

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
        x = x.to(dtype_of(self.dtype, item)).resolve_conj()
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
        fields = getattr(self.native.kernel, direction)
        offsets = 0 if self.offsets is None else self.offsets.data_ptr()
        head = [self.heads, self.time, int(self.reverse), offsets, self.chunks.data_ptr()]
        groups, rest = self.groups()
        heads = 1 if self.passes.all_heads else self.heads
        if groups:
            tasks, tokens = range(groups * heads), self.time * self.together
            self._wide.run(direction, head, [views[field] for field in fields], tasks, tokens)
        if rest:
            # groups have parts of the params' gradients before those of the sequences that are left
            skipped = groups * (self.together - 1) * self.dtype.itemsize
            words = {field: [at - skipped * (field[0] == "d_param") * batch, batch, time, step]
                     for field, (at, batch, time, step) in views.items()}  # fmt: skip
            tasks = range((self.sequences - rest) * heads, self.sequences * heads)
            self.native.run(direction, head, [words[field] for field in fields], tasks, self.tokens_each)

    @cached_property
    def together(self) -> int:
        """How many sequences a task computes side by side: a power of two, by the call's sizes and the machine, so that
        each core has a task and all have about as many. It does not change the bits of any sequence."""
        kernel, heads = self.native.kernel, self.heads
        if kernel is None or kernel.sequences is None or self.offsets is not None:
            return 1
        count = self.passes.options.sequences or side_by_side(self.native.registers)
        while count > 1 and not _even(self.sequences // count * heads):
            count //= 2
        return count if count > 1 and self._of(count).problem is None else 1

    @property
    def _wide(self) -> Native | Missing:
        return self._of(self.together)

    def _of(self, sequences: int) -> Native | Missing:
        return self.passes.native(self.sizes, self.dtype, sequences)

    @property
    def needed(self) -> Native | Missing:
        """The kernel that has yet to be built: that of groups is, where there are any."""
        groups, rest = self.groups()
        return self._wide if groups and not rest else self.native

    def groups(self) -> tuple[int, int]:
        """Groups of sequences that a task computes side by side, and the sequences that are left."""
        groups = self.sequences // self.together if self.together > 1 else 0
        return groups, self.sequences - groups * self.together

    @property
    def tasks(self) -> int:
        return self.sequences * (1 if self.passes.all_heads else self.heads)

    @property
    def tokens_each(self) -> int:
        """Tokens of a sequence, on average."""
        return -(-self.time // max(self.sequences, 1)) if self.offsets is not None else self.time


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
