"""Lines of the caller's tensors on their way into the caches while a chunk is computed: of the inputs of the next one,
and of the results of this one, which would else wait for their lines when they are written.

A token of one head is a short piece of a tensor, and the next token's lies behind those of the other heads, so that no
machine foresees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from recc.backends.c.arrays import Array
from recc.backends.c.loops import Loops

from recc.ir.node import Axis, Node

if TYPE_CHECKING:
    from recc.backends.c.part import Part

MOST = 24  # lines of a token: where there are more, each tensor's piece is long enough to be foreseen
EACH = 4  # of them that a tile's token asks for: beyond that they would delay its arithmetic


class Lines(NamedTuple):
    """places: where each line begins at token 0 of this chunk, and the stride between tokens. token: the text of the
    token whose lines are asked for. write: whether they are written. past: the text of a flag, whether some are written
    past the caches, so that nothing is to be asked for."""

    places: list[tuple[str, str]]
    token: str
    write: bool
    past: str | None = None

    @property
    def name(self) -> str:
        return "written" if self.write else "nexts"

    def listed(self) -> list[str]:
        bases, steps = (", ".join(texts) for texts in zip(*self.places))
        return [f"const real *const {self.name}[] = {{{bases}}};", f"const long {self.name}_step[] = {{{steps}}};"]

    def fetch(self, place: str, step: str) -> str:
        return f"__builtin_prefetch({place} + {self.token} * {step}, {int(self.write)}, 2);"


def lines_of(part: Part) -> list[Lines]:
    """What there is to ask for; nothing in a part that another one, which reads the same, follows."""
    if part.prefix:
        return []
    reads = [part.arrays.get(node) for node in part.program.loads.values() if node in part.order]
    stores = [part.results.get(name) for name in part.program.stores]
    other = f"(t {'-' if part.backwards else '+'} {part.chunk})"
    size, line = part.work.size, part.work.align
    past = " || ".join(dict.fromkeys(array.past for array in stores if array is not None and array.past)) or None
    found = [Lines(_places(reads, size, line), other, False), Lines(_places(stores, size, line), "t", True, past)]
    return [each for each in found if 0 < len(each.places) <= MOST]


def _places(arrays: list[Array | None], sizes: Callable[[Axis], int], line: int) -> list[tuple[str, str]]:
    found = {}
    for array in arrays:
        if array is not None and array.base.endswith("_at") and array.time is not None:
            known = [axis for axis in array.axes if isinstance(array.strides[axis], int)]  # not that of heads
            size = max([1, *(sizes(axis) * array.strides[axis] for axis in known)])
            found |= {f"{array.base} + {n}" if n else array.base: array.time for n in range(0, size, line)}
    return list(found.items())


def of_tile(loops: Loops, part: Part) -> tuple[list[str], list[str]]:
    """What each token of a tile asks for, its share of all lines; and what stands before its loop over tokens."""
    turns, turn = 1, []
    for axis, name, step in ((loops.row, "i", loops.rows), (loops.lane, "l", loops.vectors * loops.lanes)):
        count = -(-loops.sizes(axis) // step) if axis is not None else 1
        if count > 1:
            own = f"{name} / {step}" if step > 1 else name
            turn.append(f"{own} * {turns}" if turns > 1 else own)
            turns *= count
    before, fetch = [f"const long share = {' + '.join(turn) or 0};"], []
    for lines in lines_of(part):
        number, count = len(lines.places), -(-len(lines.places) // turns)
        if count > EACH:
            continue
        before += lines.listed()
        for n in range(count):
            name, place = f"{lines.name}{n}", f"share + {n * turns}" if n else "share"
            own = [f"{place} < {number}"] if number < turns * (n + 1) else []  # once each: else what is near again
            idle = " && ".join([*own, *([f"!({lines.past})"] if lines.past else [])])
            idle = f"{idle} ? " if idle else ""
            before += [f"const real *const {name} = {idle}{lines.name}[{place}]{' : work' * bool(idle)};"]
            before += [f"const long {name}_step = {idle}{lines.name}_step[{place}]{' : 0' * bool(idle)};"]
            fetch.append(lines.fetch(name, f"{name}_step"))
    return (fetch, before) if fetch else ([], [])


def of_strip(loops: Loops, part: Part) -> tuple[list[str], list[str]]:
    """The same for a strip, whose tokens have time for more of them."""
    width = loops.vectors * loops.lanes
    turns = -(-loops.sizes(loops.lane) // width)
    before, fetch = [], []
    for lines in lines_of(part):
        before += lines.listed()
        first, step = (f"l / {width}", f"n += {turns}") if turns > 1 else ("0", "n++")
        count = f"({lines.past} ? 0 : {len(lines.places)})" if lines.past else len(lines.places)
        head = f"for (long n = {first}; n < {count}; {step})"
        fetch.append(f"{head} {lines.fetch(f'{lines.name}[n]', f'{lines.name}_step[n]')}")
    return fetch, before


def next_token(part: Part, node: Node, index: dict[Axis, str], elements: int) -> list[str]:
    """What a token that passes over the whole state asks for as it reads an input: the same place of the next token's
    row. elements: how far the vector at `index` lies from the first of those that are read together."""
    array = part.arrays.get(node)
    own = array is not None and array.time is not None and array.base.endswith("_at")
    if not own or elements % part.work.align:  # once a line
        return []
    return [f"__builtin_prefetch({array.at(index)} {'-' if part.backwards else '+'} {array.time}, 0, 3);"]
