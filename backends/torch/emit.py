"""A tile program as the text of one torch function: phases over all chunks, and a loop where a state is carried.

The phases are derived. What depends on no carry runs first, over all chunks at once. Then, level by level, a loop
over the chunks with only the operations between a state that enters and the one that leaves; afterwards the entering
states of all chunks are known, and what depends on them again runs over all chunks at once.
"""

from __future__ import annotations

import keyword
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from recc.backends.torch.text import Text, inlinable, is_static

from recc.ir.names import free_name
from recc.ir.node import COL, GRID, HEADS, ROW, Axis, Node, dim_of, walk
from recc.tile.phases import carries_of, levels, loop_nodes, stages
from recc.tile.program import SOLVED, Carry, TileProgram
from recc.tile.solve import count_of
from recc.tile.words import Words

WIDTH = 72  # longest expression that is printed in line
_LEAVES = ("tile", "param", "carry", "argument")


def function(program: TileProgram, name: str, doc: str) -> str:
    """`def name(spans, end, loads, params, carries)`, returning stores, sums, states leaving and entering."""
    return _Function(program, name, doc).text()


def argument_place(program: TileProgram, leaf: str) -> int:
    """Which of a function's tensors is the leaf of this name."""
    return [node["name"] for node in _leaves(program)].index(leaf)


def _leaves(program: TileProgram) -> list[Node]:
    return [*program.loads.values(), *program.params.values(), *(c.old for c in program.carries)]


def step_function(program: TileProgram, name: str, doc: str) -> str:
    """The program of one token, C = 1, as a plain function of inputs, params and states: the decode step."""
    writer = _Function(program, name, doc)
    return writer.straight()


def identifier(name: str) -> str:
    """A spec's name as a Python name that clashes with nothing in a generated file."""
    name = re.sub(r"\W", "_", name)
    taken = {
        "torch",
        "F",
        "math",
        "like",
        "spans",
        "end",
        "lo",
        "hi",
        "n",
        "rows",
        "heads",
        "put",
        "scan",
        "score",
        "shift",
    }
    return f"{name}_" if keyword.iskeyword(name) or name in taken else name


