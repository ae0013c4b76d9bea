"""One launch of Newton's method as the text of a Triton kernel: all tokens of a window at once, channel by channel.

A program takes a block of the channels of one sequence and head. Time lies along the rows of its tiles. It walks over
windows of tokens, carries the solved state from one to the next, and iterates in each until every channel is accepted;
what is not accepted keeps the rows that are right and is finished token by token. The rule is that of
`recc.backends.torch.solve`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from recc.backends.torch.emit import identifier
from recc.backends.torch.solve import CLIPPED, PLAIN
from recc.backends.triton.memory import STATES, TOKENS, Access, Memory
from recc.backends.triton.nodes import inner, ordered, reads
from recc.backends.triton.statements import Loop, Walk, is_computed
from recc.backends.triton.walk import INDENT, Kernel
from recc.backends.triton.wording import aligned_text

from recc.ir.node import ROW, Axis, Node, dim_of, rebuild, substitute
from recc.ir.ops import ZERO, leaf, spread
from recc.tile.words import Words

TOLERANCE = 8 * 2.0**-23  # of the residual, relative to the state: rounding level in float32
INFINITY = 'float("inf")'
LIMIT = PLAIN + CLIPPED  # iterations
# Names that the generated text has of its own, beside those of a walk.
TAKEN = {"counts", "window", "here", "done", "clipped", "last", "spent", "residual", "iteration", "left", "wrong",
         "starts", "worst", "off", "accepted", "again", "moves", "scale", "live", "at", "token_at", "windows",
         "iterations", "unsolved", "largest", "most"}  # fmt: skip


@dataclass
class _Section:
    """Values that are computed in one place. nodes: in order; users: how often each is read."""

    loop: Loop
    nodes: list[Node]
    users: dict[Node, int]


class NewtonKernel(Kernel):
    """The text of the launch. slopes: of each state's next value by each state, row by row."""

    BESIDE = ("counts",)

    def __init__(self, walk: Walk, slopes: list[Node], taken: set[str]) -> None:
        self.slopes = slopes
        self.olds = [old for old, _ in walk.loop.states]
        self.news = [new for _, new in walk.loop.states]
        self.full = inner(self.olds[0].axes)
        self.channel = tuple(axis for axis in self.full if axis != ROW)
        lone = {"enter": _without_rows(walk.enter), "leave": _without_rows(walk.leave)}
        super().__init__(replace(walk, rows=False, **lone), identifier, TAKEN | taken)

    def lines(self) -> list[str]:
        return [*self._compose(), "", "", *super().lines()]

    # --- text that depends on the number of states -----------------------------------------------------------------

    def _compose(self) -> list[str]:
        """The function that composes two affine maps of as many coupled states as there are."""
        k = range(len(self.olds))
        names = [f"a{i}{j}" for i in k for j in k] + [f"b{i}" for i in k]
        later = [f"next_{name}" for name in names]
        maps = [" + ".join(f"next_a{i}{m} * a{m}{j}" for m in k) for i in k for j in k]
        maps += [" + ".join([*(f"next_a{i}{m} * b{m}" for m in k), f"next_b{i}"]) for i in k]
        lines = ["@triton.jit", f"def newton_compose({', '.join([*names, *later])}):"]
        lines.append(f'{INDENT}"""x -> next_a (a x + b) + next_b."""')
        if len(maps) == 2:
            return [*lines, f"{INDENT}return {', '.join(maps)}"]
        return [*lines, f"{INDENT}return (", *(f"{INDENT * 2}{text}," for text in maps), f"{INDENT})"]

    # --- names and texts -------------------------------------------------------------------------------------------

    def _rows(self, text: str) -> str:
        """A value for each row, aligned with a tile."""
        return aligned_text(text, 0, (ROW,), self.full)

    def _channels(self, text: str) -> str:
        """A value for each channel, aligned with a tile."""
        return aligned_text(text, 0, self.channel, self.full)

    def _total(self, text: str, function: str = "sum") -> str:
        """Over all channels of the program; those in the padding do not count."""
        if not self.channel:
            return text
        return f"tl.{function}(tl.where(in_{dim_of(self.channel[0])}, {text}, 0), 0)"

    def _constant(self, value: str, dtype: str = "float32") -> str:
        """One number for each channel."""
        return f"tl.full({self.values.text.shape(self.channel)}, {value}, tl.{dtype})"

    def _fresh(self, wish: str) -> str:
        name = self.values.claim(leaf("argument", (), name=wish), wish)
        return name

    def _level(self, node: Node) -> int:
        """0: the same at every token; 1: differs from token to token; 2: depends on the states."""
        return 2 if node in self.of_states else 1 if node in self.per_token else 0

    def _section(self, loop: Loop, roots: Iterable[Node], level: int, stops: set[Node]) -> _Section:
        nodes = [node for node in ordered(roots, stops) if is_computed(node) and node not in stops]
        return _Section(loop, [node for node in nodes if self._level(node) == level], self.users)

    def _computed(self, section: _Section) -> list[str]:
        """The lines of a section's values that have no name yet."""
        lines = []
        for node in section.nodes:
            if node not in self.values.variables:
                lines += self.values.assign(node, section.loop, section.users)
        return lines

    # --- the body ------------------------------------------------------------------------------------------------

    def _body(self) -> list[str]:
        walk, values = self.walk, self.values
        self.tile = Access(True, False, walk.shared, values.text.place, of_row=("time", "chunk"))
        self._prepare()
        lines = [f"{values.variables[node]} = {self.access.load(memory)}" for node, memory in self._fixed()]
        lines += self._computed(self._section(self.whole, self.whole.roots, 0, self.leaves))
        self.now = [self._fresh(f"{old['name']}_solved") for old in self.olds]
        self.enter = [values.variables[old] for old in self.olds]
        self.before = [self._fresh(f"{old['name']}_before") for old in self.olds]
        lines += [f"{name} = {self.access.load(memory)}" for name, memory in zip(self.enter, walk.enter.values())]
        values.variables |= dict(zip(self.olds, self.before))
        lines.append("rows = tl.arange(0, ROWS)")
        lines.append(f"iterations, unsolved = {self._constant(0, 'int32')}, {self._constant(0, 'int32')}")
        lines.append(f"most, largest = {self._constant(0, 'int32')}, {self._constant('0.0')}")
        lines.append("windows = tl.cdiv(steps, ROWS)")
        inside = [*self._window(), *self._guess(), *self._iterations(), *self._completion(), *self._results()]
        lines += ["for i in range(windows):", *(f"{INDENT}{line}" for line in inside)]
        lines += [self.access.store(memory, name) for name, memory in zip(self.enter, walk.leave.values())]
        return [*lines, *self._noted()]

    def _prepare(self) -> None:
        """All values of the kernel, and what each depends on."""
        loop = self.walk.loop
        zero = dict.fromkeys(self.olds, ZERO)
        self.guesses = [spread(guess, old.axes) for guess, old in zip(substitute(self.news, zero), self.olds)]
        self.whole = replace(loop, beside=[*self.slopes, *self.guesses])
        self.leaves = set(loop.loads) | set(self.olds)
        self.per_token = self.whole.per_token
        self.of_states: set[Node] = set(self.olds)
        for node in ordered(self.whole.roots, set(loop.loads)):
            if any(arg in self.of_states for arg in reads(node)) and node not in loop.loads:
                self.of_states.add(node)
        self.users = dict(self.whole.users)
        for node in self.whole.nodes:
            for arg in reads(node) if self._level(node) == 2 else ():
                self.users[arg] = self.users.get(arg, 0) + (self._level(arg) == 1)

    def _fixed(self) -> list[tuple[Node, Memory]]:
        return [
            (node, memory) for node, memory in self.walk.loop.loads.items() if memory.layout not in (TOKENS, STATES)
        ]

    def _tokens(self) -> list[tuple[Node, Memory]]:
        return [(node, memory) for node, memory in self.walk.loop.loads.items() if memory.layout == TOKENS]

    def _window(self) -> list[str]:
        """A window's place, and its inputs."""
        here = [self._rows("valid"), *(self._channels(f"in_{dim_of(axis)}") for axis in self.channel)]
        lines = ["begin = i * ROWS", "count = tl.minimum(steps - begin, ROWS)", "token = first + STEP * (begin + rows)",
                 "valid = rows < count", f"here = {' & '.join(here)}"]  # fmt: skip
        lines += [f"{self.values.variables[node]} = {self.tile.load(memory)}" for node, memory in self._tokens()]
        return lines

    def _guess(self) -> list[str]:
        """The first iterate: what the step makes of states that are zero."""
        section = self._section(self.whole, self.whole.roots, 1, self.leaves)
        lines = self._computed(section)
        self.guess = [self._fresh(f"{old['name']}_guess") for old in self.olds]
        for name, now, node in zip(self.guess, self.now, self.guesses):
            lines += [f"{name} = {self.values.whole(node, node.axes)}", f"{now} = {name}"]
        return lines

    def _shifted(self) -> list[str]:
        """The states that enter each token."""
        return [f"{before} = newton_before({now}, {self._channels(enter)}, {self._rows('rows')})"
                for before, now, enter in zip(self.before, self.now, self.enter)]  # fmt: skip

    def _residual(self, aheads: list[str]) -> list[str]:
        """By how much each row is not a step of the one before it."""
        lines = [f"{gap} = tl.where(here, {ahead} - {now}, 0.0)"
                 for gap, ahead, now in zip(self.gaps, aheads, self.now)]  # fmt: skip
        offs = [f"newton_off({gap}, {now})" for gap, now in zip(self.gaps, self.now)]
        text = offs[0]
        for more in offs[1:]:
            text = f"tl.maximum({text}, {more})"
        return [*lines, f"off = {text}"]

    def _iterations(self) -> list[str]:
        none = f"offs_{dim_of(self.channel[0])}" if self.channel else "begin"
        outside = f"in_{dim_of(self.channel[0])} == 0" if self.channel else "begin < 0"
        lines = [
            f"done, clipped = {outside}, {none} < 0",
            f"last, residual = {self._constant(INFINITY)}, {self._constant('0.0')}",
            f"spent = {self._constant(LIMIT, 'int32')}",
            "iteration, left = 0, 1",
            f"while (left > 0) & (iteration <= {LIMIT}):",
        ]
        inside = self._shifted()
        known = set(self.values.variables)
        roots = [*self.news, *self.slopes]
        inside += self._computed(self._section(self.whole, roots, 2, self.leaves))
        self.gaps = [self._fresh(f"{old['name']}_gap") for old in self.olds]
        aheads = [self._fresh(f"{old['name']}_ahead") for old in self.olds]
        inside += [f"{name} = {self.values.whole(new, new.axes)}" for name, new in zip(aheads, self.news)]
        inside += self._residual(aheads)
        inside += [
            "worst = tl.max(off, 0)",
            f"accepted, again = newton_judged(worst, last, done, clipped, {TOLERANCE!r})",
            "clipped, done = clipped | again, done | accepted",
            'last = tl.where(again, float("inf"), worst)',
            "spent = tl.where(accepted, iteration + 1, spent)",
            "residual = tl.where(accepted, worst, residual)",
            f"moves = accepted | ((done == 0) & (iteration < {LIMIT}))",
        ]
        inside += self._moves(aheads)
        inside += ["iteration += 1", f"left = {self._total('(done == 0).to(tl.int32)')}"]
        self.values.free([node for node in self.values.variables if node not in known])
        return [*lines, *(f"{INDENT}{line}" for line in inside)]

    def _moves(self, aheads: list[str]) -> list[str]:
        """The linear recurrence of one iteration, scanned, and the next iterate."""
        k, clipped = range(len(self.olds)), self._channels("clipped")
        entries = [self._fresh(f"slope_{i}{j}") for i in k for j in k]
        moves = [self._fresh(f"{old['name']}_move") for old in self.olds]
        lines = [f"{name} = newton_entry({self.values.whole(slope, slope.axes)}, {clipped})"
                 for name, slope in zip(entries, self.slopes)]  # fmt: skip
        sums = [" + ".join(f"tl.abs({entries[i * len(k) + j]})" for j in k) for i in k]
        norm = sums[0]
        for more in sums[1:]:
            norm = f"tl.maximum({norm}, {more})"
        lines.append(f"scale = newton_scale({norm}, {clipped})")
        scaled = [f"{name} * scale" for name in entries]
        left = ["_"] * len(entries)
        lines.append(f"{', '.join([*left, *moves])} = tl.associative_scan("
                     f"({', '.join([*scaled, *self.gaps])}), 0, newton_compose)")  # fmt: skip
        flags = ", ".join(self._channels(flag) for flag in ("accepted", "clipped", "again", "moves"))
        for now, ahead, move, guess in zip(self.now, aheads, moves, self.guess):
            lines.append(f"{now} = newton_moved({now}, {ahead}, {move}, {guess}, {flags})")
        return lines

    # --- what is not accepted --------------------------------------------------------------------------------------

    def _completion(self) -> list[str]:
        """Channels that are not accepted, token by token from their first wrong row on."""
        known = set(self.values.variables)
        inside = self._shifted()
        inside += self._computed(self._section(self.whole, self.news, 2, self.leaves))
        inside += self._residual([self.values.whole(new, new.axes) for new in self.news])
        inside.append(f"wrong = tl.min(tl.where(off <= {TOLERANCE!r}, count, {self._rows('rows')}), 0)")
        inside.append("place = tl.where(done, count, wrong)")
        held = [self._fresh(f"{old['name']}_held") for old in self.olds]
        before = self._channels("(place - 1)")
        last = f"{self._rows('rows')} == {before}"
        inside += [f"{name} = tl.where(place == 0, {enter}, tl.sum(tl.where({last}, {now}, 0.0), 0))"
                   for name, now, enter in zip(held, self.now, self.enter)]  # fmt: skip
        first = "tl.min(place, 0)" if self.channel else "place"
        inside += [f"for j in range(count - {first}):", *(f"{INDENT}{line}" for line in self._one_token(held))]
        self.values.free([node for node in self.values.variables if node not in known])  # a loop's names are its own
        return ["# What is not accepted keeps the rows that are right, and is finished token by token.",
                "if left > 0:", *(f"{INDENT}{line}" for line in inside)]  # fmt: skip

    def _one_token(self, held: list[str]) -> list[str]:
        """A step of every channel at a token of its own."""
        values, alone = self.values, _Alone(self.channel)
        loads = {alone(node): memory for node, memory in self.walk.loop.loads.items()}
        words = _named_alone(self.walk.loop.words, alone)
        loop = Loop(words, [(alone(old), alone(new)) for old, new in self.walk.loop.states], loads)
        values.variables |= {old: name for (old, _), name in zip(loop.states, held)}
        lines = ["at = place + j", "live = at < count", "token_at = first + STEP * (begin + at)"]
        for node, memory in self._tokens():
            one = replace(memory, axes=tuple(axis for axis in memory.axes if axis != ROW))
            name = values.claim(alone(node), f"{memory.name}_at_token")
            lines.append(f"{name} = {self.access.gathered(one, 'token_at', 'live')}")
        users, per_token = loop.users, loop.per_token
        for node in loop.nodes:
            if node in per_token and node not in values.variables:
                lines += values.assign(node, loop, users)
        news = [f"tl.where(live, {values.whole(new, old.axes)}, {name})" for (old, new), name in zip(loop.states, held)]
        lines.append(f"{', '.join(held)} = {', '.join(news)}")
        here = f"({self._rows('rows')} == {self._channels('at')}) & {self._channels('live')}"
        for now, name in zip(self.now, held):
            lines.append(f"{now} = tl.where({here}, {self._channels(name)}, {now})")
        return lines

    # --- what is stored --------------------------------------------------------------------------------------------

    def _results(self) -> list[str]:
        """A window's results, the states that leave it, and what it took."""
        loop, values = self.walk.loop, self.values
        lines = [f"{now} = tl.where(here, {now}, 0.0)" for now in self.now]
        lines += self._shifted()
        values.variables |= dict(zip(self.news, self.now))
        stops = self.leaves | set(self.news)
        lines += self._computed(self._section(self.whole, [node for node, _ in loop.stores], 2, stops))
        for node, memory in loop.stores:
            lines.append(self.tile.store(memory, values.whole(node, memory.axes)))
        if self.walk.saved:
            lines += self._save()
        at_end = f"{self._rows('rows')} == count - 1"
        lines += [f"{enter} = tl.sum(tl.where({at_end}, {now}, 0.0), 0)" for enter, now in zip(self.enter, self.now)]
        return [*lines, "iterations, most = iterations + spent, tl.maximum(most, spent)",
                "unsolved, largest = unsolved + (done == 0).to(tl.int32), tl.maximum(largest, residual)"]  # fmt: skip

    def _save(self) -> list[str]:
        """States where a chunk of the backward pass begins."""
        lines = [f"saved = {self._saved_row('(begin + rows)')}"]
        lines.append("starts = valid & ((begin + rows) % CHUNK == 0)")
        saved = zip(self.before, self.walk.saved.values())
        return [*lines, *(self.tile.store(memory, name, "starts") for name, memory in saved)]

    def _noted(self) -> list[str]:
        """What it took, added to what the op tells of itself."""
        channels = self._total(self._constant(1, "int32"))
        parts = [f"windows * {channels}", self._total("iterations"), self._total("unsolved")]
        parts += [self._total("most", "max"), self._total("largest", "max")]
        return [f"newton_note(counts_ptr, {', '.join(parts)})"]

    # --- the call ----------------------------------------------------------------------------------------------------

    def _setting(self, name: str) -> str:
        return "window" if name == "ROWS" else super()._setting(name)

    def _options(self, blocks: dict[str, str]) -> str:
        return f"**call.newton_options(window * {blocks.get(self.walk.split or '', '1')}, {len(self.olds)})"


class _Alone:
    """Nodes of tiles as one token for each channel has them."""

    def __init__(self, channel: tuple[Axis, ...]) -> None:
        self.channel, self.known = channel, {}

    def __call__(self, node: Node) -> Node:
        return rebuild([node], self._leaf)[0]

    def _leaf(self, node: Node) -> Node | None:
        if node.args or ROW not in node.axes:
            return None
        axes = tuple(axis for axis in node.axes if axis != ROW)
        axes = axes if node.op == "ones" else (*axes, *(axis for axis in self.channel if axis not in axes))
        return leaf(node.op, axes, node.dtype, **dict(node.attrs))


def _named_alone(words: Words, alone: Callable[[Node], Node]) -> Words:
    """The same names for the values of one token; what was said of them is said."""
    found = Words(replace(words.program, names={alone(node): name for node, name in words.program.names.items()}))
    found.said = words.said
    return found


def _without_rows(held: dict[Node, Memory]) -> dict[Node, Memory]:
    """The memory of states, of which a program has one for all its rows."""
    return {old: replace(memory, axes=tuple(a for a in memory.axes if a != ROW)) for old, memory in held.items()}
