"""A backward pass tile by tile: a chunk's states again, and at once the cotangents, so that they stay near.

Where the loops that compute the states again and those of the adjoint are tiles of the same axes, each tile's states
need to last no longer than its turn: a buffer for one tile lies in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from recc.backends.c.arrays import block
from recc.backends.c.groups import MOVES
from recc.backends.c.loops import Loops
from recc.backends.c.part import Part
from recc.backends.c.vectors import Real

from recc.ir.node import Axis, Node, walk
from recc.tile.cores import REDUCTIONS, Phases, dims
from recc.tile.program import TileProgram, state_key

NEAR = 1 << 14  # bytes of a tile's states for a chunk: as much again of what the tokens have fits beside them
BUFFER = 1 << 19  # bytes of whole states of a chunk's tokens: within the second-level cache
ROWS = 1 << 13  # of a chunk's tokens along a tile's vectors, of which there are half a dozen kinds


def tokens_held(
    again: TileProgram, elements: Callable[[tuple], int], shared: Loops | None, real: Real, sequences: int, chunks: int
) -> int:
    """Tokens of a chunk: 32 in all chunks at hand, `chunks` of them; fewer where what a backward pass holds of so many
    would overflow a cache: of a tile of states and what it reads the first-level one, of whole states the second-level
    one. shared: the tile's loops."""
    kept = [dims(node) for node in again.stores.values()]
    wide = max(map(len, kept), default=0)  # what is narrower is not worth fewer tokens
    size = sum(elements(axes) for axes in kept if len(axes) == wide)
    size, room = size // sequences, BUFFER  # whose number must not move the saved states
    if shared is not None:
        size, room = shared.vectors * shared.lanes, ROWS
    tokens = 32
    while tokens > 8 * chunks and tokens * size * real.bytes > room:
        tokens //= 2
    return tokens // chunks


def shared_loops(
    again: TileProgram,
    back: TileProgram,
    layouts: dict[str, tuple],
    sizes: Callable[[Axis], int],
    real: Real,
    registers: int,
    tokens: int,
) -> tuple[Loops | None, frozenset[Node]]:
    """The loops that both cores can share, if each program has one and no one else reads the states that last a tile's
    turn; and the loads of the adjoint that the first core computes in them, a number a row. tokens: of a chunk."""
    lanes, element = real.lanes, real.bytes
    first, late = Phases(again), frozenset(back.loads[name] for name in again.stores if name in back.loads)
    states = frozenset(
        back.loads[state_key(carry.name)] for carry in again.carries if state_key(carry.name) in back.loads
    )
    second = Phases(back, late)
    if len(first.cores) != 1 or len(second.cores) != 1:
        return None, frozenset()
    (core,) = second.cores
    loops = Loops.of_core(core, second, sizes, lanes, registers)
    own = Loops.of_core(first.cores[0], first, sizes, lanes, registers, loops.lane)
    shape = (loops.shape, loops.outer, loops.row, loops.lane)
    near = shape[:2] == ("tile", ()) and loops.row is not None and (own.shape, own.outer, own.row, own.lane) == shape
    near = near and all(layouts[carry.name] == (loops.row, loops.lane) for carry in again.carries)
    near = near and (late == states or loops.vectors * lanes >= sizes(loops.lane))
    stores = again.stores.values()
    near = near and all(first.owner(node) is first.cores[0] and loops.row in dims(node) for node in stores)
    lasting = {
        node for node in second.nodes if node in states or set(dims(node)) == core.axes and node.op not in REDUCTIONS
    }
    lasting = {node for node in lasting if second.owner(node) is not core and states & set(walk(node))}
    readers = [node for node in second.nodes if lasting & set(node.args) and node not in lasting]
    near = near and not (late | lasting) & set(second.roots) and all(second.owner(node) is core for node in readers)
    inner = [node for node in second.nodes if second.owner(node) is core]
    needed = walk(*(arg for node in (*inner, *(c.new for c in core.carries)) for arg in node.args))
    awaited = {node for node in needed if second.owner(node) == 1 and node.op in (*REDUCTIONS, *MOVES)}
    if not near or awaited:
        return None, frozenset()
    size = tokens * len(states) * loops.rows * lanes * element
    while late == states and loops.vectors % 2 == 0 and loops.vectors * size > NEAR:
        loops = replace(loops, vectors=loops.vectors // 2)
    return loops, late - states


def joined(first: Part, second: Part, tiles: dict[str, tuple[str, int]]) -> list[str]:
    """The text of two open parts over shared loops. tiles: for each pointer to a tile's buffer, the buffer and the
    width of its rows."""
    said, clear, (lane, row), states = first.pieces
    told, cleared, _, cotangents = second.pieces
    near = [f"real *const {name} = {buffer} - i * {width} - l;" for name, (buffer, width) in tiles.items()]
    turn = block(row, [*near, *block("", [*said, *states]), *told, *cotangents])
    note = "// tile by tile: the states that enter each token of the chunk, and from them the cotangents"
    before = ["// what the states are computed from", *first.before, "// and the cotangents", *second.before]
    return [*before, *clear, *cleared, note, *block(lane, turn), *second.lines]
