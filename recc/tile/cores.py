"""When each value of a step is computed: before the loop over tokens, in it, or after it.

A *core* is a loop over the tokens of a chunk that carries states; states that depend on each other share one. Around
the cores stand *stages*, loops over the tokens that carry nothing: stage s runs before core s. What has the shape of
the state is never stored for every token: it is computed where it is used, in the core.
"""

from __future__ import annotations

from dataclasses import dataclass

from recc.ir.node import GRID, HEADS, Axis, Node, walk
from recc.tile.program import Carry, TileProgram

REDUCTIONS = ("dot", "sum", "amax")
INVARIANT = -1  # the stage of what is the same at every token


def dims(node: Node) -> tuple[Axis, ...]:
    """A node's axes within one task, which is one head of one sequence."""
    return tuple(axis for axis in node.axes if axis not in (GRID, HEADS))


def span(node: Node) -> frozenset[Axis]:
    """The axes of the loops that compute a node: its own, and those that it sums over."""
    return (
        frozenset(axis for part in (node, *node.args) for axis in dims(part))
        if node.op in REDUCTIONS
        else frozenset(dims(node))
    )


@dataclass(frozen=True, eq=False)
class Core:
    """carries: the states of the loop. axes: those of its widest values. feedback: what the next states depend on, in
    the order of its computation, which the order of the text comes from."""

    carries: tuple[Carry, ...]
    axes: frozenset[Axis]
    feedback: dict[Node, None]

    @property
    def consumed(self) -> list[Node]:
        """Reductions whose results the next states depend on: they split a token's work into passes."""
        return [node for node in self.feedback if node.op in REDUCTIONS]

    @property
    def coupled(self) -> set[Axis]:
        """Axes along which the elements of the state depend on each other within a token, or from one to the next."""
        found = {axis for node in self.consumed for axis in node["over"]}
        for node in self.feedback:
            if node.op == "rename":
                found |= {axis for pair in node["mapping"] for axis in pair}
            if node.op in ("take", "put"):
                found.add(node["axis"])
        return found

    @property
    def uneven(self) -> bool:
        """Whether a state lacks an axis of the loops: elsewhere than outermost, time would advance it once a turn."""
        return any(frozenset(dims(carry.old)) != self.axes for carry in self.carries)

    @property
    def moves(self) -> bool:
        """Whether an element reads another's place: then the state must lie in memory as a whole."""
        return any(node.op in ("rename", "take") for node in self.feedback)


class Phases:
    """The cores of a program in order, and for each node its owner: a core, or the number of a stage.

    late: tiles that are there only once the first core's loops come to them.
    """

    def __init__(self, program: TileProgram, late: frozenset[Node] = frozenset()) -> None:
        self.program, self.late = program, late
        self.cores = _cores(program)
        self.homes = {carry.old: core for core in self.cores for carry in core.carries}
        self.roots = [*program.stores.values(), *program.sums.values(), *program.kept.values()]
        self.nodes = list(walk(*(c.new for core in self.cores for c in core.carries), *self.roots))
        self.adopted = self._adopted()
        self.stage = self._stages()
        self.inside = self._inside()

    def owner(self, node: Node) -> Core | int:
        return self.inside.get(node, self.stage[node])

    def _stages(self) -> dict[Node, int]:
        stage: dict[Node, int] = {}
        for node in self.nodes:
            if node in self.homes:
                stage[node] = self.cores.index(self.homes[node]) + 1
            elif node.op == "tile":
                stage[node] = int(node in self.late)
            elif node in self.adopted:
                stage[node] = self.cores.index(self.adopted[node]) + 1
            else:
                stage[node] = max((stage[arg] for arg in node.args), default=INVARIANT)
        return stage

    def _adopted(self) -> dict[Node, Core]:
        """Sums of values as wide as a core's that neither it nor a core before it waits for: they join the core rather
        than pass over such values once more."""
        awaited: set[Node] = set()
        found: dict[Node, Core] = {}
        for core in self.cores:
            awaited.update(walk(*(c.new for c in core.carries)))
            if len(core.axes) < 2:
                continue
            olds = {c.old for c in core.carries}
            live = {node for node in self.nodes if self._depends(node, olds)}  # the core computes of it what it can
            awaited.update(walk(*(arg for node in live if span(node) == core.axes for arg in node.args)))
            for node in self.nodes:
                if node.op in ("sum", "dot") and span(node) == core.axes and node not in awaited | live:
                    if not any(below in found for below in walk(node)):
                        later = {c.old for other in self.cores[self.cores.index(core) + 1 :] for c in other.carries}
                        if not any(below in later for below in walk(node)):
                            found.setdefault(node, core)
        return found

    def _inside(self) -> dict[Node, Core]:
        """What a core computes: its feedback, and what has its shape and depends on its states."""
        inside: dict[Node, Core] = {**self.adopted, **self.homes}
        for place, core in enumerate(self.cores):
            olds = {c.old for c in core.carries}
            live = {node for node in self.nodes if self._depends(node, olds)}
            for node in self.nodes:
                if node in core.feedback and node in live:
                    inside[node] = core
                elif node in live and self.stage[node] == place + 1 and node not in inside and node.args:
                    own = [arg for arg in node.args if arg in live]
                    ready = all(
                        arg in self.homes or (inside.get(arg) is core and arg.op not in REDUCTIONS) for arg in own
                    )
                    wide = any(frozenset(dims(arg)) == core.axes for arg in node.args)  # else its factors are kept
                    if ready and wide and span(node) == core.axes and node.op not in ("rename", "take"):
                        inside[node] = core
        return inside

    def _depends(self, node: Node, olds: set[Node]) -> bool:
        if not hasattr(self, "_below"):
            self._below: dict[Node, set[Node]] = {}
            for each in self.nodes:
                below = {each} if each in self.homes else set()
                self._below[each] = below.union(*(self._below[arg] for arg in each.args))
        return bool(self._below[node] & olds)


def _cores(program: TileProgram) -> list[Core]:
    """Carries that depend on each other share a core; those that others depend on come first."""
    carries = {c.old: c for c in program.carries}
    needs = {c.old: {below for below in walk(c.new) if below in carries} | {c.old} for c in program.carries}
    while True:
        wider = {old: set().union(*(needs[other] for other in others)) for old, others in needs.items()}
        if wider == needs:
            break
        needs = wider
    cores, done = [], set()
    while len(done) < len(carries):
        for old in sorted(carries, key=lambda old: -len(dims(old))):  # wide ones first: they can take more along
            group = [other for other in carries if other in needs[old] and old in needs[other]]
            if old in done or not needs[old] <= done | set(group):
                continue
            done |= set(group)
            members = tuple(carries[other] for other in group)
            olds = set(group)
            feedback, live = {}, set(olds)
            for node in walk(*(c.new for c in members)):
                if any(arg in live for arg in node.args):
                    live.add(node)
                    feedback[node] = None
            axes = frozenset().union(*(dims(c.old) for c in members), *(span(node) for node in feedback))
            cores.append(Core(members, axes, feedback))
    return cores
