"""What a task is: which sequence and head, or which group of sequences, and which of their chunks it takes.

Where sequences share a matrix, a call has two kernels: one of groups, whose task computes several sequences side by
side, and one of single sequences for what is left. Packed sequences are grouped by how many whole chunks they have: a
group takes the chunks that all of its sequences have, their common tokens, and the other kernel goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from recc.backends.c.arrays import block


@dataclass(frozen=True)
class Tasks:
    """chunk: tokens between saved states. sequences: that a task computes side by side. grouped: whether there is a
    kernel of groups and one of single sequences, and this is one of them. all_heads: whether a task has all heads."""

    chunk: int
    sequences: int
    grouped: bool
    all_heads: bool

    @property
    def side_by_side(self) -> bool:
        return self.sequences > 1

    @property
    def first(self) -> str:
        """The first token of a sequence that a task computes, and `end` the one after the last, in the order of the
        recurrence."""
        return "common" if self.grouped and not self.side_by_side else "0"

    @property
    def end(self) -> str:
        return "common" if self.side_by_side else "length"

    @property
    def part(self) -> str:
        """Which row of the gradients of params, one for each task, is this one's."""
        return f"place / {self.sequences}" if self.side_by_side else "place" if self.grouped else "sequence"

    @property
    def tables(self) -> str:
        """The members of the structure of arguments that say where sequences lie."""
        text = "const long *offsets, *chunks;  // of packed sequences or null; of each sequence's first saved state\n"
        if self.grouped:
            text += (
                "    const long *order, *common;  // sequences by groups, the tokens that these take of each; or null\n"
            )
        return text

    def lines(self) -> list[str]:
        """Where a task finds its sequence, or the first one of its group, and how far behind it the others lie."""
        side = f" * {self.sequences}" if self.side_by_side else ""
        number, head = ("task", "0") if self.all_heads else ("task / a->heads", "task % a->heads")
        name = "place" if self.grouped else "sequence"
        found = [f"long {name} = {number}{side}, head = {head};"]
        if self.grouped:
            found.append("long sequence = a->order ? a->order[place] : place;")
        found += [
            "long start = a->offsets ? a->offsets[sequence] : 0;",
            "long length = a->offsets ? a->offsets[sequence + 1] - start : a->time;",
            "long batch = a->offsets ? 0 : sequence;",
        ]
        if self.grouped:
            found.append(f"long common = a->common ? a->common[sequence] : {'length' if self.side_by_side else 0};")
        return [*found, *self._lanes()]

    def _lanes(self) -> list[str]:
        if not self.side_by_side:
            return []
        count = self.sequences
        return [
            f"long row_of[{count}], token_of[{count}], saved_of[{count}];  // of each sequence less those of the first",
            *block(f"for (long j = 0; j < {count}; j++)", [
                "long other = a->order ? a->order[place + j] : place + j;",
                "row_of[j] = other - sequence;",
                "saved_of[j] = a->chunks[other] - a->chunks[sequence];",
                "token_of[j] = !a->offsets ? other - sequence",
                "    : a->reverse ? a->offsets[other + 1] - a->offsets[sequence + 1] : a->offsets[other] - start;",
            ]),
        ]  # fmt: skip

    def stride(self, field: str, token: bool) -> str:
        """How far after that of a group's first sequence another one's part of a tensor begins: a text that takes the
        sequence's number in the group."""
        if token:
            return f"token_of[{{}}] * {field}_next"
        return f"{'saved_of' if field.startswith('saved_') else 'row_of'}[{{}}] * a->{field}.batch"

    def step(self, field: str) -> list[str]:
        """What `stride` of a tensor of tokens reads."""
        return [f"long {field}_next = a->offsets ? a->{field}.time : a->{field}.batch;"] if self.side_by_side else []

    # --- the loop over a task's chunks ------------------------------------------------------------------------

    def forwards(self, lines: list[str]) -> list[str]:
        done = f" + common / {self.chunk}" if self.first != "0" else ""
        head = f"for (long begin = {self.first}; begin < {self.end}; begin += {self.chunk}, saved++)"
        return [f"long saved = {self._saved(done)};", *block(head, [*self._chunk(), *lines])]

    def backwards(self, lines: list[str], saved: bool = True, staggered: bool = False) -> list[str]:
        """The chunks from the last to the first. saved: whether their states are read. staggered: those of the chunk
        before, of `before` tokens, whose number is `saved`; so a chunk without tokens comes first."""
        end, chunk = self.end, self.chunk
        late = f" + {chunk}" if staggered else ""
        some = f"{end} > {self.first}" if self.first != "0" else end
        head = (
            f"for (long begin = {some} ? ({end} - 1) / {chunk} * {chunk}{late} : -1; begin >= {self.first};"
            f" begin -= {chunk}{', saved--' * saved})"
        )
        own = [f"long saved = {self._saved(f' + ({end} + {chunk - 1}) / {chunk} - 1')};"] if saved else []
        return [*own, *block(head, [*self._chunk(staggered), *lines])]

    def _saved(self, later: str) -> str:
        return f"(a->chunks ? a->chunks[sequence] : 0){later}" if later else "a->chunks ? a->chunks[sequence] : 0"

    def _chunk(self, staggered: bool = False) -> list[str]:
        end, chunk = self.end, self.chunk
        count = f"{end} - begin < {chunk} ? {end} - begin : {chunk}"
        before = f"begin > {end} ? {end} - begin + {chunk} : {chunk}"
        return [
            f"long c = begin < {end} ? {count} : 0;" if staggered else f"long c = {count};",
            *([f"long before = begin == {self.first} ? 0 : {before};"] if staggered else []),
            "long token = a->reverse ? start + length - 1 - begin : start + begin;",
        ]
