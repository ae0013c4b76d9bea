"""Why a component runs token by token, in one sentence about its mathematics."""

from __future__ import annotations

from recc.analysis.plan import Affine, Component, Plan, Reason, Semiring
from recc.ir.node import HEADS, dim_of
from recc.strategies.newton import Newton
from recc.strategies.scan import Scan

_COST = "to join tokens is to multiply such matrices, which is more work than the steps themselves"


def hindrance(component: Component, plan: Plan) -> Reason:
    """What stands in the way of a parallel form of `component`, which the sequential strategy runs."""
    rec, listing = plan.recurrence, ", ".join(component.states)
    cause = component.reasons[0]
    match component.kind:
        case Semiring():
            return Scan.refuses(component, plan) or cause
        case Affine():
            why = f"{listing} is affine, with a full matrix that changes at every token; {_COST}"
            return Reason(why, rec.place(component.states[0]))
    if Newton.refuses(component, plan) is None:
        effect = "the Jacobian is as small as the state, so `newton` can solve all tokens at once, but it iterates, and"
        effect += " pays only where few channels wait for many tokens"
    else:
        axes = [axis for name in component.states for axis in rec.state(name).axes if axis != HEADS]
        dims = ", ".join(dict.fromkeys(map(dim_of, axes)))
        effect = f"the Jacobian is a full matrix over {dims}; {_COST}"
    return Reason(f"{cause.text}, and {effect}", cause.span)
