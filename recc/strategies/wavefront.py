"""Grids along their anti-diagonals: a token is a row of cells, and cell (t, y) waits for (t-1, y) and (t, y-1) alone.

T rows of Y cells take T + Y - 1 dependent steps a chunk instead of T Y. The analysis proves the grid from the step
(recc.analysis.columns); recc.tile.grid has the operation and its derivative, which runs along the same diagonals.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from recc.analysis.columns import Grid, grid_of
from recc.analysis.plan import Component, Plan, Reason
from recc.ir.node import GRID, ROW, Axis, Node, Spans, rebuild, walk
from recc.ir.ops import build, spread
from recc.strategies.closed_step import ClosedStep, hand_out
from recc.strategies.lowering import Lowering
from recc.tile.adjoint import cotangents
from recc.tile.grid import without_rows
from recc.tile.program import TileProgram, valued
from recc.tile.solve import argument

DEPENDENT = 1e7  # the price of a dependent step, in multiply-adds


class Wavefront:
    """All cells of an anti-diagonal at once."""

    name = "wavefront"
    chunks = (32, 64, 128, 256)

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        found = grid_of(component, plan)
        if isinstance(found, Reason):
            return Reason(f"`wavefront` needs a grid of cells: {found.text}", found.span)
        return None

    @staticmethod
    def cost(component: Component, plan: Plan, sizes: Mapping[Axis, int]) -> float:
        """Work per token in multiply-adds, with the price of its share of the dependent steps."""
        columns = _grid(component, plan).columns
        return 4 * math.prod(sizes.values()) + DEPENDENT / columns

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        hand_out(low, component, _trajectory(low, component))


def _grid(component: Component, plan: Plan) -> Grid:
    found = grid_of(component, plan)
    assert isinstance(found, Grid), found
    return found


def _trajectory(low: Lowering, component: Component) -> Node:
    """The states of all cells of a chunk."""
    grid, names = _grid(component, low.plan), component.states
    updates = [low.lift(grid.updates[name]) for name in names]
    full = (GRID, *low.rec.state(names[0]).axes, ROW)
    states = tuple(argument(name, axes=full) for name in names)
    beside = tuple(argument(f"{name}_beside", axes=full) for name in names)
    leaves = [*(low.leaf(name) for name in names), *(grid.beside[name] for name in names)]
    step = ClosedStep(low, updates, dict(zip(leaves, (*states, *beside), strict=True)), along=(grid.axis,))
    step.name_parts()
    return build(
        "wavefront",
        *(low.carry(name) for name in names),
        *(spread(node, leaf.axes) for node, leaf in step.taken.items()),
        names=names,
        step=tuple(spread(value, full) for value in step.of(updates)),
        states=states,
        beside=beside,
        takes=tuple(step.taken.values()),
        axis=grid.axis,
    )


def functions_of(program: TileProgram, y: Node) -> tuple[TileProgram, TileProgram]:
    """The step of a `wavefront` node for the cells of a diagonal, and what flows from l of these cells on to those
    above and before, as programs without carries: loads to stores. Nothing has rows there."""
    spans, count = Spans(program.spans), len(y["names"])
    named = {n: name for n, name in program.names.items() if any(below.op == "argument" for below in walk(n))}
    leaves = rebuild([*y["states"], *y["beside"], *y["takes"]], without_rows)
    found = rebuild([*y["step"], *named], without_rows, spans)
    names = dict(zip(found[count:], named.values(), strict=True))
    step = [spread(value, leaves[0].axes) for value in found[:count]]
    flows = [argument(f"l_{name}", like=leaves[0]) for name in y["names"]]
    grads = cotangents(zip(step, flows, strict=True), leaves[: 2 * count]).values()
    kinds = [f"d_{kind}_{name}" for kind in ("above", "beside") for name in y["names"]]

    def function(loads: list[Node], results: Iterable[str], values: Iterable[Node]) -> TileProgram:
        stores = {name: valued(value, spans) for name, value in zip(results, values, strict=True)}
        return replace(program, loads={leaf["name"]: leaf for leaf in loads}, params={}, carries=(), stores=stores,
                       sums={}, kept={}, spans=spans, names=names)  # fmt: skip

    return function(leaves, y["names"], step), function([*leaves, *flows], kinds, grads)
