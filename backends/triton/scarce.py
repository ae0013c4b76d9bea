"""What a walk over tokens does where a thread has no registers for what is there at a time.

Params are read at every token; no input is loaded early, and no address is held for all tokens; what lies in memory is
loaded again for its next reader; sums over blocks of tokens wait in memory, and so do states, matrices first, and then
the terms of these sums; a number is computed as soon as it can be, and a sum of tiles once both are there; products of
matrices stand in loops of their own, so that no warp holds what others hold, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from recc.backends.triton.memory import AGAIN, FIXED, SCRATCH, TOKENS, Memory
from recc.backends.triton.nodes import CONTRACTIONS, inner, ordered, reads
from recc.backends.triton.pressure import APART, REGISTERS, VECTOR, WARP, held_by_walk
from recc.backends.triton.statements import Loop, Walk

from recc.ir.node import GRID, HEADS, ROW, Axis, Node, dim_of


def crowded(loops: list[Loop], usual: int) -> bool:
    """Whether a thread of a walk has no registers for what is there at a time. usual: elements of the widest tile
    that a warp holds."""
    states = [old for loop in loops for old, _ in loop.states]
    nodes = [*states, *(node for loop in loops for node in (*loop.nodes, *loop.loads))]
    widest = max((len(inner(node.axes)) for node in nodes), default=0)
    narrow = widest > 2 and all(len(inner(old.axes)) < widest for old in states)  # programs may take fewer columns
    if widest < 2 or narrow or any(ROW in node.axes for node in nodes):
        return False
    return beyond(loops, usual) > 0


def unknown_zero(turn: int = 0) -> str:
    """A zero that no compiler knows to be one, at each token, or one more of them. What it is added to is computed at
    every token, and anew after every turn: a thread would otherwise hold what the addresses of all tensors have from
    token to token, or from one load of a tensor to the next."""
    return f"still = ({f't * {turn + 1}' if turn else 't'} & (sequences >> 31)) * 16"


def kept_apart(loop: Loop) -> set[Node]:
    """The products of matrices at each token, where some lead to others."""
    products = {node for node in loop.nodes if node.op == "dot"} & loop.per_token
    ahead: set[Node] = set()  # what a product follows from
    for node in reversed(loop.nodes):
        if node in products or node in ahead:
            ahead.update(reads(node))
    return products if products & ahead else set()


def beyond(loops: list[Loop], usual: int) -> int:
    """How many registers a thread has too few for tiles, vectors, the inputs of the next token and an address of each
    tensor that is read."""
    ahead = max(sum(_tiles(node) for node, memory in loop.loads.items() if memory.layout == TOKENS) for loop in loops)
    addresses = max(2 * len(loop.loads) for loop in loops)
    return APART + addresses + int((held_by_walk(loops, 2, VECTOR) + ahead) * usual) // WARP - REGISTERS


def spared(loops: list[Loop], usual: int) -> int:
    """Elements of the widest tile that a warp may hold, so that a thread has registers for what is there at a time."""
    while usual > WARP and beyond(loops, usual) > 0:
        usual //= 2
    return usual


def may_share(walk: Walk) -> bool:
    """Whether programs of a walk without registers to spare may share a second dim: of a state of three."""
    wide = any(len(inner(old.axes)) > 2 for loop in walk.loops for old, _ in loop.states)
    return wide and len(walk.shared) == 1


def relieve(walk: Walk, usual: int) -> tuple[dict[Node, Memory], dict[Node, Memory]]:
    """Turns a walk into one that holds less. Returns where the states lie that it keeps in memory from token to token,
    and where the terms of a chunk's sums do. Not for rows of sequences, whose states lie in memory row by row."""
    _set_aside(walk, usual)
    for loop in walk.loops:
        _dense(loop)
    if not walk.split:
        walk.saved = {node: replace(memory, dense=len(memory.dims) == 2) for node, memory in walk.saved.items()}
    walk.loop.loads |= walk.room
    walk.loop.stores += walk.terms.items()
    _put_together(walk)
    return walk.room, walk.terms


