"""How the two loops of a backward pass take turns: a chunk's states, and then its cotangents; or two chunks at a time,
the cotangents of one beside the states of the chunk before it, which are needed next.

The loop that computes states again reads inputs, and the one that computes cotangents writes gradients. One after the
other, each leaves idle what the other waits for. Vector by vector in one loop all streams flow at once. What the
states' loop leaves for the cotangents then lies in two buffers, one for chunks of even number and one for odd ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from recc.backends.c.arrays import Array, block, nested
from recc.backends.c.loops import Loops
from recc.backends.c.part import Part
from recc.backends.c.vectors import Real

from recc.ir.node import Axis, Node
from recc.tile.cores import REDUCTIONS, Phases
from recc.tile.program import TileProgram

# Bytes of a state from which on two chunks go at a time: of several heads the tokens' shorter pieces lie apart, and
# memory foresees fewer streams of those than two chunks have.
ROW = 1 << 11


def is_staggered(
    again: TileProgram, back: TileProgram, sizes: Callable[[Axis], int], real: Real, registers: int
) -> bool:
    """Whether each of the two loops is one over the vectors of a token, so that both can be one loop."""
    return all(_is_flat(program, sizes, real, registers) for program in (again, back))


def _is_flat(program: TileProgram, sizes: Callable[[Axis], int], real: Real, registers: int) -> bool:
    phases = Phases(program)
    if len(phases.cores) != 1:
        return False
    (core,) = phases.cores
    own = [node for node in phases.nodes if phases.owner(node) is core]
    alone = len(core.axes) == 1 and not core.uneven and not core.coupled and not core.moves
    alone = alone and all(carry.new.args and phases.owner(carry.new) is core for carry in core.carries)
    alone = alone and not any(node.op in REDUCTIONS for node in own)
    whole = alone and Loops.of_core(core, phases, sizes, real.lanes, registers).shape == "whole"
    return whole and all(sizes(axis) * real.bytes >= ROW for axis in core.axes)


class Turns:
    """Where the values of the chunks at hand lie. staggered: there are two. tokens: of an array for all of them. lines:
    at a chunk's start."""

    def __init__(self, chunk: int, staggered: bool) -> None:
        self.chunk, self.staggered = chunk, staggered
        self.tokens = 2 * chunk if staggered else chunk
        self.lines = [f"const long odd = begin / {chunk} % 2;"] if staggered else []

    def of_inputs(self, leaves: dict[Node, Array]) -> dict[Node, Array]:
        """What the states are computed from."""
        moved = {node: array for node, array in leaves.items() if self.staggered and array.time is not None}
        for name, step in dict.fromkeys((array.base.split(" ")[0], array.time) for array in moved.values()):
            self.lines.append(f"real *restrict before_{name} = {name} - {self.chunk} * {step};")
        return leaves | {node: replace(array, base=f"before_{array.base}") for node, array in moved.items()}

    def of_kept(self, kept: dict[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
        """What the states' loop leaves: where it writes that, and where the cotangents' loop reads it."""
        if not self.staggered:
            return kept, kept
        before, here = {}, {}
        for key, array in kept.items():
            name, half = array.base, self.chunk * int(array.time or 0)
            before[key], here[key] = (replace(array, base=f"{which}_{name}") for which in ("before", "here"))
            places = f"before_{name} = {name} + (1 - odd) * {half}", f"here_{name} = {name} + odd * {half}"
            self.lines += [f"real *const {place};" for place in places]
        return before, here

    def finished(self, first: Part) -> dict[Node, Array]:
        """What the states' loop has computed of the cotangents' own chunk."""
        lasts = first.stored.items()
        return {node: array for node, array in lasts if not self.staggered or array.time is None}

    def near(self, first: Part) -> frozenset[str]:
        """The inputs that the states' loop has brought in."""
        return frozenset(base.removeprefix("before_") for base in first.reads())

    def text(self, first: Part, second: Part) -> list[str]:
        """The two loops. Of the chunk before there are `before` tokens, of this one `c`."""
        last = "from the chunk's last token to its first"
        if not self.staggered:
            head = "// the states that enter each token of the chunk"
            return [head, *first.lines, f"// the cotangents, {last}", *second.lines]
        said, _, heads, states = first.pieces
        told, _, _, cotangents = second.pieces
        turns = [*block("if (turn < before)", ["const long t = turn;", *states])]
        turns += block("if (turn < c)", ["const long t = c - 1 - turn;", *cotangents])
        return [
            *(block("", ["const long c = before;", *first.before]) if first.before else []),
            *second.before,
            "// two chunks at a time, vector by vector: the states that enter each token of the chunk before",
            *said,
            f"// and the cotangents, {last}",
            *told,
            *block("for (long turn = 0; turn < (before > c ? before : c); turn++)", nested(heads, turns)),
            *second.lines,
        ]
