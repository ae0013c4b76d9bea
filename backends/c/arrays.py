"""Where a value lies in memory, the text of its address, and the loops that copy it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from recc.ir.node import SEQUENCES, Axis

TIME = "@token"  # in an index: where an index has another token than t


@dataclass(frozen=True)
class Array:
    """A pointer with strides in elements: numbers, texts, or texts with a place for the index, which are the distance.

    base: its text. axes: in memory order, the last one contiguous.

    past: the text of a flag, whether writes of whole vectors go past the caches: large results that only others read.
    time: the text of the stride between tokens, None for what is the same at every token. whole: whether rows along
    the last axis are padded to full vectors.
    """

    base: str
    axes: tuple[Axis, ...]
    strides: dict[Axis, int | str] = field(hash=False)
    time: str | None = None
    whole: bool = True
    past: str | None = None

    def at(self, index: dict[Axis, str]) -> str:
        """The address of the element at `index` (texts by axis; an axis without one is at 0)."""
        parts = [self.base]
        if self.time is not None:
            token = index.get(TIME, "t")
            parts.append(token if self.time == "1" else f"{token} * {self.time}")
        for axis in self.axes:
            text, stride = index.get(axis, "0"), self.strides[axis]
            if text != "0" and isinstance(stride, str) and "{}" in stride:
                parts.append(stride.format(text))
            elif text != "0":
                parts.append(text if stride == 1 else f"({text}) * {stride}" if " " in text else f"{text} * {stride}")
        return " + ".join(parts)


class Workspace:
    """Hands out the arrays of one task, one after the other, each at a multiple of 64 bytes."""

    def __init__(self, lanes: int, sizes: dict[str, int], element: int) -> None:
        self.lanes, self.sizes, self.align = lanes, sizes, 64 // element
        self.lines: list[str] = []
        self.names: list[str] = []
        self.used = 0

    def size(self, axis: Axis) -> int:
        return self.sizes[axis]

    def length(self, axes: tuple[Axis, ...]) -> int:
        """The elements of an array along `axes`, with the padding of its last one."""
        total = 1
        for axis in axes:
            total *= -(-self.size(axis) // self.lanes) * self.lanes if axis == axes[-1] else self.size(axis)
        return total

    def array(self, name: str, axes: tuple[Axis, ...], tokens: int | None = None) -> Array:
        """An array along `axes` in this order, of `tokens` tokens or (None) one for all; the last axis is padded."""
        strides = {axis: self.length(axes[place + 1 :]) for place, axis in enumerate(axes)}
        step = self.length(axes)
        if tokens and step % (8 * self.align) == 0:  # else tokens would share few sets of the first-level cache
            step += self.align
        name = self._free(name)
        named = (axis if axis != SEQUENCES else f"{self.size(axis)} sequences" for axis in axes)
        note = " x ".join([*([f"{tokens} tokens"] if tokens else []), *named]) or "one number"
        self.lines.append(f"    real *{name} = work + {self.used};  // {note}")
        total = step * (tokens or 1) + self.lanes
        self.used += -(-total // self.align) * self.align
        return Array(name, axes, strides, str(step) if tokens else None)

    def _free(self, name: str) -> str:
        """The name, or one like it: two names of a spec may be one as an identifier."""
        taken = sum(other == name or other.startswith(f"{name}__") for other in self.names)
        self.names.append(f"{name}__{taken + 1}" if taken else name)
        return self.names[-1]

    def tile(self, name: str, axes: tuple[Axis, ...], rows: int, width: int, tokens: int) -> Array:
        """An array for `rows` x `width` elements of (row, lane) at a time. A pointer `near_name` must be so far before
        it that indices along the whole axes reach it."""
        name = self._free(name)
        note = f"{tokens} tokens x {rows} x {width} of {' x '.join(axes)}"
        self.lines.append(f"    real *{name} = work + {self.used};  // {note}")
        total = tokens * rows * width + self.lanes
        self.used += -(-total // self.align) * self.align
        return Array(f"near_{name}", axes, {axes[0]: width, axes[1]: 1}, str(rows * width))


def variable(place: int) -> str:
    return "jkmnpqrs"[place]


def block(head: str, lines: list[str]) -> list[str]:
    return [f"{head} {{".strip(), *("    " + line for line in lines), "}"]


def nested(heads: list[str], lines: list[str]) -> list[str]:
    """`lines` in loops within each other, the outermost one first."""
    for head in reversed(heads):
        lines = block(head, lines)
    return lines


def scope(lines: list[str]) -> list[str]:
    return block("", lines)


def copied(to: Array, source: Array, sizes: Callable[[Axis], int], lanes: int = 0) -> list[str]:
    """Loops that copy every element: whole rows at once where both lie in the same order, and square blocks of `lanes`
    where one is the other's transpose."""
    axes = tuple(axis for axis in to.axes if axis != SEQUENCES or sizes(axis) > 1)
    index = {axis: variable(place) for place, axis in enumerate(axes)}
    if lanes and len(axes) == 2 and not any(sizes(axis) % lanes for axis in axes):
        row, column = axes
        if to.strides[column] == source.strides[row] == 1:
            lines = [f"turn({to.at(index)}, {to.strides[row]}, {source.at(index)}, {source.strides[column]});"]
            for axis in (column, row):
                head = f"for (long {index[axis]} = 0; {index[axis]} < {sizes(axis)}; {index[axis]} += {lanes})"
                lines = block(head, lines)
            return lines
    lines = [f"*({to.at(index)}) = *({source.at(index)});"]
    if axes and to.strides[axes[-1]] == source.strides[axes[-1]] == 1:
        row = {**index, axes[-1]: "0"}
        lines = [f"__builtin_memcpy({to.at(row)}, {source.at(row)}, {sizes(axes[-1])} * sizeof(real));"]
        axes = axes[:-1]
    for axis in reversed(axes):
        lines = block(f"for (long {index[axis]} = 0; {index[axis]} < {sizes(axis)}; {index[axis]}++)", lines)
    return lines
