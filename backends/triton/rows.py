"""Values as kernels have them whose programs take several sequences: with the sequences along the rows of tiles."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from recc.ir.node import GRID, ROW, Node, Spans, walk
from recc.ir.ops import build, leaf
from recc.tile.program import TileProgram
from recc.tile.words import Words


class Rows:
    """Called with a node, gives it as a kernel's tile has it. several: whether a program takes rows of sequences."""

    def __init__(self, several: bool) -> None:
        self.several = several
        self.turned: dict[Node, Node] = {}

    def __call__(self, node: Node) -> Node:
        if not self.several:
            return node
        for below in walk(node):
            if below in self.turned:
                continue
            attrs = dict(below.attrs)
            if not below.args:
                axes = tuple(ROW if axis == GRID else axis for axis in below.axes)
                self.turned[below] = leaf(below.op, axes, below.dtype, **attrs)
                continue
            if "over" in attrs:
                attrs["over"] = tuple(ROW if axis == GRID else axis for axis in attrs["over"])
            self.turned[below] = build(below.op, *(self.turned[arg] for arg in below.args), **attrs)
        return self.turned[node]

    def words(self, program: TileProgram, known: Collection[Node]) -> Words:
        """Names and comments for the nodes that kernels have. known: those of them that spans are wanted for."""
        if not self.several:
            return Words(program)

        def turned(texts: dict) -> dict:
            return {self(node): text for node, text in texts.items()}

        results = {name: self(node) for name, node in program.stores.items()}
        spans = Spans({self(node): span for node, span in program.spans.items() if node in known})
        return Words(replace(program, names=turned(program.names), notes=turned(program.notes), stores=results,
                             sums={}, spans=spans))  # fmt: skip
