"""A component whose transition is the same at every token, as a linear filter: what a convolution is made from.

    x[t] = A x[t-1] + sum_j p_j z_j[t]        so        x[t] = A^(t+1) x[-1] + sum_j sum_s A^(t-s) p_j z_j[s]

A is elementwise or a matrix over one axis of the state; the taps p_j are the same at every token. Where every reader
contracts one axis of x with coefficients c that are, too, and no z_j has that axis, x itself is not needed: the
outputs are convolutions with the kernels K_j[t] = c . A^t p_j, which lack the axis.
"""

from __future__ import annotations

from dataclasses import dataclass

from recc.analysis.plan import Affine, Component, Plan, Reason
from recc.analysis.poly import Algebra, NotAffine, Term, apart, product_node
from recc.analysis.reads import reads_in
from recc.ir.node import HEADS, Axis, Node, dim_of, invariant
from recc.ir.ops import ONE, ZERO, add, const, is_zero, leaf, mul, rename, spread


@dataclass(frozen=True)
class Tap:
    """`gain` * `value`: the first is the same at every token, the second is not."""

    gain: Node
    value: Node


@dataclass(frozen=True)
class Filter:
    """factor: the elementwise A; or matrix: A with the axes `axis` (of x[t]) and `column` (of x[t-1]).

    inner: a label for one more axis of `axis`'s dim. contracted: the axis over which all readers contract, None if
    the states themselves are needed.
    """

    taps: tuple[Tap, ...]
    factor: Node
    matrix: Node | None = None
    axis: Axis | None = None
    column: Axis | None = None
    inner: Axis | None = None
    contracted: Axis | None = None


def filter_of(component: Component, plan: Plan) -> Filter | Reason:
    """The filter that a component is, or why it is none."""
    rec, kind, listing = plan.recurrence, component.kind, ", ".join(component.states)
    where = rec.place(component.states[0])
    if not isinstance(kind, Affine):
        why = component.reasons[0]
        return Reason(f"`convolution` needs an update that is affine in the state: {why.text}", why.span)
    if kind.structure == "zero":
        return Reason(f"{listing} only remembers its last value: there is nothing to accumulate", where)
    if len(component.states) > 1:
        return Reason(f"`convolution` solves one state at a time, and {listing} depend on each other", where)
    old = _leaf(plan, listing, "old")
    try:
        terms = Algebra([old]).expand(plan.updates[listing])
    except NotAffine as error:  # pragma: no cover - affine components expand
        return Reason(error.why, rec.spans.get(error.node))
    if not kind.time_invariant:
        return _varies(terms, plan, listing)
    taps = _taps([term for term in terms if term.variable is None], plan, listing)
    if isinstance(taps, Reason):
        return taps
    system = _system([term for term in terms if term.variable is not None], old)
    if system is None:
        return Reason(f"`convolution` needs a transition that mixes one axis of {listing} at most", where)
    factor, matrix, axis, column, inner = system
    contracted = _contracted(component, plan, taps, axis)
    return Filter(taps, factor, matrix, axis, column, inner, contracted)


def _leaf(plan: Plan, name: str, when: str) -> Node:
    state = plan.recurrence.state(name)
    return leaf("state", state.axes, state.dtype, name=name, when=when)


def _varies(terms: list[Term], plan: Plan, name: str) -> Reason:
    """The reason that names a factor of the transition that changes from token to token."""
    rec = plan.recurrence
    moving = [f for term in terms if term.variable is not None for f, _ in term.factors if not invariant(f)]
    span = next((rec.spans[node] for node in moving if node in rec.spans), rec.place(name))
    return Reason(f"`convolution` needs a transition that no input enters, and that of {name} changes over time", span)


def _system(terms: list[Term], old: Node) -> tuple | None:
    """(elementwise factor, matrix, its axis, its column, inner) of the terms that hold the state."""
    factor, matrix, axis, column, inner = ZERO, ZERO, None, None, None
    for term in terms:
        mapping = dict(term.variable["mapping"]) if term.variable.op == "rename" else {}
        moved = [a for a in old.axes if mapping.get(a, a) != a]
        if not moved:
            factor = add(factor, product_node(Term(term.coef, term.factors, term.bound)))
            continue
        if len(moved) > 1 or mapping[moved[0]] not in term.bound or moved[0] not in (axis or moved[0], HEADS):
            return None
        if moved[0] == HEADS:
            return None
        axis, label = moved[0], mapping[moved[0]]
        spare = (f"{dim_of(axis)}'{place}" for place in range(2000, 2010))
        column, inner = (next(a for a in spare if a not in old.axes) for _ in range(2))
        part = product_node(Term(term.coef, term.factors, term.bound - {label}))
        matrix = add(matrix, spread(rename(part, {label: column}), (axis, column)))
    if axis is None:
        return factor, None, None, None, None
    if not is_zero(factor):
        matrix = add(matrix, mul(factor, leaf("eye", (axis, column))))
    return factor, matrix, axis, column, inner


def _taps(terms: list[Term], plan: Plan, name: str) -> tuple[Tap, ...] | Reason:
    """What is added, as taps; those of one gain or of one value are joined."""
    by_gain: dict[Node, Node] = {}
    for term in terms:
        gain, value, outer = const(term.coef), ONE, ()
        for node in apart(term.factors, term.bound):
            if invariant(node):
                gain = mul(gain, node)
            else:
                outer = (*outer, set(node.axes) - {HEADS})
                value = mul(value, node)
        if outer and set(value.axes) - {HEADS} not in outer:
            text = f"what is added to {name} is an outer product of values that change over time"
            return Reason(f"{text}: a convolution would run over each of its elements", plan.recurrence.place(name))
        by_gain[gain] = add(by_gain.get(gain, ZERO), value)
    by_value: dict[Node, Node] = {}
    for gain, value in by_gain.items():
        by_value[value] = add(by_value.get(value, ZERO), gain)
    return tuple(Tap(gain, value) for value, gain in by_value.items())


def _contracted(component: Component, plan: Plan, taps: tuple[Tap, ...], axis: Axis | None) -> Axis | None:
    """The axis over which the readers contract the state with fixed coefficients, if that is all that they do."""
    rec, (name,) = plan.recurrence, component.states
    leaves = [_leaf(plan, name, when) for when in ("old", "new")]
    readers = [output.value for output in rec.outputs]
    readers += [update for other, update in rec.updates.items() if other != name]
    axes = {None if read is None else read.axis for read in reads_in(readers, leaves, leaves)}
    if len(axes) != 1 or None in axes:
        return None
    (found,) = axes
    free = all(found not in tap.value.axes for tap in taps)
    return found if free and axis in (None, found) else None
