"""What `recc explain` shows of memories whose gradients are taken at copies that are held: what is given, and what is
then affine, in the spec's own names."""

from __future__ import annotations

from recc.analysis.formula import FORMULAS, LIMIT, Line, Writer, normal_form
from recc.analysis.plan import Component, Frozen, Nonlinear, Plan
from recc.ir.printer import show


def frozen_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The copies; what is made of them; then each state that is left, in its normal form and as it is solved."""
    from recc.strategies.frozen import solver

    assert isinstance(component.kind, Nonlinear) and isinstance(component.kind.frozen, Frozen)
    kind = component.kind.frozen
    lines: list[Line] = []
    for name, source in kind.copies:
        remark = "" if lines else f"given, where {kind.counter}[t-1] = {kind.offset} modulo {kind.period}"
        lines.append((f"{name}[t]", f"{source} before the {kind.period} tokens that began last", remark))
    for leaf, value in kind.given:
        remark = "for all of these tokens at once" if leaf is kind.given[0][0] else ""
        names = {node: name for node, name in plan.recurrence.names.items() if node is not value}
        lines.append((leaf["name"], show(value, names, LIMIT), remark))
    inside = Writer(kind.inner)
    for part in kind.inner.components:
        form = normal_form(part, kind.inner, inside)
        strategy = solver(part, kind.inner)
        lines.append((f"{', '.join(part.states)}, by `{strategy.name}`", "", ""))
        lines += form
        lines += [line for line in FORMULAS[strategy.name](part, kind.inner, inside) if line not in form]
    return lines
