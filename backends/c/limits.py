"""Why native code does not serve a recurrence, in the spec's own names."""

from __future__ import annotations

from recc.backends.c.part import unserved

from recc.analysis.plan import Plan, Reason
from recc.tile.pairs import NoPair
from recc.tile.step import step_programs


def refusal(plan: Plan) -> Reason | None:
    """What native code has no form for and where the spec says it, or None where it serves."""
    rec = plan.recurrence
    try:
        programs = step_programs(plan)
    except NoPair as problem:
        return Reason(f"`{problem.node.op}` has no form for complex values", rec.spans.get(problem.node))
    for program in programs:
        node = unserved(program)
        if node is not None:
            return Reason(f"`{node.op}` has no form in C", program.spans.get(node))
    return None
