"""What may vary between kernels that compute the same: the fields that the emitter takes and that tuning searches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from recc.backends.triton.apart import vectors_before
from recc.backends.triton.loops import loops
from recc.backends.triton.nodes import dims, inner, ordered
from recc.backends.triton.order import ORDERS, numbers
from recc.backends.triton.pressure import PLACES, SCANS, VECTORS, beside, room, scans
from recc.backends.triton.schedule import SMALL, Schedule
from recc.backends.triton.steps import Launch

from recc.analysis.plan import Affine, Plan
from recc.ir.node import COL, HEADS, ROW, Node, dim_of
from recc.strategies import Choice
from recc.tile.program import TileProgram

SCHEDULES = ("split", "fused")
CHUNKS = (16, 32, 64, 128)
OUTERS = (0, 256, 512, 1024)
BLOCKS = (16, 32, 64, 128)
WARPS = (2, 4, 8)
STAGES = (1, 2, 3)
PARTS, WALK_WARPS = (1, 2, 4, 8, 16, 32, 64, 128), (1, 2, 4, 8, 16)  # of walks over tokens


def _checked(**values: object) -> None:
    """Raises ValueError for a field that says neither yes nor no, nor leaves it open."""
    for name, value in values.items():
        if value is not None and not isinstance(value, bool):
            raise ValueError(f"`{name}` is {value!r}, but must be True, False or None")


@dataclass(frozen=True)
class Tile:
    """One launch. block: how many places of the dim that its programs share one of them takes, at most; a power of two.
    Where scans have other dims beside it, it counts the places of a row of them all.
    loop: the dim that a program takes block by block, if any; step: its places in a block, likewise.
    warps: of a program. stages: how many iterations of a loop are loaded ahead. order: of what a loop or a walk
    computes, one of `order.ORDERS`; None: that in which the fewest numbers are there at a time.

    A walk over tokens has no loop and no stages. Its order is that of the text where none is named. crowded: whether it
    holds as little as it can, see `scarce`; None: where a thread has no registers for more."""

    block: int = 64
    loop: str | None = None
    step: int = 32
    warps: int = 4
    stages: int = 2
    order: str | None = None
    crowded: bool | None = None

    def __post_init__(self) -> None:
        if self.order not in (None, *ORDERS):
            raise ValueError(f"no order `{self.order}`; there are {', '.join(ORDERS)}")
        _checked(crowded=self.crowded)


@dataclass(frozen=True)
class Config:
    """The kernels of one recurrence.

    chunk: tokens in a chunk of the backward pass, a power of two: a state is kept for each. inner: tokens in a chunk of
    a fused forward pass, which divides `chunk`.
    forward, backward: the schedule of each pass, one of SCHEDULES; where a program cannot be fused, it is split.
    outer: tokens in an outer chunk, each walked by programs of its own; 0: none, every sequence is walked in one go;
    None: as `recc.strategies.outer` decides for a call.
    apart: whether there are more launches, each with fewer tiles: for results with different dims, for vectors that a
    fused pass walks before a matrix, for what follows from tiles that pass; None: where there are several matrix
    memories, whose tiles would meet in one.
    What is None is left to `default`.
    handed: whether tiles that launches before and after the walk of a memory would both compute pass through memory,
    where walks of vectors follow it; None: where that moves less.
    tiles: (kernel, tile) for launches, by the name that the kernel has in the generated file; the others take the
    default of the emitter, which `tile` says.
    """

    chunk: int | None = None
    inner: int | None = None
    forward: str | None = None
    backward: str | None = None
    outer: int | None = None
    apart: bool | None = None
    handed: bool | None = None
    tiles: tuple[tuple[str, Tile], ...] = field(default=())

    def __post_init__(self) -> None:
        for schedule in (self.forward, self.backward):
            if schedule not in (None, *SCHEDULES):
                raise ValueError(f"no schedule `{schedule}`; there are {', '.join(SCHEDULES)}")
        _checked(apart=self.apart, handed=self.handed)

    def every(self, schedule: Schedule) -> int:
        """Of so many chunks of a pass, the states that enter the first are kept."""
        fused = schedule.fused and not schedule.program.reverse
        return self.chunk // self.inner if fused and self.chunk and self.inner else 1

    def tile(self, kernel: str, otherwise: Tile | None = None) -> Tile | None:
        """The tile of a launch; `otherwise` where none is named."""
        return dict(self.tiles).get(kernel, otherwise)

    def with_tile(self, kernel: str, tile: Tile) -> Config:
        """This configuration with another tile for one launch."""
        return replace(self, tiles=tuple(sorted({**dict(self.tiles), kernel: tile}.items())))


DEFAULT = Config()
BESIDE_SCANS = 32  # tokens in a chunk of a memory beside which other states are scanned
CROSS = Tile(block=32, stages=1)  # of what takes states from outer chunk to outer chunk, which reads a matrix for each


def default(program: TileProgram, choice: Choice, config: Config) -> Config:
    """`config` with what it leaves open, for the chunk of `choice`.

    A forward pass without scans is fused: it moves the fewest bytes. Its chunks are short, so that the state and a
    chunk's tiles fit in registers, and states are kept for each longer chunk of the backward pass; they are shorter
    where there are small tiles that take long, or where tiles of the tokens before stand beside each tile. Two matrices
    as states would not fit beside them. Vectors that are walked in a launch of their own are kept for each chunk of it.
    """
    several = sum(len(dims(carry.old.axes)) > 1 for carry in program.carries) > 1
    apart = several if config.apart is None else config.apart
    scans = any(node.op in SCANS for node in ordered(program.roots))
    short = any(node.op in SMALL or _is_delay(node) for node in ordered(program.roots))
    chunk = config.chunk or choice.chunk
    forward = config.forward or ("split" if scans or several else "fused")
    inner = config.inner or min(chunk, 16 if short else 32)
    if forward == "fused" and apart and vectors_before(program):
        inner = chunk
    backward = config.backward or "split"
    return replace(config, chunk=chunk, inner=inner, forward=forward, backward=backward, apart=apart)


def _is_delay(node: Node) -> bool:
    """Whether a tile is that of the tokens before."""
    return node.op == "shift" and len(inner(node.axes)) == 2


def has_channel_decay(plan: Plan) -> bool:
    """Whether a memory's keys or its columns decay channel by channel."""
    kinds = [component.kind for component in plan.components if isinstance(component.kind, Affine)]
    return any(kind.log_decay is not None and set(kind.log_decay.axes) - {HEADS} for kind in kinds)


