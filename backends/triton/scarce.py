"""What a walk over tokens does where a thread has no registers for what is there at a time.

Params are read at every token; no input is loaded early, and no address is held for all tokens; what lies in memory is
loaded again for its next reader; sums over blocks of tokens wait in memory, and so do matrices among the states.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from recc.backends.triton.memory import AGAIN, FIXED, SCRATCH, TOKENS
from recc.backends.triton.nodes import inner, reads
from recc.backends.triton.pressure import APART, REGISTERS, VECTOR, WARP, held_by_walk
from recc.backends.triton.statements import Loop

from recc.ir.node import ROW, Node

if TYPE_CHECKING:
    from recc.backends.triton.walk import Walk


def crowded(loops: list[Loop], usual: int) -> bool:
    """Whether a thread of a walk has no registers for what is there at a time. usual: elements of the widest tile
    that a warp holds."""
    nodes = [node for loop in loops for node in (*loop.nodes, *loop.loads, *(old for old, _ in loop.states))]
    if max((len(inner(node.axes)) for node in nodes), default=0) != 2 or any(ROW in node.axes for node in nodes):
        return False
    return beyond(loops, usual) > 0


def beyond(loops: list[Loop], usual: int) -> int:
    """How many registers a thread has too few for tiles, vectors, the inputs of the next token and an address of each
    tensor that is read."""
    ahead = max(sum(_tiles(node) for node, memory in loop.loads.items() if memory.layout == TOKENS) for loop in loops)
    addresses = max(2 * len(loop.loads) for loop in loops)
    return APART + addresses + int((held_by_walk(loops, 2, VECTOR) + ahead) * usual) // WARP - REGISTERS


def relieve(walk: Walk, usual: int) -> list[Node]:
    """Turns a walk into one that holds less; returns the states that it keeps in memory from token to token."""
    found = _kept(walk, usual)
    for loop in walk.loops:
        _read_again(loop)
    if not walk.split:
        walk.saved = {node: replace(memory, dense=len(memory.dims) == 2) for node, memory in walk.saved.items()}
    walk.loop.loads |= {old: walk.room[old] for old in found}
    return found


def _kept(walk: Walk, usual: int) -> list[Node]:
    """The matrices among the states that lie in memory from token to token, as many as there are too few registers for:
    first those that are read least often. None where programs may take fewer columns, or no chunk is in memory."""
    if walk.split or walk.again is None:
        return []
    readers = {old: sum(old in reads(node) for node in walk.loop.nodes) for old in walk.room}
    return sorted(walk.room, key=readers.__getitem__)[: -(-max(beyond(walk.loops, usual), 0) // (usual // WARP))]


def _read_again(loop: Loop) -> None:
    """Params are read at every token, but not those of which something is made that is the same at all; and what the
    walk keeps of a chunk lies as its tiles do, so that they share their places."""
    changing = loop.per_token
    used = {arg for node in loop.nodes if node not in changing and node.op != "rename" for arg in reads(node)}
    for node, memory in loop.loads.items():
        if memory.layout == FIXED and memory.dims and node not in used:
            loop.loads[node] = replace(memory, layout=AGAIN)
        elif memory.layout == SCRATCH:
            loop.loads[node] = replace(memory, dense=True)
    loop.stores = [(node, replace(memory, dense=memory.layout == SCRATCH)) for node, memory in loop.stores]


def _tiles(node: Node) -> float:
    return (0, VECTOR, 1)[len(inner(node.axes))]
