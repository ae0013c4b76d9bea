"""The text of the loops of a core or a stage: their heads, the states that they hold, what they compute and store."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from recc.backends.c.ahead import next_token, of_strip, of_tile
from recc.backends.c.arrays import TIME, Array, block, nested, variable
from recc.backends.c.body import Body
from recc.backends.c.groups import MOVES
from recc.backends.c.loops import Loops, Target
from recc.backends.c.once import Once
from recc.backends.c.sums import Sum, onto

from recc.ir.node import SEQUENCES, Axis, Node, walk
from recc.tile.cores import REDUCTIONS
from recc.tile.program import Carry

if TYPE_CHECKING:
    from recc.backends.c.part import Part


class Writer:
    """The loops over a chunk's tokens (or, without time, once) that update `states` and compute `targets`."""

    def __init__(
        self, loops: Loops, part: Part, states: list[tuple[Carry, Array]], targets: list[Target], time: bool
    ) -> None:
        self.loops, self.part, self.states, self.targets, self.time = loops, part, states, targets, time
        self.olds = {carry.old: array for carry, array in states}
        self.made = {target.node for target in targets if target.how != "copy"}
        self.held: dict[Node, Array] = {}  # results that a later pass reads from memory
        self.index = {axis: variable(place) for place, axis in enumerate(loops.outer)}
        if loops.innermost is not None:
            self.index |= {loops.row: "i"} if loops.inner is None else {loops.row: "i", loops.inner: "b"}
        if loops.row == SEQUENCES and loops.inner is not None:  # all of them, unrolled
            self.index |= {loops.row: "0", loops.inner: "i"}
        if loops.lane is not None:
            self.index[loops.lane] = "l"
        if SEQUENCES in (*loops.outer, loops.inner) and loops.sizes(SEQUENCES) == 1:
            self.index[SEQUENCES] = "0"
        self.depth = self._depths()
        self.passes = 1 + max(
            [self.depth[t.node] - (t.node in self.made and t.node.op in REDUCTIONS) for t in targets]
            + [self.depth.get(carry.new, 0) for carry, _ in states]
            + [0]
        )
        self.totals = [target for target in targets if target.gathers and set(self.index) <= set(target.node.axes)]
        self.totals = self.totals if loops.shape == "tile" else []
        self.once = Once(self)
        one = loops.shape == "whole" and list(self.index) == [loops.lane]
        self.flat = one and self.passes == 1 and not time  # one loop over vectors

    def _depths(self) -> dict[Node, int]:
        """The pass in which a value is known: a sum over this token's values is known one pass later."""
        depth: dict[Node, int] = {}
        roots = [carry.new for carry, _ in self.states] + [target.node for target in self.targets]
        own = self.made
        for node in walk(*roots):
            level = max((depth[arg] for arg in node.args), default=0)
            if node in own and node.op in REDUCTIONS:
                level += 1
            elif node.op in ("rename", "take") and node.args[0] in own:
                level += 1
            elif node in self.olds or (self.part.array_of(node) is not None and node not in own):
                level = 0
            depth[node] = level
        return depth

    # --- loops ------------------------------------------------------------------------------------------------

    def text(self) -> list[str]:
        clear, heads, lines = self.pieces()
        return [*clear, *nested(heads, lines)]

    def pieces(self) -> tuple[list[str], list[str], list[str]]:
        """What stands before the loops, the heads of those around time, and what they contain."""
        loops = self.loops
        tokens = "for (long t = c - 1; t >= 0; t--)" if self.part.backwards else "for (long t = 0; t < c; t++)"
        body = self._tile() if loops.shape == "tile" else self._passes()
        clear, asked = self._clear(), {"tile": of_tile, "strip": of_strip}.get(loops.shape)
        fetch, before = asked(loops, self.part) if self.states and asked else ([], [])
        body = [*fetch, *body]
        heads = [self._head(axis, 1) for axis in loops.outer if loops.shape != "whole" and self.index[axis] != "0"]
        if loops.shape == "tile":
            # rows turn faster: what the tokens have along the lane stays in the first-level cache for all of them
            heads += [self._head(loops.lane, loops.vectors * loops.lanes)] if loops.lane is not None else []
            heads += [self._head(loops.row, loops.rows)] if loops.row is not None else []
            enter, leave = self._registers()
            lines = [*enter, *before, *block(tokens, body), *leave]
        elif loops.shape == "strip":
            heads += [self._head(loops.lane, loops.vectors * loops.lanes)]
            lines = [*before, *(self.once.start() if self.once else []), *block(tokens, body)]
        else:
            heads += [self._head(loops.lane, loops.vectors * loops.lanes)] if self.flat else []
            lines = block(tokens, body) if self.time else body if self.index else block("", body)
        return clear, heads, lines

    def _head(self, axis: Axis, step: int) -> str:
        name, size = self.index[axis], self.loops.sizes(axis)
        step_text = f"{name} += {step}" if step > 1 else f"{name}++"
        return f"for (long {name} = 0; {name} < {size}; {step_text})"

    def _loop(self, axis: Axis, step: int, lines: list[str]) -> list[str]:
        """`lines` for each of an axis; without a loop where there is but one sequence."""
        return block("", lines) if self.index[axis] == "0" else block(self._head(axis, step), lines)

    def _memory(self, node: Node) -> Array | None:
        return self.olds.get(node) or self.held.get(node) or self.part.array_of(node)

    def _body(self, token: str | None = None, naming: Callable[[Node], str] | None = None) -> Body:
        """token: the text of the one whose values are read, if that is not t."""
        loops, part = self.loops, self.part
        index = self.index if token is None else {**self.index, TIME: token}
        axes, texts = (loops.lane, loops.row, index), (naming or part.naming, part.arrays.get)
        depth = self.depth if loops.shape == "tile" else {}  # elsewhere the state itself comes last, from memory
        own = (self._memory, loops.sizes, loops.lanes, *axes, *texts, loops.innermost)
        return Body(*own, lambda node: depth.get(node, 0))

    # --- a tile in registers ----------------------------------------------------------------------------------

    def _each(self, node: Node) -> list[tuple[int, int]]:
        loops = self.loops
        rows = range(loops.rows if loops.row in node.axes else 1)
        vectors = range(loops.vectors if loops.lane in node.axes else 1)
        return [(r, u) for r in rows for u in vectors]

    def _registers(self) -> tuple[list[str], list[str]]:
        enter, leave = [], []
        for old, array in self.olds.items():
            for r, u in self._each(old):
                body = self._body()
                kind = "vec" if body.is_vector(old) else "real"
                name = self._register(old, r, u)
                enter.append(f"{kind} {name} = {body.load(array, old.axes, body.place(r, u), u)};")
                leave.append(body.write(array, old.axes, r, u, name))
        for target in self.totals:
            node, body = target.node, self._body()
            for r, u in self._each(node):
                name, kind = self._total(node, r, u), "vec" if self.loops.lane is not None else "real"
                enter.append(f"{kind} {name} = {body.load(target.array, node.axes, body.place(r, u), u)};")
                leave.append(body.write(target.array, node.axes, r, u, name))
        return enter, leave

    def _total(self, node: Node, r: int, u: int) -> str:
        return f"{self.part.naming(node)}_sum_{r}{u}"

    def _register(self, old: Node, r: int, u: int) -> str:
        return f"{self.part.naming(old)}_{r}{u}"

    def _tile(self) -> list[str]:
        body, inner = self._body(), self.loops.inner
        if inner is None:
            body.inside = body.before  # one scope: no row loop stands inside
        for old in self.olds:
            for r, u in self._each(old):
                body.known[body.key(old, r, u)] = self._register(old, r, u)
        for number in range(self.passes):
            self._emit(body, number, body.before, in_loop=False)
        return body.before if inner is None else [*body.before, *self._loop(inner, 1, body.inside)]

    @staticmethod
    def _whole(body: Body, carry: Carry, r: int, u: int) -> str:
        return body.vector(carry.new, r, u) if body.is_vector(carry.old) else body.value(carry.new, r, u)

    # --- passes over rows -------------------------------------------------------------------------------------

    def _passes(self) -> list[str]:
        loops, lines = self.loops, []
        body = self._body()
        inner = [loops.lane] if loops.shape == "whole" and loops.lane is not None and not self.flat else []
        self._hold()
        for node, array in self.held.items():
            if self._many(node) and array.time is None:
                lines += self._zeros(array, node)
        lines += self.once.known(body) if self.once else []
        for number in range(1 if self.once else 0, self.passes):
            if loops.shape == "whole":
                body = self._body()
            after: list[str] = []
            body.before, body.inside = [], []
            for key in [key for key in body.known if loops.innermost in key[0].axes]:
                del body.known[key]
            if loops.shape == "whole" and self.passes == 1:
                self._abreast(body)
            self._emit(body, number, after, in_loop=True)
            step = loops.rows if loops.inner is None else 1
            row = block(self._head(loops.innermost, step), body.inside) if body.inside else []
            text = [*body.before, *row, *after]
            for axis in inner:
                text = block(self._head(axis, loops.vectors * loops.lanes), text)
            if loops.shape == "whole":
                for axis in reversed(loops.outer):
                    text = self._loop(axis, 1, text)
            lines += text
        return lines

    def _hold(self) -> None:
        """Sums for a later pass lie in memory, one token at a time, where variables do not last until then: where time
        is outermost, and for each row of a strip."""
        if self.passes == 1:
            return
        read = {arg for node in self.depth for arg in node.args}
        for node in [target.node for target in self.targets if target.node.op in REDUCTIONS]:
            stored = [target.array for target in self.targets if target.node is node and target.how == "store"]
            lasts = self.loops.shape == "strip" and self.loops.row not in node.axes
            if node not in self.held and not lasts and (stored or node in read):
                room = next((array for array in stored if array is not None), None)
                name, axes = self.part.naming(node) + "s", self.part._layout(node)
                self.held[node] = room or self.part.work.array(name, axes)

    def _abreast(self, body: Body) -> None:
        """Computes what stands below the targets op by op, each for all unrolled vectors: chains that a processor can
        follow at once stand near each other."""
        seen: set[Node] = set()

        def visit(node: Node) -> None:
            if node in seen:
                return
            seen.add(node)
            own = node in self.made
            if own or (node.op not in MOVES and self._memory(node) is None):
                for arg in node.args:
                    visit(arg)
            for r, u in self._each(node):
                (body.compute if own else body.value)(node, r, u)
            if not node.args and self.loops.lane in node.axes:
                for r, u in self._each(node):
                    body.lines(node).extend(next_token(self.part, node, body.place(r, u), u * self.loops.lanes))

        if not any(target.node.op in REDUCTIONS for target in self.targets):
            for target in self.targets:
                if target.how != "copy":
                    visit(target.node)

    # --- targets ----------------------------------------------------------------------------------------------

    def _emit(self, body: Body, number: int, after: list[str], in_loop: bool) -> None:
        """One pass, element by element of the unrolled tile: all uses of an element stand together."""
        cells: list[tuple[Node, Callable[[int, int], None]]] = []
        sums: dict[Node, Sum] = {}
        for target in self.targets:
            node = target.node
            if node.op in REDUCTIONS and target.how != "copy":
                if self.depth[node] - 1 == number and node not in sums:  # several targets may want one sum
                    sums[node] = Sum(self, body, node, after, in_loop)
                    cells.append((sums[node].widest, sums[node].cell))
            elif (self.depth[node] or (self.passes - 1 if self.once else 0)) == number:
                cells.append((node, partial(self._element, body, target, after)))
        late = []
        if number == self.passes - 1:
            full = {axis for axis in (self.loops.row, self.loops.lane) if axis is not None}
            wide = [(carry, array) for carry, array in self.states if full <= set(carry.old.axes)]
            if wide:
                cells.append((wide[0][0].old, partial(self._leave, body, wide, after)))
            late = [pair for pair in self.states if pair not in wide]
        later = None
        if self.once and number == self.passes - 1:
            later = self.once.later(body, [carry for carry, _ in wide], after)
            cells.append((wide[0][0].old, later.cell))
        rows, vectors = range(self.loops.rows), range(self.loops.vectors)
        columns = self._by_columns(sums.values())
        for r, u in [(r, u) for u in vectors for r in rows] if columns else [(r, u) for r in rows for u in vectors]:
            for node, cell in cells:
                if (r, u) in self._each(node):
                    cell(r, u)
            if columns and r == rows[-1]:
                for each in sums.values():
                    each.finish_column(u)
        for each in [*sums.values(), *([later] if later else [])]:
            each.finish()
        for pair in late:  # an element of these is read by many of the tile
            for r, u in self._each(pair[0].old):
                self._leave(body, [pair], after, r, u)

    def _by_columns(self, sums: Iterable[Sum]) -> bool:
        """Whether a tile takes its rows first, so that sums over them need a register each until the next vector's
        turn, since those of all vectors would not fit beside the tile."""
        loops = self.loops
        held = loops.rows * loops.vectors * len(self.states) + sum(
            (loops.vectors if not each.over_lane else 1) * (loops.rows if not each.over_row else 1) for each in sums
        )
        return loops.shape == "tile" and held + loops.vectors > self.part.registers

    def _element(self, body: Body, target: Target, after: list[str], r: int, u: int) -> None:
        node = target.node
        text = body.number(node, body.value(node, r, u) if target.how == "copy" else body.compute(node, r, u))
        if target.array is None:
            return
        if target in self.totals:
            body.inside.append(f"{self._total(node, r, u)} += {text};")
            return
        if target.array.axes and self.loops.lane in node.axes and not body.is_vector(node):
            text = f"all({text})"
        line = body.write(target.array, node.axes, r, u, text, target.how)
        if target.how == "add":
            line = self._guarded(line, set(node.axes))
        (body.inside if self.loops.innermost in node.axes else after).append(line)

    def _leave(self, body: Body, states: list[tuple[Carry, Array]], after: list[str], r: int, u: int) -> None:
        """Writes the next states of one element, once all of them are known."""
        values = [self._whole(body, carry, r, u) for carry, _ in states]
        for (carry, array), value in zip(states, values):
            lines = body.inside if self.loops.innermost in carry.old.axes else after
            if self.loops.shape != "tile":
                lines.append(body.write(array, carry.old.axes, r, u, value))
                continue
            if len(states) > 1 and value in {self._register(other.old, r, u) for other, _ in states}:
                held = f"{value}_held"  # states that change places
                lines.insert(len(lines), f"{'vec' if body.is_vector(carry.old) else 'real'} {held} = {value};")
                values[values.index(value)] = held
        if self.loops.shape == "tile":
            for (carry, _), value in zip(states, values):
                lines = body.inside if self.loops.innermost in carry.old.axes else after
                lines.append(f"{self._register(carry.old, r, u)} = {value};")

    def _guarded(self, line: str, axes: set[Axis]) -> str:
        """What is added must be added once, however often the loops over other axes come by."""
        loops = self.loops
        steps = {axis: 1 for axis in loops.outer} | {loops.lane: loops.vectors * loops.lanes}
        if loops.shape == "tile":
            steps[loops.row] = loops.rows
        turns = [
            axis for axis, step in steps.items() if axis is not None and step < loops.sizes(axis) and axis not in axes
        ]
        return f"if ({' && '.join(f'{self.index[axis]} == 0' for axis in turns)}) {line}" if turns else line

    def _places(self, node: Node) -> list[tuple[Array, str]]:
        """Where a sum goes, and how: each turn adds its part where several complete it."""
        held = self.held.get(node)
        own = [(t.array, t.how) for t in self.targets if t.node is node and t.array not in (None, held)]
        places = [*([(held, "store")] if held is not None else []), *own]
        part = "most" if node.op == "amax" else "store" if onto(self, node) is not None else "add"
        return [(array, part if self._many(node) else how) for array, how in places]

    def _finish(self, body: Body, node: Node, found: dict, end: list[str], across: bool, kept: list[int]) -> None:
        """Names the results, and stores them."""
        loops, places = self.loops, self._places(node)
        summed = {axis for arg in node.args for axis in arg.axes}

        def guarded(line: str, how: str) -> str:
            return self._guarded(line, summed) if how == "add" else line

        if across and kept and len(kept) % 4 == 0:
            names = {}
            for first in kept[::4]:
                rows, four = kept[first : first + 4], f"{self.part.naming(node)}_four{first or ''}"
                end.append(f"four {four} = total4({', '.join(f'{found[r, 0]}' for r in rows)});")
                names |= {(r, 0): f"{four}[{r - first}]" for r in rows}
                for array, how in places:
                    if array.strides.get(loops.row) == 1:
                        address = array.at(body.place(first, 0))
                        plus = f"*(loose_four *)({address}) + " if how == "add" else ""
                        end.append(guarded(f"*(loose_four *)({address}) = {plus}{four};", how))
                    else:
                        end += [guarded(body.write(array, node.axes, r, 0, names[r, 0], how), how) for r in rows]
        else:
            names = {}
            for (r, u), text in found.items():
                name = f"{self.part.naming(node)}_{r}{u}"
                kind = "vec" if loops.lane in node.axes else "real"
                end.append(f"{kind} {name} = {f'total({text})' if across else text};")
                names[r, u] = name
                end += [guarded(body.write(array, node.axes, r, u, name, how), how) for array, how in places]
        if node not in self.held:
            for (r, u), name in names.items():
                body.known[body.key(node, r, u)] = name

    def _many(self, node: Node) -> bool:
        """Whether a sum is completed only by several turns of the loops around time."""
        loops = self.loops
        over = set(node["over"])
        if over & set(loops.outer):
            return True
        if loops.shape == "tile" and loops.row in over and loops.rows < loops.sizes(loops.row):
            return True
        return loops.lane in over and loops.vectors * loops.lanes < loops.sizes(loops.lane)

    def _clear(self) -> list[str]:
        """Zeros where sums are added up piece by piece."""
        lines = []
        for target in self.targets:
            node = target.node
            if node.op in REDUCTIONS and target.array is not None and target.how == "store" and self._many(node):
                lines += self._zeros(target.array, node)
        return lines

    def _zeros(self, array: Array, node: Node) -> list[str]:
        start = "-__builtin_inf()" if node.op == "amax" else "0"
        inner = f"*({array.at({axis: variable(n) for n, axis in enumerate(array.axes)})}) = {start};"
        lines = [inner]
        for n, axis in reversed(list(enumerate(array.axes))):
            lines = block(
                f"for (long {variable(n)} = 0; {variable(n)} < {self.loops.sizes(axis)}; {variable(n)}++)", lines
            )
        return block("for (long t = 0; t < c; t++)", lines) if array.time is not None and self.time else lines
