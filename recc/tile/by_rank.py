"""Tiles of several ranks as one tile for each rank.

A memory that several rank terms write to in a token has one triangular system for all of them, whose tiles have an axis
of ranks beside the rows. In kernels an axis of two or three places is padded to four, and a tile of three axes takes
many registers to lie as products want it. So all but the inverse of the system is taken apart: a product over ranks is
a sum of products, one for each, and their operands are blocks of the inverse.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from recc.ir.node import RANK, Axis, Node, Spans, dim_of, walk
from recc.ir.ops import OPS, STRUCTURAL, ZERO, add, build, dot, is_zero, leaf, rename, spread
from recc.tile.program import TileProgram, with_values

# What computes each place of an axis that it does not name from the same place of its arguments.
ALONG_OTHERS = ("sum", "amax", "shift", "unshift", "cumsum", "rcumsum", "end", "put_end", "first", "put_first",
                "until_end", "sum_before")  # fmt: skip


def by_rank(program: TileProgram) -> TileProgram:
    """The same values, without axes of ranks but on inverses and what these are made of."""
    ranks, spans, done = _Ranks(), Spans(program.spans), {}
    for node in walk(*program.roots):
        args = tuple(done[arg] for arg in node.args)
        new = node if args == node.args else spans.inherit(build(node.op, *args, **dict(node.attrs)), node)
        done[node] = spans.inherit(ranks.apart(new), node)
    return with_values(program, done, spans)


class _Ranks:
    def __init__(self) -> None:
        self.known: dict[Node, dict[Axis, int]] = {}
        self.parts: dict[tuple[Node, Axis, int], Node] = {}

    def apart(self, node: Node) -> Node:
        """A place of a tile, or a contraction over ranks, as what is computed of the tiles of each rank."""
        if node.op == "take" and node["axis"] in self.ranked(node.args[0]):
            return self.part(node.args[0], node["axis"], node["index"])
        if node.op not in ("dot", "sum"):
            return node
        sizes = {axis: size for arg in node.args for axis, size in self.ranked(arg).items() if axis in node["over"]}
        if not sizes:
            return node
        total = ZERO
        for places in itertools.product(*map(range, sizes.values())):
            args = [self._at(arg, zip(sizes, places, strict=True)) for arg in node.args]
            total = add(total, _contracted(node.op, args, tuple(axis for axis in node["over"] if axis not in sizes)))
        return total

    def ranked(self, node: Node) -> dict[Axis, int]:
        """The axes of ranks that a tile has, each with how many places it has."""
        if node not in self.known:
            found = {axis: size for arg in node.args for axis, size in self.ranked(arg).items()}
            if node.op == "rename":
                found = {dict(node["mapping"]).get(axis, axis): size for axis, size in found.items()}
            elif node.op == "stack" and dim_of(node["axis"]) == RANK:
                found[node["axis"]] = len(node.args)
            elif node.op == "put" and dim_of(node["axis"]) == RANK:
                found[node["axis"]] = node["size"]
            self.known[node] = {axis: size for axis, size in found.items() if axis in node.axes}
        return self.known[node]

    def part(self, node: Node, axis: Axis, index: int) -> Node:
        """Place `index` of a tile along an axis of ranks."""
        key = node, axis, index
        if key not in self.parts:
            self.parts[key] = self._part(node, axis, index) if axis in node.axes else node
        return self.parts[key]

    def _at(self, node: Node, places: Iterable[tuple[Axis, int]]) -> Node:
        for axis, index in places:
            node = self.part(node, axis, index)
        return node

    def _part(self, node: Node, axis: Axis, index: int) -> Node:
        own = dict(node.attrs).get("axis") == axis
        if node.op == "ones":
            return leaf("ones", tuple(other for other in node.axes if other != axis), node.dtype)
        if node.op == "stack" and own:
            return node.args[index]
        if node.op == "put" and own:
            return node.args[0] if node["index"] == index else ZERO
        if node.op == "rename":
            old = next((old for old, new in node["mapping"] if new == axis), axis)
            return rename(self.part(node.args[0], old, index), {a: b for a, b in node["mapping"] if b != axis})
        args = [self.part(arg, axis, index) for arg in node.args] if self._is_along(node) else []
        if node.op == "dot":
            return _contracted(node.op, args, node["over"])
        if args:
            return build(node.op, *args, **dict(node.attrs))
        return self._taken(node, axis, index)

    @staticmethod
    def _is_along(node: Node) -> bool:
        elementwise = node.op in OPS and node.op not in STRUCTURAL
        return bool(node.args) and (elementwise or node.op == "dot" or node.op in ALONG_OTHERS)

    def _taken(self, node: Node, axis: Axis, index: int) -> Node:
        """A place of what is not taken apart; of several axes always in the same order."""
        places = {axis: (index, self.ranked(node)[axis])}
        while node.op == "take":
            places[node["axis"]] = node["index"], node["size"]
            node = node.args[0]
        for name, (place, size) in sorted(places.items()):
            node = build("take", node, axis=name, index=place, size=size)
        return node


def _contracted(op: str, args: list[Node], over: tuple[Axis, ...]) -> Node:
    """A contraction of parts, which may lack axes that the others have."""
    if any(map(is_zero, args)):
        return ZERO
    args[0] = spread(args[0], tuple(axis for axis in over if not any(axis in arg.axes for arg in args)))
    return dot(args[0], args[1], over) if op == "dot" else build("sum", args[0], over=over)
