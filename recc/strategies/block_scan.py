"""An associative scan over the tokens of a chunk, for a few states that are coupled element by element.

Momentum and what it moves, position and velocity: (p, s)[t] = A[t] (p, s)[t-1] + x[t] with a small matrix A[t] at each
element. Products of matrices are formed as they are, so entries may be zero or negative.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from recc.analysis.plan import Affine, Component, Plan, Reason
from recc.ir.node import COMPLEX, GRID, ROW, Axis, Node, substitute, walk
from recc.ir.ops import ZERO, build, is_zero, leaf, spread
from recc.strategies.lowering import Lowering
from recc.tile.solve import argument, column_of, coupled, of_state, slopes_of

MOST = 4  # states: a scan multiplies their matrices


class BlockScan:
    """Depth log T at the work of k x k matrices an element; the trajectory of one chunk exists at a time."""

    name = "block_scan"
    chunks = (16, 32, 64, 128, 256)  # lengths that tuning tries

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        listing, place = ", ".join(component.states), plan.recurrence.place(component.states[0])
        if not isinstance(component.kind, Affine) or not component.kind.structure.startswith("block"):
            why = f"`block_scan` is for states that are affine in each other, element by element; {listing}: "
            return Reason(why + component.class_name, place)
        states = [plan.recurrence.state(name) for name in component.states]
        if len(states) > MOST:
            return Reason(f"`block_scan` serves up to {MOST} coupled states, and {listing} are {len(states)}", place)
        if len({tuple(state.axes) for state in states}) > 1:
            return Reason(f"`block_scan` needs coupled states of one type, and {listing} differ", place)
        if any(node.dtype == COMPLEX for name in component.states for node in walk(plan.updates[name])):
            return Reason(f"`block_scan` has no complex numbers, and {listing} computes with them", place)
        return None

    @staticmethod
    def cost(component: Component, plan: Plan, sizes: Mapping[Axis, int]) -> float:
        return 8 * len(component.states) ** 2 * math.prod(sizes.values())

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        names, count = component.states, len(component.states)
        full = (GRID, *low.rec.state(names[0]).axes, ROW)
        olds = tuple(argument(name, axes=full) for name in names)
        table = dict(zip(map(low.leaf, names), olds, strict=True))
        lifted = [low.lift(low.plan.updates[name]) for name in names]
        updates = tuple(spread(value, full) for value in substitute(lifted, table, low.spans))
        bias = [_filled(value, full) for value in substitute(updates, dict.fromkeys(olds, ZERO), low.spans)]
        entries = [_filled(slope, full) for slope in slopes_of(updates, olds, None)]
        out = coupled(count)
        lines = [build("stack", *entries[i * count : (i + 1) * count], axis=column_of(out)) for i in range(count)]
        matrix, enter = build("stack", *lines, axis=out), build("stack", *map(low.carry, names), axis=out)
        trajectory = build("matrix_scan", matrix, build("stack", *bias, axis=out), enter, outs=(out,))
        for place, name in enumerate(names):
            new = of_state(trajectory, place, count)
            low.table[low.leaf(name, "new")] = new
            low.table[low.leaf(name)] = build("shift", new, low.carry(name))
            low.leave(component, name, of_state(build("end", trajectory), place, count))


def _filled(value: Node, axes: tuple[Axis, ...]) -> Node:
    """`value` along `axes`; also where it is 0, which is a number without axes elsewhere."""
    ones = leaf("ones", axes)
    return build("sub", ones, ones) if is_zero(value) else spread(value, axes)
