"""What may vary between kernels that compute the same: the fields that the emitter takes and that tuning searches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

SCHEDULES = ("split", "fused")
CHUNKS = (16, 32, 64, 128)
BLOCKS = (16, 32, 64, 128)
WARPS = (2, 4, 8)
STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Tile:
    """One launch. block: how many places of the dim that its programs share one of them takes, at most; a power of two.
    warps: of a program. stages: how many iterations of a loop are loaded ahead."""

    block: int = 64
    warps: int = 4
    stages: int = 2


@dataclass(frozen=True)
class Config:
    """The kernels of one recurrence.

    chunk: tokens in a chunk, a power of two; None: what the choice of strategies says.
    forward, backward: the schedule of each pass, one of SCHEDULES; where a program cannot be fused, it is split.
    tiles: (kernel, tile) for launches, by the name that the kernel has in the generated file; the others take the
    default of the emitter, which `tile` says.
    """

    chunk: int | None = None
    forward: str = "split"
    backward: str = "split"
    tiles: tuple[tuple[str, Tile], ...] = field(default=())

    def __post_init__(self) -> None:
        for schedule in (self.forward, self.backward):
            if schedule not in SCHEDULES:
                raise ValueError(f"no schedule `{schedule}`; there are {', '.join(SCHEDULES)}")

    def tile(self, kernel: str, otherwise: Tile) -> Tile:
        """The tile of a launch."""
        return dict(self.tiles).get(kernel, otherwise)

    def with_tile(self, kernel: str, tile: Tile) -> Config:
        """This configuration with another tile for one launch."""
        return replace(self, tiles=tuple(sorted({**dict(self.tiles), kernel: tile}.items())))


def schedules(chunks: tuple[int, ...] = CHUNKS) -> Iterator[Config]:
    """Every chunk and schedule: what decides which kernels there are. Tiles are searched for each kernel on its own."""
    for chunk, forward, backward in itertools.product(chunks, SCHEDULES, SCHEDULES):
        yield Config(chunk, forward, backward)


def tiles() -> Iterator[Tile]:
    """Every tile of a launch. What spills or does not fit is found by compiling it."""
    for block, warps, stages in itertools.product(BLOCKS, WARPS, STAGES):
        yield Tile(block, warps, stages)


def view(config: Config) -> dict[str, Any]:
    """A configuration as plain values, those of the default left out; `of` reads them."""
    usual, tiles = Config(), {name: asdict(tile) for name, tile in config.tiles}
    found = {name: value for name, value in vars(config).items() if name != "tiles" and value != getattr(usual, name)}
    return found | ({"tiles": tiles} if tiles else {})


def of(tiles: Mapping[str, Mapping[str, Any]] | None = None, **fields: Any) -> Config:
    """The configuration of plain values. Raises ValueError or TypeError for what has no such form."""
    return Config(**fields, tiles=tuple(sorted((name, Tile(**tile)) for name, tile in (tiles or {}).items())))