def kept(plan: Plan) -> tuple[str, ...]:
    """The ops whose tiles the forward pass keeps for the backward pass: with a decay of each channel what is written,
    where all of it is solved for. Launches after the walk then have nothing to solve for, which takes all keys at once,
    and take keys block by block. Beside other written values that would move more bytes than it is worth."""
    kinds = [component.kind for component in plan.components if isinstance(component.kind, Affine)]
    solved = all(write.of_read for kind in kinds for write in kind.writes)
    return ("solution",) if solved and has_channel_decay(plan) else ()


def default_chunk(plan: Plan, choice: Choice) -> int:
    """Tokens in a chunk of the backward pass, where nobody says: the longer it is, the fewer states are read and
    written. What a chunk needs on chip grows with it: triangular systems of a row for each rank and token, and for a
    decay of each channel tiles of the keys at each level of the chunk's halves, which spill in chunks of 64. What is
    scanned beside a memory waits in its launches, too."""
    chunked = [choice.name(component) == "chunk" for component in plan.components]
    if not any(chunked):
        return choice.chunk
    channel = has_channel_decay(plan)
    kinds = [component.kind for component in plan.components if isinstance(component.kind, Affine)]
    ranks = max((len(kind.ranks) for kind in kinds), default=0).bit_length()
    if not all(chunked):
        return min(choice.chunk, max(CHUNKS[0], BESIDE_SCANS >> ranks))
    return (64 if channel else 128) >> max(ranks, int(channel))


def default_tile(launch: Launch, schedule: Schedule, rows: int) -> Tile:
    """The tile of a launch that a configuration does not name, for chunks of `rows` tokens.

    A walk holds its state: as much of it as registers do, so that what it does not depend on is read once. Other
    launches take one dim block by block, which keeps their tiles small.
    """
    if any(node.op in SCANS and dims(node.axes) for node in schedule.every):
        return _scan_tile(launch, schedule, rows)
    if launch.walks:
        return Tile(block=128, warps=8, stages=1)
    wide = [node for node in launch.nodes if node.op == "dot"]
    small = not wide or all(set(inner(node.axes)) <= {ROW, COL} for node in (*launch.stores, *wide))
    warps = 4 if small and rows < 64 else 8
    return Tile(block=128, loop=_looped(launch), step=32 if small else 16, warps=warps, stages=1)


def cross_tile(launch: Launch, schedule: Schedule) -> Tile:
    """The tile of a launch that takes states from outer chunk to outer chunk."""
    return replace(CROSS, block=PLACES) if launch.split and beside(schedule, launch.split) else CROSS


