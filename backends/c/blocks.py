"""Blocks of a dim as tasks of their own, where a call has fewer sequences and heads than the machine has cores.

Along some dims of a memory, the values' of a linear attention, say, no element of a state needs another. Each block of
such a dim is a whole recurrence, with a part of the inputs that have the dim and all of the others. Outputs and states
are the blocks' side by side; the gradient of what they share is the sum of theirs, added in the order of the blocks.
How many there are follows from the call's sizes and the machine, never from the number of threads, so that this does
not change the bits. A block computes a token's sums in the order in which the whole would, or there are no blocks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from recc.backends.c.loops import Loops
from recc.backends.c.pages import empty
from recc.backends.c.threads import in_threads

from recc.analysis.plan import Plan
from recc.ir.node import COMPLEX, dim_of, walk
from recc.tile.cores import REDUCTIONS, Phases, dims
from recc.tile.program import TileProgram

if TYPE_CHECKING:
    from recc.backends.c.passes import Native, NativePasses

WORTH = 8  # doublings of the work that is worth a second thread: a block costs a call, and joining costs a copy
VECTORS = 4  # of a block at least: with fewer, a tile leaves multiply-adds idle


def free_dim(plan: Plan, program: TileProgram) -> str | None:
    """The dim that all states and outputs have and along which no element of the step needs another, if there is."""
    rec = plan.recurrence
    nodes = list(walk(*program.roots))
    found = set(rec.dims)
    for item in (*rec.states, *rec.outputs):
        found &= set(item.axes)
    for node in nodes:
        attributes = dict(node.attrs)
        if node.op in REDUCTIONS:
            found -= set(map(dim_of, node["over"]))
        found -= {
            dim_of(value) for key, value in attributes.items() if key in ("axis", "dim") and isinstance(value, str)
        }
        found -= {dim_of(axis) for pair in attributes.get("mapping", ()) for axis in pair}
        found -= {dim_of(axis) for axis in dims(node) if axis != dim_of(axis) or node.op in ("iota", "eye")}
    complex_ = any(item.dtype == COMPLEX for item in (*rec.states, *rec.outputs, *rec.inputs, *rec.params))
    return None if complex_ else min(found, default=None)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Blocks:
    """The passes of a recurrence block by block along `dim`."""

    def __init__(self, passes: NativePasses, program: TileProgram, dim: str) -> None:
        self.passes, self.phases, self.dim = passes, Phases(program), dim

    def count(self, call: Any) -> int:
        """How many blocks a call has; 1: it is run whole."""
        native, sizes = call.native, call.sizes
        tasks = call.tasks
        if not tasks or tasks * call.tokens_each * native.elements < native.alone << WORTH:
            return 1
        unit, size = VECTORS * native.lanes, sizes[self.dim]
        for blocks in range(min(cores() // tasks, size // unit), 1, -1):
            if size % (blocks * unit) == 0 and self._order(native, sizes, size // blocks) == self._order(native, sizes):
                return blocks
        return 1

    def _order(self, native: Native, sizes: dict[str, int], width: int | None = None) -> list[tuple]:
        """What the order of a token's sums follows from, for blocks of a width."""
        own = sizes if width is None else {**sizes, self.dim: width}
        found = []
        for core in self.phases.cores:
            loops = Loops.of_core(core, self.phases, lambda axis: own[dim_of(axis)], native.lanes, native.registers)
            found.append((loops.shape, loops.outer, loops.row, loops.rows, loops.lane))
        return found

    def forward(self, keep: bool, call: Any, count: int, arguments: tuple, outputs: Sequence) -> tuple[list, list]:
        """Final and saved states; `outputs` are filled. arguments: those of the pass."""
        passes, inner = self.passes, self.passes.of_part(call.native.chunk)
        *tensors, cu_seqlens, reverse = arguments
        items = [*passes.inputs, *passes.params, *passes.states]

        def block(place: int) -> tuple:
            own, into = (list(self._cut(*pair, place, count)) for pair in ((items, tensors), (passes.outputs, outputs)))
            return inner._forward(keep, *own, cu_seqlens, reverse, into=into)[len(outputs) :]

        states = [*passes.states, *(passes.states if keep else ())]
        parts = zip(*in_threads(_without_gradients(block), count))
        made = [self._joined(item, each) for item, each in zip(states, parts, strict=True)]
        return made[: len(passes.states)], made[len(passes.states) :]

    def backward(self, call: Any, count: int, arguments: tuple) -> list:
        """The cotangents of inputs, params and states. arguments: those of the pass."""
        passes, inner = self.passes, self.passes.of_part(call.native.chunk)
        *tensors, cu_seqlens, reverse = arguments
        made = [*passes.inputs, *passes.params, *passes.states]
        items = [*passes.outputs, *passes.states, *passes.states, *made]
        written = call.native.kernel.backward
        whole = [
            call.tokens(item, call.time) if self._in_place(item) and ("d_in", item["name"]) in written else None
            for item in passes.inputs
        ]

        def block(place: int) -> tuple:
            own = [x.to(call.dtype) for x in self._cut(items, tensors, place, count)]  # cotangents are rounded once
            into = [None if x is None else x.chunk(count, -1)[place] for x in whole]
            return inner.backward(*own, cu_seqlens, reverse, into=into)

        parts = list(zip(*in_threads(_without_gradients(block), count)))
        there = [*whole, *[None] * (len(made) - len(whole))]
        return [self._joined(*pair) if x is None else x for x, *pair in zip(there, made, parts, strict=True)]

    def _in_place(self, item: dict) -> bool:
        """Whether a block's part of a tensor is one stretch at each token and head."""
        return list(item["axes"]) == ["heads", self.dim]

    def _cut(self, items: Sequence[dict], tensors: Sequence, place: int, count: int) -> Iterator[torch.Tensor]:
        for item, x in zip(items, tensors, strict=True):
            axis = self._axis(item)
            yield x if axis is None else x.chunk(count, axis)[place]

    def _joined(self, item: dict, parts: Sequence[torch.Tensor]) -> torch.Tensor:
        axis = self._axis(item)
        if axis is not None:
            shape = list(parts[0].shape)
            shape[axis] *= len(parts)
            return torch.cat(parts, axis, out=empty(*shape, dtype=parts[0].dtype))
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total

    def _axis(self, item: dict) -> int | None:
        """Where a tensor has the dim, from the end."""
        axes = list(item["axes"])
        return axes.index(self.dim) - len(axes) if self.dim in axes else None


def _without_gradients(run: Callable[[int], tuple]) -> Callable[[int], tuple]:
    """`run` for a thread of its own, which does not know that this one records nothing."""

    def quiet(place: int) -> tuple:
        with torch.no_grad():
            return tuple(run(place))

    return quiet
