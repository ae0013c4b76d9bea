"""One walk over the tokens of sequences as the text of a Triton kernel, and the text of its call.

A program takes one head of one sequence, or, in rows, of a block of sequences, and one block of the split dim. States
stay in registers; the inputs of a token are loaded while the one before it is computed.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable

from recc.backends.triton.config import Tile
from recc.backends.triton.lines import wrapped
from recc.backends.triton.memory import FIXED, TOKENS, Access, Memory, blocks_of
from recc.backends.triton.nodes import dims, formed, inner, ordered, reads, within
from recc.backends.triton.padding import ZERO
from recc.backends.triton.pressure import REGISTERS, WARP, matrices, share
from recc.backends.triton.scarce import crowded, kept_apart, numbers_first, params_late, relieve, spared, unknown_zero
from recc.backends.triton.statements import Loop, Statements, Walk, is_computed
from recc.backends.triton.tokens import TILE
from recc.backends.triton.wording import aligned_text, flag, static_text

from recc.ir.node import ROW, Axis, Node, dim_of

INDENT = "    "
# Names that the generated text has of its own.
TAKEN = {"tl", "triton", "torch", "math", "F", "call", "like", "batch", "time", "heads", "head", "sequence", "block",
         "start", "length", "steps", "step", "first", "token", "ahead", "more", "t", "i", "j", "n", "rows", "valid",
         "place", "begin", "count", "saved", "sequences", "bounds_ptr"}  # fmt: skip
BLOCK = 64  # tokens of a block of sums, where a walk has no chunks
FIRST, NEXT, LAST = "((steps + 1) % 2)", "((t + 1) % 2)", "1"  # turns of what waits for tokens that go backwards
SETTINGS = ("ROWS", "CHUNK", "STEP", "PACKED", "DOT")


class Kernel:
    """The text of one launch. spell: makes a name of the generated file; taken: names of dims; tile: that of a
    configuration, if it has one; part: what the places of the dim that programs share are called."""

    BESIDE: tuple[str, ...] = ()  # tensors that it is handed beside those that it walks over

    def __init__(self, walk: Walk, spell: Callable[[str], str], taken: set[str], tile: Tile | None = None,
                 part: str | None = None) -> None:  # fmt: skip
        self.walk, self.name, self.tile, self.part = walk, walk.name, tile, part or walk.split
        walk.shared = tuple(dim for dim in walk.shared if dim in self.dims())  # others share more
        self.crowded, alone = self._crowded(), not (walk.single or walk.rows)
        self.kept, self.terms = relieve(walk, self._usual) if self.crowded and alone else ({}, {})
        self.short = any(len(memory.dims) == 1 for memory in (*self.kept.values(), *self.terms.values()))
        for loop in walk.loops if self.crowded else ():
            params_late(loop)
        for loop in walk.loops if tile and tile.order else ():
            loop.place(tile.order)
        self.values = Statements(walk.loops, spell, TAKEN | taken | {f"block_{dim}" for dim in walk.shared[1:]})
        self.values.sums_early = self.crowded
        for loop in walk.loops if self.crowded and not walk.single else ():
            self.values.text.apart |= kept_apart(loop)
        shared = walk.single or not self.crowded
        self.access = Access(walk.rows, walk.single, walk.shared, self.values.text.place, shared)
        self.body = [f"{INDENT}{line}" for line in self._body()]
        self.prologue = [f"{INDENT}{line}" for line in self._prologue()]

    def _crowded(self) -> bool:
        """Whether the walk holds as little as it can; see `scarce`."""
        asked, alone = self.tile and self.tile.crowded, not (self.walk.single or self.walk.rows)
        return alone and crowded(self.walk.loops, self._usual) if asked is None else asked

    def lines(self) -> list[str]:
        options = "" if self.walk.single else '(do_not_specialize=["sequences", "time"])'
        lines = [f"@triton.jit{options}", *wrapped(f"def {self.walk.name}(", self._arguments(), "):")]
        who = "One head of a block of sequences" if self.walk.rows else "One sequence and head"
        which = ", ".join([who, *(f"one block of {dim}" for dim in self.walk.shared)])
        return [*lines, f'    """{which}: {self.walk.purpose}."""', *self.prologue, *self.body]

    # --- the body ------------------------------------------------------------------------------------------------

    def _body(self) -> list[str]:
        walk, names, lines = self.walk, self.values.variables, []
        fixed = {node: memory for loop in walk.loops for node, memory in loop.loads.items() if memory.layout == FIXED}
        lines += [f"{names[node]} = {self.access.load(memory)}" for node, memory in fixed.items()]
        for loop in walk.loops:
            lines += self._invariants(loop)
        for old, memory in walk.enter.items():
            value, kept = self.access.load(memory), old in self.kept
            first = self.access.store(walk.room[old], value, turn=FIRST) if kept else ""
            lines.append(first or f"{names[old]} = {value}")
        lines += ["tl.debug_barrier()"] if self.kept else []
        for node, memory in walk.loop.sums:
            zero = self._zero(node)
            lines.append(self.access.store(memory, zero) if self._waits(node) else f"{memory.name}_sum = {zero}")
            lines += [f"{memory.name}_part = {zero}"] if node in self.blocked() and node not in self.terms else []
        if walk.single:
            lines += self._token(walk.loop)
        else:
            lines += self._tokens(walk.loop, False) if walk.again is None else self._chunks()
        for old, memory in walk.leave.items():
            value = self.access.load(walk.room[old], turn=LAST) if old in self.kept else names[old]
            lines.append(self.access.store(memory, value))
        lines += self._added(False) if walk.again is None else []
        for node, memory in walk.loop.sums:
            text = f"{memory.name}_sum"
            if not self._waits(node):
                lines.append(self.access.store(memory, f"tl.sum({text}, 0)" if ROW in node.axes else text))
        return lines

    def _invariants(self, loop: Loop) -> list[str]:
        """What is the same at every token."""
        per_token, users, lines = loop.per_token, loop.users, []
        for node in loop.nodes:
            if node not in per_token and node not in self.values.variables:
                lines += self.values.assign(node, loop, users)
        return lines

    def _chunks(self) -> list[str]:
        walk, names = self.walk, self.values.variables
        inside = ["begin = (tl.cdiv(steps, CHUNK) - 1 - i) * CHUNK", "count = tl.minimum(steps - begin, CHUNK)"]
        inside += ["valid = begin < length"] if walk.rows else []
        inside.append(f"saved = {self._saved_row('begin')}")
        inside.append("# The states that enter each token of the chunk, from the ones that were saved.")
        inside += [f"{names[old]} = {self.access.load(memory)}" for old, memory in walk.saved.items()]
        inside += self._tokens(walk.again, True)
        inside.append("tl.debug_barrier()  # from here on threads read what others have written")
        inside.append("# The chunk's cotangents, from its last token to its first.")
        inside += self._tokens(walk.loop, True)
        inside += self._added(True)
        inside.append("tl.debug_barrier()")
        return ["for i in range(tl.cdiv(steps, CHUNK)):", *(f"{INDENT}{line}" for line in inside)]

    def _saved_row(self, token: str) -> str:
        """The place of a chunk's states. Packed sequences have room for one chunk more each than they may need."""
        return f"{token} // CHUNK + (start // CHUNK + sequence if PACKED else sequence * tl.cdiv(time, CHUNK))"

    def _tokens(self, loop: Loop, chunked: bool) -> list[str]:
        """The loop over all tokens, or those of a chunk; t is a token's place in its sequence, `place` in its chunk."""
        back, rows = loop.backwards, self.walk.rows
        early = [(self.values.variables[node], loop.loads[node]) for node in self._early(loop)]
        count, at, turn = ("count", "place", "j") if chunked else ("steps", "t", "i")
        before, inside = [], []
        if early:
            before += self._first_ahead(back, chunked)
            before += [f"{memory.name}_ahead = {self.access.early(memory)}" for _, memory in early]
        before.append(f"for {turn if back else at} in range({count}):")
        inside += [f"{at} = {count} - 1 - {turn}"] if back else []
        inside += ["t = begin + place"] if chunked else []
        inside += ["token = first + STEP * t", *([unknown_zero()] if self.crowded else [])]
        inside += ["valid = t < length"] if rows else []
        if early:
            more = flag(f"{at} > 0" if back else f"{at} + 1 < {count}")
            more += f" & ({'t <= length' if back else 't + 1 < length'})" if rows else ""
            inside += [f"ahead = token {'-' if back else '+'} STEP", f"more = {more}"]
        for name, memory in early:
            inside.append(f"{name} = {memory.name}_ahead.to(tl.float32)")
            inside.append(f"{memory.name}_ahead = {self.access.early(memory)}")
        inside += self._token(loop)
        if self.walk.again is None and self.blocked():
            inside += [f"if {turn if back else at} % {BLOCK} == {BLOCK - 1}:", *(INDENT + x for x in self._added(True))]
        return [*before, *(f"{INDENT}{line}" for line in inside)]

    def _early(self, loop: Loop) -> list[Node]:
        """The inputs that are loaded one token early: none where registers are scarce."""
        return [node for node, memory in loop.loads.items() if memory.layout == TOKENS and not self.crowded]

    def _added(self, more: bool) -> list[str]:
        """Adds what a block of tokens has summed to the sums over all: so the rounding of many tokens grows with the
        number of blocks, and of a block's. Where registers are scarce, those are in memory, and the terms of some.
        more: whether there is another block."""
        lines = ["tl.debug_barrier()"] if self.terms else []
        for node, memory in self.walk.loop.sums:
            if node not in self.blocked():
                continue
            part, waits = f"{memory.name}_part", self._waits(node)
            if node in self.terms:
                lines.append(f"{part} = {self.access.of_chunk(self.terms[node])}")
                part = f"tl.sum({part}, 0)"
            more_text = self.access.store(memory, f"{self.access.load(memory)} + {part}") if waits else ""
            lines.append(more_text or f"{memory.name}_sum += {part}")
            lines += [f"{memory.name}_part = {self._zero(node)}"] if more and node not in self.terms else []
        return lines

    def blocked(self) -> set[Node]:
        """The sums that are vectors or numbers: registers hold them twice, which for wider ones would spill."""
        return set() if self.walk.single else {node for node, _ in self.walk.loop.sums if len(inner(node.axes)) < 2}

    def _waits(self, node: Node) -> bool:
        """Whether the sum over all blocks of tokens lies in memory while one is summed."""
        return self.crowded and not self.walk.rows and node in self.blocked()

    def _zero(self, node: Node) -> str:
        shape = self.values.text.shape(node.axes)
        return f"tl.zeros({shape}, tl.float32)" if shape != "()" else "0.0"

    def _first_ahead(self, back: bool, chunked: bool) -> list[str]:
        """The first token of a loop, and whether there is one."""
        last = "(begin + count - 1)" if chunked else "(steps - 1)"
        start = last if back else "begin" if chunked else ""
        more = "begin < length" if chunked else "length > 0"
        if self.walk.rows and back:
            more = "begin + count <= length" if chunked else "(length > 0) & (length == steps)"
        more = more if self.walk.rows else flag(more)
        return [f"ahead = first + STEP * {start}" if start else "ahead = first", f"more = {more}"]

    def _token(self, loop: Loop) -> list[str]:
        """The work of one token: loads that were not early, values, stores, and the next states."""
        walk, values, lines = self.walk, self.values, []
        users, per_token, known = loop.users, loop.per_token, set(values.variables)
        early = () if walk.single else self._early(loop)
        pending = [node for node, memory in loop.loads.items() if memory.layout != FIXED and node not in early]
        wide = {node for node in pending if self.crowded and len(loop.loads[node].tile) > 1}
        late, turns = wide | {node for node in pending if self.short and loop.loads[node].tile}, itertools.count(1)

        def load(*nodes: Node) -> list[str]:
            """Where registers are scarce, a tile that lies in memory is loaded again once others were read; where even
            vectors are set aside, so is a vector, and with new addresses."""
            here = {node for node in ordered(nodes, set(values.variables) - late | set(loop.loads)) if node in late}
            away = here & wide & set(pending) and [x for x in loop.loads if x in late - here and x not in pending]
            pending.extend(away)
            anew = [unknown_zero(next(turns))] if away and self.short else []
            return [*anew, *values.loads(nodes, loop, pending, self.access.load)]

        if walk.again is None and walk.saved:
            lines += self._save()
        stores: dict[Node, list[Memory]] = {}
        for node, memory in loop.stores:
            stores.setdefault(node, []).append(memory)
        away = [(old, new) for old, new in loop.states if loop is walk.loop and old in self.kept]
        nodes = numbers_first(loop.nodes, loop.loads) if self.crowded else loop.nodes
        nodes = [*(node for node in stores if not is_computed(node)), *nodes]
        for node in nodes:
            if is_computed(node) and node in per_token and node not in values.variables:
                lines += [*load(*reads(node)), *values.assign(node, loop, users)]
            for memory in stores.get(node, ()):
                lines += [*load(node), self.access.store(memory, values.whole(node, memory.axes))]
            lines += [self._put_by(old, new) for old, new in away if new is node]
        for node, memory in [(node, memory) for node, memory in loop.sums if node not in self.terms]:
            value = values.whole(node, node.axes)
            if walk.rows and not walk.single:
                value = f"tl.where({self.access.row('valid', inner(node.axes))}, {value}, 0.0)"
            lines += [*load(node), f"{memory.name}_{'part' if node in self.blocked() else 'sum'} += {value}"]
        for old, new in away:
            lines += [] if new in nodes else [*load(new), self._put_by(old, new)]
        held, news = [(old, new) for old, new in loop.states if (old, new) not in away], []
        for old, new in held:
            lines += load(new)
            news.append(self._next(old, new))
        if news:
            lines.append(f"{', '.join(values.variables[old] for old, _ in held)} = {', '.join(news)}")
        lines += ["tl.debug_barrier()"] if away else []
        values.free([node for node in values.variables if node in per_token and node not in known])
        return lines

    def _put_by(self, old: Node, new: Node) -> str:
        """The next value of a state that lies in memory, where the next token reads it."""
        return self.access.store(self.walk.room[old], self._next(old, new), turn=NEXT)

    def _next(self, old: Node, new: Node) -> str:
        """The next value of a state: zero outside of its dims, and unchanged after a sequence's last token."""
        text, tile = self.values.whole(new, old.axes), inner(old.axes)
        for axis in dims(old.axes):
            if self.values.padding.of(new, axis) != ZERO:
                mask = aligned_text(f"in_{dim_of(axis)}", 0, (axis,), tile)
                text = f"tl.where({mask}, {text}, 0.0)"
        if self.walk.rows and not self.walk.single:
            text = f"tl.where({self.access.row('valid', tile)}, {text}, {self.values.variables[old]})"
        return text

    def _save(self) -> list[str]:
        """States of the forward pass, saved where a chunk begins."""
        lines = ["if t % CHUNK == 0:", f"    saved = {self._saved_row('t')}"]
        names = self.values.variables
        return [*lines, *(f"    {self.access.store(memory, names[old])}" for old, memory in self.walk.saved.items())]

    def _prologue(self) -> list[str]:
        walk, text, lines = self.walk, "\n".join(self.body), []
        if walk.rows:
            lines.append("sequence = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)")
            lines.append("in_rows = sequence < sequences")
        else:
            lines.append("sequence = tl.program_id(0).to(tl.int64)")
        if re.search(r"\bhead\b", text) or any(memory.headed for memory in self.memory()):
            lines.append("head = tl.program_id(1).to(tl.int64)")
        lines += blocks_of(walk.shared)
        lines += ["batch = sequence"] if walk.single else self._bounds()
        for dim in self.dims():
            at = f"{self.access.block((dim,))} * BLOCK_{dim} + " if dim in walk.shared else ""
            lines += [f"offs_{dim} = {at}tl.arange(0, BLOCK_{dim})", f"in_{dim} = offs_{dim} < {dim}"]
        for memory in self.memory():
            if re.search(rf"\b{memory.name}_at\b", text):
                lines.append(f"{memory.name}_at = {self.access.base(memory)}")
        return lines

    def _bounds(self) -> list[str]:
        """Where the sequences begin, how long they are, and their first token in the order of the walk."""
        mask = ", mask=in_rows, other=0" if self.walk.rows else ""
        return [
            "if PACKED:",
            f"    start = tl.load(bounds_ptr + sequence{mask})",
            f"    length = tl.load(bounds_ptr + sequence + 1{mask}) - start",
            "    batch = sequence * 0",
            "else:",
            "    start = sequence * 0",
            f"    length = {'tl.where(in_rows, time, 0)' if self.walk.rows else 'time'}",
            "    batch = sequence",
            "first = start if STEP > 0 else start + length - 1",
            f"steps = {'tl.max(length, 0)' if self.walk.rows else 'length'}",
        ]

    # --- arguments and the call --------------------------------------------------------------------------------------

    def memory(self) -> list[Memory]:
        """Every tensor that the kernel reads or writes, in order, each by one of its parts."""
        first: dict[str, Memory] = {}
        for memory in self.every_memory():
            first.setdefault(memory.tensor, memory)
        return list(first.values())

    def every_memory(self) -> list[Memory]:
        """What the kernel reads and writes, in order."""
        walk, found = self.walk, []
        for loop in walk.loops:
            found += [*loop.loads.values(), *(memory for _, memory in (*loop.stores, *loop.sums))]
        for group in (walk.enter, walk.leave, walk.saved):
            found += group.values()
        return list(dict.fromkeys(found))

    def tensor_of(self, name: str) -> str:
        """The tensor in which memory with this name lies."""
        return next((memory.tensor for memory in self.every_memory() if memory.name == name), name)

    def tiles(self) -> list[tuple[Axis, ...]]:
        """The axes of every tile, those of states first."""
        states = [old.axes for loop in self.walk.loops for old, _ in loop.states]
        nodes = [node for loop in self.walk.loops for node in (*loop.nodes, *loop.loads, *loop.roots)]
        args = [arg.axes for loop in self.walk.loops for node in loop.nodes for arg in reads(node)]
        made = [formed(node) for node in nodes]
        return [*states, *made, *args, *(memory.axes for memory in self.every_memory())]

    def dims(self) -> list[str]:
        return sorted({dim_of(axis) for axes in self.tiles() for axis in dims(axes)})

    def largest(self) -> list[tuple[str, ...]]:
        """The dims of the tiles that are no part of another's, and ROWS for the rows of sequences."""
        found = {tuple(sorted("ROWS" if a == ROW else dim_of(a) for a in inner(axes))) for axes in self.tiles()}
        return sorted(tile for tile in found if tile and not any(within(tile, other) for other in found - {tile}))

    def _settings(self) -> list[str]:
        text = "\n".join([*self.prologue, *self.body])
        return [name for name in SETTINGS if re.search(rf"\b{name}\b", text)]

    def _arguments(self) -> list[str]:
        parts = ["sequences"] if self.walk.single else ["bounds_ptr", "sequences", "time"]
        parts += [f"{name}_ptr" for name in self.BESIDE]
        for memory in self.memory():
            parts += [f"{memory.tensor}_ptr", *memory.strides]
        names = [f"{prefix}{dim}" for dim in self.dims() for prefix in ("", "BLOCK_")]
        names += [*self.values.statics.values(), *self._settings()]
        return [*parts, *(f"{name}: tl.constexpr" for name in names)]

    def call(self, sizes: Callable[[Axis], str], strides: Callable[[Memory], str]) -> list[str]:
        """The lines that launch the kernel."""
        walk = self.walk
        lead = ["call.sequences"] if walk.single else ["call.bounds", "call.sequences", "call.time"]
        lead += self.BESIDE
        for memory in self.memory():
            lead += [memory.tensor, f"*{strides(memory)}{f'[:{len(memory.leads)}]' if memory.dense else ''}"]
        blocks = {dim: f"{'part' if dim in walk.shared else 'block'}_{dim}" for dim in self.dims()}
        blocks |= {dim: f"part_{self.part}" for dim in walk.shared[:1]}
        keys = [f"{dim}={sizes(dim)}, BLOCK_{dim}={block}" for dim, block in blocks.items()]
        keys += [f"{name}={static_text(node, sizes)}" for node, name in self.values.statics.items()]
        keys += [f"{name}={self._setting(name)}" for name in self._settings()]
        grid = ["triton.cdiv(call.sequences, call.ROWS)" if walk.rows else "call.sequences"]
        grid.append("call.heads" if any(memory.headed for memory in self.memory()) else "1")
        grid.append(" * ".join(f"triton.cdiv({sizes(dim)}, {blocks[dim]})" for dim in walk.shared) or "1")
        return wrapped(f"    {walk.name}[({', '.join(grid)})](", [*lead, *keys, self._options(blocks)], ")")

    def _setting(self, name: str) -> str:
        """What a setting is at launch."""
        return f"call.{name}"

    @property
    def spare(self) -> bool:
        """Whether registers are left for more than states: for what a backward pass has beside them, and where matrices
        take half of them."""
        crowds = self.walk.rows and 2 * matrices(self.walk.loop, self.values.padding) * TILE // WARP > REGISTERS
        return self.walk.loop.backwards or crowds or not (self.walk.split or self.walk.rows)

    @property
    def _usual(self) -> int:
        return TILE // 2 if self.spare else TILE

    @functools.cached_property
    def share(self) -> int:
        """Elements of the widest tile that one warp holds."""
        return (spared if self.walk.shared[1:] else share)(self.walk.loops, self._usual)

    def _options(self, blocks: dict[str, str]) -> str:
        """The compiler's options. blocks: how many places of each dim a program has."""
        tiles = [" * ".join(blocks.get(dim, "call.ROWS") for dim in tile) for tile in self.largest()]
        more = (", spare=True" if self.spare else "") + (f", share={self.share}" if self.share < self._usual else "")
        more = f", warps={self.tile.warps}" if self.tile else more
        return f"**call.options({', '.join(tiles) or '1'}{more})"
