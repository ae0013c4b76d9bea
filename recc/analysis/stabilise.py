"""States whose writes are exponentials without a bound are carried as a mantissa and the logarithm of a scale.

    S[t] = exp(f) S[t-1] + exp(i) x        becomes, with S = exp(m) mantissa,

    m[t]        = max(f + m[t-1], i)
    mantissa[t] = exp(f + m[t-1] - m[t]) mantissa[t-1] + exp(i - m[t]) x

which is what papers print as a stabiliser. What reads such a state is rewritten in the same way, term by term, so that
a quotient of two of them needs no scale at all. A spec that writes its stabiliser itself is left as it is: its
exponents read a state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from recc.analysis.affine import log_of
from recc.analysis.bounds import bounds
from recc.analysis.poly import Algebra, NotAffine, Term, product_node
from recc.ir.node import HEADS, Axis, Node, rebuild, substitute, walk
from recc.ir.ops import ONE, ZERO, add, build, const, dot, exp, is_zero, leaf, mul, rename, sub, total
from recc.ir.program import Recurrence, State

EMPTY = -1e30  # the logarithm of nothing: exp of it is 0 in every dtype, and it stays finite


@dataclass(frozen=True)
class _Growth:
    """S' = exp(log_decay) S + sum of exp(exponent) * term, and at what axes the exponents vary."""

    log_decay: Node
    writes: tuple[tuple[Node, Node], ...]  # exponent, what it scales
    axes: tuple[Axis, ...]

    @property
    def key(self) -> tuple:
        return self.log_decay, frozenset(exponent for exponent, _ in self.writes)


def stabilised(rec: Recurrence) -> Recurrence:
    """`rec` with a scale for each state that needs one, `rec` itself as `origin`; else `rec`."""
    grown = {state.name: found for state in rec.states if (found := _growth(rec, state)) is not None}
    if not grown:
        return rec
    scales: dict[tuple, State] = {}
    for name, growth in grown.items():
        if growth.key not in scales:
            scales[growth.key] = _scale(rec, name, growth)
    scale_of = {name: scales[growth.key] for name, growth in grown.items()}
    scaled = _Scaled(rec, scale_of)
    updates = {name: scaled.plain(update) for name, update in rec.updates.items() if name not in grown}
    for name, growth in grown.items():
        scale = scale_of[name]
        old, new = _leaf(scale, "old"), _leaf(scale, "new")
        moved, result = add(growth.log_decay, old), ZERO
        top = moved
        for exponent, term in growth.writes:
            top = build("maximum", top, exponent)
            result = add(result, mul(exp(sub(exponent, new)), term))
        updates[scale.name] = top
        updates[name] = add(mul(exp(sub(moved, new)), _leaf(rec.state(name), "old")), result)
        rec.spans.inherit(updates[name], rec.updates[name])
        rec.spans.inherit(top, rec.updates[name])
    names = {node: name for node, name in rec.names.items() if not scaled.reads(node)}
    return replace(
        rec,
        states=(*rec.states, *scales.values()),
        outputs=tuple(replace(output, value=scaled.plain(output.value)) for output in rec.outputs),
        updates=updates,
        names=names,
        scales={name: scale.name for name, scale in scale_of.items()},
        origin=rec,
    )


def _leaf(state: State, when: str) -> Node:
    return leaf("state", state.axes, state.dtype, name=state.name, when=when)


def _scale(rec: Recurrence, name: str, growth: _Growth) -> State:
    """The state that holds the logarithm of the scale of state `name`."""
    taken = {item.name for item in (*rec.inputs, *rec.params, *rec.states, *rec.outputs)} | set(rec.names.values())
    wish = f"log_scale_{name}"
    while wish in taken:
        wish += "_"
    of = rec.state(name)
    start = const(EMPTY) if of.init is not None and is_zero(of.init) else ZERO
    return State(wish, tuple(axis for axis in of.axes if axis in growth.axes), "real", start, of.span)