def _scan_tile(launch: Launch, schedule: Schedule, rows: int) -> Tile:
    """The tile of a launch beside scans, which take whole rows of few columns: as many as registers hold."""
    looped = _looped(launch) if _is_wide(launch) else None
    shared = looped or launch.split
    places = PLACES if shared and beside(schedule, shared) else VECTORS
    warps = 8 if looped or (launch.dims and not launch.split) else 4
    if scans(launch) and shared:
        places, warps = room(launch, rows, places * 64 // rows, looped)
    if looped:
        return Tile(places, looped, places, warps, stages=1)
    inside = _inside(launch, schedule) if scans(launch) else None
    return Tile(places, inside, VECTORS, warps, stages=1) if inside else Tile(places, warps=warps)


def _inside(launch: Launch, schedule: Schedule) -> str | None:
    """The dim beside that which programs share which one of them takes block by block: one that needs one loop."""
    for dim in beside(schedule, launch.split) if launch.split else ():
        found = loops(launch, dim) if dim in launch.dims else None
        if found is not None and sum(bool(one.nodes) for one in found) == 1:
            return dim
    return None


def _is_wide(launch: Launch) -> bool:
    """Whether a tile has rows and more than one dim besides that which programs share."""
    here = [{dim_of(axis) for axis in dims(node.axes)} - {launch.split} for node in launch.nodes if ROW in node.axes]
    return any(len(found) > 1 for found in here)


def _looped(launch: Launch) -> str | None:
    """The dim that a launch takes block by block: that which needs fewest loops, then one that scores contract, then
    the one whose loops load least: each loads its tiles again."""
    scored = {dim_of(node["over"]) for node in launch.nodes if node.op in ("score", "score_rows", "score_cols")}
    counts = {}
    for dim in launch.dims:
        found = loops(launch, dim)
        if found is not None:
            loaded = sum(numbers(node, launch.rows) for one in found for node in one.loads)
            counts[dim] = (sum(bool(one.nodes) for one in found), dim not in scored, loaded, dim)
    return min(counts, key=counts.__getitem__, default=None)


def schedules(chunks: tuple[int, ...] = CHUNKS) -> Iterator[Config]:
    """Every chunk and schedule: what decides which kernels there are. Tiles are searched for each kernel on its own."""
    for chunk, size, forward, backward in itertools.product(chunks, chunks, SCHEDULES, SCHEDULES):
        if size > chunk:
            continue
        for apart in (False, True)[: 2 if backward == "split" else 1]:
            yield Config(chunk, size, forward, backward, apart=apart)


def tiles(now: Tile) -> Iterator[Tile]:
    """Every tile of the launch that has `now`. What spills or does not fit is found by compiling it."""
    steps = BLOCKS[:-1] if now.loop else (now.step,)
    for block, step, warps, stages in itertools.product(BLOCKS, steps, WARPS, STAGES):
        yield Tile(block, now.loop, step, warps, stages, now.order)


def walk_tiles(now: Tile, shared: bool, crowded: bool) -> Iterator[Tile]:
    """Every other tile of the walk over tokens that has `now`, with blocks that are no larger. shared: whether programs
    share a dim; crowded: what the walk is not."""
    blocks = [block for block in PARTS if block <= now.block] if shared else [now.block]
    for block, warps, order, other in itertools.product(blocks, WALK_WARPS, (None, *ORDERS[1:]), (None, crowded)):
        tile = replace(now, block=block, warps=warps, order=order, crowded=other)
        if tile != now:
            yield tile


def view(config: Config) -> dict[str, Any]:
    """A configuration as plain values, those of the default left out; `of` reads them."""
    usual, tiles = Config(), {name: _tile(tile) for name, tile in config.tiles}
    found = {name: value for name, value in vars(config).items() if name != "tiles" and value != getattr(usual, name)}
    return found | ({"tiles": tiles} if tiles else {})


def _tile(tile: Tile) -> dict[str, Any]:
    return {name: value for name, value in asdict(tile).items() if name == "loop" or value is not None}


def of(tiles: Mapping[str, Mapping[str, Any]] | None = None, **values: Any) -> Config:
    """The configuration of plain values. Raises ValueError for what has no such form."""
    own = {name: _made(Tile, f"the tile of `{name}`", tile) for name, tile in (tiles or {}).items()}
    return _made(Config, "a configuration", {**values, "tiles": tuple(sorted(own.items()))})


def _made(kind: type, what: str, values: Mapping[str, Any]) -> Any:
    """A Config or a Tile. Raises ValueError for fields that it has not."""
    there = [field.name for field in fields(kind)]
    for name in values:
        if name not in there:
            raise ValueError(f"{what} has no field `{name}`; there are {', '.join(there)}")
    return kind(**values)
