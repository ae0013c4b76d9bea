"""Bytes that the launches of a pass move between memory and chip, counted on the launches themselves.

Each tensor that a launch reads or writes counts, also what passes from launch to launch, as often as it is read: once
for each block of a dim that the tensor lacks and programs share, and once for each loop that loads it. What one launch
writes and the next reads counts twice. The states at the ends of a sequence, which do not grow with its length, do not
count.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from recc.backends.triton import memory, walk
from recc.backends.triton.aot import Recorded
from recc.backends.triton.config import DEFAULT, Config, Tile
from recc.backends.triton.emit import Function
from recc.backends.triton.kernel import Kernel
from recc.backends.triton.loops import has, loops
from recc.backends.triton.tensor import CHUNKS, FIXED, STATES, TOKENS, Tensor

from recc.analysis.plan import Plan
from recc.ir.node import COL, ROW, Node, dim_of
from recc.strategies import Choice

TYPICAL = 128


@dataclass(frozen=True)
class Moved:
    """Bytes per token and head of one launch."""

    kernel: str
    read: float
    written: float

    @property
    def total(self) -> float:
        return self.read + self.written


def moved(function: Function, sizes: Mapping[str, int], itemsize: int = 2, outer: int = 0) -> list[Moved]:
    """Every launch of a pass where dims have `sizes` (128 where they are not named) and inputs `itemsize` bytes.

    outer: chunks in an outer chunk, 0 where each sequence is walked in one go.
    """
    kernels = [*function.kernels, *(function.outer_kernels if outer else ())]
    return [_Launch(function, kernel, kernel.tile, sizes, itemsize, outer).moved() for kernel in kernels]


def of_launch(function: Function, kernel: Kernel, sizes: Mapping[str, int], tile: Tile) -> Moved:
    """What a launch of a pass would move with another tile, of the same loop."""
    return _Launch(function, kernel, tile, sizes, 2, 0).moved()


class _Launch:
    def __init__(self, function: Function, kernel: Kernel, tile: Tile, sizes: Mapping[str, int], itemsize: int,
                 outer: int) -> None:  # fmt: skip
        self.tile, self.outer = tile, outer
        self.function, self.kernel, self.launch = function, kernel, kernel.launch
        self.sizes, self.itemsize, self.rows = sizes, itemsize, function.rows

    def moved(self) -> Moved:
        read = 0.0
        for node in self.launch.loads:
            read += self._bytes(self.kernel.tensors[node]) * self._times(node)
        written = 0.0
        for node in self.launch.stores:
            for tensor in self.kernel.written[node]:
                written += self._bytes(tensor) * (self._blocks() if tensor.parts else 1)
        for carry in self.launch.walks:
            walk = self.kernel.walks[carry.old]
            read += self._bytes(walk.initial) if isinstance(walk.initial, Tensor) else 0.0
            written += self._bytes(walk.leaving) if walk.leaving is not None else 0.0
            if walk.entering is not None:
                kept = 1 if walk.entering.entry else self.function.every
                written += self._bytes(walk.entering) / kept
        return Moved(self.kernel.name, read, written)

    def _size(self, dim: str) -> int:
        return self.sizes.get(self.function.sources.get(dim, dim)) or TYPICAL

    def _bytes(self, tensor: Tensor) -> float:
        """Per token and head, once."""
        if tensor.layout in (FIXED, STATES) and not (tensor.entry and self.outer):
            return 0.0
        count = 1.0
        for axis in tensor.tile:
            if axis in (ROW, COL, "@a", "@b"):
                count *= self.rows
            elif dim_of(axis).startswith("@"):
                count *= self.kernel.ranks
            else:
                count *= self._size(dim_of(axis))
        if tensor.entry:
            return 4 * count / (self.rows * self.outer)
        assert tensor.layout in (TOKENS, CHUNKS)
        return count / self.rows * (4 if tensor.wide else self.itemsize)

    def _blocks(self) -> int:
        split = self.launch.split
        return -(-self._size(split) // self.tile.block) if split else 1

    def _times(self, node: Node) -> int:
        """How often a launch reads a tensor."""
        split, loop = self.launch.split, self.launch.loop
        times = 1 if split is None or has(node, split) else self._blocks()
        if loop is not None and has(node, loop):
            times *= sum(node in part.loads for part in loops(self.launch, loop) or ())
        elif loop is not None:
            times *= self.kernel.read.get(node, 1)
        return times


def of_walk(kernel: walk.Kernel, launch: Recorded, block: int | None = None) -> Moved:
    """What a walk over tokens moves where its tensors have the sizes of `launch`, with its blocks of the dim that
    programs share first or with others. What one token reads twice counts once."""
    sizes, back = launch.arguments, kernel.walk.loop.backwards
    parts = {dim: sizes[f"BLOCK_{dim}"] for dim in kernel.walk.shared}
    parts |= {kernel.walk.split: block} if kernel.walk.split and block else {}
    often = {**dict.fromkeys((memory.TOKENS, memory.SCRATCH, memory.AGAIN, memory.WAITING), 1.0),
             memory.CHUNKS: 1 / sizes.get("CHUNK", 1)}  # fmt: skip

    def count(found: Iterable[memory.Memory], once: bool = False) -> float:
        """Bytes at a token. once: not where all programs would write the same."""
        total = 0.0
        for one in found:
            alone = {*map(dim_of, one.dims), *(one.once if once else ())}
            width = often.get(one.layout, 0) * sizes[f"{one.tensor}_ptr"].element_size()
            width *= math.prod(-(-sizes[dim] // part) for dim, part in parts.items() if dim not in alone)
            total += width * math.prod(sizes[dim_of(axis)] for axis in one.dims)
        return total

    saved = kernel.walk.saved.values()
    read = [*(one for loop in kernel.walk.loops for one in loop.loads.values()), *(saved if back else ())]
    written = [*(one for loop in kernel.walk.loops for _, one in loop.stores), *kernel.kept.values()]
    return Moved(kernel.name, count(read), count([*written, *(() if back else saved)], True))


def passes(plan: Plan, choice: Choice, config: Config = DEFAULT) -> tuple[Function, Function]:
    """The launches of the forward and the backward pass."""
    from recc.backends.triton.module import functions

    return functions(plan, choice, config)[:2]
