"""A recurrence with the gradient of its recurrent path clipped: the same values, another backward pass."""

from __future__ import annotations

from dataclasses import replace

from recc.ir.node import COMPLEX, Spans, substitute
from recc.ir.ops import build, const, leaf
from recc.ir.program import Recurrence


def clipped(rec: Recurrence, limit: float) -> Recurrence:
    """`rec` where each element of the gradient that a state hands to the token before is cut to [-limit, limit].

    Past values of inputs, `x[t-n]`, are no recurrent path and stay as they are. Raises ValueError for a limit that is
    not positive and for complex states, whose elements have no order.
    """
    if not limit > 0:
        raise ValueError(f"the limit of a clipped gradient must be positive, not {limit}")
    spans, table = Spans(rec.spans), {}
    for state in rec.states:
        if state.dtype == COMPLEX:
            raise ValueError(f"{rec.name}: state `{state.name}` is complex: its gradient cannot be clipped by element")
        if not state.delay:
            old = leaf("state", state.axes, state.dtype, name=state.name, when="old")
            table[old] = build("clip_gradient", old, const(limit))
    nodes = list(dict.fromkeys([*rec.updates.values(), *(output.value for output in rec.outputs), *rec.names]))
    new = dict(zip(nodes, substitute(nodes, table, spans), strict=True))
    return replace(
        rec,
        outputs=tuple(replace(output, value=new[output.value]) for output in rec.outputs),
        updates={name: new[update] for name, update in rec.updates.items()},
        names={new[node]: name for node, name in rec.names.items()},
        spans=spans,
    )
