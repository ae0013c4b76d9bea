"""From a plan to a tile program: the step's expressions lifted over the tokens of a chunk.

A strategy solves one component: it registers, in a `Lowering`, how the component's states are read by what comes after
(a trajectory on the rows, or contractions), and the carry between chunks.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recc.analysis.plan import Component, Plan
from recc.analysis.poly import Algebra
from recc.analysis.reads import Read, rewrite
from recc.ir.node import GRID, ROW, Node, Spans, substitute, walk
from recc.ir.ops import leaf, spread
from recc.tile.program import Carry, TileProgram, state_key, tile


class Lowering:
    """Holds what each leaf of the step IR has become. rows: whether a chunk has more than one token. aligned: whether
    copies that are held for a number of tokens are renewed at the first token of a chunk or not in it."""

    def __init__(self, plan: Plan, chunk: int, aligned: bool = False) -> None:
        self.plan, self.rec, self.chunk, self.aligned = plan, plan.recurrence, chunk, aligned
        self.rows = chunk > 1
        self.table: dict[Node, Node] = {}
        self.readers: dict[Node, Callable[[Read], Node]] = {}
        self.convolved: set[Node] = set()  # the readers that take queries of any axes, the same at every token
        self.carries: list[Carry] = []
        self.names: dict[Node, str] = {}
        self.spans = Spans(self.rec.spans)
        self.notes: dict[Node, str] = {}  # what a node is, for the generated text
        self.loads = {i.name: tile(i.name, i.axes, i.dtype, self.rows) for i in self.rec.inputs}
        self.params = {p.name: leaf("param", p.axes, p.dtype, name=p.name) for p in self.rec.params}
        for declared in self.rec.inputs:
            self.table[leaf("input", declared.axes, declared.dtype, name=declared.name)] = self.loads[declared.name]

    def leaf(self, state: str, when: str = "old") -> Node:
        """The step IR's leaf for a state."""
        declared = self.rec.state(state)
        return leaf("state", declared.axes, declared.dtype, name=state, when=when)

    def carry(self, state: str) -> Node:
        """The leaf for the value with which `state` enters a chunk."""
        declared = self.rec.state(state)
        return leaf("carry", (GRID, *declared.axes), declared.dtype, name=state_key(state))

    def lift(self, node: Node) -> Node:
        """An expression of the step IR over tiles. Reads of chunked memories become what their strategy says."""
        if self.readers:
            algebra = Algebra(self.readers, self.spans)
            if algebra.variable_in(node) is not None:
                node = rewrite(node, algebra, lambda read: self.readers[read.state](read), self.convolved)
        return substitute([node], self.table, self.spans)[0]

    def leave(self, component: Component, state: str, new: Node) -> None:
        """Declares the value with which `state` leaves a chunk."""
        new = spread(new, (GRID, *self.rec.state(state).axes))
        self.carries.append(Carry(state, self.carry(state), new, component.level))

    def program(self) -> TileProgram:
        """The program, once every component is solved."""
        stores = {}
        for output in self.rec.outputs:
            axes = (GRID, *output.axes, *((ROW,) if self.rows else ()))
            stores[output.name] = spread(self.lift(output.value), axes)
        named = [(self._quiet(node), name) for node, name in self.rec.names.items()]
        names = {node: name for node, name in named if node is not None} | self.names
        return TileProgram(
            self.rec.name,
            self.chunk,
            self.loads,
            self.params,
            tuple(self.carries),
            stores,
            names=names,
            notes=self.notes,
            spans=self.spans,
            source=(Path(self.rec.path).name, *self.rec.text.splitlines()),
        )

    def _quiet(self, node: Node) -> Node | None:
        """What a named local has become, if it does not read a chunked memory."""
        if any(below in self.readers for below in walk(node)):
            return None
        return substitute([node], self.table)[0]


def lower(plan: Plan, strategies: dict[tuple[str, ...], object], chunk: int, aligned: bool = False) -> TileProgram:
    """The tile program of `plan`, each component by the strategy given for it. aligned: see Lowering."""
    lowering = Lowering(plan, chunk, aligned)
    for component in plan.components:
        strategies[component.states].lower(lowering, component)  # type: ignore[attr-defined]
    return lowering.program()
