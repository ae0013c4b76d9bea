"""What a walk over chunks reads of what is known before it, in place of computing it in its loop.

Products with states that are there before a walk, those that the forward pass has kept or an earlier walk has left, run
over all chunks at once; only what they lead to passes through memory. The walk then has few tiles beside its state, and
often a dim that nothing in it contracts, along which programs share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from recc.backends.triton.nodes import dims, ordered

from recc.ir.node import COL, ROW, Node
from recc.tile.phases import carries_of, levels
from recc.tile.program import Carry

if TYPE_CHECKING:
    from recc.backends.triton.schedule import Schedule


def computed_ahead(schedule: Schedule, level: int, body: set[Node]) -> Iterator[tuple[Node, int]]:
    """What the walk of `level`, whose loop computes `body`, reads of such products, each with the first slot at which
    it can be computed. A walk of vectors after that of a matrix reads what any products of tiles lead to, as far as no
    later walk adds to it."""
    program, order = schedule.program, levels(schedule.program)
    before = [at for at in order if at < level and any(map(_is_matrix, carries_of(program, at)))]
    carries = carries_of(program, level)
    vectors = bool(before) and not any(map(_is_matrix, carries))
    stage = order.index(before[-1]) + 1 if vectors else order.index(level)
    slot = schedule.walks[before[-1]] if vectors else 0
    later = {node for node in schedule.every if schedule.stage[node] > stage or node in body or _is_state(node)}
    for node in ordered([carry.new for carry in carries], set(schedule.every) - later):
        if node in later or not schedule.in_kernel(node):
            continue
        found = ordered([node], set(schedule.held))
        products = [one for one in found if (one.op == "dot" or one in schedule.given) and schedule.in_kernel(one)]
        if any(vectors or any(map(_is_state, one.args)) for one in products):
            yield node, max(slot, schedule.slot[node])


def _is_matrix(carry: Carry) -> bool:
    """Whether a state is a matrix."""
    return len(dims(carry.old.axes)) > 1


def _is_state(node: Node) -> bool:
    """Whether a tile is a matrix without rows."""
    return len(dims(node.axes)) > 1 and not {ROW, COL} & set(node.axes)