def _put_together(walk: Walk) -> None:
    """What the walk itself keeps lies in one tensor for all that have the same leading axes, matrices first, so that
    one address leads to all."""
    own = [memory for memory in (*walk.loop.loads.values(), *walk.terms.values()) if memory.dense]
    after: dict[tuple[str, ...], list[Memory]] = {}
    new: dict[Memory, Memory] = {}
    for memory in sorted(own, key=lambda memory: -len(memory.dims)):
        before = after.setdefault((memory.layout, *memory.leads), [])
        begin = " + ".join(" * ".join(map(dim_of, one.dims)) or "1" for one in before)
        new[memory] = replace(memory, within=before[0].name, begin=begin) if before else memory
        before.append(memory)
    for loop in walk.loops:
        loop.loads = {node: new.get(memory, memory) for node, memory in loop.loads.items()}
        loop.stores = [(node, new.get(memory, memory)) for node, memory in loop.stores]
    walk.room = {node: new.get(memory, memory) for node, memory in walk.room.items()}
    walk.terms = {node: new.get(memory, memory) for node, memory in walk.terms.items()}


def sizes_in_one(nodes: list[Node], size: Callable[[Axis], str]) -> list[str]:
    """The sizes of a tensor in which the values of `nodes` lie one behind the other, in whole vectors of memory; of one
    node, its own."""
    if len(nodes) == 1:
        return [size(axis) for axis in nodes[0].axes if axis != GRID]
    own = (" * ".join(map(size, inner(node.axes))) or "1" for node in nodes)
    return ["heads"] * (HEADS in nodes[0].axes) + [f"triton.cdiv({' + '.join(own)}, 16) * 16"]


def _set_aside(walk: Walk, usual: int) -> None:
    """Leaves in `walk.room` the states that lie in memory from token to token, and in `walk.terms` the sums whose terms
    do until a chunk is done, as many as there are too few registers for: first matrices, of these those that are read
    least often. None where programs may take fewer columns, or no chunk is in memory."""
    readers = {old: sum(old in reads(node) for node in walk.loop.nodes) for old in walk.room}
    left = 0 if walk.split or walk.again is None else max(beyond(walk.loops, usual), 0)
    found = []
    for node in [*sorted(walk.room, key=lambda old: (-len(inner(old.axes)), readers[old])), *walk.terms]:
        found += [node] if left > 0 else []
        left -= int(_tiles(node) * usual) // WARP
    walk.room = {node: replace(memory, dense=True) for node, memory in walk.room.items() if node in found}
    walk.terms = {node: replace(memory, dense=True) for node, memory in walk.terms.items() if node in found}


def params_late(loop: Loop) -> None:
    """Params are read at every token, when they are needed, but not those of which something is made that is the same
    at all."""
    changing = loop.per_token
    used = {arg for node in loop.nodes if node not in changing and node.op != "rename" for arg in reads(node)}
    for node, memory in loop.loads.items():
        if memory.layout == FIXED and memory.dims and node not in used:
            loop.loads[node] = replace(memory, layout=AGAIN)


def _dense(loop: Loop) -> None:
    """What the walk keeps of a chunk lies as its tiles do, so that they share their places."""
    for node, memory in loop.loads.items():
        if memory.layout == SCRATCH:
            loop.loads[node] = replace(memory, dense=len(memory.dims) <= 2)
    loop.stores = [
        (node, replace(memory, dense=memory.layout == SCRATCH and len(memory.dims) <= 2))
        for node, memory in loop.stores
    ]


def numbers_first(nodes: list[Node], loads: Iterable[Node]) -> list[Node]:
    """What a token computes, in an order in which a number comes as soon as the vectors that it is made of are there:
    it takes one register where they would wait for it in several."""
    pending, there = dict.fromkeys(nodes), set[Node]()
    numbers = [node for node in nodes if not inner(node.axes)]

    def emit(node: Node) -> Node:
        there.update((node, *reads(node)))
        del pending[node]
        return node

    def due(number: Node) -> list[Node]:
        """What is still to be computed for a number, if no more than elementwise steps: neither a load nor a sum."""
        left = [node for node in ordered([number], there) if node not in there]
        late = any(node in loads or (node.args and node not in pending) for node in left)
        wide = any(len(inner(node.axes)) > 1 or (node.op in CONTRACTIONS and node is not number) for node in left)
        return [] if late or wide else left

    found = []
    for node in nodes:
        if node in pending:
            found.append(emit(node))
            for number in [number for number in numbers if number in pending]:
                found += [emit(one) for one in due(number) if one in pending]
    return found


def _tiles(node: Node) -> float:
    return (0, VECTOR, 1)[len(inner(node.axes))]