def _growth(rec: Recurrence, state: State) -> _Growth | None:
    """How a state grows, if it is by exponentials without a bound."""
    old = _leaf(state, "old")
    if state.dtype != "real" or state.delay or _leaf(state, "new") in walk(rec.updates[state.name]):
        return None
    algebra = Algebra([old], rec.spans)
    update, apart = _without_memories(rec, rec.updates[state.name], old)
    try:
        terms = algebra.expand(update)
    except NotAffine:
        return None
    diagonal = [Term(term.coef, term.factors, term.bound) for term in terms if term.variable is old and not term.bound]
    added = [term for term in terms if term.variable is None]
    if len(diagonal) + len(added) != len(terms):
        return None
    log_decay = log_of(rec, substitute([algebra.node(diagonal)], apart)[0])
    if log_decay is None or not any(_gates(rec, term) for term in added):
        return None
    writes = []
    for term in added:
        gates = _gates(rec, term)
        exponent = ZERO
        for node, power in gates:
            exponent = add(exponent, mul(const(power), node.args[0]))
        rest = tuple(item for item in term.factors if item not in gates)
        write = product_node(Term(term.coef, rest, term.bound))
        writes.append((exponent, substitute([write], apart)[0]))
    axes = {axis for node in (log_decay, *(exponent for exponent, _ in writes)) for axis in node.axes}
    memory = {below["name"] for exponent, _ in writes for below in walk(exponent) if below.op == "state"}
    read = {below for exponent, _ in writes for below in walk(exponent)}
    if not axes <= set(state.axes) or read & set(apart) or any(not rec.state(name).delay for name in memory):
        return None
    return _Growth(log_decay, tuple(writes), tuple(axes))


def _without_memories(rec: Recurrence, update: Node, old: Node) -> tuple[Node, dict[Node, Node]]:
    """`update` with leaves for the vectors that are made of other states and no gate, and what these stand for: a
    gradient behind a norm would distribute into thousands of terms."""
    reads: dict[Node, bool] = {}  # of other states
    kept = {old}  # what holds the state, or a gate
    for node in walk(update):
        memory = node.op == "state" and not rec.state(node["name"]).delay
        reads[node] = node is not old and (memory or any(reads[arg] for arg in node.args))
        if any(arg in kept for arg in node.args) or (node.op in ("exp", "sigmoid") and not reads[node]):
            kept.add(node)
    apart: dict[Node, Node] = {}

    def stands(node: Node) -> Node | None:
        if not reads[node] or node in kept or not node.args or len(set(node.axes) - {HEADS}) > 1:
            return None
        known = leaf("argument", node.axes, node.dtype, name=f"of memories {len(apart)}")
        apart[known] = node
        return known

    return rebuild([update], stands)[0], apart


def _gates(rec: Recurrence, term: Term) -> list[tuple[Node, int]]:
    """The factors of a term that are exponentials of something without an upper bound."""
    return [
        (node, power)
        for node, power in term.factors
        if node.op == "exp" and power > 0 and not set(node.axes) & term.bound and _unbounded(rec, node)
    ]


def _unbounded(rec: Recurrence, node: Node) -> bool:
    return node.op == "exp" and node.dtype == "real" and bounds(rec, node.args[0])[1] == float("inf")


_Exponent = dict[Node, float]  # a sum of nodes, each with its factor


