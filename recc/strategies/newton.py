"""Newton's method on all tokens of a window at once, for nonlinear recurrences whose Jacobian is small.

h[t] = f(h[t-1], x[t]) for all t is one system of equations. Linearised at a guess it is a linear recurrence, which is
scanned: h += d with d[t] = J[t] d[t-1] + (f(h[t-1], x[t]) - h[t]). A channel is accepted when its residual is at
rounding level; one that does not get there is finished token by token, so the result is always that of the loop. The
backward pass is one linear recurrence and never iterates. recc.tile.solve has the operation and its derivative.
"""

from __future__ import annotations

from dataclasses import replace

from recc.analysis.plan import Component, Nonlinear, Plan, Reason
from recc.ir.node import COMPLEX, GRID, HEADS, ROW, Axis, Node, Spans, dim_of, walk
from recc.ir.ops import build, is_const, spread
from recc.strategies.closed_step import ClosedStep, hand_out
from recc.strategies.lowering import Lowering
from recc.tile.program import TileProgram, valued
from recc.tile.solve import argument, column_of, slopes_of

WIDEST = 16  # rows of a dense Jacobian
MOST = 4  # states that are coupled element by element


class Newton:
    """Few dependent steps instead of one a token, at several times the work: for devices that wait on latency."""

    name = "newton"
    chunks = (64, 1024)
    WINDOW = 256  # tokens that are solved at a time, from the state that the window before left

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        kind, listing, rec = component.kind, ", ".join(component.states), plan.recurrence
        place = rec.place(component.states[0])
        if not isinstance(kind, Nonlinear):
            why = f"`newton` linearises what is not linear, and {listing} is {component.class_name} already"
            return Reason(why, place)
        states = [rec.state(name) for name in component.states]
        if any(node.dtype == COMPLEX for name in component.states for node in walk(plan.updates[name])):
            return Reason(f"`newton` solves real recurrences, and {listing} computes with complex numbers", place)
        if len({tuple(state.axes) for state in states}) > 1:
            return Reason(f"`newton` needs coupled states of one type, and {listing} differ", place)
        clipped = [n for name in component.states for n in walk(plan.updates[name]) if n.op == "clip_gradient"]
        if clipped:
            why = f"the backward pass of `newton` is linear, and gradients of {listing} are clipped"
            return Reason(why, rec.spans.get(clipped[0], place))
        if kind.jacobian == "diagonal":
            return None
        if kind.jacobian.startswith("block"):
            count = len(states)
            why = f"the Jacobian of {listing} couples {count} states, and `newton` serves up to {MOST}"
            return Reason(why, place) if count > MOST else None
        return _too_wide(component, plan, place)

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        hand_out(low, component, _trajectory(low, component))


def _too_wide(component: Component, plan: Plan, place) -> Reason | None:
    """Why a dense Jacobian is not served, if it is not."""
    listing, rec = ", ".join(component.states), plan.recurrence
    if component.structure == "dense" and any(HEADS in rec.state(name).axes for name in component.states):
        return Reason(f"the step of {listing} reaches across heads, and `newton` solves each head alone", place)
    dims = _dims(plan, component)
    if len(dims) != 1:
        return Reason(f"the Jacobian of {listing} is dense over {' x '.join(dims)}; `newton` serves vectors", place)
    size = rec.dims.get(dim_of(dims[0]))
    if size is None:
        example = f'recc.load(..., strategy="newton", {dims[0]}=8)'
        why = f"the Jacobian of {listing} is dense, and the size of {dims[0]} is not known"
        return Reason(why, place, f"fix it, to at most {WIDEST // len(component.states)}: {example}")
    width = size * len(component.states)
    if width > WIDEST:
        why = f"the Jacobian of {listing} is dense, {width} x {width}; `newton` serves up to {WIDEST} x {WIDEST}"
        return Reason(why, place)
    return None


def _dims(plan: Plan, component: Component) -> list[Axis]:
    return [axis for axis in plan.recurrence.state(component.states[0]).axes if axis != HEADS]


def _trajectory(low: Lowering, component: Component) -> Node:
    """The solution of the equations of one component, for all rows."""
    names = component.states
    updates = [low.lift(low.plan.updates[name]) for name in names]
    full = (GRID, *low.rec.state(names[0]).axes, ROW)
    states = tuple(argument(name, axes=full) for name in names)
    step = ClosedStep(low, updates, {low.leaf(name): x for name, x in zip(names, states, strict=True)})
    step.name_parts()
    return build(
        "newton",
        *(low.carry(name) for name in names),
        *step.taken,
        names=names,
        step=tuple(spread(value, full) for value in step.of(updates)),
        states=states,
        takes=tuple(step.taken.values()),
        dim=_dims(low.plan, component)[0] if _mixes(component) else None,
    )


def _mixes(component: Component) -> bool:
    return component.structure != "diagonal" and not component.structure.startswith("block")


def functions_of(program: TileProgram, node: Node) -> tuple[TileProgram, TileProgram]:
    """The step of a `newton` node, and the step with its slopes, as programs without carries: loads to stores."""
    spans = Spans(program.spans)
    step = tuple(valued(value, spans) for value in node["step"])
    loads = {leaf["name"]: leaf for leaf in (*node["states"], *node["takes"])}
    stores = dict(zip(node["names"], step, strict=True))
    axes = (*node["states"][0].axes, *([column_of(node["dim"])] if node["dim"] else []))
    found = slopes_of(step, node["states"], node["dim"])
    slopes = {f"slope_{i}": slope if is_const(slope) else spread(slope, axes) for i, slope in enumerate(found)}
    plain = replace(program, loads=loads, params={}, carries=(), stores=stores, sums={}, kept={}, spans=spans)
    return plain, replace(plain, stores={**stores, **slopes})


__all__ = ["Newton", "functions_of"]
