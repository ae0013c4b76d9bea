"""Tensors in memory, as kernels address them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recc.backends.triton.nodes import inner

from recc.ir.node import GRID, HEADS, RANK, ROW, Axis, dim_of

BLOCK = "@block"  # of a sum, of which each block of a dim computes a part
TOKENS, CHUNKS, FIXED, STATES = "tokens", "chunks", "fixed", "states"


@dataclass(frozen=True)
class Tensor:
    """A tensor in memory, as kernels address it.

    tokens: [batch, heads, time, dims] with strides; chunks: [chunks, heads, tile], contiguous; fixed: [heads, tile],
    contiguous; states: [sequences, heads, dims] with strides. axes: the node's, which say which of these there are.
    zero: rows after a chunk's last token are read as 0, otherwise they repeat that token. parts: a leading axis counts
    the blocks of a sum. wide: always float32, where others of its layout have the inputs' dtype. entry: the variable
    that counts along the first axis, where that is not what the layout says. at: along these axes it is one place of
    the tensor.
    """

    name: str
    layout: str
    axes: tuple[Axis, ...]
    zero: bool = False
    parts: bool = False
    wide: bool = False
    entry: str = ""
    at: tuple[tuple[Axis, int], ...] = ()

    @property
    def whole(self) -> Tensor:
        """The tensor that this is a place of."""
        return replace(self, at=())

    @property
    def tile(self) -> tuple[Axis, ...]:
        """The axes of the tile that a kernel reads or writes of it."""
        places = dict(self.at)
        return tuple(axis for axis in inner(self.axes) if axis not in places)

    @property
    def order(self) -> tuple[Axis, ...]:
        """The axes of a tile as they lie in memory: a place of axes of ranks is in one piece."""
        return tuple(sorted(inner(self.axes), key=lambda axis: dim_of(axis) != RANK))

    @property
    def strides(self) -> list[tuple[Axis, str]]:
        """The axes with a stride of their own, and the strides' names."""
        if self.layout not in (TOKENS, STATES):
            return []
        names = {BLOCK: "block", GRID: "batch" if self.layout == TOKENS else "sequence", HEADS: "head", ROW: "time"}
        axes = (BLOCK, *self.axes) if self.parts else self.axes
        return [(axis, f"{self.name}_{names.get(axis, label(axis))}") for axis in axes]


@dataclass(frozen=True)
class Walk:
    """Where a state that a launch takes along comes from and goes to.

    initial: the tensor with what enters first, or the number that it is, or None for the identity matrix; entering:
    what enters each chunk is stored there; leaving: what leaves last is.
    """

    name: str
    initial: Tensor | float | None
    entering: Tensor | None = None
    leaving: Tensor | None = None


def label(axis: Axis) -> str:
    return axis.replace("'", "_").replace("@", "")
