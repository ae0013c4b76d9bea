"""Chunks of a memory whose gradients are taken at a copy that is renewed every so many tokens.

With the copies F given, the other states are affine (recc.analysis.frozen), and each is solved by a strategy of its
own; what reads F is computed for all tokens of a chunk at once. A chunk is no longer than the time between renewals, so
it has one start at most. Where that is its first token, F is the memory that enters the chunk. Where it may be any
token p, a run over the chunk with the F that enters, in which nothing moves from p on, gives the memory before p; the
tokens from p on read that.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace

from recc.analysis import plan as facts
from recc.analysis.plan import Affine, Component, Nonlinear, Plan, Reason
from recc.analysis.reads import Read
from recc.ir.node import BOOL, HEADS, ROW, Axis, Node
from recc.ir.ops import ONE, ZERO, build, dot, leaf, spread, where
from recc.strategies.block_scan import BlockScan
from recc.strategies.chunk import Chunk
from recc.strategies.coupled import Coupled
from recc.strategies.lowering import Lowering
from recc.strategies.scan import Scan

SOLVERS = (Chunk, Coupled, Scan, BlockScan)
TYPICAL = 64  # the size of a dim that is not fixed, to choose among solvers


class Frozen:
    """All tokens between two renewals at once, with the states of the strategies that solve what is left."""

    name = "frozen"
    chunks = (4, 8, 16, 32, 64)  # lengths that tuning tries

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        kind, listing = component.kind, ", ".join(component.states)
        place = plan.recurrence.place(component.states[0])
        if not isinstance(kind, Nonlinear) or kind.frozen is None:
            return Reason(f"`frozen` makes affine what is not, and {listing} is {component.class_name} already", place)
        if isinstance(kind.frozen, Reason):
            return Reason(f"`frozen` needs copies that are held: {kind.frozen.text}", kind.frozen.span)
        copies = ", ".join(name for name, _ in kind.frozen.copies)
        if kind.frozen.period == 1:
            return Reason(f"{copies} is renewed at every token, so every token waits for the one before", place)
        for part in kind.frozen.inner.components:
            if solver(part, kind.frozen.inner) is None:
                why = Chunk.refuses(part, kind.frozen.inner)
                assert why is not None
                return Reason(f"also with {copies} given: {why.text}", why.span)
        return None

    @staticmethod
    def cost(component: Component, plan: Plan, sizes: Mapping[Axis, int]) -> float:
        assert isinstance(component.kind, Nonlinear) and isinstance(component.kind.frozen, facts.Frozen)
        inner = component.kind.frozen.inner
        return sum(_cost(solver(part, inner), part, inner) for part in inner.components)

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        assert isinstance(component.kind, Nonlinear) and isinstance(component.kind.frozen, facts.Frozen)
        _Held(low, component, component.kind.frozen).lower()


def solver(part: Component, inner: Plan) -> type | None:
    """The cheapest strategy for what is left once the copies are given."""
    able = [strategy for strategy in SOLVERS if strategy.refuses(part, inner) is None]
    return min(able, key=lambda strategy: _cost(strategy, part, inner), default=None)


def _cost(strategy, part: Component, inner: Plan) -> float:
    axes = inner.recurrence.state(part.states[0]).axes
    return strategy.cost(part, inner, {axis: TYPICAL for axis in axes if axis != HEADS})


def longest(period: int) -> int:
    """The largest power of two in `period`, so that starts stay where they are in a chunk; of those up to it, if that
    is less than 4."""
    aligned = period & -period
    return aligned if aligned >= 4 else 1 << (period.bit_length() - 1)


class _Held:
    """The copies in a chunk, and what is computed with them."""

    def __init__(self, low: Lowering, component: Component, kind: facts.Frozen) -> None:
        self.low, self.kind, self.component = low, kind, component
        self.inner = copy.copy(low)  # which shares all but the plan
        self.inner.plan = replace(low.plan, updates={**low.plan.updates, **kind.inner.updates})
        self.entered = {name: low.carry(name) for name, _ in kind.copies}
        self.start = low.lift(kind.start)

    def lower(self) -> None:
        if self.low.aligned:
            starts, begun = build("first", self.start), None
            before = {source: self.low.carry(source) for _, source in self.kind.copies}
        else:
            count = build("cumsum", where(self.start, ONE, ZERO))
            starts, begun = build("gt", build("end", count), ZERO), build("gt", count, ZERO)
            before = self._before(build("le", count, ZERO))
        renewed = {name: where(starts, before[source], self.entered[name]) for name, source in self.kind.copies}
        self._read(self.inner, renewed, begun)
        for part in self.kind.inner.components:
            solver(part, self.kind.inner).lower(self.inner, part)
        for name, value in renewed.items():
            self.low.leave(self.component, name, value)

    def _before(self, going: Node) -> dict[str, Node]:
        """The states before the chunk's start, or at its end where it has none: nothing moves but while `going`."""
        low = copy.copy(self.inner)
        low.table, low.readers, low.carries = dict(low.table), dict(low.readers), []
        low.convolved, low.names, low.notes = set(low.convolved), dict(low.names), dict(low.notes)
        self._read(low, self.entered)
        moves = leaf("input", tuple(axis for axis in going.axes if axis == HEADS), BOOL, name="moves")
        low.table[moves] = going
        updates = {name: where(moves, value, low.leaf(name)) for name, value in self.kind.inner.updates.items()}
        low.plan = replace(low.plan, updates={**low.plan.updates, **updates})
        for part in self.kind.inner.components:
            assert isinstance(part.kind, Affine)
            solver(part, self.kind.inner).lower(low, replace(part, kind=_paused(part.kind, part.states, moves)))
        return {carry.name: carry.new for carry in low.carries}

    def _read(self, low: Lowering, copies: dict[str, Node], begun: Node | None = None) -> None:
        """Says how the copies are read: from `copies`, but as they entered the chunk until that has `begun`."""

        def chosen(value: Callable[[Node], Node], name: str) -> Node:
            now = value(copies[name])
            return now if begun is None else where(begun, now, value(self.entered[name]))

        def reader(read: Read) -> Node:
            query = spread(low.lift(read.query), (ROW, read.axis))
            return chosen(lambda held: dot(query, held, (read.axis,)), read.state["name"])

        for name in copies:
            new = low.leaf(name, "new")
            if len([axis for axis in new.axes if axis != HEADS]) > 1:
                low.readers[new] = reader
            else:
                low.table[new] = spread(chosen(lambda held: held, name), (ROW,))
        for stand, value in self.kind.given:
            low.table[stand] = low.lift(value)


def _paused(kind: Affine, names: tuple[str, ...], moves: Node) -> Affine:
    """The same states, which stay as they are at tokens that do not move."""

    def still(value: Node | None, at_rest: Node) -> Node | None:
        return value if value is None or value is at_rest else where(moves, value, at_rest)

    coupled = kind.coupled
    if coupled is not None:
        factors = tuple(
            tuple(still(factor, ONE if a == b else ZERO) for b, factor in enumerate(row))
            for a, row in enumerate(coupled.factors)
        )
        writes = tuple(replace(write, key=still(write.key, ZERO)) for write in coupled.writes)
        coupled = replace(coupled, factors=factors, writes=writes)
    return replace(
        kind,
        structure="diagonal" if kind.structure == "zero" else kind.structure,
        decay=still(kind.decay, ONE),
        log_decay=still(kind.log_decay, ZERO),
        writes=tuple(replace(write, key=still(write.key, ZERO)) for write in kind.writes),
        bias=still(kind.bias, ZERO),
        coupled=coupled,
    )
