"""The launches of a tile program: what runs in which kernel, what passes through memory between them.

A value is computed by the host, as a call of torch, or in a kernel. The host gets what contracts the batch or the heads
(gradients of what they share) and products with params (projections): torch has matrix products for both. All else is
the kernels'. Slots order the steps: 3i is the host's, 3i + 1 a kernel over all chunks, 3i + 2 the kernels that walk the
chunks of a sequence in order. A kernel computes again what is cheap to compute from what lies in memory; it is handed
only what a walk would otherwise compute in its loop, and triangular inverses.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from recc.backends.torch.binding import is_static
from recc.backends.triton.ahead import computed_ahead
from recc.backends.triton.apart import elementwise, finished, handed_on, vectors_before
from recc.backends.triton.hosted import hosted
from recc.backends.triton.nodes import CONSTANT, LEAVES, dims, lies_in, ordered, places, reads, source
from recc.backends.triton.score_gradients import pairs, rows_of, solved
from recc.backends.triton.split import shared
from recc.backends.triton.steps import HOST, KERNEL, WALK, Host, Launch, Outer, alike, up

from recc.ir.node import GRID, Axis, Node, walk
from recc.tile.outer import Crossing, crossing
from recc.tile.pairs import NoPair, in_real_numbers
from recc.tile.phases import carries_of, levels, loop_nodes, stages
from recc.tile.program import Carry, TileProgram

# What a walk over chunks does not compute in its loop: small tiles that take long, and the scans of a whole chunk.
EXPENSIVE = ("inverse", "score", "score_rows", "score_cols", "scan", "rscan", "span_gain", "span_sum", "span_rsum",
             "part")  # fmt: skip
SMALL = ("inverse", "score")


class Unserved(ValueError):
    """A recurrence that this backend does not serve. `help` says what to do."""

    def __init__(self, problem: str, help: str) -> None:
        super().__init__(f"{problem}; {help}")
        self.problem, self.help = problem, help


def in_reals(program: TileProgram) -> TileProgram:
    """The program with complex values as pairs of real ones. Raises Unserved."""
    try:
        return in_real_numbers(program)
    except NoPair as error:
        raise unserved(program.name, error) from None


def unserved(name: str, error: NoPair) -> Unserved:
    """What is said of a recurrence with a complex op that kernels have no form of."""
    return Unserved(f"{name}: `{error.node.op}` of complex values has no form in real numbers", "use the torch backend")


class Schedule:
    """Steps of a program in order. `host`: what torch computes; `partial`: of it, that of which a program of a kernel
    computes its part.

    fused: one kernel walks the chunks and computes everything on the way, where nothing stands against it; otherwise
    chunks run apart as far as they can. apart: more launches, each with fewer tiles, which read again what they share.
    handed: whether tiles that launches before and after a walk would both compute pass; None: where that moves less.
    `recc.backends.triton.apart` has these, beside vectors. sizes: of the dims that have one in the spec.
    """

    def __init__(self, program: TileProgram, split: str | None, fused: bool = False, apart: bool = False,
                 handed: bool | None = None, sizes: Mapping[str, int | None] | None = None) -> None:  # fmt: skip
        self.program, self.split, self.apart, self.handed = program, split, apart, handed
        self.sizes = sizes or {}
        self.stage = stages(program)
        self.every = ordered(program.roots)
        self.carried = {carry.old for carry in program.carries}
        self.host, self.partial = hosted(self.every, self.carried, split)
        self.solved = solved(self.every)
        self.pairs = pairs(self.every, self.solved)
        self.rows = rows_of(self.every, self.pairs)
        self.slot: dict[Node, int] = {}
        self.walks: dict[int, int] = {}  # the slot of each level's loop
        self._place()
        self.given: dict[Node, int] = {}  # of those, what a walk leaves, and the level of its carries
        self.held: dict[Node, int] = {}  # values that pass through memory, and the slot that writes them
        self.stored: dict[Node, int] = {}  # results, likewise: nothing reads them again, their dtype is the caller's
        self.passed: set[Node] = set()  # of those, tiles that launches before and after a walk would both compute
        self.fused = fused and self._fusible()
        self.first = vectors_before(program) if self.fused and apart else []  # walked in a launch of its own
        self.last = WALK + 3 * bool(self.first)  # of a fused pass, the slot of the launch that computes its results
        self._hold()
        self.steps = self._fused_steps() if self.fused else self.split_steps(apart)
        for step in self.steps:
            if isinstance(step, Launch) and step.walks:
                step.outer = self._outer(step)

    def in_kernel(self, node: Node) -> bool:
        """Whether a node is computed in kernels (not read from memory, not a number, not the host's)."""
        return not (node in self.host or node.op in LEAVES or node.op in CONSTANT or is_static(node))

    # --- slots -------------------------------------------------------------------------------------------

    def _place(self) -> None:
        order = levels(self.program)
        for stage in range(len(order) + 1):
            for node in self.every:
                if self.stage[node] == stage and node not in self.slot:
                    self.slot[node] = self._slot(node)
            if stage < len(order):
                carries = carries_of(self.program, order[stage])
                body = set(loop_nodes(self.program, order[stage], self.stage))
                outside = {arg for node in body for arg in reads(node) if arg not in body}
                outside |= {c.new for c in carries if c.new not in body}
                ready = [self._after(node, WALK) for node in outside if self.stage[node] <= stage]
                at = up(max(ready, default=0), WALK)
                self.walks[order[stage]] = at
                self.slot |= {c.old: at for c in carries}
                hosted = next((node for node in body if node in self.host), None)
                if hosted is not None:
                    raise Unserved(
                        f"{self.program.name}: between the state that enters a chunk and the one that leaves stands a "
                        "product with a param, which the triton backend does not serve",
                        "use the torch backend",
                    )

    def _kind(self, node: Node) -> int | None:
        """Where a node is computed; None: nowhere, it is there from the start."""
        if node in self.carried:
            return WALK
        if node in self.host:
            return HOST
        return KERNEL if self.in_kernel(node) else None

    def _after(self, node: Node, kind: int) -> int:
        """The first slot at which a step of `kind` can read `node`."""
        own = self._kind(node)
        if own is None:
            return 0
        return self.slot[node] + (0 if own == kind and kind != WALK and node not in self.pairs | self.rows else 1)

    def _slot(self, node: Node) -> int:
        kind = self._kind(node)
        if kind is None:
            return 0
        if node in self.partial:
            return up(self.partial_slot(node) + 1, HOST)
        return up(max((self._after(arg, kind) for arg in reads(node)), default=0), kind)

    def partial_slot(self, node: Node) -> int:
        """When a kernel computes the parts of a partial sum."""
        return up(max(self._after(arg, KERNEL) for arg in reads(node)), KERNEL)

    # --- memory ------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        program = self.program
        for node in self.host:
            if node in self.partial:
                self.held[node] = self.partial_slot(node)
                continue
            for arg in reads(node):
                if self.in_kernel(arg):
                    self.held[arg] = self.slot[arg]
        self.held |= {node: self.slot[node] for node in program.kept.values() if self.in_kernel(node)}
        results = [node for whole in program.stores.values() for node, _ in self.places(whole) if self.in_kernel(node)]
        # One launch for all results, the last: what they have in common is read once.
        last = up(max((self.slot[node] for node in results), default=0), KERNEL)
        self.stored = {node: last for node in results if node not in self.host}
        if self.fused:
            self._hold_local()
            return
        self._hold_pairs()
        late = up(max((self.slot[node] + 1 for node in self.rows), default=0), KERNEL)  # one launch after them
        for level in levels(program):
            body = set(loop_nodes(program, level, self.stage))
            for node in ordered([c.new for c in carries_of(program, level)]):
                if node not in body and self._is_operand(node, body, level):
                    self._settle(node, self.walks[level])
            for node, slot in computed_ahead(self, level, body):
                self.held.setdefault(node, late if slot < late < self.walks[level] else up(slot, KERNEL))
            self._give(level, body)
        self.held, self.passed = handed_on(self)
        while True:
            launches = [step for step in self.split_steps(self.apart) if isinstance(step, Launch)]
            free = [node for node in self.every if node.op == "inverse" and node not in self.held]
            often = [node for node in free if sum(node in launch.nodes for launch in launches) > 1]
            if not often:
                return
            self.held |= {node: self.slot[node] for node in often}

    def _hold_local(self) -> None:
        """A fused pass is handed only what depends on no state and is small but takes long: triangular inverses, and
        scores that are made of the same inputs; not what an inverse alone is made of."""
        self.held, self.stored = dict.fromkeys(self.held, self.last), dict.fromkeys(self.stored, self.last)
        small = [node for node in self.every if node.op in SMALL and GRID in node.axes and self.in_kernel(node)]
        if any(node.op == "inverse" for node in small):
            local = {node for node in small if self.stage[node] == 0}
            walked = [*self.held, *self.stored, *(carry.new for carry in self.program.carries)]
            self.held |= {node: KERNEL for node in ordered(walked, local) if node in local}

    def _give(self, level: int, body: set[Node]) -> None:
        """What a walk has solved passes through memory where launches after it read it: else each of these would hold
        the inverse, and all that the system's right side is made of."""
        later = {arg for node in self.every if self.in_kernel(node) and node not in body for arg in reads(node)}
        for node in self.every:
            if node in body and node in later and node in self.solved:
                self.held[node], self.given[node] = self.walks[level], level

    def _hold_pairs(self) -> None:
        """Tiles of pairs have a launch of their own, which leaves what they are made of, too, and sums of their rows
        another: launches after it need no inverse, and no scores."""
        operands = {source(arg) for node in self.pairs for arg in node.args} & self.solved
        for group, more in ((self.pairs, operands), (self.rows, ())):
            at = max((self.slot[node] for node in group), default=0)
            self.held |= dict.fromkeys([*group, *more], at)

    def _is_operand(self, node: Node, body: set[Node], level: int) -> bool:
        carries = carries_of(self.program, level)
        return any(node in reads(user) for user in body) or any(c.new is node for c in carries)

    def _settle(self, node: Node, at: int) -> None:
        """Holds what a walk at slot `at` reads of `node`: a loop does not compute what is expensive, or a summary."""
        if not self.in_kernel(node) or self.held.get(node, at) < at:
            return
        if node.op in EXPENSIVE:
            self.held[node] = self.slot[node]
            return
        for arg in reads(node):
            self._settle(arg, at)

    # --- steps -------------------------------------------------------------------------------------------

    def split_steps(self, apart: bool) -> list[Launch | Host]:
        steps: list[Launch | Host] = []
        top = max(self.slot.values(), default=0)
        for slot in range(top + 1):
            if slot % 3 == HOST:
                nodes = [node for node in self.every if node in self.host and self.slot[node] == slot]
                steps += [Host(slot, nodes)] if nodes else []
            elif slot % 3 == KERNEL:
                roots = [node for node in self.every if slot in (self.held.get(node), self.stored.get(node))]
                steps += self._kernels(slot, roots, apart)
            else:
                for level, at in self.walks.items():
                    for carries in self._together(level) if at == slot else ():
                        own = {carry.old for carry in carries}
                        left = [node for node in self.every if self.given.get(node) == level and own & set(walk(node))]
                        steps.append(self._launch(slot, [*left, *(c.new for c in carries)], carries, left))
        return steps

    def _together(self, level: int) -> list[list[Carry]]:
        """The states of a level that share a walk: all of them, unless they come in groups that share no product."""
        carries = carries_of(self.program, level)
        groups = alike(carries)
        made = [self._launch(self.walks[level], [c.new for c in group], group, []).nodes for group in groups]
        taken = [{node for node in nodes if node.op in ("dot", *EXPENSIVE)} for nodes in made]
        common = any(one & other for at, one in enumerate(taken) for other in taken[:at])
        olds = [{c.old for c in carries} - {c.old for c in group} for group in groups]
        depends = any(old & set(walk(*(c.new for c in group))) for old, group in zip(olds, groups))
        return [carries] if common or depends else groups

    def _kernels(self, slot: int, roots: list[Node], apart: bool) -> list[Launch]:
        """The launches over all chunks that compute `roots`."""
        roots, after = finished(self, roots) if apart else (roots, [])
        launches = [self._launch(slot, group, [], group) for group in self._groups(roots, apart)]
        return [*launches, *([self._launch(slot, after, [], after, there=self.passed)] if after else [])]

    def _groups(self, roots: list[Node], apart: bool) -> list[list[Node]]:
        """What one launch computes each: everything but sums of pairs, or, `apart`, what has the same dims."""
        groups: dict[tuple, list[Node]] = {}
        rows = [node for node in roots if node in self.rows]
        if rows and len(rows) < len(roots):
            return [rows, *self._groups([node for node in roots if node not in rows], apart)]
        for node in sorted(roots, key=lambda node: not dims(node.axes)):
            key = dims(node.axes) if apart and node in self.stored else ()
            groups.setdefault(key or next(iter(groups), ()), []).append(node)
        return list(groups.values())

    def places(self, result: Node) -> list[tuple[Node, tuple[tuple[Axis, int], ...]]]:
        """The tiles of a result that kernels compute, each with its place in it."""
        found = places(result, self.sizes)
        return found if all(self.in_kernel(part) for part, _ in found) else [(result, ())]

    def _fusible(self) -> bool:
        """Whether the host stands only before and after the kernels, and no sum goes over programs."""
        between = {arg for node in self.every if self.in_kernel(node) for arg in reads(node)} & self.host
        return bool(self.carried) and not self.partial and not any(self._late(node) for node in between)

    def _late(self, node: Node) -> bool:
        """Whether a value depends on what kernels compute."""
        return any(self.in_kernel(below) or below in self.carried for below in ordered([node]))

    def _fused_steps(self) -> list[Launch | Host]:
        hosted, first, last = [node for node in self.every if node in self.host], self.first, self.last
        late = [node for node in hosted if self._late(node)]
        carries = sorted((c for c in self.program.carries if c not in first), key=lambda carry: carry.level)
        local = [node for node in self.every if self.held.get(node) == KERNEL]
        results = [node for node in self.every if last in (self.held.get(node), self.stored.get(node))]
        roots = [*results, *(carry.new for carry in carries)]
        steps: list[Launch | Host] = [Host(HOST, [node for node in hosted if node not in late])]
        steps += [self._launch(KERNEL, local, [], local)] if local else []
        if first:
            tiles = elementwise(self, roots, len({carry.level for carry in first}))
            self.held |= dict.fromkeys(tiles, WALK)
            steps.append(self._launch(WALK, [*tiles, *(carry.new for carry in first)], first, tiles))
        steps.append(self._launch(last, roots, carries, results))
        steps.append(Host(last + 1, late))
        return [step for step in steps if isinstance(step, Launch) or step.nodes]

    def is_read(self, carry: Carry) -> bool:
        """Whether a later launch reads the states that enter chunks."""
        return any(carry.old in step.loads for step in self.steps if isinstance(step, Launch))

    def _outer(self, walked: Launch) -> list[Outer]:
        """What a walk needs for outer chunks, level by level: those of a level are walked with the levels before it."""
        found = []
        for level in sorted({carry.level for carry in walked.walks}):
            crossings = [crossing(carry, self.program) for carry in walked.walks if carry.level == level]
            before = [carry for carry in walked.walks if carry.level < level]
            if any(one is None for one in crossings):
                return []
            own, dense = before + [one.carry for one in crossings], list(before)
            for one in crossings:
                if one.transition is not None:
                    (dense if one.dense else own).append(one.transition)
            found.append(
                Outer(
                    crossings,
                    self._launch(walked.slot, [c.new for c in own], own, []),
                    self._launch(walked.slot, [c.new for c in dense], dense, []) if len(dense) > len(before) else None,
                    [self._cross(walked.slot, group, crossings) for group in alike([one.carry for one in crossings])],
                )
            )
        return found

    def _cross(self, slot: int, group: list[Carry], crossings: list[Crossing]) -> Launch:
        """Takes the states of a group from outer chunk to outer chunk, where none depends on another."""
        own = [one for one in crossings if one.carry in group]
        carries = [Carry(one.carry.name, one.carry.old, one.leaving, one.carry.level) for one in own]
        tiles = [tile for one in own for tile in (one.own, one.total) if tile is not None]
        return self._launch(slot, [carry.new for carry in carries], carries, [], tiles)

    def _launch(self, slot: int, roots: list[Node], walks: list[Carry], stores: list[Node],
                tiles: list[Node] | None = None, there: Collection[Node] = ()) -> Launch:  # fmt: skip
        """tiles: what it reads that is no value of the program. there: what launches of its slot have written."""
        own = {c.old for c in walks}

        def memory(node: Node) -> bool:
            if node.op in LEAVES:
                return node not in own
            if node in self.host:
                return not (node in self.partial and self.held[node] == slot)
            return self.held.get(node, slot) < slot or node in there

        stops = {node for node in [*self.every, *(tiles or ())] if memory(node) or memory(lies_in(node)[0])}
        found = ordered(roots, stops)
        loads = [node for node in found if node in stops]
        nodes = [node for node in found if node not in stops and node not in own]
        launch = Launch(slot, nodes, loads, stores, walks)
        launch.split = shared(launch, self.partial, self.split)
        return launch
