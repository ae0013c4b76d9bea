"""Coupled matrix memories: states of one type that are affine in each other through one factor a head and token.

    S_a[t] = sum_b P_ab S_b[t-1] + sum_j key_j (x) s_ja (z_j + sum_r c_jr y_r),      y_r = w_r . S_b(r)[t-1]

Momentum before a memory, a memory held from the start of a chunk: what is written under one key enters each state with
a scale of its own, and each read that is written back is one of any of the states.
"""

from __future__ import annotations

from dataclasses import dataclass

from recc.analysis.affine import factored, rank_of
from recc.analysis.plan import Coupled, CoupledWrite, Reason
from recc.analysis.poly import Algebra, Term
from recc.ir.node import HEADS, Axis, Node
from recc.ir.ops import ONE, ZERO, add, const, is_zero, mul, neg
from recc.ir.program import Recurrence


@dataclass
class _Piece:
    """key times value, or key times the rank read `read`, with a coefficient for each state that it is added to."""

    key: Node
    value: Node
    read: int | None
    scales: dict[str, Node]


def couple(rec: Recurrence, updates: dict[str, Node], olds: list[Node], read_axes: tuple) -> Coupled | Reason:
    """The normal form of states that depend on each other, or why they have none."""
    names = list(updates)
    listing, states = ", ".join(names), [rec.state(name) for name in names]
    if len({state.axes for state in states}) > 1 or any(state.dtype != "real" for state in states):
        return Reason(f"{listing} depend on each other, and are not real memories of one type")
    algebra = Algebra(olds, rec.spans)
    factors: dict[tuple[str, str], Node] = {}
    ranks: dict[tuple[str, Node], int] = {}
    pieces: list[_Piece] = []
    added: list[tuple[str, Term]] = []
    mixing: set[Axis] = set()
    for name in names:
        for term in algebra.expand(updates[name]):
            if term.variable is None:
                added.append((name, term))
                continue
            source, moved = _source(term)
            if not moved:
                found = algebra.node([Term(term.coef, term.factors, term.bound)])
                if set(found.axes) - {HEADS}:
                    return Reason(f"{listing} depend on each other by more than one factor a head")
                factors[name, source] = add(factors.get((name, source), ZERO), found)
                continue
            rank = rank_of(term, *moved) if moved[1] in term.bound else None
            if rank is None or set(rank.column.axes) - {HEADS}:
                return Reason(f"{listing} depend on each other by more than contractions over one axis")
            mixing.add(moved[0])
            read = ranks.setdefault((source, rank.w), len(ranks))
            _note(pieces, _Piece(rank.u, ONE, read, {name: mul(rank.coef, rank.column)}))
    mixing |= {axis for axis in read_axes if axis is not None} if not mixing else set()
    if len(mixing) != 1:
        return Reason(f"{listing} depend on each other, and no single axis is contracted")
    (axis,) = mixing
    for name, term in added:
        parts = factored(list(term.factors), term.bound, axis)
        if parts is None:
            return Reason(f"what is added to {name} does not factor into a product over {axis} and the other axes")
        key, coef, value = parts
        _note(pieces, _Piece(key, value, None, {name: mul(const(_whole(term.coef)), coef)}))
    rows = tuple(tuple(factors.get((a, b), ZERO) for b in names) for a in names)
    reads = tuple((source, w) for source, w in ranks)
    return Coupled(axis, rows, reads, _writes(pieces))


def _source(term: Term) -> tuple[str, tuple[Axis, Axis] | None]:
    """The state in a term, and its axis that is moved, with the label that it has there; no label if several are."""
    variable = term.variable
    assert variable is not None
    if variable.op != "rename":
        return variable["name"], None
    moved = tuple((old, new) for old, new in variable["mapping"])
    return variable.args[0]["name"], moved[0] if len(moved) == 1 else (moved[0][0], "")


def _note(pieces: list[_Piece], piece: _Piece) -> None:
    """Joins a piece to that of the same key and value, if there is one."""
    for other in pieces:
        if (other.key, other.value, other.read) == (piece.key, piece.value, piece.read):
            for name, scale in piece.scales.items():
                other.scales[name] = add(other.scales.get(name, ZERO), scale)
            return
    pieces.append(piece)


def _writes(pieces: list[_Piece]) -> tuple[CoupledWrite, ...]:
    """Pieces that enter the states alike are one write, whose value holds what they share."""
    found: dict[tuple, tuple[Node, dict[int, Node]]] = {}
    for piece in pieces:
        common, scales = _shared(piece.scales)
        fixed, of_read = found.get((piece.key, scales), (ZERO, {}))
        if piece.read is None:
            fixed = add(fixed, mul(common, piece.value))
        else:
            of_read = of_read | {piece.read: add(of_read.get(piece.read, ZERO), common)}
        found[piece.key, scales] = fixed, of_read
    return tuple(
        CoupledWrite(key, scales, fixed, tuple(sorted(of_read.items())))
        for (key, scales), (fixed, of_read) in found.items()
    )


def _shared(scales: dict[str, Node]) -> tuple[Node, tuple[tuple[str, Node], ...]]:
    """(c, the scales divided by c) for a c that all scales are, but for their signs; else (1, the scales)."""
    held = {name: scale for name, scale in scales.items() if not is_zero(scale)}
    first = next(iter(held.values()), ONE)
    signs = {name: ONE if scale is first else const(-1) for name, scale in held.items()}
    if all(scale in (first, neg(first)) for scale in held.values()):
        return first, tuple(signs.items())
    return ONE, tuple(held.items())


def _whole(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
