"""Sums over all tokens of a task, the gradients of params: parts of some tokens, and their total.

One sum in float32 over 100,000 tokens is off by hundreds of roundings. A part has few tokens; what the total loses when
a part is added to it is kept beside it and added the next time (Kahan, 1965, Further remarks on reducing truncation
errors).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from recc.backends.c.arrays import Array, Workspace, block, copied

from recc.ir.node import Axis

# Tokens in a part. A vector has each token added; a matrix the sums of whole chunks, and to move all of it into its
# total takes as long as some ten tokens.
VECTOR, MATRIX = 32, 1024


@dataclass
class Totals:
    """The totals of one pass: lines for a task's start and for a chunk's end. Chunks run from the last to the first.
    sequences: that a task computes side by side; each adds a term a token. first: the text of the first token."""

    work: Workspace
    chunk: int
    sequences: int = 1
    first: str = "0"
    start: list[str] = field(default_factory=list)
    parts: dict[int, list[str]] = field(default_factory=dict)

    def add(self, name: str, axes: tuple[Axis, ...]) -> tuple[Array, Array]:
        """(what tokens are added to, the total once the first chunk is done), as arrays along `axes`."""
        part, total, lost = (self.work.array(f"{kind}_{name}", axes) for kind in ("sum", "total", "lost"))
        for array in (part, total, lost):
            self.start += zeroed(array, self.work.size)
        tokens = (MATRIX if len(axes) > 1 else VECTOR) // self.sequences // self.chunk * self.chunk or self.chunk
        line = f"add_up({total.base}, {lost.base}, {part.base}, {self.work.length(axes)});"
        self.parts.setdefault(tokens, []).append(line)
        return part, total

    @property
    def end(self) -> list[str]:
        lines, last = [], "" if self.first == "0" else f" || begin == {self.first}"
        for tokens, each in self.parts.items():
            lines += each if tokens == self.chunk else block(f"if (begin % {tokens} == 0{last})", each)
        return lines


def zeroed(array: Array, size: Callable[[Axis], int]) -> list[str]:
    """Loops that fill an array with zeros."""
    return copied(array, Array("(const real[]){0}", array.axes, dict.fromkeys(array.axes, 0)), size)


def by_layout(axes: tuple, layouts: dict[str, tuple]) -> tuple:
    """The axes of a sum in the order of a state that has them."""
    for layout in layouts.values():
        if set(axes) <= set(layout):
            return tuple(axis for axis in layout if axis in axes)
    return axes
