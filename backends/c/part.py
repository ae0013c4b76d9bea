"""The C text of a program over the tokens of one chunk: its stages and cores, one after the other."""

from __future__ import annotations

import re
from collections.abc import Iterable

from recc.backends.c.arrays import Array, Workspace, block, copied
from recc.backends.c.body import has_text
from recc.backends.c.groups import MOVES, grouped, inline_reads
from recc.backends.c.loops import Loops, Target
from recc.backends.c.tidy import core_comment, notes, stage_comment
from recc.backends.c.vectors import has_form
from recc.backends.c.writer import Writer

from recc.ir.node import BOOL, SEQUENCES, Axis, Node, walk
from recc.tile.cores import INVARIANT, REDUCTIONS, Core, Phases, dims, span
from recc.tile.program import Carry, TileProgram

_CHEAP = (
    "add",
    "sub",
    "mul",
    "neg",
    "where",
    "real",
    "conj",
    "stopgrad",
    "put",
    "lt",
    "le",
    "gt",
    "ge",
    "eq",
    "ne",
    "ones",
)


class Part:
    """Prints one program. leaves: where inputs, params and states lie. results: where stores and sums go, by name.

    backwards: tokens run from the last of a chunk to the first. `once` holds the lines for a task's start, `lines`
    those for a chunk of `c` tokens. lanes: the axis that vectors run along, for states where that is settled.
    finished: what another part has computed before. loops: of the only core, and they are left to the caller, who
    shares them with another part: `before` holds the lines up to the core, `pieces` the core, `lines` what follows.
    late: loads that the other part computes in those loops. saved: the text of where each state lies that the next
    chunk starts from, and its elements, if it was saved and lies in one piece. near: where inputs lie of which another
    part has read the chunk's tokens before. staggered: the loop over vectors of the only core is left to the caller,
    who has another chunk's tokens take turns with those of this one.
    """

    def __init__(
        self,
        program: TileProgram,
        work: Workspace,
        leaves: dict[Node, Array],
        results: dict[str, Array],
        chunk: int,
        registers: int,
        prefix: str = "",
        backwards: bool = False,
        lanes: dict[str, Axis | None] | None = None,
        finished: dict[Node, Array] | None = None,
        loops: Loops | None = None,
        late: frozenset[Node] = frozenset(),
        saved: dict[str, tuple[str, int]] | None = None,
        near: frozenset[str] = frozenset(),
        staggered: bool = False,
    ) -> None:
        self.program, self.work, self.chunk, self.registers = program, work, chunk, registers
        self.prefix, self.backwards, self.lanes, self.saved = prefix, backwards, lanes or {}, saved or {}
        self.finished, self.loops, self.near, self.staggered = finished or {}, loops, near, staggered
        self.phases = Phases(program, late)
        self.arrays: dict[Node, Array] = dict(leaves)
        self.copies: dict[tuple[Node, Axis | None], Array] = {}  # by the axis that is contiguous
        self.results, self.states = results, leaves
        self.used: dict[str, int] = {}
        self.names: dict[Node, str] = {}
        self.stored: dict[Node, Array] = {}
        self.once: list[str] = []
        self.lines: list[str] = []
        self.targets: dict[Core | int, list[Target]] = {}
        self._plan()
        self._print()

    # --- names ------------------------------------------------------------------------------------------------

    def naming(self, node: Node) -> str:
        """A C name: what the spec calls a value, else one after its op."""
        if node not in self.names:
            wish = self.program.names.get(node) or (node["name"] if node.op in ("tile", "param", "carry") else node.op)
            self.names[node] = self.fresh(wish)
        return self.names[node]

    def fresh(self, wish: str) -> str:
        wish = self.prefix + (re.sub(r"\W", "_", wish) or "x")
        self.used[wish] = self.used.get(wish, 0) + 1
        return wish + "_" if self.used[wish] == 1 else f"{wish}{self.used[wish]}_"

    # --- what lies in memory ----------------------------------------------------------------------------------

    def _plan(self) -> None:
        """Finds what must be stored, by whom it is computed, and in which order."""
        self.order = {node: place for place, node in enumerate(self.phases.nodes)}
        self.wanted: dict[Node, None] = {}
        self.visited: set[tuple[Node, Core | int]] = set()
        self.aside: dict[Core, list[Node]] = {
            core: self._aside(core) for core in self.phases.cores if self.loops_of(core).shape == "whole"
        }
        for core in self.phases.cores:
            for carry in core.carries:
                self._visit(carry.new, core)
        gathered = set(self.program.sums.values())
        for node in self.phases.roots:
            if (
                node in gathered
                and len(set(dims(node)) - {SEQUENCES}) > 1
                and not isinstance(self.phases.owner(node), Core)
            ):
                self._factors(node)
            if node.args:
                self._root(node)
            else:
                self._visit(node, self.phases.owner(node))
        for node in sorted(self.wanted, key=self.order.__getitem__):
            self._place(node)
        for name, node in self.program.stores.items():
            self._result(name, node, "store")
        for name, node in self.program.kept.items():
            self._result(name, node, "store")
        for name, node in self.program.sums.items():
            self._result(name, node, "add")
        for core, nodes in self.aside.items():
            for node in nodes:
                if node not in self.stored:
                    self.stored[node] = self.work.array(self.naming(node) + "s", self._layout(node))
                    self.targets.setdefault(core, []).append(Target(node, self.stored[node]))

    def _root(self, node: Node) -> None:
        """A result is written where it goes; it takes room of its own only if others read it."""
        owner = self.phases.owner(node)
        for arg in node.args:
            self._argument(node, arg, owner)

    def _factors(self, node: Node) -> None:
        """Of a wide value that is added up over tokens, each narrower factor is computed once a token."""
        for arg in node.args:
            if dims(arg) == dims(node):
                self._factors(arg)
            elif arg.args:
                self._visit(arg, -2)

    def _aside(self, core: Core) -> list[Node]:
        """What a core with time outermost keeps in memory within a token: what wider loops read, sums, and what is
        read at another place."""
        own = [node for node in self.phases.nodes if self.phases.owner(node) is core and node.args]
        found = {node for node in own if node.op in REDUCTIONS}
        for node in own:
            wide = span(node) | set(dims(node))
            for arg in node.args:
                there = arg.op in MOVES and (not arg.args[0].args or arg.args[0] in found)  # is read where it lies
                if self.phases.owner(arg) is core and arg.args and not there:
                    if set(dims(arg)) < wide or node.op in MOVES:
                        found.add(arg)
        return [node for node in own if node in found]

    def _want(self, node: Node) -> None:
        if node in self.wanted:
            return
        self.wanted[node] = None
        for arg in node.args:
            self._argument(node, arg, self.phases.owner(node))

    def _visit(self, node: Node, owner: Core | int) -> None:
        """Looks for values that `owner` needs in memory to compute `node`."""
        if (node, owner) in self.visited:
            return
        self.visited.add((node, owner))
        if node in self.phases.homes:
            if self.phases.owner(node) is not owner:
                self.wanted.setdefault(node)
            return
        if node.op in ("const", "size", "ones", "iota", "eye", "task"):
            return
        if not node.args:
            self._leaf(node, owner)
        elif self._inlined(node, owner) or (isinstance(owner, Core) and self.phases.owner(node) is owner):
            for arg in node.args:
                self._argument(node, arg, owner)
        else:
            self._want(node)

    def _argument(self, node: Node, arg: Node, owner: Core | int) -> None:
        moved = node.op in ("rename", "take")
        if moved and arg not in self.phases.homes and arg.op not in ("tile", "param"):
            self._want(arg)
        else:
            self._visit(arg, owner)

    def _leaf(self, node: Node, owner: Core | int) -> None:
        """Inputs that a wider loop reads again and again are copied to the workspace; params, if they are matrices."""
        again = isinstance(owner, Core) and frozenset(dims(node)) < owner.axes and dims(node)
        again = again and owner not in self.aside
        if (again and node.op == "tile" and self.arrays[node].base.endswith("_at")) or (
            node.op == "param" and len(dims(node)) > 1
        ):
            self.wanted.setdefault(node)

    def _inlined(self, node: Node, owner: Core | int) -> bool:
        if node.op in REDUCTIONS:
            return False
        if node.dtype == BOOL:  # what lies in memory are numbers
            return True
        home = self.phases.owner(node)
        if isinstance(owner, Core):
            if home is owner:
                return True
            if self.loops is not None and home == 1:  # what is late, and only needed within the loops
                return True
            early = isinstance(home, int) and home <= self.phases.cores.index(owner)
            return early and home != INVARIANT and span(node) == owner.axes and node.op not in ("rename", "take")
        if home != owner:
            return False
        return node.op in _CHEAP or self._users(node) < 2

    def _users(self, node: Node) -> int:
        if not hasattr(self, "_count"):
            self._count: dict[Node, int] = {}
            for each in self.phases.nodes:
                for arg in each.args:
                    self._count[arg] = self._count.get(arg, 0) + 1
        return self._count.get(node, 0)

    def _place(self, node: Node) -> None:
        """Storage and a target for a wanted node."""
        owner = self.phases.owner(node)
        axes = self._layout(node)
        invariant = owner == INVARIANT
        there = self.finished.get(node)
        if there is not None and there.axes == axes and (there.time is None) == invariant:
            self.stored[node] = there
            return
        array = self.work.array(self.naming(node) + "s", axes, None if invariant else self.chunk)
        self.targets.setdefault(owner, []).append(Target(node, array, along=self._along(node)))
        self.stored[node] = array

    def _along(self, node: Node) -> Axis | None:
        """The axis that a stage's sum goes over, if a state that it reads lies in memory along it: vectors along any
        other one would be gathered number by number."""
        if node.op not in ("dot", "sum") or isinstance(self.phases.owner(node), Core):
            return None
        arrays = [self.arrays.get(arg) for arg in node.args if arg.op == "tile"]
        last = {array.axes[-1] for array in arrays if array is not None and len(array.axes) > 1}
        found = [axis for axis in last if axis in node["over"] and self.work.size(axis) >= self.work.lanes]
        return found[0] if len(last) == 1 and found and SEQUENCES not in span(node) else None

    def _layout(self, node: Node) -> tuple[Axis, ...]:
        """The order of a stored value's axes: last the one along which its readers run."""
        axes = dims(node)
        for core in self.phases.cores:
            if len(axes) > 1 and set(axes) <= core.axes:
                lane = self.loops_of(core).lane
                if lane in axes:
                    return (*(a for a in axes if a != lane), lane)
        return axes

    def _result(self, name: str, node: Node, how: str) -> None:
        owner = self.phases.owner(node)
        owner = 0 if owner == INVARIANT else owner  # the same at every token, and yet stored or added at every token
        self.targets.setdefault(owner, []).append(Target(node, self.results[name], how))

    def reads(self) -> frozenset[str]:
        """Where the inputs lie that it reads."""
        loads = (self.arrays.get(node) for node in self.program.loads.values() if node in self.order)
        return frozenset(array.base for array in loads if array is not None)

    def loops_of(self, core: Core) -> Loops:
        if self.loops is not None:
            return self.loops
        if not hasattr(self, "_loops"):
            self._loops: dict[Core, Loops] = {}
        if core not in self._loops:
            lane, work = self.lanes.get(core.carries[0].name), self.work
            self._loops[core] = Loops.of_core(core, self.phases, work.size, work.lanes, self.registers, lane)
        return self._loops[core]

    def array_of(self, node: Node) -> Array | None:
        return self.stored.get(node) or self.arrays.get(node)

    # --- text -------------------------------------------------------------------------------------------------

    def _print(self) -> None:
        self.once += self._stage(INVARIANT, time=False)
        for place, core in enumerate(self.phases.cores):
            self.lines += self._stage(place)
            core_lines = self._core(core)  # which may set aside what stands before it
            self.lines += core_lines
        self.lines += self._stage(len(self.phases.cores))

    def _stage(self, number: int, time: bool = True) -> list[str]:
        lines: list[str] = []
        targets = self._in_order(self.targets.get(number, []))
        for target in (target for target in targets if target.node.op == "param"):
            lines += copied(target.array, self.arrays[target.node], self.work.size, self.work.lanes)
        for group in grouped(target for target in targets if target.node.op != "param"):
            own = (node for target in group for node in walk(target.node) if self.phases.owner(node) == number)
            lines += [*notes(self.program, own), *self._group(group, time)]
        return [stage_comment(number, self.phases.cores, self.backwards), *lines] if lines else []

    def _in_order(self, targets: list[Target]) -> list[Target]:
        return sorted(targets, key=lambda target: self.order.get(target.node, -1))

    def _group(self, group: list[Target], time: bool, states: Iterable[tuple[Carry, Array]] = ()) -> list[str]:
        near = 1 if time else max(2, self.registers // 8)
        parts = Loops.held_at_once(group, self.work.size, self.registers)
        if len(parts) > 1:
            return [line for part in parts for line in self._group(part, time)]
        loops = Loops.of_stage(group, self.work.size, self.work.lanes, self.registers, near)
        writer = Writer(loops, self, list(states), group, time)
        if self.staggered and states:
            self.pieces = [], *writer.pieces()
            return []
        return writer.text()

    def _core(self, core: Core) -> list[str]:
        targets = self.targets.get(core, [])
        states = [(carry, self.arrays[carry.old]) for carry in core.carries]
        loops, own = self.loops_of(core), [node for node in self.phases.nodes if self.phases.owner(node) is core]
        said = [core_comment(core, loops, self.backwards), *notes(self.program, [*(c.new for c, _ in states), *own])]
        if core in self.aside:
            lines = [*said, *self._token(core, states, targets)]
            if not self.staggered:
                return lines
            self.before, self.pieces, self.lines = self.lines, (said, *self.pieces[1:]), []
            return []
        present = {target.node for target in targets}
        targets = targets + [Target(node, None) for node in core.consumed if node not in present]
        writer = Writer(loops, self, states, targets, True)
        if self.loops is None:
            return [*said, *writer.text()]
        self.before, self.pieces, self.lines = self.lines, (said, *writer.pieces()), []
        return []

    def _token(self, core: Core, states: list[tuple[Carry, Array]], targets: list[Target]) -> list[str]:
        """The loop over tokens of a core that has time outermost: groups of loops like those of a stage.

        A state is overwritten by the last group that reads it, if that reads it at no other place; else its next value
        waits aside until the token's end.
        """
        finished = {
            new for new in (carry.new for carry, _ in states) if new in self.stored and new not in core.feedback
        }
        nexts = {c.old: Target(c.new, array, "copy" if c.new in finished else "store") for c, array in states}
        groups = grouped(self._in_order([*targets, *nexts.values()]))
        made = {target.node for group in groups for target in group}
        copies, places, outside = [], {}, dict(self.stored)
        for place, group in enumerate(groups):
            places |= {(target.node, target.array): place for target in group}
        ready: dict[int, list[tuple[Carry, Array]]] = {}
        for carry, array in states:
            target, axes = nexts[carry.old], frozenset(dims(carry.old))
            place = places[target.node, target.array]
            spot = groups[place].index(target)
            later = any(carry.old in inline_reads(t.node, made)[0] for group in groups[place + 1 :] for t in group)
            here = [t.node for t in groups[place]]
            moved = any(carry.old in inline_reads(node, made)[1] for node in here)
            if later or moved or any(span(node) | set(dims(node)) != axes for node in here) or not carry.new.args:
                aside = self.work.array(self.fresh("next"), array.axes)
                groups[place][spot] = Target(carry.new, aside, target.how)
                copies += copied(array, aside, self.work.size)
                self.stored.setdefault(carry.new, aside)
            else:
                groups[place][spot] = Target(carry.new, None, target.how)
                self.stored.setdefault(carry.new, array)
                ready.setdefault(place, []).append((carry, array))
        lines = [line for n, group in enumerate(groups) for line in self._group(group, False, ready.get(n, []))]
        self.stored = outside
        order = "long t = c - 1; t >= 0; t--" if self.backwards else "long t = 0; t < c; t++"
        return block(f"for ({order})", [*lines, *copies])


def ops_of(programs: Iterable[TileProgram]) -> set[str]:
    """The ops that occur, for the functions that a file needs."""
    return {node.op for program in programs for node in walk(*program.roots)}


def unserved(program: TileProgram) -> Node | None:
    """A node that this backend has no text for, if there is one."""
    return next((n for n in walk(*program.roots) if not (n.op in REDUCTIONS or has_text(n.op) or has_form(n.op))), None)
