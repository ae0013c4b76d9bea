"""The strategies, and the choice among them: refuse with a reason, compare costs, lower."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recc.analysis.plan import Affine, Component, Nonlinear, Plan, Reason
from recc.ir.node import HEADS, dim_of
from recc.strategies import cost
from recc.strategies.block_scan import BlockScan
from recc.strategies.chunk import Chunk
from recc.strategies.convolution import Convolution
from recc.strategies.coupled import Coupled
from recc.strategies.frozen import Frozen, longest
from recc.strategies.lowering import lower
from recc.strategies.newton import Newton
from recc.strategies.scan import Scan
from recc.strategies.sequential import Sequential
from recc.strategies.wavefront import Wavefront
from recc.tile.program import TileProgram

STRATEGIES = {
    strategy.name: strategy
    for strategy in (Chunk, Coupled, Scan, BlockScan, Convolution, Frozen, Wavefront, Newton, Sequential)
}
TYPICAL = 64  # the size assumed for a dim when costs are compared


class Refused(Exception):
    """A strategy was asked for that cannot serve the recurrence; `reason` says why and where."""

    def __init__(self, strategy: str, component: Component, reason: Reason) -> None:
        states = ", ".join(component.states)
        where = f" (line {reason.span.line})" if reason.span else ""
        advice = f"; {reason.help}" if reason.help else ""
        super().__init__(f"strategy `{strategy}` cannot solve {states}{where}: {reason.text}{advice}")
        self.strategy, self.component, self.reason = strategy, component, reason


@dataclass(frozen=True)
class Choice:
    """The strategy of each component, and for each why the others were not taken.

    starts: (a count of tokens, its value modulo the chunk) where copies that are held are renewed, so that a chunk that
    begins there has its start at its first token or nowhere; None without such copies, or where they are several.
    """

    strategies: dict[tuple[str, ...], type]
    refused: dict[tuple[str, ...], tuple[tuple[str, Reason], ...]]
    chunk: int
    starts: tuple[str, int] | None = None

    def name(self, component: Component) -> str:
        return self.strategies[component.states].name

    @property
    def parallel(self) -> bool:
        return self.chunk > 1


def choose(
    plan: Plan,
    strategy: str | None = None,
    chunk: int | None = None,
    shape: cost.Shape | None = None,
    among: Iterable[str] = tuple(STRATEGIES),
) -> Choice:
    """The cheapest strategy for each component, or `strategy` where it was asked for. Raises Refused.

    A component that is too small for the strategy asked for (a delay under `chunk`) keeps its own choice. If one
    component needs the sequential strategy, the recurrence runs token by token. A chunk is no longer than the tokens
    for which the strategy `frozen` finds a copy held. shape: what is solved where, which decides between Newton's
    method and the loop; by default many channels on a CPU, where the loop is faster. among: the strategies that the
    backend has a form for.
    """
    chosen, refused = {}, {}
    for component in plan.components:
        reasons = {name: STRATEGIES[name].refuses(component, plan) for name in among}
        open_to = [name for name, reason in reasons.items() if reason is None]
        chosen[component.states] = STRATEGIES[_cheapest(open_to, component, plan, shape or cost.Shape())]
        refused[component.states] = tuple((name, reason) for name, reason in reasons.items() if reason is not None)
    _share_scores(plan, chosen, refused)
    if strategy is not None:
        _force(plan, strategy, chosen, refused)
    if any(s is Sequential for s in chosen.values()):
        chosen = dict.fromkeys(chosen, Sequential)
        return Choice(chosen, refused, 1)
    held = [c.kind.frozen for c in plan.components if chosen[c.states] is Frozen]
    chunk = min([chunk or _default_chunk(plan, chosen), *(longest(kind.period) for kind in held)])
    starts = {(kind.counter, kind.offset % chunk) for kind in held if kind.period % chunk == 0}
    return Choice(chosen, refused, chunk, starts.pop() if len(starts) == len(held) == 1 else None)


def _default_chunk(plan: Plan, chosen: dict) -> int:
    """Tokens in a chunk. The triangular systems of a rank grow with its square, which moves the optimum down; a window
    of Newton's method is longer, as its dependent steps are what it saves."""
    if Newton in chosen.values() and Chunk not in chosen.values():
        return Newton.WINDOW
    chunked = [c.kind for c in plan.components if chosen[c.states] is Chunk]
    ranked = any(isinstance(kind, Affine) and kind.ranks for kind in chunked)
    return 32 if ranked or Coupled in chosen.values() else 64


def _share_scores(plan: Plan, chosen: dict, refused: dict) -> None:
    """A state with the transition of a chunked memory (its normaliser, say) is one more column of it: its scores,
    decays and systems are there already, and only a column's work is added."""

    def transition(component: Component) -> tuple | None:
        kind = component.kind
        return (kind.decay, kind.ranks, kind.mixing) if isinstance(kind, Affine) and not kind.coupled else None

    memories = {transition(c) for c in plan.components if chosen[c.states] is Chunk}
    for component in plan.components:
        if transition(component) in memories and "chunk" not in dict(refused[component.states]):
            chosen[component.states] = Chunk


def _force(plan: Plan, strategy: str, chosen: dict, refused: dict) -> None:
    served = False
    first: Refused | None = None
    for component in plan.components:
        reason = dict(refused[component.states]).get(strategy)
        if reason is None:
            chosen[component.states] = STRATEGIES[strategy]
            served = True
        elif not _concerns(strategy, component):
            if chosen[component.states] is Sequential:  # which would make all of it run token by token
                first = first or Refused(strategy, component, reason)
        elif _is_memory(component) or STRATEGIES[strategy] is Scan:
            first = first or Refused(strategy, component, reason)
    if first is not None or (not served and plan.components):
        component = plan.components[0]
        raise first or Refused(strategy, component, dict(refused[component.states])[strategy])


def _concerns(strategy: str, component: Component) -> bool:
    """Whether a strategy for one kind of component has this kind: it leaves others to their own choice."""
    if strategy in (Newton.name, Frozen.name):
        return isinstance(component.kind, Nonlinear)
    if strategy == Wavefront.name:
        return isinstance(component.kind, Nonlinear) or component.structure == "dense"
    return strategy != BlockScan.name or component.structure.startswith("block")


def _is_memory(component: Component) -> bool:
    """Whether a component holds more than a helper of another (a stabiliser, a delay)."""
    return not (isinstance(component.kind, Affine) and component.kind.structure == "zero") and component.class_name in (
        "affine",
        "nonlinear",
    )


def _cheapest(open_to: list[str], component: Component, plan: Plan, shape: cost.Shape) -> str:
    if Frozen.name in open_to:
        return Frozen.name
    if isinstance(component.kind, Nonlinear) and Wavefront.name not in open_to:
        return cost.prefers(cost.cell_of(component, plan), shape) if Newton.name in open_to else Sequential.name
    return min(open_to, key=lambda name: _cost(name, component, plan))


def _cost(name: str, component: Component, plan: Plan) -> float:
    axes = plan.recurrence.state(component.states[0]).axes
    sizes = {axis: plan.recurrence.dims.get(dim_of(axis)) or TYPICAL for axis in axes if axis != HEADS}
    return STRATEGIES[name].cost(component, plan, sizes)


__all__ = ["STRATEGIES", "Choice", "Refused", "TileProgram", "choose", "lower"]
