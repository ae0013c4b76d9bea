"""Lines of the caller's tensors on their way into the caches while a chunk is computed: of the inputs of the next one
and the state that it starts from, where that was saved, and of the results of this one, which would else wait for their
lines when they are written.

A token of one head is a short piece of a tensor, and the next token's lies behind those of the other heads, so that no
machine foresees it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from recc.backends.c.arrays import Array, block
from recc.backends.c.loops import Loops

from recc.ir.node import Axis, Node

if TYPE_CHECKING:
    from recc.backends.c.part import Part

MOST = 24  # lines of a strip's token: where there are more, each tensor's piece is long enough to be foreseen
EACH = 4  # lines that a tile's token asks for: beyond that they would delay its arithmetic


class Piece(NamedTuple):
    """Of a tensor's lines at a token, `count` that lie side by side. base: where the first begins at token 0 of this
    chunk. step: the text of the stride between tokens."""

    base: str
    count: int
    step: str


class Lines(NamedTuple):
    """token: the text of the token whose lines are asked for. write: whether they are written. past: the text of a
    flag, whether some are written past the caches, so that nothing is to be asked for."""

    pieces: list[Piece]
    token: str
    write: bool
    past: str | None = None

    @property
    def name(self) -> str:
        return "written" if self.write else "nexts"

    @property
    def count(self) -> int:
        return sum(piece.count for piece in self.pieces)

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
    found = [Lines(_pieces(reads, size, line), other, False), Lines(_pieces(stores, size, line), "t", True, past)]
    return [each for each in found if each.pieces]


def _pieces(arrays: list[Array | None], sizes: Callable[[Axis], int], line: int) -> list[Piece]:
    found = {}
    for array in arrays:
        if array is not None and array.base.endswith("_at") and array.time is not None:
            known = [axis for axis in array.axes if isinstance(array.strides[axis], int)]  # not that of heads
            size = max([1, *(sizes(axis) * array.strides[axis] for axis in known)])
            found[array.base] = Piece(array.base, -(-size // line), array.time)
    return list(found.values())


def of_tile(loops: Loops, part: Part) -> tuple[list[str], list[str]]:
    """What each token of a tile asks for, its share of all lines; and what stands before its loop over tokens."""
    turns, turn, line = 1, [], part.work.align
    for axis, name, step in ((loops.row, "i", loops.rows), (loops.lane, "l", loops.vectors * loops.lanes)):
        count = -(-loops.sizes(axis) // step) if axis is not None else 1
        if count > 1:
            own = f"{name} / {step}" if step > 1 else name
            turn.append(f"{own} * {turns}" if turns > 1 else own)
            turns *= count
    before, fetch = [f"const long share = {' + '.join(turn) or 0};"], []
    for lines in lines_of(part):
        slots = _slots(lines.pieces, turns)
        for n, slot in enumerate(slots if len(slots) <= EACH else []):
            name = f"{lines.name}{n}"
            place, step = _of_share(slot, turns, line)
            idle = f"{lines.past} ? " if lines.past else ""
            before += [f"const real *const {name} = {f'{idle}work : ' * bool(idle)}{place};"]
            before += [f"const long {name}_step = {f'{idle}0 : ' * bool(idle)}{step};"]
            fetch.append(lines.fetch(name, f"{name}_step"))
    asked, own = _saved(part, "share", turns)
    return ([*fetch, *own], [*before, *asked]) if fetch or own or asked else ([], [])


def _slots(pieces: list[Piece], turns: int) -> list[list[tuple[int, int, Piece]]]:
    """All lines dealt out: in a slot each turn has one line. A slot's parts: the turn at which one begins, which line
    of its piece that has, and the part."""
    slots: list[list[tuple[int, int, Piece]]] = []
    filled = turns
    for piece in pieces:
        first = 0
        while first < piece.count:
            if filled == turns:
                slots.append([])
                filled = 0
            own = min(piece.count - first, turns - filled)
            slots[-1].append((filled, first, piece._replace(count=own)))
            filled, first = filled + own, first + own
    return slots


def _of_share(slot: list[tuple[int, int, Piece]], turns: int, line: int) -> tuple[str, str]:
    """The texts of the line that a turn asks for and of its stride between tokens; once each, what is near after."""
    end = slot[-1][0] + slot[-1][2].count
    place, step = ("", "") if end == turns else ("work", "0")
    for start, first, (base, count, own) in reversed(slot):
        offset = first - start
        far = f"(share {'+' if offset > 0 else '-'} {abs(offset)})" if offset else "share"
        where = f"{base} + {far} * {line}" if turns > 1 else f"{base} + {first * line}"
        more = f"share < {start + count} ? "
        place, step = (f"{more}{where} : {place}", f"{more}{own} : {step}") if place else (where, own)
    return place, step


def _saved(part: Part, share: str, turns: int) -> tuple[list[str], list[str]]:
    """Of the states that the next chunk starts from, a turn's share: where it begins, and what each token asks for."""
    before, fetch, line = [], [], part.work.align
    for name, (base, size) in part.saved.items():
        own = -(-size // (turns * line)) * line
        each = -(-own // part.chunk)
        before.append(f"const real *const {name} = {base}{f' + {share} * {own}' * (turns > 1)};")
        if own == line:  # one a turn
            before.append(f"__builtin_prefetch({name}, 0, 2);")
        elif each > line:
            each = -(-each // line) * line
            head = f"for (long n = 0; n < {each}; n += {line}) "
            fetch.append(f"{head}__builtin_prefetch({name} + t * {each} + n, 0, 2);")
        else:
            fetch.append(f"__builtin_prefetch({name} + t * {each}, 0, 2);")
    return before, fetch


def of_strip(loops: Loops, part: Part) -> tuple[list[str], list[str]]:
    """The same for a strip, whose tokens have time for more of them."""
    width, line = loops.vectors * loops.lanes, part.work.align
    turns, fetch = -(-loops.sizes(loops.lane) // width), []
    for lines in lines_of(part):
        if lines.count > MOST:
            continue
        places = [(f"{p.base} + {n * line}" if n else p.base, p.step) for p in lines.pieces for n in range(p.count)]
        each = [lines.fetch(*place) for place in places]
        dealt = [block(f"if (l == {n * width})", each[n::turns]) for n in range(min(turns, len(each)))]
        own = [text for texts in dealt for text in texts] if turns > 1 else each
        fetch += block(f"if (!({lines.past}))", own) if lines.past else own
    asked, own = _saved(part, f"(l / {width})", turns)
    return [*fetch, *own], asked


def next_token(part: Part, node: Node, index: dict[Axis, str], elements: int) -> list[str]:
    """What a token that passes over the whole state asks for as it reads an input: the same place of the next token's
    row; and where another part has brought in the chunk's rows before, that of the next chunk, which it begins with.
    elements: how far the vector at `index` lies from the first of those that are read together."""
    array = part.arrays.get(node)
    own = array is not None and array.time is not None and array.base.endswith("_at")
    if not own or elements % part.work.align:  # once a line
        return []
    there = array.base in part.near
    if there and part.staggered:  # the loop of the chunk before asks for it
        return []
    far, level = (f"{part.chunk} * {array.time}", 2) if there else (array.time, 2 if part.staggered else 3)
    return [f"__builtin_prefetch({array.at(index)} {'-' if part.backwards else '+'} {far}, 0, {level});"]
