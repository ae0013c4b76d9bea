"""A backward pass tile by tile: a chunk's states again, and at once the cotangents, so that they stay near.

Where the loops that compute the states again and those of the adjoint are tiles of the same axes, each tile's states
need to last no longer than its turn: a buffer for one tile lies in the first-level cache.
"""

from __future__ import annotations

from collections.abc import Callable

from recc.backends.c.arrays import block
from recc.backends.c.loops import Loops
from recc.backends.c.part import Part

from recc.ir.node import Axis
from recc.tile.cores import Phases, dims
from recc.tile.program import TileProgram


def shared_loops(
    again: TileProgram,
    back: TileProgram,
    layouts: dict[str, tuple],
    sizes: Callable[[Axis], int],
    lanes: int,
    registers: int,
) -> Loops | None:
    """The loops that both cores can share, if each program has one and no one else reads what lasts a tile's turn."""
    first, second = Phases(again), Phases(back)
    if len(first.cores) != 1 or len(second.cores) != 1:
        return None
    loops = Loops.of_core(second.cores[0], second, sizes, lanes, registers)
    own = Loops.of_core(first.cores[0], first, sizes, lanes, registers, loops.lane)
    shape = (loops.shape, loops.outer, loops.row, loops.lane)
    if shape[:2] != ("tile", ()) or loops.row is None or (own.shape, own.outer, own.row, own.lane) != shape:
        return None
    if any(layouts[carry.name] != (loops.row, loops.lane) for carry in again.carries):
        return None
    if any(first.owner(node) is not first.cores[0] or loops.row not in dims(node) for node in again.stores.values()):
        return None
    passed = {back.loads[name] for name in again.stores if name in back.loads}
    readers = [node for node in second.nodes if passed & set(node.args)]
    if passed & set(second.roots) or any(second.owner(node) is not second.cores[0] for node in readers):
        return None
    return loops


def joined(first: Part, second: Part, tiles: dict[str, tuple[str, int]]) -> list[str]:
    """The text of two open parts over shared loops. tiles: for each pointer to a tile's buffer, the buffer and the
    width of its rows."""
    said, clear, (row, lane), states = first.pieces
    told, cleared, _, cotangents = second.pieces
    near = [f"real *const {name} = {buffer} - i * {width};" for name, (buffer, width) in tiles.items()]
    turn = block(lane, [*block("", [*said, *states]), *told, *cotangents])
    note = "// tile by tile: the states that enter each token of the chunk, and from them the cotangents"
    before = ["// what the states are computed from", *first.before, "// and the cotangents", *second.before]
    return [*before, *clear, *cleared, note, *block(row, [*near, *turn]), *second.lines]
