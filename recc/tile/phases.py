"""When the values of a tile program can be computed: what every backend's schedule is made from.

In the expressions of one chunk the state that enters is a leaf. What depends on no state has stage 0 and can run over
all chunks at once. The loop over the chunks of a level holds what depends on that level's entering states and what a
leaving state depends on. Afterwards those states are known for every chunk, and what depends on them can run over all
chunks at once again: stage 1, and so on.
"""

from __future__ import annotations

from recc.ir.node import Node, walk
from recc.tile.program import Carry, TileProgram


def levels(program: TileProgram) -> list[int]:
    """The levels of the program's carries, in the order of their loops."""
    return sorted({carry.level for carry in program.carries})


def stages(program: TileProgram) -> dict[Node, int]:
    """When a node can run over all chunks: 0, or after the loop of the last level that it depends on."""
    order = levels(program)
    after = {c.old: order.index(c.level) + 1 for c in program.carries}
    stage: dict[Node, int] = {}
    for node in walk(*program.roots):
        stage[node] = max((stage[arg] for arg in node.args), default=after.get(node, 0))
    return stage


def carries_of(program: TileProgram, level: int) -> list[Carry]:
    return [carry for carry in program.carries if carry.level == level]


def loop_nodes(program: TileProgram, level: int, stage: dict[Node, int]) -> list[Node]:
    """What runs inside the loop of a level: it depends on the level's carries and a leaving state depends on it."""
    own = levels(program).index(level) + 1
    leaving = (carry.new for carry in carries_of(program, level))
    return [node for node in walk(*leaving) if stage[node] == own and node.args]
