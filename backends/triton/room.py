"""What a program has room for: tiles that no multiprocessor holds are refused here, before a compiler meets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from recc.backends.triton.emit import Function
from recc.backends.triton.kernel import Kernel
from recc.backends.triton.launch import Chunks
from recc.backends.triton.nodes import formed, inner
from recc.backends.triton.schedule import Unserved

from recc.ir.node import COL, ROW, Axis, dim_of

TYPICAL = 64  # places of a dim whose size is not fixed
MOST = 1 << 15  # elements of a tile: two such fill the registers of a multiprocessor


@dataclass(frozen=True)
class Extent:
    """A tile of a kernel: the sizes of its axes, by the names that users know."""

    kernel: str
    sizes: tuple[tuple[str, int], ...]

    @property
    def elements(self) -> int:
        return prod(size for _, size in self.sizes)


def widest(function: Function, dims: Mapping[str, int | None]) -> Extent:
    """The largest tile of the kernels of a pass. dims: the sizes of those that the spec fixes."""
    found = [tile for kernel in function.kernels for tile in _tiles(kernel, function, dims)]
    return max(found, key=lambda tile: tile.elements, default=Extent("", ()))


def check(function: Function, dims: Mapping[str, int | None], strategy: str) -> None:
    """Raises Unserved where a tile is too large."""
    tile = widest(function, dims)
    if tile.elements > MOST:
        names, sizes = (" x ".join(str(pair[place]) for pair in tile.sizes) for place in (0, 1))
        raise Unserved(
            f"{function.program.name} by the strategy {strategy} has tiles of {names} ({sizes}, {tile.elements:,} "
            f"elements) in `{tile.kernel}`, and a program has room for {MOST:,}",
            "use `--strategy sequential`, which walks over tokens, the torch backend, or smaller dims",
        )


def _tiles(kernel: Kernel, function: Function, dims: Mapping[str, int | None]) -> list[Extent]:
    launch = kernel.launch
    call = Chunks(1, 1, None, function.rows, None, False, torch.float32, torch.device("meta"))
    sizes = {dim: dims.get(dim) or TYPICAL for dim in launch.dims}

    def places(axis: Axis) -> tuple[str, int]:
        dim = dim_of(axis)
        if axis in (ROW, COL, "@a", "@b"):
            return "tokens", function.rows
        if dim not in sizes:
            return "ranks", kernel.ranks
        block = call.block(sizes[dim], function.least(dim))
        if dim not in (launch.split, launch.loop):
            return dim, block
        if dim == launch.loop and launch.split:
            return dim, call.turn(block, kernel.tile.step)
        most = kernel.tile.block if dim == launch.split else kernel.tile.step
        beside = [other for other in function.beside(dim, [*sizes])]
        inside = {launch.loop: kernel.tile.step} if launch.split else {}
        return dim, call.part(block, most, *(min(sizes[other], inside.get(other, sizes[other])) for other in beside))

    every = [*launch.nodes, *launch.loads, *(carry.old for carry in launch.walks)]
    return [Extent(kernel.name, tuple(map(places, axes))) for axes in {inner(formed(node)): None for node in every}]
