"""The tiles of walks over tokens with which they spill nothing, found by compiling: see `fit`.

Each walk that spills takes its tile on its own, unless it spills more than a thread has registers. Of the tiles that
move the fewest bytes the one is tried first that changes least. Nothing is timed.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace

from recc.backends.triton import sequential, traffic
from recc.backends.triton.aot import Recorded
from recc.backends.triton.config import DEFAULT, Config, Tile, walk_tiles
from recc.backends.triton.module import chosen
from recc.backends.triton.spilled import REGISTERS, Found, Spilled
from recc.backends.triton.walk import Kernel

TRIED = 48  # tiles of one walk


class Walks(Spilled):
    """The search in the walks of a plan."""

    def run(self, deadline: float, first: Config | None) -> Found:
        """first: what is taken where the default spills, if it fits."""
        spilled, usual = self.unfit(DEFAULT), self.moved(DEFAULT)
        found: Config | None = DEFAULT
        if spilled and first is not None and not self.unfit(first):
            found = first
        else:
            for name, much in spilled.items():
                self.report(len(self.facts), usual)
                tile = self.tile(name, deadline) if found is not None and much <= REGISTERS else None
                found = found.with_tile(name, tile) if found is not None and tile is not None else None
        moved, late = usual if found is None else self.moved(found), time.monotonic() > deadline
        return Found(found, moved, usual, spilled, len(self.facts), not late)

    def tile(self, name: str, deadline: float) -> Tile | None:
        """The first tile with which a walk spills nothing."""
        now = self.usual(name)
        for tile in self.tiles(name, now)[:TRIED]:
            if time.monotonic() > deadline:
                break
            usual = self.launch(name, DEFAULT.with_tile(name, replace(tile, warps=now.warps)))  # the same text
            if not self.spills(replace(usual, options={**usual.options, "num_warps": tile.warps})):
                return tile
        return None

    def tiles(self, name: str, now: Tile) -> list[Tile]:
        """What a walk may try: blocks that are no larger than its own, other warps and orders, and to hold less or
        more; what moves fewest bytes first."""
        kernel = self.kernels(DEFAULT)[name]
        other = DEFAULT.with_tile(name, replace(now, crowded=not kernel.crowded))
        made = {None: (kernel, self.launch(name, DEFAULT)),
                not kernel.crowded: (self.kernels(other)[name], self.launch(name, other))}  # fmt: skip

        def order(tile: Tile) -> tuple[float, float]:
            return traffic.of_walk(*made[tile.crowded], tile.block).total, _changes(tile, now)

        return sorted(walk_tiles(now, kernel.walk.split is not None, not kernel.crowded), key=order)

    def usual(self, name: str) -> Tile:
        """The tile that a walk has by default; where programs share no dim, with any block."""
        launch, shared = self.launch(name, DEFAULT), self.kernels(DEFAULT)[name].walk.split
        tile = Tile(warps=launch.options["num_warps"], stages=1)
        return replace(tile, block=launch.arguments[f"BLOCK_{shared}"]) if shared else tile

    def launch(self, name: str, config: Config) -> Recorded:
        return next(launch for launch in self.launches(config) if launch.name == name)

    def kernels(self, config: Config) -> dict[str, Kernel]:
        parts = sequential.functions(self.plan, chosen(self.plan, self.strategy), config)[1]
        return {kernel.name: kernel for part in parts for kernel in part.kernels}

    def moved(self, config: Config) -> float:
        """Bytes per token and head of both passes."""
        kernels = self.kernels(config)
        both = [launch for launch in self.launches(config) if not kernels[launch.name].walk.single]
        return sum(traffic.of_walk(kernels[launch.name], launch).total for launch in both)


def _changes(tile: Tile, now: Tile) -> float:
    """How often tile and `now` differ by a factor of two. Another order counts as half of one; to hold less as more
    than two: nothing is loaded early then."""
    pairs = (tile.block, now.block), (tile.warps, now.warps)
    changed = (tile.order is not None) / 2 + (tile.crowded is not None) * 2.5
    return sum(abs(math.log2(a / b)) for a, b in pairs) + changed
