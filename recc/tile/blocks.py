"""Affine recurrences of states that are coupled element by element: a scan whose elements are small matrices.

At each element, h[t] = A[t] h[t-1] + x[t] with A[t] a k x k matrix for k coupled states, which stand along the axis
`coupled(k)`; its columns are `column_of` it. The derivative is the same recurrence backwards with A transposed.
"""

from __future__ import annotations

from recc.ir.node import REAL, ROW, Axis, Node, make
from recc.ir.ops import OPS, STRUCTURAL, Op, add, build, dot, mul, rename
from recc.tile.ops import split_tail
from recc.tile.solve import column_of, matrix_enter


def _matrix_scan(matrix: Node, x: Node, init: Node, *, outs: tuple[Axis, ...]) -> Node:
    """All rows of h[t] = matrix[t] h[t-1] + x[t], h[-1] = init."""
    columns = {column_of(axis) for axis in outs}
    axes = [axis for arg in (matrix, x, init) for axis in arg.axes if axis not in columns]
    return make("matrix_scan", (matrix, x, init), [*axes, ROW], REAL, outs=outs)


def _matrix_sum(matrix: Node, x: Node, *, outs: tuple[Axis, ...]) -> Node:
    """The last row of matrix_scan from a state of zero."""
    columns = {column_of(axis) for axis in outs}
    axes = [axis for arg in (matrix, x) for axis in arg.axes if axis not in columns and axis != ROW]
    return make("matrix_sum", (matrix, x), axes, REAL, outs=outs)


def _vjp(h: Node, g: Node) -> tuple:
    matrix, _, init = h.args
    outs = h["outs"]
    rows, tail = split_tail(g)
    flow = build("matrix_rscan", matrix, rows, tail, outs=outs)
    before = rename(build("shift", h, init), {axis: column_of(axis) for axis in outs})
    return mul(flow, before), flow, matrix_enter(matrix, rows, tail, outs)


def leave_blocks(h: Node) -> Node:
    """end(matrix_scan(...)) without its rows: the states that leave the chunk, affine in those that enter."""
    matrix, x, init = h.args
    outs = h["outs"]
    columns = {axis: column_of(axis) for axis in outs}
    gain = build("matrix_gain", matrix, outs=outs)
    through = dot(gain, rename(init, columns), tuple(columns.values()))
    return add(through, build("matrix_sum", matrix, x, outs=outs))


OPS["matrix_scan"], STRUCTURAL["matrix_scan"] = Op("matrix_scan", 3, vjp=_vjp), _matrix_scan
OPS["matrix_sum"], STRUCTURAL["matrix_sum"] = Op("matrix_sum", 2), _matrix_sum
