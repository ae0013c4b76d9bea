"""The affine normal form's algebra: expressions as sums of products of indexed factors.

`Algebra(variables).expand(node)` distributes an expression until it is a sum of terms, each a number times factors
times at most one variable (a state), with some axes summed over. Whatever is written in between (residuals
that have a name, `(eye(K) - outer(k, k)) @ S`, another order or bracketing) meets in the same terms.

An expression in which a variable stands under a nonlinear function is not affine: that raises `NotAffine`, which says
where.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from recc.ir.node import COMPLEX, HEADS, Axis, Node, Spans, digest, dim_of, walk
from recc.ir.ops import ONE, ZERO, add, build, const, div, dot, is_const, leaf, mul, neg, rename, total
from recc.ir.printer import word

LIMIT = 96  # terms; a state-free expression that distributes into more stays one factor
MANY = 8  # terms of a read; one that distributes into more is one vector times the state, and what no state is in


class NotAffine(Exception):
    """`node` applies something that is not linear to the variable `variable`."""

    def __init__(self, node: Node, variable: Node, why: str) -> None:
        super().__init__(why)
        self.node, self.variable, self.why = node, variable, why


@dataclass(frozen=True)
class Term:
    """coef * product of factor ** power * variable, summed over the axes in `bound`."""

    coef: float
    factors: tuple[tuple[Node, int], ...] = ()
    bound: frozenset[Axis] = frozenset()
    variable: Node | None = None  # a state leaf, possibly under a rename

    @property
    def axes(self) -> set[Axis]:
        parts = [node for node, _ in self.factors] + ([self.variable] if self.variable is not None else [])
        return {axis for part in parts for axis in part.axes}

    @property
    def free(self) -> set[Axis]:
        return self.axes - self.bound


def depends(node: Node, on: Iterable[Node]) -> bool:
    targets = set(on)
    return any(below in targets for below in walk(node))


class Algebra:
    """Expansion with respect to a set of variables (leaves); results are remembered per node. `spans` takes up what
    is rebuilt on the way."""

    def __init__(self, variables: Iterable[Node] = (), spans: Spans | None = None) -> None:
        self.variables, self.spans = frozenset(variables), Spans() if spans is None else spans
        self._terms: dict[Node, list[Term]] = {}
        self._moving: dict[Node, Node | None] = {}
        self._fresh = itertools.count(1)

    # --- which variable a node depends on ---------------------------------------------------------------

    def variable_in(self, node: Node) -> Node | None:
        if node not in self._moving:
            for below in walk(node):
                if below not in self._moving:
                    hit = below if below in self.variables else None
                    self._moving[below] = hit or next((v for a in below.args if (v := self._moving[a])), None)
        return self._moving[node]

    # --- expansion -----------------------------------------------------------------------------------------

    def expand(self, node: Node) -> list[Term]:
        """The terms of `node`, like terms merged, in a canonical order. Raises NotAffine."""
        for below in walk(node):
            if below not in self._terms:
                self._terms[below] = self._collected(below, self._merge(self._expand(below)))
        return self._terms[node]

    def canon(self, node: Node) -> Node:
        """`node` rewritten so that algebraically equal state-free expressions become one node."""
        return self.node(self.expand(node))

    def _expand(self, node: Node) -> list[Term]:
        args = node.args
        of = [self._terms[arg] for arg in args]
        match node.op:
            case "const":
                return [Term(node["value"])] if node["value"] != 0 else []
            case "add":
                return of[0] + of[1]
            case "sub":
                return of[0] + [_scaled(term, -1) for term in of[1]]
            case "neg":
                return [_scaled(term, -1) for term in of[0]]
            case "mul":
                return self._product(node, of[0], of[1], ())
            case "dot":
                return self._product(node, of[0], of[1], node["over"])
            case "sum":
                return [self._bind(term, node["over"]) for term in of[0]]
            case "rename":
                return [self._renamed(term, dict(node["mapping"])) for term in of[0]]
            case "div" if self.variable_in(args[1]) is None:
                return self._product(node, of[0], self._reciprocal(args[1]), ())
            case "pow" if is_const(args[1]) and float(args[1]["value"]).is_integer() and 0 <= args[1]["value"] <= 4:
                power = [Term(1.0)]
                for _ in range(int(args[1]["value"])):
                    power = self._product(node, power, of[0], ())
                return power
            case "where" if self.variable_in(node) is not None and self.variable_in(args[0]) is None:
                yes, no = build("where", args[0], ONE, ZERO), build("where", args[0], ZERO, ONE)
                return self._product(node, self._atom(yes), of[1], ()) + self._product(node, self._atom(no), of[2], ())
            case "take" if self.variable_in(node) is None and len(of[0]) <= LIMIT:
                return [self._taken(term, node["axis"], node["index"]) for term in of[0]]
        variable = self.variable_in(node)
        if node in self.variables:
            return [Term(1.0, variable=node)]
        if variable is not None:
            raise NotAffine(node, variable, f"`{word(node.op)}` is not affine in its argument")
        if not args:
            return self._atom(node)
        rebuilt = build(node.op, *(self.canon(arg) for arg in args), **dict(node.attrs))
        if (
            rebuilt.op == "sigmoid" and rebuilt.dtype != COMPLEX
        ):  # sigmoid(x) = exp(logsigmoid(x)): gates multiply in the log domain
            rebuilt = build("exp", build("logsigmoid", rebuilt.args[0]))
        return self._atom(self.spans.inherit(rebuilt, node))

    def _atom(self, node: Node) -> list[Term]:
        return [Term(1.0, ((node, 1),))]

    def _reciprocal(self, node: Node) -> list[Term]:
        terms = self._terms[node]
        if len(terms) == 1 and not terms[0].bound and terms[0].coef != 0:
            term = terms[0]
            return [Term(1.0 / term.coef, tuple((factor, -power) for factor, power in term.factors))]
        return [Term(1.0, ((self.node(terms), -1),))]

    def _product(self, node: Node, left: list[Term], right: list[Term], over: tuple[Axis, ...]) -> list[Term]:
        if self.variable_in(node) is None and len(left) * len(right) > LIMIT:
            a, b = self.node(left), self.node(right)
            return self._atom(dot(a, b, over) if over else mul(a, b))
        terms = []
        for a, b in itertools.product(left, right):
            if a.variable is not None and b.variable is not None:
                raise NotAffine(node, a.variable, "a product of two factors that both hold the state")
            a, b = self._apart(a, b)
            factors = a.factors + b.factors
            product = Term(a.coef * b.coef, factors, a.bound | b.bound, a.variable or b.variable)
            terms.append(self._bind(product, over))
        if len(terms) > 8 * LIMIT:
            raise NotAffine(node, self.variable_in(node) or node, "the update distributes into too many terms")
        return terms

    def _apart(self, a: Term, b: Term) -> tuple[Term, Term]:
        """a and b with bound axes that clash with nothing of the other."""
        for axis in sorted(a.bound & (b.axes | b.bound)):
            a = _relabel(a, {axis: f"{dim_of(axis)}'{next(self._fresh) + 1000}"})
        for axis in sorted(b.bound & (a.axes | a.bound)):
            b = _relabel(b, {axis: f"{dim_of(axis)}'{next(self._fresh) + 1000}"})
        return a, b

    def _bind(self, term: Term, over: Iterable[Axis]) -> Term:
        for axis in over:
            if axis not in term.axes:  # a sum over an axis that nothing depends on counts its elements
                term = Term(
                    term.coef, term.factors + ((leaf("size", (), dim=dim_of(axis)), 1),), term.bound, term.variable
                )
                continue
            fresh = f"{dim_of(axis)}'{next(self._fresh) + 1000}"
            term = _relabel(term, {axis: fresh})
            term = Term(term.coef, term.factors, term.bound | {fresh}, term.variable)
        return _contract_eye(term)

    def _renamed(self, term: Term, mapping: dict[Axis, Axis]) -> Term:
        clash = term.bound & set(mapping.values())
        term = _relabel(term, {axis: f"{dim_of(axis)}'{next(self._fresh) + 1000}" for axis in clash})
        return _relabel(term, {old: new for old, new in mapping.items() if old not in term.bound})

    def _taken(self, term: Term, axis: Axis, index: int) -> Term:
        if axis in term.bound:
            raise AssertionError("take of a bound axis")
        factors = tuple((build("take", f, axis=axis, index=index) if axis in f.axes else f, p) for f, p in term.factors)
        return Term(term.coef, factors, term.bound, term.variable)

    # --- like terms ----------------------------------------------------------------------------------------

    def _merge(self, terms: list[Term]) -> list[Term]:
        merged: dict[tuple, Term] = {}
        for term in terms:
            term, key = self._canonical(term)
            seen = merged.get(key)
            merged[key] = term if seen is None else Term(seen.coef + term.coef, term.factors, term.bound, term.variable)
        kept = [(key, term) for key, term in merged.items() if term.coef != 0]
        return [term for _, term in sorted(kept, key=lambda item: item[0])]

    def _canonical(self, term: Term) -> tuple[Term, tuple]:
        """One spelling of a product: factors merged, exponentials joined, bound axes named by what they join."""
        powers: dict[Node, int] = {}
        exponents: list[tuple[Node, int]] = []
        for factor, power in term.factors:
            inner = factor.args[0] if factor.op == "rename" else factor
            if inner.op == "exp":
                moved = rename(inner.args[0], dict(factor["mapping"])) if factor.op == "rename" else inner.args[0]
                exponents.append((moved, power))
            else:
                powers[factor] = powers.get(factor, 0) + power
        if len(exponents) == 1 and exponents[0][1] == 1:
            node = build("exp", exponents[0][0])
            powers[node] = powers.get(node, 0) + 1
        elif exponents:
            groups: dict[frozenset[Axis], Node] = {}  # join only what shares axes, so that products stay separable
            for node, power in exponents:
                part = mul(const(power), node)
                key = frozenset(node.axes)
                groups[key] = add(groups[key], part) if key in groups else part
            for node in groups.values():
                joined = self.canon(node)
                if not is_const(joined, 0):
                    node = build("exp", joined)
                    powers[node] = powers.get(node, 0) + 1
        factors = _without_ones(tuple((f, p) for f, p in powers.items() if p != 0), term.variable)
        best: tuple[tuple, Term] | None = None
        by_dim: dict[str, list[Axis]] = {}
        for axis in sorted(term.bound):
            by_dim.setdefault(dim_of(axis), []).append(axis)
        orders = [list(itertools.permutations(group)) for group in by_dim.values()]
        for choice in itertools.islice(itertools.product(*orders), 720):
            names = {axis: f"{dim_of(axis)}'{100 + i}" for group in choice for i, axis in enumerate(group)}
            new = _relabel(Term(term.coef, factors, term.bound, term.variable), names)
            ordered = tuple(sorted(new.factors, key=lambda item: (digest(item[0]), item[1])))
            key = (
                digest(new.variable) if new.variable is not None else "",
                tuple((digest(f), p) for f, p in ordered),
                tuple(sorted(new.bound)),
            )
            if best is None or key < best[0]:
                best = key, Term(new.coef, ordered, new.bound, new.variable)
        assert best is not None
        return best[1], best[0]

    def _collected(self, node: Node, terms: list[Term]) -> list[Term]:
        """The terms of a contraction over an axis of the state, where there are many, as one for each variable and one
        without: a product of R factors would else distribute into 2^R. They stay apart where they would not factor."""
        if node.op != "dot" or len(terms) <= MANY or self.variable_in(node) is None:
            return terms
        if {dim_of(axis) for axis in node["over"]} & {dim_of(axis) for term in terms for axis in term.free}:
            return terms
        sums: dict[tuple[Node, Axis], Node] = {}
        for term in terms:
            if term.variable is None:
                continue
            labels = term.bound & set(term.variable.axes)
            vector = product_node(Term(term.coef, term.factors, term.bound - labels))
            if len(labels) != 1 or set(vector.axes) - {HEADS} - labels:
                return terms
            (label,) = labels
            one = f"{dim_of(label)}'100"
            key = rename(term.variable, {label: one}), one
            sums[key] = add(sums.get(key, ZERO), rename(vector, {label: one}))
        made = [Term(1.0, ((vector, 1),), frozenset({one}), of) for (of, one), vector in sums.items()]
        free = self.node(term for term in terms if term.variable is None)
        return self._merge(made if is_const(free, 0) else [*made, *self._atom(free)])

    # --- back to nodes -------------------------------------------------------------------------------------

    def node(self, terms: Iterable[Term]) -> Node:
        """The expression that the terms add up to."""
        result = ZERO
        for term in terms:
            part = product_node(term)
            if part.op == "neg":
                result = build("sub", result, part.args[0])
            else:
                result = add(result, part)
        return result


def _without_ones(factors: tuple[tuple[Node, int], ...], variable: Node | None) -> tuple[tuple[Node, int], ...]:
    """A product without factors that only repeat it along axes that it has."""
    counts = [(f, p) for f, p in factors if (f.args[0] if f.op == "rename" else f).op != "ones"]
    repeated = {axis for f, p in factors if (f, p) not in counts for axis in f.axes}
    have = {axis for f, _ in counts for axis in f.axes} | (set(variable.axes) if variable is not None else set())
    missing = tuple(sorted(repeated - have))
    return (*counts, (leaf("ones", missing), 1)) if missing else tuple(counts)


def _scaled(term: Term, by: float) -> Term:
    return Term(term.coef * by, term.factors, term.bound, term.variable)


def _relabel(term: Term, mapping: dict[Axis, Axis]) -> Term:
    if not mapping:
        return term
    factors = tuple((rename(node, mapping), power) for node, power in term.factors)
    variable = None if term.variable is None else rename(term.variable, mapping)
    return Term(term.coef, factors, frozenset(mapping.get(axis, axis) for axis in term.bound), variable)


def _contract_eye(term: Term) -> Term:
    """sum_j eye[i, j] x[j] = x[i]."""
    for place, (factor, _) in enumerate(term.factors):
        base = factor.args[0] if factor.op == "rename" else factor
        if base.op != "eye":
            continue
        rest = term.factors[:place] + term.factors[place + 1 :]
        one, two = factor.axes
        for gone, kept in ((one, two), (two, one)):
            others = Term(term.coef, rest, term.bound, term.variable)
            if gone in term.bound:
                if gone not in others.axes:
                    return _contract_eye(Term(term.coef, rest, term.bound - {gone}, term.variable))
                if kept in others.axes and any(
                    {gone, kept} <= set(part.axes)
                    for part in [f for f, _ in rest] + ([term.variable] if term.variable is not None else [])
                ):
                    continue  # a trace: x[i, i] has no label form, so the eye stays
                moved = _relabel(Term(term.coef, rest, term.bound - {gone}, term.variable), {gone: kept})
                return _contract_eye(moved)
    return term


def apart(factors: Iterable[tuple[Node, int]], bound: frozenset[Axis]) -> list[Node]:
    """A product summed over `bound` as a product of nodes: factors that share a bound axis stay together in one."""
    factors = list(factors)
    groups: list[list[tuple[Node, int]]] = []
    for item in factors:
        touching = [g for g in groups if any(set(item[0].axes) & set(o[0].axes) & bound for o in g)]
        groups = [g for g in groups if g not in touching] + [[item] + [o for g in touching for o in g]]
    groups.sort(key=lambda group: factors.index(group[-1]))
    parts = (Term(1.0, tuple(sorted(g, key=factors.index)), bound & {a for f, _ in g for a in f.axes}) for g in groups)
    return [product_node(part) for part in parts]


def product_node(term: Term) -> Node:
    """The node of one term: scalars first, then contractions of few factors at a time."""
    under = [_power(node, -power) for node, power in term.factors if power < 0 and not term.bound & set(node.axes)]
    parts = [_power(node, power) for node, power in term.factors if power > 0 or term.bound & set(node.axes)]
    if term.variable is not None:
        parts.append(term.variable)
    bound = set(term.bound)
    while bound:
        # Contract the axis that touches the fewest factors; multiply those together first.
        axis = min(sorted(bound), key=lambda a: sum(a in part.axes for part in parts))
        touching = [part for part in parts if axis in part.axes]
        others = [part for part in parts if axis not in part.axes]
        ready = tuple(
            sorted(a for a in bound if any(a in p.axes for p in touching) and not any(a in p.axes for p in others))
        )
        bound -= set(ready)
        touching.sort(key=lambda part: len(part.axes))
        left = touching[0]
        for part in touching[1:-1]:
            left = mul(left, part)
        joined = dot(left, touching[-1], ready) if len(touching) > 1 else total(left, ready)
        parts = [*others, joined]
    result = ONE
    for part in sorted(parts, key=lambda part: len(part.axes)):
        result = mul(result, part)
    for part in under:
        result = div(result, part)
    if term.coef == -1:
        return neg(result)
    return mul(const(_tidy(term.coef)), result)


def _power(node: Node, power: int) -> Node:
    if power == 1:
        return node
    base = node
    for _ in range(abs(power) - 1):
        base = mul(base, node)
    return base if power > 0 else div(ONE, base)


def _tidy(value: float) -> float | int:
    return int(value) if float(value).is_integer() and abs(value) < 2**53 else value