class _Function:
    def __init__(self, program: TileProgram, name: str, doc: str) -> None:
        self.program, self.name, self.doc = program, name, doc
        self.levels = levels(program)
        self.stage = stages(program)
        self.words = Words(program)
        self.users = self._count_users()
        self.roots = set(program.roots)
        self.operands = self._loop_operands()  # computed once, before the loop that takes its parts
        self.variables: dict[Node, str] = {}  # what has a name over all chunks
        self.used: set[str] = set()
        self.lines: list[str] = []
        self.leaves = _leaves(program)
        for leaf in self.leaves:
            self._claim(leaf, identifier(leaf["name"]))

    # --- analysis of the program ---------------------------------------------------------------------------

    def _count_users(self) -> dict[Node, int]:
        count: dict[Node, int] = {}
        for node in walk(*self.program.roots):
            for arg in node.args:
                count[arg] = count.get(arg, 0) + 1
        for root in self.program.roots:
            count[root] = count.get(root, 0) + 1
        return count

    def _loop_operands(self) -> set[Node]:
        operands: set[Node] = set()
        for level in self.levels:
            carries = carries_of(self.program, level)
            inside = set(loop_nodes(self.program, level, self.stage))
            operands |= {arg for node in inside for arg in node.args if arg not in inside}
            operands |= {c.new for c in carries if c.new not in inside}
        return operands

    # --- names ---------------------------------------------------------------------------------------------

    def _claim(self, node: Node, wish: str) -> str:
        name = free_name(wish, self.used)
        self.used.add(name)
        self.variables[node] = name
        return name

    # --- text ------------------------------------------------------------------------------------------------

    def text(self) -> str:
        batched = self._needed_over_all_chunks()
        self._header()
        for place in range(len(self.levels) + 1):
            self._batched(place, batched)
            if place < len(self.levels):
                self._loop(self.levels[place])
        self._footer()
        return self._finished()

    def _finished(self) -> str:
        """The lines, without what nothing uses: sizes, and operands that only a derivative asks for."""
        lines = self.lines
        while True:
            words = Counter(re.findall(r"\w+", "\n".join(line for line in lines if not _is_comment(line))))
            dead = [
                place
                for place, line in enumerate(lines)
                if (name := _assigned(line)) and words[name] == 1 + _own(line, name)
            ]
            if not dead:
                return "\n".join(lines) + "\n"
            for place in reversed(dead):
                while _is_comment(lines[place - 1]) and "over " not in lines[place - 1]:
                    place -= 1
                    del lines[place]
                del lines[place]

    def straight(self) -> str:
        self._header(step=True)
        for node in self._order(set(self.stage)):
            self._assign(node, self.variables, "    ")
        parts = [self._result(node, "    ") for node in self.program.stores.values()]
        parts += [self._result(c.new, "    ") for c in self.program.carries]
        self.lines.append(f"    return ({', '.join(parts)},)")
        return self._finished()

    def _header(self, step: bool = False) -> None:
        arguments = [self.variables[leaf] for leaf in self.leaves]
        first = [] if step else ["spans", "end"]
        self.lines += _wrapped(f"def {self.name}(", [*first, *arguments], "):")
        self.lines.append(f'    """{self.doc}"""')
        self.lines.append(f"    like = {self._like()}")
        if step:
            self.lines.append("    end = None")
        sizes = self._size_lines()
        self.lines += [f"    {line}" for line in sizes]

    def _like(self) -> str:
        leaf = next((leaf for leaf in self.leaves if leaf.dtype == "real"), self.leaves[0])
        name = self.variables[leaf]
        return name if leaf.dtype == "real" else f"{name}.real"

    def _size_lines(self) -> Iterator[str]:
        text = " ".join(str(node.attrs) + str(node.axes) for node in walk(*self.program.roots))
        wanted: dict[Axis, str] = {}
        for leaf in self.leaves:
            for place, axis in enumerate(leaf.axes):
                key = axis if axis in (GRID, HEADS, ROW) else dim_of(axis)
                if key not in wanted and key in text and count_of(key) is None:
                    wanted[key] = f"{self._size(key)} = {self.variables[leaf]}.shape[{place}]"
        yield from wanted.values()

    def _size(self, axis: Axis) -> str:
        if axis in (ROW, COL):
            return "rows"
        if count_of(axis) is not None:
            return str(count_of(axis))
        return {GRID: "n", HEADS: "heads"}.get(axis) or f"dim_{dim_of(axis)}"

    def _needed_over_all_chunks(self) -> set[Node]:
        """Nodes that some phase over all chunks computes: for a store or sum, or as an operand of a loop."""
        program = self.program
        wanted = (*program.stores.values(), *program.sums.values(), *program.kept.values(), *self.operands)
        return set(walk(*wanted))

    def _order(self, nodes: set[Node]) -> list[Node]:
        return [node for node in walk(*self.program.roots) if node in nodes]

    def _batched(self, place: int, batched: set[Node]) -> None:
        """The operations over all chunks of one phase: those whose last carry is known by now."""
        if place == 0:
            self.lines.append("    # over all chunks at once: what depends on no state")
        elif any(self.stage[node] == place and node.args for node in batched):
            self.lines.append("    # over all chunks at once: what depends on the states that enter them")
        for node in self._order({n for n in batched if self.stage[n] == place}):
            self._assign(node, self.variables, "    ")

    def _assign(self, node: Node, variables: dict[Node, str], indent: str) -> None:
        """One line `name = expression`, unless the node is a leaf, a number, or stands in its only user's line."""
        if node in variables or is_static(node) or (not node.args and node.op in _LEAVES):
            return
        if node.op in ("ones", "const", "size") or (not node.args and self.users.get(node, 0) <= 1):
            return
        printer = self._printer(variables)
        text = printer.define(node)
        if text.isidentifier():  # the same values under other labels
            variables[node] = text
            return
        cheap = self.users.get(node, 0) <= 1 or node.op == "rename"
        kept = (
            node in self.program.names or node in self.roots or (node in self.operands and variables is self.variables)
        )
        if cheap and inlinable(node) and len(text) < WIDTH and not kept:
            return
        if variables is self.variables:
            name = self._claim(node, identifier(self.words.name(node)))
        else:
            name = variables[node] = self._local(node)
        self.lines += [f"{indent}# {note}" for note in self.words.notes(node)]
        self.lines.append(f"{indent}{name} = {_bare(text)}")

    def _local(self, node: Node) -> str:
        name = free_name(f"{identifier(self.words.name(node))}_c", self.used, "")
        self.used.add(name)
        return name

    def _printer(self, variables: dict[Node, str]) -> Text:
        return Text(variables.get, self._size)

    def _result(self, node: Node, indent: str) -> str:
        return self._printer(self.variables)(node)

    def _loop(self, level: int) -> None:
        carries = carries_of(self.program, level)
        inside = loop_nodes(self.program, level, self.stage)
        local: dict[Node, str] = {c.old: self.variables[c.old] for c in carries}
        body: list[str] = []
        self.lines, before = [], self.lines
        sliced = self._slices(inside, carries, local)
        for node in inside:
            self._assign(node, local, "        ")
        leaving = [self._leaving(c, local) for c in carries]
        body, self.lines = self.lines, before
        names = [self.variables[c.old] for c in carries]
        backward = self.program.reverse
        solved = {node: f"{local[node]}_all" for node in inside if node.op in SOLVED}
        self.lines += [f"    {name} = []" for name in solved.values()]
        self.lines.append(
            f"    # over the chunks {'from the last to the first' if backward else 'in order'}: the state alone"
        )
        for name in names:
            if backward:
                self.lines.append(f"    {name}_end, {name}_all, {name} = {name}, [], {name}[:0]")
            else:
                self.lines.append(f"    {name}_end, {name}_all, {name}_done = {name}, [], []")
        self.lines.append(f"    for lo, hi in {'reversed(spans)' if backward else 'spans'}:")
        if any("end" in line for line in body):
            self.lines.append("        end_all, end = end, None if end is None else end[lo:hi]")
        self.lines += ["        n = hi - lo"] if any(re.search(r"\bn\b", line) for line in [*body, *leaving]) else []
        for name in names:
            step = f"arrive({name}, {name}_end, hi - lo)" if backward else f"leave({name}, hi - lo, {name}_done)"
            self.lines += [f"        {name} = {step}", f"        {name}_all.append({name})"]
        self.lines += sliced
        self.lines += body
        self.lines += [f"        {name}.append({local[node]})" for node, name in solved.items()]
        self.lines.append(f"        {', '.join(names)} = {', '.join(_bare(text) for text in leaving)}")
        if any("end" in line for line in body):
            self.lines.append("        end = end_all")
        for name, carry in zip(names, carries, strict=True):
            if backward:
                self.lines.append(f"    {name}_out = arrive({name}, {name}_end, {name}_end.shape[0])")
            else:
                self.lines.append(f"    {name}_out = joined([{name}, *reversed({name}_done)], {name}_end)")
            order = f"{name}_all[::-1]" if backward else f"{name}_all"
            self.lines.append(f"    {name} = joined({order}, {name}_end)")
            self.variables[carry.old] = name
        for node, name in solved.items():
            self.lines.append(
                f"    {self._claim(node, identifier(self.words.name(node)))} = torch.cat({name}{'[::-1]' * backward})"
            )
        if any(re.search(r"\bn\b", line) for line in [*body, *leaving]):
            self.lines.append(f"    n = {names[0]}.shape[0]")

    def _leaving(self, carry: Carry, local: dict[Node, str]) -> str:
        if is_static(carry.new):  # a cotangent that nothing flows into
            return f"torch.full_like({self.variables[carry.old]}, {self._printer(local)(carry.new)})"
        return self._printer(local)(carry.new)

    def _slices(self, inside: list[Node], carries: list[Carry], local: dict[Node, str]) -> list[str]:
        """Lines that take this chunk's part of what was computed over all chunks."""
        lines, within = [], set(inside)
        outer = [arg for node in inside for arg in node.args] + [c.new for c in carries]
        for node in dict.fromkeys(outer):
            if node in within or node in local or is_static(node) or node.op in ("ones", "const"):
                continue
            name = self.variables.get(node)
            text = name if name is not None else self._printer(self.variables)(node)
            if GRID in node.axes:
                new = self._fresh(f"{name or 'x'}_c")
                lines.append(f"        {new} = {text if name else f'({text})'}[lo:hi]")
                local[node] = new
            else:
                local[node] = text if name else f"({text})"
        return lines

    def _fresh(self, wish: str) -> str:
        name = free_name(wish, self.used, "")
        self.used.add(name)
        return name

    def _footer(self) -> None:
        values = [*self.program.stores.values(), *self.program.sums.values()]
        parts = [_bare(self._result(node, "    ")) for node in values]
        names = [self.variables[c.old] for c in self.program.carries]
        parts += [f"{name}_out" for name in names]
        if not self.program.reverse:
            parts += [*names, *(self._result(node, "    ") for node in self.program.kept.values())]
        self.lines += _wrapped("    return (", parts, ",)" if len(parts) == 1 else ")")


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _assigned(line: str) -> str | None:
    """The name that a line `name = expression` defines."""
    match = re.match(r"\s+(\w+) = ", line)
    return match[1] if match else None


def _own(line: str, name: str) -> int:
    """How often a line uses the name that it defines."""
    return len(re.findall(rf"\b{name}\b", line)) - 1


def _bare(text: str) -> str:
    """`text` without an outer pair of parentheses that belongs together."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth, pair = 0, False
    for place, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        pair |= char == "," and depth == 1
        if depth == 0 and place < len(text) - 1:
            return text
    return text if pair else text[1:-1]


def _wrapped(head: str, parts: Iterable[str], tail: str) -> list[str]:
    parts = list(parts)
    line = head + ", ".join(parts) + tail
    if len(line) <= 120:
        return [line]
    indent = " " * (len(head) - len(head.lstrip()) + 4)
    lines, current = [head], indent
    for part in parts:
        if len(current) + len(part) > 112 and current.strip():
            lines.append(current.rstrip())
            current = indent
        current += f"{part}, "
    return [*lines, current.rstrip(), " " * (len(indent) - 4) + tail.lstrip(",")]
