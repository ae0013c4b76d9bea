"""What launches of their own are for: each holds fewer tiles, and what one has computed passes to the next in memory.

Beside a matrix memory a layer has vectors that delay its inputs, as a short convolution does, and gates. Their
cotangents follow the memory's: the launch before their walk takes single rows of a tile, the launch after it all rows,
and both would compute all products that lead to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recc.backends.triton.nodes import CONTRACTIONS, dims, inner, is_matrix, ordered, reads, source
from recc.backends.triton.order import numbers
from recc.backends.triton.steps import KERNEL, WALK, Launch, up

from recc.ir.node import COL, ROW, Node
from recc.tile.phases import carries_of, levels
from recc.tile.program import Carry, TileProgram

if TYPE_CHECKING:
    from recc.backends.triton.schedule import Schedule


def vectors_after(program: TileProgram) -> int | None:
    """The stage after the last walk of a matrix, where walks of vectors alone follow it."""
    order = levels(program)
    found = max((at for at, level in enumerate(order, 1) if _matrices(program, level)), default=len(order))
    return found if found < len(order) else None


def vectors_before(program: TileProgram) -> list[Carry]:
    """Vectors that are known before any matrix is walked; none where no matrix follows."""
    order = levels(program)
    first = next((at for at, level in enumerate(order) if _matrices(program, level)), 0)
    return [carry for level in order[:first] for carry in carries_of(program, level)]


def handed_on(schedule: Schedule) -> tuple[dict[Node, int], set[Node]]:
    """What passes through memory, each with the slot that writes it, and what of it is there for this: tiles that
    launches after the last walk of a matrix would compute again, and those that launches between would. Where
    `schedule.handed` leaves it open, only if that moves less than what they would read, and spares products."""
    last, before = vectors_after(schedule.program), schedule.held
    if last is None or schedule.handed is False:
        return before, set()
    moved = _moved(schedule)
    for stage in range(last + 1):
        tiles = _passed(schedule, stage, depth=1 if stage == last else 2)
        schedule.held = schedule.held | {tile: up(schedule.slot[tile], KERNEL) for tile in tiles}
    found = set(schedule.held) - set(before)
    spared = any(_products(schedule, tile, set(before)) for tile in found)
    taken = schedule.handed or (spared and _moved(schedule) < moved)
    return (schedule.held, found) if taken else (before, set())


def _moved(schedule: Schedule) -> int:
    """The numbers that launches read and write for a chunk, where they have all results."""
    launches = [step for step in schedule.split_steps(apart=False) if isinstance(step, Launch)]
    return sum(numbers(node, schedule.program.chunk) for one in launches for node in (*one.loads, *one.stores))


def _passed(schedule: Schedule, stage: int, depth: int) -> list[Node]:
    """What launches after `stage` read of what is known by then, where it follows from a walk or takes `depth` products
    one after the other. Factors that are the same for all rows are taken out: several multiples of a tile are one."""
    known = {node for node in schedule.every if schedule.stage[node] <= stage and not _is_state(node)}
    roots = [node for node in (*schedule.stored, *schedule.held) if node not in known | schedule.carried]
    read = {_unscaled(node) for node in ordered(roots, known) if node in known and node not in schedule.held}
    found: list[Node] = []
    for node in schedule.every:  # those that others follow from first
        rows = {ROW, COL} & set(node.axes) and len(dims(node.axes)) < 2
        if rows and node in read and schedule.in_kernel(node):
            there = set(schedule.held).union(found)
            if _follows(schedule, node, there) or _products(schedule, node, there, matrices=depth > 1) >= depth:
                found.append(node)
    return found


def finished(schedule: Schedule, roots: list[Node]) -> tuple[list[Node], list[Node]]:
    """What a launch computes with products of tiles, and what follows from the tiles that pass without any."""
    there = schedule.passed & set(roots)
    after = []
    for node in roots:
        made = ordered([node], set(schedule.held) - {node})
        if node not in there and there & set(made) and not _products(schedule, node, set(schedule.held)):
            after.append(node)
    return [node for node in roots if node not in after], after


def elementwise(schedule: Schedule, roots: list[Node], stage: int) -> list[Node]:
    """The tiles that `roots` read which follow from walks up to `stage` place by place; not what follows from others of
    them alone."""
    made: set[Node] = set()
    for node in schedule.every:
        own = schedule.in_kernel(node) and node.op not in CONTRACTIONS and schedule.stage[node] <= stage
        if own and all(arg in made or not schedule.in_kernel(arg) for arg in reads(node)):
            made.add(node)
    wide = {node for node in made if schedule.stage[node] and _is_tile(node) and node.op != "rename"}
    read = [node for node in ordered(roots, wide) if node in wide]
    return [node for node in read if not _tiles(node) or any(tile not in read for tile in _tiles(node))]


def _tiles(node: Node) -> list[Node]:
    return [source(arg) for arg in reads(node) if _is_tile(arg)]


def _is_tile(node: Node) -> bool:
    return ROW in node.axes and bool(dims(node.axes))


def _follows(schedule: Schedule, node: Node, there: set[Node]) -> bool:
    """Whether a value in memory that a walk has written leads to a node."""
    read = ordered([node], there - {node})
    return any(one in schedule.carried or schedule.held.get(one, KERNEL) % 3 == WALK for one in read)


def _products(schedule: Schedule, node: Node, there: set[Node], matrices: bool = False) -> int:
    """How many products lead to a node, one after the other, from what is `there`. matrices: those of tiles alone."""
    deep: dict[Node, int] = {}
    for one in ordered([node], there - {node}):
        counts = one.op == "dot" and schedule.in_kernel(one) and (one is node or one not in there)
        counts = counts and (not matrices or is_matrix(one, inner(one["over"])))
        deep[one] = counts + max((deep[arg] for arg in reads(one) if arg in deep), default=0)
    return deep[node]


def _unscaled(node: Node) -> Node:
    """A tile without the factors that are the same for all of its rows, and without a transposition."""
    node = source(node)
    while node.op == "mul":
        tiles = [arg for arg in node.args if ROW in arg.axes]
        if len(tiles) != 1:
            break
        node = source(tiles[0])
    return node


def _matrices(program: TileProgram, level: int) -> bool:
    return any(len(dims(carry.old.axes)) > 1 for carry in carries_of(program, level))


def _is_state(node: Node) -> bool:
    return len(dims(node.axes)) > 1 and not {ROW, COL} & set(node.axes)
