"""Step IR to Plan: what is hoisted, how the states cascade, and what class each component is, with reasons."""

from __future__ import annotations

from dataclasses import replace

from recc.analysis import cascade, jacobian, joined, semiring
from recc.analysis.affine import classify
from recc.analysis.coupled import couple
from recc.analysis.frozen import freeze
from recc.analysis.moved import moved
from recc.analysis.plan import Affine, Component, Frozen, Nonlinear, Plan, Reason
from recc.analysis.poly import Algebra, NotAffine
from recc.analysis.reads import reads_in
from recc.ir.node import Axis, Node, Spans, invariant
from recc.ir.ops import ZERO, leaf
from recc.ir.printer import show
from recc.ir.program import Recurrence

__all__ = ["analyse", "Plan"]


def analyse(rec: Recurrence) -> Plan:
    """The plan of a recurrence: components in solving order, each classified, and what leaves the loop."""
    rec = replace(rec, spans=Spans(rec.spans))  # which takes up what is rebuilt here
    groups = joined.components(rec, tuple(state.name for state in rec.states), _component, _must_join)
    level = cascade.levels(rec, groups)
    updates: dict[str, Node] = {}
    components = []
    for group in groups:
        own = cascade.own_terms(rec, group)
        updates |= own
        components.append(_component(rec, group, own, level[group]))
    return Plan(rec, tuple(components), *moved(rec), updates)


def _must_join(component: Component) -> bool:
    """Whether a component would run token by token alone, for it is read whole and no scan has its ranks."""
    kind = component.kind
    return isinstance(kind, Affine) and bool(kind.ranks) and None in component.reads


def old_leaf(rec: Recurrence, name: str, when: str = "old") -> Node:
    state = rec.state(name)
    return leaf("state", state.axes, state.dtype, name=name, when=when)


def _component(rec: Recurrence, group: tuple[str, ...], updates: dict[str, Node], level: int) -> Component:
    reads = tuple(axis for name in group for axis in _read_axes(rec, name, group))
    reasons: tuple[Reason, ...] = ()
    if len(group) == 1:
        (name,) = group
        old = old_leaf(rec, name)
        try:
            kind = classify(rec, old, updates[name], reads, Algebra([old], rec.spans))
            reasons = (_affine_reason(rec, name, kind), *_scale_reasons(rec, name))
            return Component(group, kind, reads, reasons, level)
        except NotAffine as error:
            ring = semiring.match(updates[name], old)
            if ring is not None:
                why = Reason(f"{name}[t] is affine in {name}[t-1] over ({ring.kind}, +)", rec.place(name))
                return Component(group, ring, reads, (why,), level)
            reason = _nonlinear_reason(rec, error, name)
    else:
        reason = _coupled_reason(rec, group, updates)
        block = _affine_block(rec, group, updates, reads, reason)
        if block is not None:
            return Component(group, block, reads, (reason,), level)
    structure, frozen = jacobian.structure(rec, updates), freeze(rec, group, level, _component)
    if isinstance(frozen, Frozen):
        copies = ", ".join(f"{name} ({source} before {frozen.period} tokens)" for name, source in frozen.copies)
        reasons = (Reason(f"given {copies}, which a count of tokens renews, the others are affine"),)
    return Component(group, Nonlinear(structure, reason, frozen), reads, (reason, *reasons), level)


def _affine_block(
    rec: Recurrence, group: tuple[str, ...], updates: dict[str, Node], reads: tuple[Axis | None, ...], why: Reason
) -> Affine | None:
    """Coupled states that are affine in each other: a small block where the coupling is elementwise, else dense."""
    olds = [old_leaf(rec, name) for name in group]
    algebra = Algebra(olds)
    try:
        terms = [term for name in group for term in algebra.expand(updates[name])]
    except NotAffine:
        return None
    shape = jacobian.structure(rec, updates)
    fixed = invariant(*(factor for term in terms if term.variable is not None for factor, _ in term.factors))
    structure = shape if shape.startswith("block") else "dense"
    found = couple(rec, updates, olds, reads)
    coupled, why = (None, found) if isinstance(found, Reason) else (found, why)
    return Affine(structure, ZERO, None, not_matrix=why, time_invariant=fixed, coupled=coupled)


def _affine_reason(rec: Recurrence, name: str, kind) -> Reason:
    text = {
        "zero": f"{name}[t] does not read {name}[t-1]: it only remembers",
        "identity": f"{name}[t-1] enters with factor 1",
        "scalar": f"{name}[t-1] enters with one factor per head, {show(kind.decay, rec.names)}",
        "diagonal": f"{name}[t-1] enters elementwise, with factor {show(kind.decay, rec.names)}",
        "diagonal+rank": f"{name}[t-1] enters elementwise, with factor {show(kind.decay, rec.names)}, and through "
        f"{len(kind.ranks)} contraction{'s' if len(kind.ranks) != 1 else ''} over {kind.mixing}",
        "dense": f"{name}[t-1] enters through a sum that mixes its elements",
    }[kind.structure]
    if kind.time_invariant and kind.structure not in ("zero", "identity"):
        text += "; the same at every token, since no input enters there"
    return Reason(text, rec.place(name))


def _scale_reasons(rec: Recurrence, name: str) -> tuple[Reason, ...]:
    if name not in rec.scales:
        return ()
    scale = rec.scales[name]
    text = (
        f"what is written to {name} grows exponentially, so it is carried as {name} exp({scale}): {scale} is the "
        "running maximum of the exponents, and nothing overflows"
    )
    return (Reason(text, rec.place(name)),)


def _nonlinear_reason(rec: Recurrence, error: NotAffine, name: str) -> Reason:
    return Reason(f"{name}[t-1] does not enter linearly: {error.why}", rec.spans.get(error.node))


def _coupled_reason(rec: Recurrence, group: tuple[str, ...], updates: dict[str, Node]) -> Reason:
    olds = [old_leaf(rec, name) for name in group]
    listing = ", ".join(group)
    strong = group in cascade.components(rec)
    how = "depend on each other" if strong else "are memories of which one reads another whole"
    for name in group:
        try:
            Algebra(olds).expand(updates[name])
        except NotAffine as error:
            why = f"{listing} {how}, and {name}[t] is not affine in them: {error.why}"
            return Reason(why, rec.spans.get(error.node))
    why = f"{listing} {how}: an affine block of {len(group)} coupled states"
    return Reason(why, rec.place(group[0]))


def _read_axes(rec: Recurrence, name: str, group: tuple[str, ...]) -> tuple[Axis | None, ...]:
    """The axes that the outputs and the later states contract when they read `name`; None where they read it whole."""
    readers = [output.value for output in rec.outputs]
    readers += [update for other, update in rec.updates.items() if other not in group]
    found = reads_in(readers, [old_leaf(rec, name, when) for when in ("old", "new")])
    return tuple(dict.fromkeys(None if read is None else read.axis for read in found))
