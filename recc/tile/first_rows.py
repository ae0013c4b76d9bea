"""The first row of a sum of shifted tiles as a sum of rows: of each tile one row is needed, and no sum of tiles.

The cotangent of a state that delays its input is such a row. That of a delay of a delay is a sum of what the walk of
the other state leaves, which stands in a chunk's last row, and of rows that are known before either is walked.
"""

from __future__ import annotations

from dataclasses import replace

from recc.ir.node import ROW, Node, Spans, walk
from recc.ir.ops import build
from recc.tile.program import TileProgram


def first_rows(program: TileProgram) -> TileProgram:
    """The same leaving states, whose first rows are taken of terms and not of their sum."""
    spans, done = Spans(program.spans), {}

    def leaving(new: Node) -> Node:
        for node in walk(new):
            args = tuple(done[arg] for arg in node.args)
            same = node if args == node.args else build(node.op, *args, **dict(node.attrs))
            if node.op == "first" and same.args[0].op in ("add", "sub", "neg", "unshift", "put_end"):
                same = _row(same.args[0], 0)
            done[node] = spans.inherit(same, node) if same is not node else node
        return done[new]

    carries = tuple(replace(carry, new=leaving(carry.new)) for carry in program.carries)
    return replace(program, carries=carries, spans=spans)


def _row(tile: Node, at: int) -> Node:
    """Row `at` of a tile, zero where a chunk has fewer."""
    if ROW not in tile.axes:
        return tile
    if tile.op in ("add", "sub", "neg"):
        return build(tile.op, *(_row(arg, at) for arg in tile.args))
    if tile.op == "unshift":
        return _row(tile.args[0], at + 1)
    if tile.op == "put_end":
        return build("if_end", tile.args[0], at=at)
    return build("at_row", tile, at=at) if at else build("first", tile)
