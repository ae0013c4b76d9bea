"""The text of a launch that takes states along the chunks of a sequence, or of an outer chunk.

There are three: a *walk* over a sequence, or over each outer chunk where the call has these; a walk over each outer
chunk from nothing, which leaves what the outer chunk does to a state (`own`); and one that takes states from outer
chunk to outer chunk of a sequence (`cross`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from recc.backends.triton.kernel import LEAVE_BEYOND, NUMBERS, Kernel, chunk_lines
from recc.backends.triton.nodes import dims, inner
from recc.backends.triton.order import Order
from recc.backends.triton.tensor import Tensor
from recc.backends.triton.wording import aligned_text, flag

from recc.ir.node import dim_of
from recc.tile.program import Carry

# Nothing is computed ahead of a loop to save it inside: addresses that stay the same would take registers all the time.
COUNT = "for step in tl.range(0, count, disable_licm=True):"


class WalkKernel(Kernel):
    """A launch of one program for each sequence and head; where it has `outer`, for each outer chunk of a sequence."""

    title = "One sequence and head"

    @property
    def outer(self) -> bool:
        return bool(self.launch.outer)

    # --- text ----------------------------------------------------------------------------------------------

    def _purpose(self) -> str:
        names = ", ".join(f"`{carry.name}`" for carry in self.launch.walks)
        cotangent = "the cotangent of " if self.schedule.program.reverse else ""
        return f"{cotangent}{names} {self._way()}"

    def _way(self) -> str:
        return "from chunk to chunk"

    def _body(self) -> list[str]:
        lines = [f"    {self._begin(carry)}" for carry in self.launch.walks]
        for node in self.launch.loads:
            self._claim(node, self.tensors[node].name)
        lines += self._counted()
        inside = [f"        {self._entered(carry)}" for carry in self.entering]
        pending = list(self.launch.loads)  # also what is the same for all chunks: vectors take registers all the time
        walks = self.launch.walks
        order = Order(self.launch.nodes, pending, (carry.old for carry in walks), (carry.new for carry in walks))
        inside += self._computed(order.best(self.tile.order), pending, "        ")
        news = []
        for carry in self.launch.walks:
            inside += self._load_before([carry.new], pending, "        ")
            whole = self.text._whole(carry.new, carry.old.axes)
            news.append(self.text.padding.zeroed(carry.new, dims(carry.old.axes), whole, carry.old.axes))
        olds = [self.variables[carry.old] for carry in self.launch.walks]
        inside.append(f"        {', '.join(olds)} = {', '.join(news)}")
        if re.search(r"\bslot\b", "\n".join(inside)):
            kept = f"tile_kept(sequence, place, table_ptr, time, ROWS, {self.every}, PACKED)"
            inside.insert(0, f"        slot = {kept}  # where the states that enter are kept, or -1")
        if re.search(r"\b(tokens|end|valid)\b", "\n".join(inside)):
            inside = [*chunk_lines("        "), *inside]
        return [*lines, *inside, *self._left()]

    def _begin(self, carry: Carry) -> str:
        """What enters first."""
        own, axes = self.walks[carry.old], carry.old.axes
        name = self._claim(carry.old, own.name)
        if isinstance(own.initial, Tensor):
            return f"{name} = {self._load(own.initial)}"
        tile = inner(axes)
        if own.initial is not None:
            number = repr(own.initial) if abs(own.initial) < float("inf") else f'float("{own.initial}")'
            return f"{name} = tl.full({self.text.shape(axes) if tile else '()'}, {number}, tl.float32)"
        first, second = (self.text.vector(axis, tile) for axis in tile)
        there = aligned_text(f"in_{dim_of(tile[0])}", 0, (tile[0],), tile)
        return f"{name} = tl.where(({first} == {second}) & {there}, 1.0, 0.0)"

    def _counted(self) -> list[str]:
        """The loop over chunks: which of the sequence's they are, and which of all."""
        step = "count - 1 - step" if self.schedule.program.reverse else "step"
        first = "begin + " if self.outer else ""
        return [f"    {COUNT}", f"        place = {first}{step}", "        chunk = start + place"]

    def _entered(self, carry: Carry) -> str:
        tensor = self.walks[carry.old].entering
        assert tensor is not None
        line = self._store(carry.old, tensor)
        if self.every == 1:
            return line
        line = line.replace("(chunk *", "(slot *").replace(", mask=", f", mask={flag('slot >= 0')} & ")
        return line if "mask=" in line else f"{line[:-1]}, mask=slot >= 0)"

    def _left(self) -> list[str]:
        """What leaves last: where outer chunks are walked, it has been known before."""
        lines = []
        for carry in self.launch.walks:
            tensor = self.walks[carry.old].leaving
            lines += [f"    {self._store(carry.old, tensor)}"] if tensor is not None else []
        return ["    if not OUTER:", *(f"    {line}" for line in lines)] if self.outer and lines else lines

    def _where(self, text: str) -> Iterator[str]:
        if self.outer:
            yield "    outer = tl.program_id(0).to(tl.int64)"
            yield f"    sequence, start, begin, count = tile_outer(outer, {', '.join(self._outer_places())}, OUTER)"
            yield from LEAVE_BEYOND
        else:
            yield "    sequence = tl.program_id(0).to(tl.int64)"
            yield "    start, count = tile_chunks(sequence, table_ptr, time, ROWS, PACKED)"

    def _outer_places(self) -> list[str]:
        return [*(name for name, _ in self._places()), "ROWS", "PACKED"]

    # --- arguments -------------------------------------------------------------------------------------------

    def _places(self) -> list[tuple[str, str]]:
        places = [("table_ptr", "chunks.table"), ("time", "chunks.time")]
        if not self.outer:
            return places
        outer = ("outer_owners_ptr", "outer.owners"), ("outer_table_ptr", "outer.table"), ("each", "outer.chunks")
        return [*outer, *places]

    def _programs(self) -> str:
        return "outer.count" if self.outer else "chunks.sequences"

    def _fixed(self) -> tuple[str, ...]:
        return (*NUMBERS, "OUTER") if self.outer else NUMBERS


class OwnKernel(WalkKernel):
    """One program for each outer chunk and head: what the outer chunk does to a state."""

    title = "One outer chunk and head"
    outer = True

    def _left(self) -> list[str]:
        left = [(carry.old, self.walks[carry.old].leaving) for carry in self.launch.walks]
        return [f"    {self._store(old, tensor)}" for old, tensor in left if tensor is not None]

    def _way(self) -> str:
        return "of the outer chunk, from nothing"


class CrossKernel(WalkKernel):
    """One program for each sequence and head: states from outer chunk to outer chunk."""

    outer = False

    def _way(self) -> str:
        return "from outer chunk to outer chunk"

    def _counted(self) -> list[str]:
        step = "count - 1 - step" if self.schedule.program.reverse else "step"
        return [f"    {COUNT}", f"        outer = start + {step}"]

    def _entered(self, carry: Carry) -> str:
        tensor = self.walks[carry.old].entering
        assert tensor is not None
        return self._store(carry.old, tensor)

    def _where(self, text: str) -> Iterator[str]:
        yield "    sequence = tl.program_id(0).to(tl.int64)"
        yield "    start, count = tile_outers(sequence, outer_table_ptr, time, each, ROWS, PACKED)"

    def _places(self) -> list[tuple[str, str]]:
        return [("outer_table_ptr", "outer.table"), ("time", "chunks.time"), ("each", "outer.chunks")]