class _Scaled:
    """Expressions that read scaled states, as pairs (mantissa, exponent): the value is mantissa * exp(exponent)."""

    def __init__(self, rec: Recurrence, scale_of: dict[str, State]) -> None:
        self.rec, self.scale_of = rec, scale_of
        self._reads: dict[Node, bool] = {}
        self._pairs: dict[Node, tuple[Node, _Exponent]] = {}

    def reads(self, node: Node) -> bool:
        """Whether `node` reads a scaled state."""
        for below in walk(node):
            if below not in self._reads:
                own = below.op == "state" and below["name"] in self.scale_of
                self._reads[below] = own or any(self._reads[arg] for arg in below.args)
        return self._reads[node]

    def plain(self, node: Node) -> Node:
        """The value of `node`."""
        if not self.reads(node):
            return node
        for below in walk(node):
            if below not in self._pairs:
                self._pairs[below] = self._pair(below)
        mantissa, exponent = self._pairs[node]
        return self.rec.spans.inherit(mul(mantissa, exp(_total(exponent))) if exponent else mantissa, node)

    def _pair(self, node: Node) -> tuple[Node, _Exponent]:
        rule = getattr(self, f"_op_{node.op}", None)
        if node.op == "state" and node["name"] in self.scale_of:
            return node, {_leaf(self.scale_of[node["name"]], node["when"]): 1}
        if node.op == "exp" and not self.reads(node) and _unbounded(self.rec, node):
            return ONE, {node.args[0]: 1}
        pairs = [self._pairs[arg] for arg in node.args]
        if rule is None or not any(exponent for _, exponent in pairs):
            if not self.reads(node):
                return node, {}
            return build(node.op, *map(self.plain, node.args), **dict(node.attrs)), {}
        return rule(node, *pairs)

    # --- how the pair of a result follows from those of its arguments ----------------------------------------

    def _aligned(self, node: Node, *pairs: tuple[Node, _Exponent]) -> tuple[Node, _Exponent]:
        first = pairs[0][1]
        if any(exponent != first for _, exponent in pairs):
            top = _total(first)
            for _, exponent in pairs[1:]:
                top = build("maximum", top, _total(exponent))
            pairs = tuple((mul(mantissa, exp(sub(_total(exponent), top))), {}) for mantissa, exponent in pairs)
            first = {top: 1}
        return build(node.op, *(mantissa for mantissa, _ in pairs), **dict(node.attrs)), first

    _op_add = _op_sub = _op_maximum = _op_minimum = _aligned

    def _unary(self, node: Node, a: tuple[Node, _Exponent]) -> tuple[Node, _Exponent]:
        return build(node.op, a[0]), a[1]

    _op_neg = _op_abs = _unary

    def _op_mul(self, node: Node, a: tuple[Node, _Exponent], b: tuple[Node, _Exponent]) -> tuple[Node, _Exponent]:
        return mul(a[0], b[0]), _joined(a[1], b[1], 1)

    def _op_div(self, node: Node, a: tuple[Node, _Exponent], b: tuple[Node, _Exponent]) -> tuple[Node, _Exponent]:
        return build("div", a[0], b[0]), _joined(a[1], b[1], -1)

    def _op_log(self, node: Node, a: tuple[Node, _Exponent]) -> tuple[Node, _Exponent]:
        return add(build("log", a[0]), _total(a[1])), {}

    def _op_rename(self, node: Node, a: tuple[Node, _Exponent]) -> tuple[Node, _Exponent]:
        mapping = dict(node["mapping"])
        return rename(a[0], mapping), {rename(key, mapping): factor for key, factor in a[1].items()}

    def _op_dot(self, node: Node, a: tuple[Node, _Exponent], b: tuple[Node, _Exponent]) -> tuple[Node, _Exponent]:
        return self._contracted(
            node["over"], _joined(a[1], b[1], 1), lambda weight: dot(mul(weight, a[0]), b[0], node["over"])
        )

    def _op_sum(self, node: Node, a: tuple[Node, _Exponent]) -> tuple[Node, _Exponent]:
        return self._contracted(node["over"], a[1], lambda weight: total(mul(weight, a[0]), node["over"]))

    @staticmethod
    def _contracted(
        over: tuple[Axis, ...], exponent: _Exponent, sum_of: Callable[[Node], Node]
    ) -> tuple[Node, _Exponent]:
        """A sum of products: what of their exponents varies along the summed axes is taken less its maximum there."""
        inside = {key: factor for key, factor in exponent.items() if set(key.axes) & set(over)}
        outside = {key: factor for key, factor in exponent.items() if key not in inside}
        if not inside:
            return sum_of(ONE), outside
        whole = _total(inside)
        top = build("amax", whole, over=tuple(axis for axis in over if axis in whole.axes))
        return sum_of(exp(sub(whole, top))), _joined(outside, {top: 1}, 1)


def _joined(a: _Exponent, b: _Exponent, sign: int) -> _Exponent:
    joined = dict(a)
    for key, factor in b.items():
        joined[key] = joined.get(key, 0) + sign * factor
    return {key: factor for key, factor in joined.items() if factor}


def _total(exponent: _Exponent) -> Node:
    result = ZERO
    for key, factor in exponent.items():
        result = sub(result, key) if factor == -1 else add(result, mul(const(factor), key))
    return result
