"""Rows of cells, each of which waits for the cell above and the cell before it on the row, along anti-diagonals.

`wavefront` finds s[t, y] = f(s[t-1, y], s[t, y-1], x[t, y]) for coupled states s_1 .. s_k, all cells of one t + y at a
time. Its derivative runs along the diagonals from the last to the first: with A = df/d(above) and B = df/d(beside),

    l[t, y] = A[t+1, y]^T l[t+1, y] + B[t, y+1]^T l[t, y+1] + g[t, y],        d x[t, y] = (df/dx)^T l[t, y]

`wavefront_flow` finds l; what flows into x and into the states that enter follows from it for all cells at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from recc.ir.node import REAL, ROW, Node, make, substitute
from recc.ir.ops import OPS, STRUCTURAL, Op, build, is_zero, leaf, spread
from recc.tile.adjoint import cotangents
from recc.tile.solve import coupled, of_state


def _of_cells(name: str) -> Callable[..., Node]:
    """The builder of both. names: of the states. step: one expression a state. states, beside, takes: the leaves in it
    for the cell above, the cell before, and what it reads. axis: of the columns.

    args of `wavefront`: the states that enter, then what the step reads. Of `wavefront_flow`: the states above and
    before each cell, what the step reads, and g of each state."""

    def construct(*args: Node, names: tuple[str, ...], states: tuple[Node, ...], **attrs: Any) -> Node:
        axes = [*states[0].axes, *([coupled(len(names))] if len(names) > 1 else [])]
        return make(name, args, axes, REAL, names=names, states=states, **attrs)

    return construct


def _vjp_wavefront(y: Node, g: Node) -> tuple:
    count = len(y["names"])
    enter, taken = y.args[:count], y.args[count:]
    after = [of_state(y, i, count) for i in range(count)]
    before = [build("shift", now, init) for now, init in zip(after, enter, strict=True)]
    beside = [build("beside", now, axis=y["axis"]) for now in after]
    parts = [of_state(spread(g, y.axes), i, count) for i in range(count)]
    flow = build("wavefront_flow", *before, *beside, *taken, *parts, **dict(y.attrs))
    seeds = [of_state(flow, i, count) for i in range(count)]
    grads = cotangents(zip(y["step"], seeds, strict=True), (*y["states"], *y["takes"]))
    table = dict(zip((*y["states"], *y["beside"], *y["takes"]), (*before, *beside, *taken), strict=True))
    values = substitute(grads.values(), table)
    return (*(value if is_zero(value) else build("first", value) for value in values[:count]), *values[count:])


def without_rows(node: Node) -> Node | None:
    """What a leaf of the step is for the cells of a diagonal, each column of which has a row of its own; else None."""
    axes = tuple(axis for axis in node.axes if axis != ROW)
    if node.op == "argument":
        return leaf("argument", axes, node.dtype, name=node["name"])
    return leaf("ones", axes) if node.op == "ones" else None


OPS["wavefront"] = Op("wavefront", -1, vjp=_vjp_wavefront)
OPS["wavefront_flow"] = Op("wavefront_flow", -1)
STRUCTURAL |= {name: _of_cells(name) for name in ("wavefront", "wavefront_flow")}
OPS["beside"] = Op("beside", 1)  # columns moved on by one along `axis`, 0 in the first
STRUCTURAL["beside"] = lambda a, *, axis: make("beside", (a,), a.axes, REAL, axis=axis)
