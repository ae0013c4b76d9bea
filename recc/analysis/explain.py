"""The derivation of a recurrence, told so that a reader can follow it: for `recc explain`, and as JSON for machines.

It decides nothing: it shows what the analysis found (recc.analysis.plan), with the reason and the source line of each
fact, and what the choice of a strategy means in the spec's own names (recc.analysis.formula) and costs
(recc.analysis.work). The text for people is laid out in recc.analysis.page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recc.analysis import analyse, work
from recc.analysis.columns import Grid, grid_of
from recc.analysis.formula import FORMULAS, Writer, normal_form
from recc.analysis.moved import named_inputs
from recc.analysis.plan import Affine, Component, Frozen, Nonlinear, Plan, Reason
from recc.ir.node import HEADS, Node
from recc.ir.printer import show
from recc.ir.program import Recurrence

if TYPE_CHECKING:
    from recc.analysis.page import Page
    from recc.strategies import Choice


def explain(rec: Recurrence, plan: Plan, choice: Choice) -> Page:
    """The derivation as a rich renderable. plan: analyse(rec). choice: recc.strategies.choose(plan)."""
    from recc.analysis.page import Page

    return Page(rec, plan, choice)


def explain_json(rec: Recurrence, plan: Plan, choice: Choice) -> dict[str, Any]:
    """The machine's view. The keys named in docs/cli.md are stable; others may be added."""
    view = readable(plan)
    return {
        "recurrence": rec.name,
        "components": [_component(component, plan, choice, *view[component.states]) for component in plan.components],
        "hoisted": [_moved(name, node, rec) for name, node in plan.hoisted],
        "sunk": [_moved(name, node, rec) for name, node in plan.sunk],
        "parallel": choice.parallel,
        "chunk": choice.chunk,
        "work": _work(plan, choice),
    }


def class_of(component: Component) -> str:
    """What a component is in one phrase: `affine, diagonal + rank 1 over K`."""
    kind = component.kind
    if isinstance(kind, Affine) and kind.structure == "diagonal+rank":
        inner = "diagonal" if set(kind.decay.axes) - {HEADS} else "scalar"
        return f"affine, {inner} + rank {len(kind.ranks)} over {kind.mixing}"
    if isinstance(kind, Affine) and kind.coupled is not None:
        rank = f", rank {len(kind.coupled.ranks)}" if kind.coupled.ranks else ""
        return f"affine, {len(component.states)} coupled memories{rank} over {kind.coupled.mixing}"
    if isinstance(kind, Affine) and kind.structure == "zero":
        return "remembers its last value"
    if isinstance(kind, Nonlinear) and isinstance(kind.frozen, Frozen):
        return f"affine given the memory before each {kind.frozen.period} tokens"
    jacobian = " Jacobian" if component.class_name == "nonlinear" else ""
    return f"{component.class_name}, {component.structure}{jacobian}"


def without(rec: Recurrence, node: Node) -> dict[Node, str]:
    """The spec's names but for that of `node`, to show what stands behind it."""
    return {other: name for other, name in rec.names.items() if other is not node}


def readable(plan: Plan) -> dict[tuple[str, ...], tuple[Component, Plan]]:
    """Each component as found in the recurrence whose hoisted locals are inputs, so that formulas call them by name.

    What stands behind a name may matter (a decay that is certainly positive); where it does, the names are given up.
    """
    named = analyse(named_inputs(plan.recurrence))
    found = {component.states: component for component in named.components}
    view = {}
    for component in plan.components:
        own = found.get(component.states)
        same = own is not None and _facts(own, named) == _facts(component, plan)
        view[component.states] = (own, named) if same else (component, plan)
    return view


def _facts(component: Component, plan: Plan) -> tuple:
    kind = component.kind
    if not isinstance(kind, Affine):
        return (type(kind), component.structure, isinstance(grid_of(component, plan), Grid))
    return (
        kind.structure,
        kind.mixing,
        len(kind.ranks),
        kind.log_decay is None,
        kind.not_matrix is None,
        kind.coupled is None,
    )


def predicted(component: Component, plan: Plan, choice: Choice) -> bool:
    """Whether the cost model tells the loop over a component's tokens from a strategy for all of them at once."""
    from recc.strategies.cost import cell_of

    if choice.name(component) == "wavefront":
        return False
    nonlinear, scanned = isinstance(component.kind, Nonlinear), choice.name(component) == "scan"
    return nonlinear or (scanned and cell_of(component, plan).parallel == "scan")


def _component(component: Component, plan: Plan, choice: Choice, own: Component, view: Plan) -> dict[str, Any]:
    from recc.strategies.cost import predictions

    kind, say = component.kind, Writer(view)
    affine = isinstance(kind, Affine)
    coupled = kind.coupled if isinstance(kind, Affine) else None
    form = normal_form(own, view, say)
    formula = FORMULAS[choice.name(component)](own, view, say)
    return {
        "states": list(component.states),
        "class": component.class_name,
        "transition": component.structure,
        "rank": len((coupled or kind).ranks) if affine else None,
        "mixing_axis": (coupled or kind).mixing if affine else None,
        "strategy": choice.name(component),
        "reasons": [_reason(reason) for reason in own.reasons],
        "level": component.level,
        "time_invariant": affine and kind.time_invariant,
        "normal_form": [f"{left} = {right}" for left, right, _ in form],
        "formula": [f"{left} = {right}" for left, right, _ in formula],
        "where": [f"{left} = {right}" for left, right, _ in say.definitions()],
        **({"predicted": predictions(component, plan)} if predicted(component, plan, choice) else {}),
        "refused": [{"strategy": name} | _reason(reason) for name, reason in choice.refused[component.states]],
    }


def _reason(reason: Reason) -> dict[str, Any]:
    view: dict[str, Any] = {"text": reason.text, "line": None, "column": None}
    if reason.span is not None:
        view |= {"line": reason.span.line, "column": reason.span.col}
    return view | ({"help": reason.help} if reason.help else {})


def _moved(name: str | None, node: Node, rec: Recurrence) -> dict[str, Any]:
    span = rec.spans.get(node)
    return {"name": name, "value": show(node, without(rec, node)), "line": span.line if span else None}


def _work(plan: Plan, choice: Choice) -> dict[str, Any]:
    cost = work.work(plan, choice)
    sizes = cost.sizes(plan.recurrence.dims)
    counts = {"products": cost.products, "other": cost.other, "bytes": cost.moved, "bytes_kept": cost.kept}
    view: dict[str, Any] = {"dependent_steps": cost.depth}
    for name, count in counts.items():
        view[name] = {"per_token_and_head": str(count), "at_64": count.at(sizes)}
    return view
