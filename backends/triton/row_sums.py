"""Sums of rows over a dim that a launch takes block by block, gathered in one vector.

Where several of them are terms of one vector, each times a factor of its rows, they add up in one register a row: the
factors go inside, and tiles that are contracted with the same one are added before, f (x . y) + x . z = x . (f y + z).
Sums up the rows of several vectors are one such sum of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

from recc.backends.triton.loops import after_sums, has, sums_over
from recc.backends.triton.nodes import inner
from recc.backends.triton.rebuilt import read_once, rebuilt
from recc.backends.triton.steps import Launch

from recc.ir.node import ROW, Node
from recc.ir.ops import add, build, dot, mul, neg, sub


@dataclass(frozen=True)
class Term:
    """One term of a vector: `node`, negative or not, times factors of the rows."""

    negative: bool
    node: Node
    factors: tuple[Node, ...]

    @property
    def value(self) -> Node:
        return _times(self.node, self.factors)


def row_sums(launch: Launch, dim: str) -> Launch:
    """The launch with vectors that add up over `dim` gathered. What it stores stands at the same place in `stores`."""
    launch = rebuilt(launch, _RowSums(launch, dim).cumulated())
    return rebuilt(launch, _RowSums(launch, dim).gathered())


class _RowSums:
    def __init__(self, launch: Launch, dim: str) -> None:
        self.launch, self.dim = launch, dim
        self.once = read_once(launch)
        self.late = after_sums(launch, dim)
        vectors = [node for node in launch.nodes if node.op in ("add", "sub") and inner(node.axes) == (ROW,)]
        within = {arg for node in launch.nodes if node.op in ("add", "sub") for arg in node.args if arg in self.once}
        self.vectors = [node for node in vectors if node not in within]  # the outermost ones

    def _terms(
        self, node: Node, negative: bool = False, factors: tuple[Node, ...] = (), top: bool = True
    ) -> list[Term]:
        if top or node in self.once:
            if node.op in ("add", "sub"):
                first, second = node.args
                flipped = negative != (node.op == "sub")
                return [*self._terms(first, negative, factors, False), *self._terms(second, flipped, factors, False)]
            for value, factor in (node.args, node.args[::-1]) if node.op == "mul" else ():
                later = value in self.late or sums_over(value, self.dim)
                if later and factor not in self.late and inner(factor.axes) == (ROW,) == inner(value.axes):
                    return self._terms(value, negative, (*factors, factor), False)
        return [Term(negative, node, factors)]

    def cumulated(self) -> dict[Node, Node]:
        """Vectors with one sum up the rows in place of several."""
        new = {}
        for node in self.vectors:
            terms = self._terms(node)
            sums = [one for one in terms if one.node.op == "rcumsum" and not one.factors and one.node in self.once]
            if len(sums) > 1:
                inside = [Term(one.negative, one.node.args[0], ()) for one in sums]
                rest = [one for one in terms if one not in sums]
                new[node] = _total([*rest, Term(False, build("rcumsum", _total(inside)), ())])
        return new

    def gathered(self) -> dict[Node, Node]:
        """Vectors with sums of rows over the loop gathered, those with the same tile in one product."""
        new = {}
        for node in self.vectors:
            terms = self._terms(node)
            sums = [one for one in terms if self._is_row_sum(one.node)]
            if len(sums) > 1:
                rest = [one for one in terms if one not in sums]
                new[node] = _total([Term(False, _total(_products(sums)), ()), *rest])
        return new

    def _is_row_sum(self, node: Node) -> bool:
        """Whether a vector is a contraction of two tiles over the loop's dim that nothing else reads."""
        tiles = _tiles(node)
        if not tiles or not sums_over(node, self.dim) or any(arg in self.late for arg in tiles):
            return False
        single = len(inner(node["over"])) == 1 and node in self.once
        return single and all(len(inner(arg.axes)) == 2 and ROW in arg.axes and has(arg, self.dim) for arg in tiles)


def _tiles(node: Node) -> tuple[Node, ...]:
    """The two tiles whose product a vector is the sum of, if it is one."""
    if node.op == "sum":
        return node.args[0].args if node.args[0].op == "mul" else ()
    return node.args if node.op == "dot" else ()


def _products(sums: list[Term]) -> list[Term]:
    """Contractions with the same tile as one, of the sum of what it is contracted with."""
    shared: dict[Node, list[Term]] = {}
    often = [arg for one in sums for arg in dict.fromkeys(_tiles(one.node))]
    for one in sums:
        tile = max(_tiles(one.node), key=lambda arg: (often.count(arg), arg.op == "tile"))
        other = _tiles(one.node)[1 if tile is _tiles(one.node)[0] else 0]
        shared.setdefault(tile, []).append(Term(one.negative, other, one.factors))
    found = []
    for tile, terms in shared.items():
        negative = all(one.negative for one in terms)
        inside = [Term(one.negative != negative, one.node, one.factors) for one in terms]
        found.append(Term(negative, dot(tile, _total(inside), sums[0].node["over"]), ()))
    return found


def _total(terms: list[Term]) -> Node:
    total = None
    for one in sorted(terms, key=lambda one: one.negative):
        value = one.value
        total = (
            (neg(value) if one.negative else value) if total is None else (sub if one.negative else add)(total, value)
        )
    assert total is not None
    return total


def _times(value: Node, factors: tuple[Node, ...]) -> Node:
    for factor in reversed(factors):
        value = mul(value, factor)
    return value
