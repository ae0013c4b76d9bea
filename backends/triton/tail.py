"""What follows the loop of a launch, by blocks of another dim.

Sums over a loop are wide in the other dim, and what a backward pass makes of them with a decay of each channel holds a
dozen tiles of their shape. Nothing there adds up over that dim: so it is taken in blocks of few columns, and what is
there already, sums and tiles in memory that were read before, lends the columns of each block. What was computed from
such tiles is computed again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from recc.backends.triton.loops import Loop, has, sums_over
from recc.backends.triton.nodes import inner, ordered, reads
from recc.backends.triton.steps import Launch

from recc.ir.node import ROW, Node, dim_of

COLUMNS = 16  # of a block: what matrix products take


@dataclass(frozen=True)
class Tail:
    """dim: the dim of the blocks. before: what lacks it; nodes: what has it, in order; held: what is there already and
    lends columns; again: of `nodes`, what the loop needed, too."""

    dim: str
    before: list[Node]
    nodes: list[Node]
    held: list[Node]
    again: list[Node]


def tail_of(launch: Launch, parts: list[Loop], dim: str) -> Tail | None:
    """What follows the loop over `dim` by blocks; None where its tiles are few or it needs a dim whole."""
    if len(parts) != 2 or parts[-1].nodes:
        return None
    last = parts[-1].before
    scored = {dim_of(node["over"]) for node in last if node.op in ("score_rows", "score_cols")}
    if len(scored) != 1 or scored & {dim, launch.split}:
        return None
    (own,) = scored
    early = {node for node in [*parts[0].before, *parts[0].nodes] if node not in last}
    sums = {node for node in early if sums_over(node, dim)}
    before = [node for node in last if not has(node, own)]
    stops = sums | set(launch.loads) | {node for node in [*early, *before] if not has(node, own)}
    nodes = [node for node in ordered([node for node in last if has(node, own)], stops) if node not in stops]
    whole = any(has(arg, own) for node in before for arg in reads(node))
    if whole or not all(_by_column(node, own) for node in nodes):
        return None
    read = {arg for node in nodes for arg in reads(node) if has(arg, own)}
    loaded = {arg for node in early for arg in reads(node) if arg in launch.loads}
    held = [node for node in [*launch.loads, *launch.nodes] if node in read & (sums | loaded)]
    if not all(_by_column(node, own, True) for node in held):
        return None
    again = [node for node in nodes if node in early]
    return Tail(own, before, nodes, held, again)


def _by_column(node: Node, dim: str, there: bool = False) -> bool:
    """Whether a column of a node needs the same columns of its arguments alone."""
    shape = [dim_of(axis) if axis != ROW else ROW for axis in inner(node.axes)]
    return shape in ([ROW, dim], [dim]) and (there or not (sums_over(node, dim) or node.op in ("take", "put", "stack")))


def in_blocks(lines: list[str], dim: str) -> list[str]:
    """Lines about all of a dim as lines about the columns of a block."""
    names = {f"offs_{dim}": f"part_{dim}", f"in_{dim}": f"in_part_{dim}", f"BLOCK_{dim}": str(COLUMNS)}
    found = re.compile(rf"\b(?:{'|'.join(map(re.escape, names))})\b")
    return [found.sub(lambda match: names[match[0]], line) for line in lines]
