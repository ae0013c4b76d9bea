"""Affine updates over (max, +) and (logsumexp, +): s' = (+)(gain + s, bias), elementwise or with a matrix for gain."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recc.analysis.plan import Semiring
from recc.ir.node import Axis, Node, dim_of, walk
from recc.ir.ops import ZERO, add, build, rename, sub

_SUMS = {"maximum": "max", "logaddexp": "logsumexp"}
_Form = tuple[Node | None, Node | None]  # gain and bias, None where there is none: a fixed value has no gain


def match(update: Node, old: Node) -> Semiring | None:
    """The semiring form of `update` in the state leaf `old`, or None. Additions distribute over both sums."""
    moving = {old}
    for node in walk(update):
        if moving.intersection(node.args):
            moving.add(node)
    return _elementwise(update, old, moving) or _matrix(update, old, moving)


def _elementwise(update: Node, old: Node, moving: set[Node]) -> Semiring | None:
    kinds = {node.op for node in moving} & set(_SUMS)
    if len(kinds) != 1:
        return None
    op = kinds.pop()
    forms: dict[Node, _Form | None] = {old: (ZERO, None)}
    for node in walk(update):
        if node not in forms:
            forms[node] = _form(node, forms, op) if node in moving else (None, node)
    gain, bias = forms[update] or (None, None)
    return None if gain is None or bias is None else Semiring(_SUMS[op], gain, bias)


def _form(node: Node, forms: dict[Node, _Form | None], op: str) -> _Form | None:
    """The form of a node that depends on the state, from those of its arguments; None if it has none."""
    match node.op, [forms[arg] for arg in node.args]:
        case name, [(a, b), (c, d)] if name == op:
            return _sum(op, a, c), _sum(op, b, d)
        case "add", [(gain, bias), (None, fixed)] | [(None, fixed), (gain, bias)]:
            return add(gain, fixed), None if bias is None else add(bias, fixed)
        case "sub", [(gain, bias), (None, fixed)]:
            return sub(gain, fixed), None if bias is None else sub(bias, fixed)
    return None


def _sum(op: str, a: Node | None, b: Node | None) -> Node | None:
    return build(op, a, b) if a is not None and b is not None else a if b is None else b


@dataclass(frozen=True)
class _Pairs:
    """gain + state - shift, with the state's axis `axis` called `label`; `exp`: e to that. reduced: the sum over the
    label is taken, and `kind` says which. A shift, which is subtracted before exp and added after log, may be anything.
    """

    gain: Node
    axis: Axis | None = None
    label: Axis | None = None
    shift: Node | None = None
    exp: bool = False
    kind: str | None = None


def _matrix(update: Node, old: Node, moving: set[Node]) -> Semiring | None:
    """max or logsumexp of gain[i, j] + state[i] over i, however it is spelled."""
    forms: dict[Node, _Pairs | None] = {old: _Pairs(ZERO)}
    for node in walk(update):
        if node in moving and node not in forms:
            forms[node] = _pairs(node, forms, moving, old)
    found = forms[update]
    if found is None or found.kind is None or found.shift is not None or found.exp or found.axis is None:
        return None
    fits = found.label is not None and set(update.axes) == set(old.axes) and found.label not in old.axes
    return Semiring(found.kind, found.gain, None, found.label) if fits else None


def _pairs(node: Node, forms: dict[Node, _Pairs | None], moving: set[Node], old: Node) -> _Pairs | None:
    """The form of a node that depends on the state, from those of its arguments; None if it has none."""
    first = node.args[0]
    form = forms.get(first)
    match node.op:
        case "rename" if form is not None:
            mapping = dict(node["mapping"])
            gain = rename(form.gain, {a: b for a, b in mapping.items() if a in form.gain.axes})
            if form.kind is not None:
                # The summed axis has gone: its label may be the name of one that stays, and makes way for it.
                return None if form.label in mapping.values() else replace(form, gain=gain)
            if form.label is not None or len(mapping) != 1 or not set(mapping) <= set(old.axes):
                return None
            ((axis, label),) = mapping.items()
            return replace(form, gain=gain, axis=axis, label=label)
        case "add" | "sub":
            return _shifted(node, forms, moving)
        case "exp" if form is not None and form.kind is None and not form.exp:
            return replace(form, exp=True)
        case "log" if form is not None and form.kind == "logsumexp" and form.exp:
            return replace(form, exp=False)
        case "amax" | "sum" if form is not None and form.kind is None and form.exp == (node.op == "sum"):
            (over, *more) = node["over"]
            if more or (form.label or over) != over or (form.shift is not None and not form.exp):
                return None
            return _reduced(form, over, old, "logsumexp" if form.exp else "max")
    return None


def _reduced(form: _Pairs, over: Axis, old: Node, kind: str) -> _Pairs | None:
    """The sum over `over`, which is the label or, before any renaming, the state's own axis."""
    if form.label is None and over not in old.axes:
        return None
    away = f"{dim_of(over)}'3000"  # a label of its own: what is left may take this one's name
    return replace(form, gain=rename(form.gain, {over: away}), axis=form.axis or over, label=away, kind=kind)


def _shifted(node: Node, forms: dict[Node, _Pairs | None], moving: set[Node]) -> _Pairs | None:
    """A sum with what does not depend on the state, or with a shift that cancels later on or did before."""
    a, b = node.args
    if node.op == "add" and forms.get(a) is None:
        a, b = b, a
    form = forms.get(a)
    if form is None or form.exp:
        return None
    if b not in moving:
        return replace(form, gain=build(node.op, form.gain, b))
    if node.op == "add" and form.shift is b:
        return replace(form, shift=None)
    if node.op == "sub" and form.shift is None and form.kind is None:
        return replace(form, shift=b)
    return None
