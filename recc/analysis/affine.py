"""The affine normal form of one state's update, and the structure of its transition.

    S' = D * S + sum_r u_r (w_r . S) + sum_j p_j (x) z_j          (design: docs/derivation.md)

D acts elementwise; rank terms contract one axis, the mixing axis; what is added factors over the mixing axis and the
others into outer products, or else is a full term.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from recc.analysis.plan import Affine, Reason, Write
from recc.analysis.poly import Algebra, Term, apart, product_node
from recc.analysis.reads import connected
from recc.ir.node import HEADS, Axis, Node, invariant
from recc.ir.ops import ONE, ZERO, add, build, const, is_const, mul, neg, rename, sub
from recc.ir.program import Recurrence


@dataclass
class _RankTerm:
    w: Node
    u: Node  # without scalar coefficient
    coef: Node
    column: Node  # what scales the other axes


@dataclass
class _Sorted:
    diagonal: list[Term] = field(default_factory=list)
    ranks: list[_RankTerm] = field(default_factory=list)
    dense: list[Term] = field(default_factory=list)
    added: list[Term] = field(default_factory=list)
    mixing: set[Axis] = field(default_factory=set)


def classify(rec: Recurrence, old: Node, update: Node, read_axes: tuple[Axis | None, ...], algebra: Algebra) -> Affine:
    """The normal form of `update` in the state leaf `old`. Raises poly.NotAffine where it has none."""
    terms = algebra.expand(update)
    sorted_terms = _sort(old, terms)
    decay = _one_minus_sigmoid(algebra.node(sorted_terms.diagonal))
    log_decay = log_of(rec, decay)
    added = algebra.node(sorted_terms.added)
    fixed = invariant(*(factor for term in terms if term.variable is not None for factor, _ in term.factors))
    mixing = _mixing_axis(old, sorted_terms, read_axes)
    facts = {"decay": decay, "log_decay": log_decay, "time_invariant": fixed, "bias": added}
    if sorted_terms.dense or len(sorted_terms.mixing) > 1:
        return Affine(
            "dense", not_matrix=Reason("its transition mixes axes in a way that is not diagonal plus rank r"), **facts
        )
    shape = _shape(decay)
    if sorted_terms.ranks:
        shape = "diagonal+rank"
    if mixing is None:
        return Affine(shape, not_matrix=Reason("nothing contracts an axis of it: it is read elementwise"), **facts)
    ranks, pieces = _rank_writes(sorted_terms.ranks)
    refused = _added_writes(sorted_terms.added, old, mixing, pieces)
    if refused is not None:
        if ranks:
            shape = "dense"
        return Affine(shape, mixing=mixing, not_matrix=refused, **facts)
    return Affine(shape, mixing=mixing, ranks=ranks, writes=_writes(pieces), **facts)


def _sort(old: Node, terms: list[Term]) -> _Sorted:
    found = _Sorted()
    for term in terms:
        if term.variable is None:
            found.added.append(term)
            continue
        mapping = dict(term.variable["mapping"]) if term.variable.op == "rename" else {}
        moved = [axis for axis in old.axes if mapping.get(axis, axis) != axis]
        if not moved:
            found.diagonal.append(Term(term.coef, term.factors, term.bound))
        elif (
            len(moved) == 1 and mapping[moved[0]] in term.bound and (rank := rank_of(term, moved[0], mapping[moved[0]]))
        ):
            found.ranks.append(rank)
            found.mixing.add(moved[0])
        else:
            found.dense.append(term)
    return found


def rank_of(term: Term, axis: Axis, label: Axis) -> _RankTerm | None:
    """coef * u[axis] column[others] * sum_label w[label] S[label]; None where w and u do not come apart."""
    group, rest, inner = connected(term, label)
    w = product_node(Term(1.0, tuple(group), frozenset(inner - {label})))
    if set(w.axes) - {HEADS, label}:
        return None
    split = factored(rest, term.bound - inner, axis)
    if split is None:
        return None
    u, coef, column = split
    return _RankTerm(rename(w, {label: axis}), u, mul(const(_int(term.coef)), coef), column)


def factored(factors: list, bound: frozenset[Axis], axis: Axis) -> tuple[Node, Node, Node] | None:
    """Factors as key[axis] * coef * value[other axes]; None where one factor joins `axis` with another."""
    key, coef, value = ONE, ONE, ONE
    for node in apart(factors, bound):
        if axis in node.axes:
            if set(node.axes) - {HEADS, axis}:
                return None
            key = mul(key, node)
        elif set(node.axes) - {HEADS}:
            value = mul(value, node)
        else:
            coef = mul(coef, node)
    return key, coef, value


def _rank_writes(terms: list[_RankTerm]) -> tuple[tuple[Node, ...], list[tuple[Node, Node, int | None]]]:
    """Reads w_r, and (key, coefficient, r) for each way in which a read is written back. Fewest reads win."""
    by_w: dict[Node, list[_RankTerm]] = {}
    by_u: dict[tuple[Node, Node], list[_RankTerm]] = {}
    for term in terms:
        by_w.setdefault(term.w, []).append(term)
        by_u.setdefault((term.u, term.column), []).append(term)
    if len(by_u) < len(by_w):
        ranks, pieces = [], []
        for r, ((u, column), group) in enumerate(by_u.items()):
            w = ZERO
            for term in group:
                w = add(w, mul(term.coef, term.w))
            ranks.append(w)
            pieces.append((u, column, r))
        return tuple(ranks), pieces
    pieces = [(t.u, mul(t.coef, t.column), r) for r, group in enumerate(by_w.values()) for t in group]
    return tuple(by_w), pieces


def _added_writes(terms: list[Term], old: Node, mixing: Axis, pieces: list) -> Reason | None:
    """What is added, as (key, value, None) each. Fewest keys win: terms of one value share the sum of their keys."""
    found: list[tuple[Node, Node, Node]] = []
    for term in terms:
        split = factored(list(term.factors), term.bound, mixing)
        if split is None:
            return Reason(f"what is added to it does not factor into a product over {mixing} and the other axes")
        key, coef, value = split
        found.append((key, const(_int(term.coef)), mul(coef, value)))
    by_value: dict[Node, Node] = {}
    for key, sign, value in found:
        scaled = mul(sign, key)
        by_value[value] = add(by_value[value], scaled) if value in by_value else scaled
    taken = {key for key, _, _ in pieces}
    if len(taken | set(by_value.values())) < len(taken | {key for key, _, _ in found}):
        pieces += [(key, value, None) for value, key in by_value.items()]
    else:
        pieces += [(key, mul(sign, value), None) for key, sign, value in found]
    return None


def _writes(pieces: list[tuple[Node, Node, int | None]]) -> tuple[Write, ...]:
    by_key: dict[Node, list[tuple[Node, int | None]]] = {}
    for key, scale, r in pieces:
        by_key.setdefault(key, []).append((scale, r))
    writes = []
    for key, parts in by_key.items():
        fixed, of_read = ZERO, {}
        for scale, r in parts:
            if r is None:
                fixed = add(fixed, scale)
            else:
                of_read[r] = add(of_read.get(r, ZERO), scale)
        writes.append(Write(key, fixed, tuple(sorted(of_read.items()))))
    return tuple(writes)


def _mixing_axis(old: Node, terms: _Sorted, read_axes: tuple[Axis | None, ...]) -> Axis | None:
    if terms.mixing:
        return min(terms.mixing)
    axes = {axis for axis in read_axes if axis is not None}
    return axes.pop() if len(axes) == 1 and None not in read_axes else None


def _shape(decay: Node) -> str:
    if is_const(decay, 0):
        return "zero"
    if is_const(decay, 1):
        return "identity"
    return "diagonal" if set(decay.axes) - {HEADS} else "scalar"


def _one_minus_sigmoid(decay: Node) -> Node:
    """1 - sigmoid(x) = sigmoid(-x), which has a logarithm without cancellation."""
    if decay.op == "sub" and is_const(decay.args[0], 1):
        gate = decay.args[1]
        if gate.op == "exp" and gate.args[0].op == "logsigmoid":
            return build("exp", build("logsigmoid", neg(gate.args[0].args[0])))
    return decay


def log_of(rec: Recurrence, node: Node) -> Node | None:
    """The logarithm of an expression that is certainly positive, without ever forming log(exp(x)); else None."""
    match node.op:
        case "const":
            return const(math.log(node["value"])) if node["value"] > 0 else None
        case "exp":
            return node.args[0] if node.dtype == "real" else None
        case "mul" | "div":
            left, right = (log_of(rec, arg) for arg in node.args)
            if left is None or right is None:
                return None
            return add(left, right) if node.op == "mul" else sub(left, right)
        case "size":
            return build("log", node)
        case "softplus":
            return None
        case "input" | "param":
            declared = next(d for d in (*rec.inputs, *rec.params) if d.name == node["name"])
            low = declared.domain.low
            return build("log", node) if low is not None and low > 0 else None
    return None


def _int(value: float) -> float | int:
    return int(value) if float(value).is_integer() else value
