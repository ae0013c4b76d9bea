"""Work and bytes per token and head of a recurrence under a choice of strategies, counted on the tile program itself.

Counts are polynomials in the dims and in C, the tokens of a chunk: what is computed once a row of a chunk costs its
other axes per token, what is computed once a chunk costs a C-th of that. Nothing is measured here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from recc.analysis.plan import Plan
from recc.ir.node import COL, COMPLEX, GRID, HEADS, RANK, RANK2, ROW, Node, dim_of, walk
from recc.ir.program import Recurrence
from recc.tile.solve import slopes_of

TYPICAL = 64
C = "C"
Monomial = tuple[tuple[str, int], ...]
_ROWS = (ROW, COL, "@a", "@b")
_SCORES = ("score", "score_rows", "score_cols")
_FREE = (
    "rename",
    "take",
    "put",
    "stack",
    "shift",
    "end",
    "first",
    "put_end",
    "put_first",
    "until_end",
    "turned",
    "pick",
)


class Count(Counter):
    """A polynomial: monomial -> coefficient."""

    def plus(self, sizes: Mapping[str, int], factor: Fraction = Fraction(1)) -> None:
        self[tuple(sorted((name, power) for name, power in sizes.items() if power))] += factor

    def at(self, sizes: Mapping[str, int]) -> float:
        """The value where dims have `sizes` (64 where they are not named)."""
        total = Fraction(0)
        for monomial, factor in self.items():
            for name, power in monomial:
                factor *= Fraction(sizes.get(name) or TYPICAL) ** power
            total += factor
        return float(total)

    def __str__(self) -> str:
        order = sorted((-sum(power for _, power in monomial), monomial) for monomial, factor in self.items() if factor)
        return " + ".join(_term(monomial, self[monomial]) for _, monomial in order) or "0"


def _term(monomial: Monomial, factor: Fraction) -> str:
    top = [name if power == 1 else f"{name}^{power}" for name, power in monomial if power > 0]
    bottom = [name if power == -1 else f"{name}^{-power}" for name, power in monomial if power < 0]
    if factor.denominator != 1:
        bottom.insert(0, str(factor.denominator))
    if factor.numerator != 1 or not top:
        top.insert(0, str(factor.numerator))
    return " ".join(top) + "".join(f" / {name}" for name in bottom)


@dataclass(frozen=True)
class Work:
    """Per token and head, forward: multiply-adds in contractions, other operations, and how long the chain is.

    moved: bytes of inputs and outputs in float32; kept: bytes saved for the backward pass besides the inputs. along:
    the axis of a grid's columns, where rows of cells are solved along their diagonals.
    """

    products: Count
    other: Count
    moved: Count
    kept: Count
    chunk: int
    along: str | None = None

    def sizes(self, dims: Mapping[str, int | None]) -> dict[str, int]:
        return {name: size for name, size in dims.items() if size} | {C: self.chunk, HEADS: 1}

    @property
    def depth(self) -> str:
        """How many steps depend on each other."""
        if self.along is not None:
            return f"T + T ({self.along} - 1) / {self.chunk}"
        return f"T / {self.chunk}" if self.chunk > 1 else "T"


def work(plan: Plan, choice) -> Work:
    """Counts the operations of the tile program that `choice` gives. choice: recc.strategies.Choice."""
    from recc.strategies import lower

    program = lower(plan, choice.strategies, choice.chunk, aligned=choice.starts is not None)
    products, other = Count(), Count()
    grids = [node for node in walk(*program.roots) if node.op == "wavefront"]
    for node in walk(*program.roots, *(value for grid in grids for value in grid["step"])):
        if node.op in _FREE or not node.args:
            continue
        sizes, factor = _sizes(node, program.chunk)
        if sizes is None:
            continue
        (products if _contracts(node) else other).plus(sizes, factor)
    kept = _kept(plan.recurrence, program.chunk)
    along = next((grid["axis"] for grid in grids), None)
    return Work(products, other, moved(plan.recurrence), kept, program.chunk, along)


def _contracts(node: Node) -> bool:
    return node.op in ("dot", "inverse", *_SCORES)


def _sizes(node: Node, chunk: int) -> tuple[dict[str, int] | None, Fraction]:
    """The monomial that a node costs per token and head; None for what does not depend on the token."""
    axes = set(node.axes)
    for arg in node.args:
        axes |= set(arg.axes)
    if GRID not in axes:  # once a call
        return None, Fraction(0)
    factor, sizes = Fraction(1), dict[str, int]()
    rows = sum(axis in _ROWS for axis in axes)
    if node.op == "inverse":  # back substitution: n^3 / 3 for n rows
        ranks = _rank_count(node)
        rows, factor = 3, Fraction(ranks**3, 3)
        axes -= {RANK, RANK2}
    elif node.op == "newton":
        factor = Fraction(_iterated(node))
    elif node.op in ("scan", "matrix_scan"):
        factor = Fraction(3)  # each token's pair is combined about twice: a product, and a product with a sum
    elif node.op == "convolve":  # into the frequencies and back, 2.5 n log n operations each for n = 2 C
        factor = Fraction(10 * (2 * chunk).bit_length() - 10)
    if node.dtype == COMPLEX:
        factor *= 4 if _contracts(node) or node.op in ("mul", "scan", "convolve") else 2
    if rows - 1 and chunk > 1:
        sizes[C] = rows - 1
    if HEADS not in axes:
        sizes[HEADS] = -1
    for axis in axes - set(_ROWS) - {GRID, HEADS}:
        if axis in (RANK, RANK2):
            factor *= _rank_count(node)
        elif not axis.startswith("@"):
            sizes[dim_of(axis)] = sizes.get(dim_of(axis), 0) + 1
    return sizes, factor


def _iterated(node: Node) -> int:
    """Operations an element and token of all iterations: each computes the step, its slopes, and a scan of these."""
    from recc.strategies.cost import ITERATIONS

    slopes = slopes_of(node["step"], node["states"], node["dim"])
    return (ITERATIONS + 1) * (sum(bool(below.args) for below in walk(*node["step"], *slopes)) + 4 * len(slopes))


def _rank_count(node: Node) -> int:
    """How many entries the rank axis has: that of the nearest `stack` that made it."""
    if RANK not in node.axes and not any(RANK in arg.axes for arg in node.args):
        return 1
    stacks = (below for below in walk(node) if below.op == "stack" and below["axis"] in (RANK, RANK2))
    return max((len(stack.args) for stack in stacks), default=1)


def moved(rec: Recurrence) -> Count:
    """Bytes of the inputs, read once, and of the outputs, written once, in float32."""
    count = Count()
    for declared in (*rec.inputs, *rec.outputs):
        _elements(count, declared.axes, declared.dtype, {})
    return count


def _kept(rec: Recurrence, chunk: int) -> Count:
    """Bytes of the states at chunk boundaries; with one token a chunk, of the states."""
    count = Count()
    for state in rec.states:
        if not state.delay:
            _elements(count, state.axes, state.dtype, {C: -1} if chunk > 1 else {})
    return count


def _elements(count: Count, axes: tuple[str, ...], dtype: str, more: dict[str, int]) -> None:
    sizes = dict(more)
    for axis in axes:
        if axis != HEADS:
            sizes[dim_of(axis)] = sizes.get(dim_of(axis), 0) + 1
    if HEADS not in axes:
        sizes[HEADS] = -1
    count.plus(sizes, Fraction(8 if dtype == COMPLEX else 4))
