"""A configuration that spills no registers, found by compiling for a device that need not be there.

Of all configurations that spill nothing and fit in shared memory it is the one that moves the fewest bytes: they are
compiled in that order, launch by launch, the launches that spilled before first. Where a launch spills little,
its neighbours in tiles are tried, too. Nothing is timed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from recc.backends.triton import aot, traffic
from recc.backends.triton.config import CHUNKS, DEFAULT, Config, Tile, tiles, view
from recc.backends.triton.emit import Function
from recc.backends.triton.module import chosen, generate
from recc.backends.triton.schedule import Unserved

from recc.analysis.plan import Plan
from recc.strategies import Refused

NEAR = 256  # bytes a thread that another tile of the same launch may do away with
TRIED = 8  # tiles of one launch

Compile = Callable[[aot.Recorded], dict[str, int]]


@dataclass(frozen=True)
class Found:
    """config: the first that fits, None where none does. moved: bytes per token and head of both passes, and usual:
    those of the default. spilled: by launch, what the default spills. compiled: how many launches were compiled."""

    config: Config | None
    moved: float
    usual: float
    spilled: dict[str, int]
    compiled: int


def fit(plan: Plan, sizes: Mapping[str, int], target: str, seconds: float = 600.0, dtype: torch.dtype = torch.bfloat16,
        compile: Compile | None = None, first: Config | None = None) -> Found:  # fmt: skip
    """What fits for `target` where dims have `sizes`. seconds: after which nothing more is tried. first: what is taken
    where the default spills, if it fits. Raises Unserved."""
    return _Search(plan, sizes, target, dtype, compile).run(time.monotonic() + seconds, first)


class _Search:
    def __init__(self, plan: Plan, sizes: Mapping[str, int], target: str, dtype: torch.dtype,
                 compile: Compile | None) -> None:  # fmt: skip
        self.plan, self.sizes, self.dtype, self.target = plan, dict(sizes), dtype, target
        self.compile = compile or (lambda launch: aot.facts(aot.compile_launch(launch, target)))
        self.room = aot.SHARED[target]
        self.facts: dict[tuple, dict[str, int] | None] = {}
        self.suspects: dict[str, int] = {}  # by launch, the most that it has spilled so far
        self.tried: dict[tuple[str, str], int] = {}

    def run(self, deadline: float, first: Config | None) -> Found:
        """Best first: by the bytes that a configuration moves."""
        usual, order = self.moved(DEFAULT), itertools.count()
        spilled = self.unfit(DEFAULT)
        if not spilled:
            return Found(DEFAULT, usual, usual, {}, len(self.facts))
        heap = [] if first is None else [(-1.0, next(order), first)]
        seen: set[str] = set()
        near = itertools.chain(self.near(DEFAULT, spilled), self.forms())
        while True:
            for other in near:
                if _name(other) not in seen:
                    seen.add(_name(other))
                    try:
                        heapq.heappush(heap, (self.moved(other), next(order), other))
                    except (Unserved, Refused):
                        continue
            if not heap or time.monotonic() > deadline:
                return Found(None, usual, usual, spilled, len(self.facts))
            _, _, config = heapq.heappop(heap)
            bad = self.unfit(config, quick=True)
            if not bad:
                return Found(config, self.moved(config), usual, spilled, len(self.facts))
            near = self.near(config, bad)

    # --- what may be taken --------------------------------------------------------------------------------

    def forms(self) -> Iterator[Config]:
        """Chunks no longer than the default's, results apart, a pass that is not fused."""
        forward, _ = self.passes(DEFAULT)
        usual = forward.config
        for chunk, apart, split in itertools.product(CHUNKS, (False, True), (None, "split")):
            if chunk > usual.chunk or (apart and usual.apart) or (split and usual.forward == "split"):
                continue
            yield Config(chunk=None if chunk == usual.chunk else chunk, apart=apart or None, forward=split)

    def near(self, config: Config, bad: Mapping[str, int]) -> Iterator[Config]:
        """The configuration with other tiles for the launch that spills, if that is little."""
        name = max(bad, key=bad.__getitem__, default=None)
        if name is None or bad[name] > NEAR:
            return
        kernels = [one for part in self.passes(config) for one in (*part.kernels, *part.outer_kernels)]
        now = next(one.tile for one in kernels if one.name == name)
        place = (_name(replace(config, tiles=())), name)
        for tile in sorted(_beside(now), key=lambda tile: _steps(tile, now)):
            if self.tried.get(place, 0) < TRIED:
                self.tried[place] = self.tried.get(place, 0) + 1
                yield config.with_tile(name, tile)

    # --- what it is --------------------------------------------------------------------------------------

    def passes(self, config: Config) -> tuple[Function, Function]:
        return traffic.passes(self.plan, chosen(self.plan, None, config.chunk), config)

    def moved(self, config: Config) -> float:
        return sum(one.total for part in self.passes(config) for one in traffic.moved(part, self.sizes))

    def unfit(self, config: Config, quick: bool = False) -> dict[str, int]:
        """By launch, what it spills, or more than that where it does not fit at all. quick: none but the first."""
        generated = generate(self.plan, chosen(self.plan, None, config.chunk), config)
        launches = aot.every_launch(generated, self.sizes, self.dtype)
        bad: dict[str, int] = {}
        for launch in sorted(launches, key=lambda launch: -self.suspects.get(launch.name, 0)):
            facts = self.known(config, launch)
            if facts is None or facts["shared"] > self.room:
                bad[launch.name] = NEAR + 1
            elif facts["spills"]:
                bad[launch.name] = max(facts["spills"], bad.get(launch.name, 0))
            else:
                continue
            self.suspects[launch.name] = max(bad[launch.name], self.suspects.get(launch.name, 0))
            if quick:
                break
        return bad

    def known(self, config: Config, launch: aot.Recorded) -> dict[str, int] | None:
        """The facts of a launch; None where it does not compile."""
        own = {name: tile for name, tile in config.tiles if name == launch.name}
        outer = launch.arguments.get("OUTER", False)
        key = (_name(replace(config, tiles=tuple(own.items()))), launch.name, outer)
        if key not in self.facts:
            try:
                self.facts[key] = self.compile(launch)
            except Exception:  # Triton's and ptxas's own errors: what does not compile does not fit
                self.facts[key] = None
        return self.facts[key]


def _beside(now: Tile) -> Iterator[Tile]:
    """Tiles that are narrower in one choice, or have other warps."""
    for tile in tiles(now):
        differ = sum(value != getattr(now, field) for field, value in vars(tile).items())
        if differ == 1 and tile.block <= now.block and tile.step <= now.step and tile.stages == now.stages:
            yield tile


def _steps(tile: Tile, now: Tile) -> float:
    """How often tile and `now` differ by a factor of two."""
    pairs = (tile.block, now.block), (tile.step, now.step), (tile.warps, now.warps)
    return sum(abs(math.log2(a / b)) for a, b in pairs)


def _name(config: Config) -> str:
    return repr(sorted(view(config).items(), key=lambda item: item[0]))
