"""An associative scan over the tokens of a chunk, for transitions that act elementwise.

h[t] = a[t] h[t-1] + x[t] with real, signed or complex a, and the same over (max, +) and (logsumexp, +). Products are
formed as they are, without logarithms, so a factor may be zero or negative. A state that does not read its old value
is a shift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from recc.analysis.plan import Affine, Component, Nonlinear, Plan, Reason, Semiring
from recc.ir.node import GRID, ROW, Axis, Node, dim_of
from recc.ir.ops import build, is_zero, leaf, spread
from recc.strategies.lowering import Lowering


class Scan:
    """Work-efficient, depth log T; the trajectory of one chunk exists at a time."""

    name = "scan"
    chunks = (16, 32, 64, 128, 256)  # lengths that tuning tries

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        kind = component.kind
        listing = ", ".join(component.states)
        if isinstance(kind, Nonlinear):
            return Reason(f"`scan` needs an update that is affine in the state: {kind.reason.text}", kind.reason.span)
        if isinstance(kind, Affine) and kind.structure not in ("zero", "identity", "scalar", "diagonal"):
            return Reason(
                f"`scan` needs a transition that acts elementwise, and that of {listing} is {kind.structure}",
                plan.recurrence.place(component.states[0]),
            )
        if isinstance(kind, Semiring) and kind.column is not None:
            size = dim_of(kind.column)
            return Reason(
                f"the transition of {listing} is a matrix over ({kind.kind}, +): a scan would multiply matrices, which "
                f"is {size} times the work of the loop",
                plan.recurrence.place(component.states[0]),
            )
        return None

    @staticmethod
    def cost(component: Component, plan: Plan, sizes: Mapping[Axis, int]) -> float:
        return 8 * math.prod(sizes.values())

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        (name,) = component.states
        carry = low.carry(name)
        kind = component.kind
        if isinstance(kind, Affine) and kind.structure == "zero":
            new = _on_rows(low, name, low.lift(kind.bias))
        elif isinstance(kind, Affine):
            gain, bias = low.lift(kind.decay), low.lift(kind.bias)
            new = build("scan", _filled(gain, (GRID, ROW)), _on_rows(low, name, bias), carry, kind="linear")
        else:
            assert isinstance(kind, Semiring)
            gain, bias = low.lift(kind.gain), low.lift(kind.bias)
            new = build("scan", _filled(gain, (GRID, ROW)), _on_rows(low, name, bias), carry, kind=kind.kind)
        low.table[low.leaf(name, "new")] = new
        low.table[low.leaf(name)] = build("shift", new, carry)
        low.leave(component, name, build("end", new))


def _on_rows(low: Lowering, name: str, value: Node) -> Node:
    return _filled(value, (GRID, *low.rec.state(name).axes, ROW))


def _filled(value: Node, axes: tuple) -> Node:
    """`value` along `axes`; also where it is 0, which is a number without axes elsewhere."""
    ones = leaf("ones", axes)
    return build("sub", ones, ones) if is_zero(value) else spread(value, axes)
