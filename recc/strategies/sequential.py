"""Token by token: serves every recurrence. What does not read the state still runs in parallel before and after."""

from __future__ import annotations

import math
from collections.abc import Mapping

from recc.analysis.plan import Component, Plan, Reason
from recc.ir.node import Axis
from recc.strategies.lowering import Lowering


class Sequential:
    """One dependent step a token; the backward pass recomputes states from checkpoints."""

    name = "sequential"
    chunks: tuple[int, ...] = ()  # it has none

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        return None

    @staticmethod
    def cost(component: Component, plan: Plan, sizes: Mapping[Axis, int]) -> float:
        """Work per token in multiply-adds, with the price of a dependent step on top."""
        return 4 * math.prod(sizes.values()) + 1e7

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        for name in component.states:
            low.table[low.leaf(name)] = low.carry(name)
        for name in component.states:
            new = low.lift(low.plan.updates[name])
            low.table[low.leaf(name, "new")] = new
            low.leave(component, name, new)
