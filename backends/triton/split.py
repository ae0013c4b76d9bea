"""The dim along which programs share a launch, each with a block of it."""

from __future__ import annotations

from collections.abc import Collection

from recc.backends.triton.nodes import CONTRACTIONS, dims, ordered
from recc.backends.triton.steps import Launch

from recc.ir.node import Node, dim_of
from recc.tile.program import TileProgram


def split_axis(program: TileProgram) -> str | None:
    """The dim that scans are split along: their tiles have rows and all of a state's dims. It is one that the forward
    pass does not contract; where the backward pass does, blocks are summed by the host."""
    every = ordered(program.roots)
    contracted = {dim_of(axis) for node in every if node.op in CONTRACTIONS for axis in node["over"]}
    for node in every:
        if node.op in ("scan", "pair_scan"):
            free = [axis for axis in dims(node.axes) if dim_of(axis) not in contracted]
            if free:
                return dim_of(free[0])
    return None


def shared(launch: Launch, partial: Collection[Node], split: str | None) -> str | None:
    """A dim along which several programs can share a launch: no node contracts it. partial: sums of which a program
    may compute a part, over blocks of `split`, which is preferred."""
    everything = [*launch.nodes, *launch.loads, *(c.old for c in launch.walks)]
    present = {dim_of(axis) for node in everything for axis in dims(node.axes)}
    bound = {axis for axis in present if axis.startswith("@")}
    for node in launch.nodes:
        here = [dim_of(axis) for axis in dims(node.axes)]
        bound |= {dim for dim in here if here.count(dim) > 1}
        if node.op in CONTRACTIONS:
            over = {dim_of(axis) for axis in node["over"]}
            bound |= over - {split} if node in partial else over
        elif node.op in ("take", "put", "stack"):
            bound.add(dim_of(node["axis"]))
        elif node.op == "score":
            bound.add(dim_of(node["over"]))
        elif node.op == "rename":
            bound |= {dim_of(axis) for pair in node["mapping"] for axis in pair if dim_of(pair[0]) != dim_of(pair[1])}
    free = sorted(present - bound)
    return split if split in free else free[-1] if free else None
