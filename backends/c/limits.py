"""Why native code does not serve a recurrence, in the spec's own names."""

from __future__ import annotations

from recc.backends.c.part import unserved

from recc.analysis.plan import Plan, Reason
from recc.ir.node import COMPLEX, HEADS, Node, walk
from recc.tile.program import TileProgram
from recc.tile.step import step_programs


def refusal(plan: Plan) -> Reason | None:
    """What native code has no form for and where the spec says it, or None where it serves."""
    rec = plan.recurrence
    for program in step_programs(plan):
        node = unserved(program)
        if node is None:
            continue
        if node.dtype != COMPLEX:
            return _across_heads(plan, program, node)
        for kind, items in (("state", rec.states), ("input", rec.inputs), ("param", rec.params)):
            for item in items:
                if item.dtype == COMPLEX:
                    text = f"{kind} `{item.name}` is complex, and native code computes with real numbers"
                    return Reason(text, item.span)
        name = rec.names.get(node)
        text = f"`{name}` is complex" if name else "a value on the way is complex"
        return Reason(f"{text}, and native code computes with real numbers", program.spans.get(node))
    return None


def _across_heads(plan: Plan, program: TileProgram, node: Node) -> Reason:
    alone = "and native code computes each head alone"
    for name, root in {**program.stores, **program.sums}.items():
        for item in (*plan.recurrence.inputs, *plan.recurrence.params):
            if name == f"d_{item.name}" and HEADS not in item.axes and node in walk(root):
                return Reason(f"the gradient of `{item.name}` is a sum over heads, {alone}", item.span)
    return Reason(f"`{node.op}` reaches across heads, {alone}", program.spans.get(node))
