"""States that are affine between the renewals of copies of some of them, which are held for a number of tokens.

A memory that is trained by gradients behind a norm or another layer is nonlinear in itself. Where those gradients are
taken at a copy that a count of tokens renews, F[t] = where(start, M[t-1], F[t-1]), everything that reads the copy is
known for all tokens up to the next start, and what is left is affine. Expressions of copies and inputs, no wider than a
vector, are replaced by leaves, and the rest is analysed like any other recurrence.
"""

from __future__ import annotations

from dataclasses import replace

from recc.analysis import cascade, joined
from recc.analysis.joined import Classify
from recc.analysis.plan import Frozen, Nonlinear, Plan, Reason
from recc.analysis.poly import Algebra
from recc.analysis.reads import reads_in
from recc.ir.node import HEADS, Node, Spans, rebuild, substitute, walk
from recc.ir.ops import ONE, add, build, const, is_const, leaf, sub
from recc.ir.printer import show
from recc.ir.program import Recurrence


def freeze(rec: Recurrence, group: tuple[str, ...], level: int, classify: Classify) -> Frozen | Reason:
    """How the states of a nonlinear component become affine, given copies of them; or why they do not."""
    listing, place = ", ".join(group), rec.place(group[0])
    held = {name: found for name in group if (found := _held(rec, name, group)) is not None}
    if not held:
        why = (
            f"no state of {listing} is a copy that is held, `where(start, M[t-1], F[t-1])`: a token needs what the one"
        )
        return Reason(f"{why} before it wrote", place)
    counts = {}
    for name, (start, _) in held.items():
        found = _count(rec, start)
        if found is None:
            text = show(start, rec.names)
            why = f"{name} is renewed where `{text}` holds, which is no count of tokens, every so many of them"
            return Reason(why, rec.place(name))
        counts[name] = found
    if len(set(counts.values())) > 1:
        return Reason(f"{', '.join(held)} are renewed at different tokens", rec.place(next(iter(held))))
    (count,) = set(counts.values())
    rest = tuple(name for name in group if name not in held)
    misread = _misread(rec, held)
    if misread is not None:
        return misread
    inner, given = _given(rec, rest, tuple(held))
    groups = joined.components(inner, rest, classify, lambda component: True)
    components = tuple(classify(inner, group, cascade.own_terms(inner, group), level) for group in groups)
    for component in components:
        if isinstance(component.kind, Nonlinear):
            why = component.reasons[0]
            return Reason(f"also with {', '.join(held)} given, {why.text}", why.span)
    updates = {}
    for component in components:
        updates |= cascade.own_terms(inner, component.states)
    start = next(iter(held.values()))[0]
    copies = tuple((name, source) for name, (_, source) in held.items())
    return Frozen(*count, start, copies, given, Plan(inner, components, (), (), updates))


def _held(rec: Recurrence, name: str, group: tuple[str, ...]) -> tuple[Node, str] | None:
    """(start, M) of a state F with F[t] = where(start, M[t-1], F[t-1]), M another one of the group."""
    update = rec.updates[name]
    if update.op != "where":
        return None
    start, yes, no = update.args
    if start.op == "ne":
        start, yes, no = build("eq", *start.args), no, yes
    states = yes.op == no.op == "state" and yes["when"] == no["when"] == "old"
    if not states or no["name"] != name or yes["name"] == name or yes["name"] not in group:
        return None
    return start, yes["name"]


def _count(rec: Recurrence, start: Node) -> tuple[str, int, int] | None:
    """(n, period, offset) of a condition n + d == period * floor((n + e) / period) on a count of tokens n."""
    sizes = {leaf("size", (), dim=dim): const(size) for dim, size in rec.dims.items() if size is not None}
    names = {node["name"] for node in walk(start) if node.op == "state"}
    if start.op != "eq" or len(names) != 1 or any(node.op in ("input", "param") for node in walk(start)):
        return None
    (name,) = names
    state = rec.state(name)
    old, new = (leaf("state", state.axes, state.dtype, name=name, when=when) for when in ("old", "new"))
    if _linear(rec.updates[name], old) != (1, 1):
        return None
    (start,) = substitute([start], {**sizes, new: add(old, ONE)})
    floors = [node for node in walk(start) if node.op == "floor"]
    if len(floors) != 1:
        return None
    inside, period = floors[0].args[0], 1.0
    if inside.op == "div" and is_const(inside.args[1]):
        inside, period = inside.args[0], float(inside.args[1]["value"])
    whole = leaf("input", state.axes, name="whole chunks")
    left, right = substitute(start.args, {floors[0]: whole})
    outside, within = _linear(sub(left, right), old, whole), _linear(inside, old)
    if outside is None or within is None or not period.is_integer() or period < 1:
        return None
    slope, chunks, shift = outside if len(outside) == 3 else (0, 0, 0)
    if within[0] != 1 or abs(slope) != 1 or chunks != -slope * period:
        return None
    shift /= slope
    if not float(shift).is_integer() or not float(within[1]).is_integer() or not 0 <= within[1] - shift < period:
        return None
    return name, int(period), int(-shift % period)


def _linear(node: Node, *leaves: Node) -> tuple[float, ...] | None:
    """The coefficients of `leaves`, each a factor of its own, and what is added; None where there is more in it."""
    found = dict.fromkeys(leaves, 0.0) | {ONE: 0.0}
    for term in Algebra().expand(node):
        factor = term.factors[0] if len(term.factors) == 1 else (ONE, 1) if not term.factors else (None, 0)
        if term.bound or factor[1] != 1 or factor[0] not in found:
            return None
        found[factor[0]] += term.coef
    return tuple(found.values())


def _misread(rec: Recurrence, held: dict[str, tuple[Node, str]]) -> Reason | None:
    """Why reads of the copies have no form: before their renewal, or whole by what no copy is needed for."""
    roots = {**{name: value for name, value in rec.updates.items() if name not in held}}
    others = [*roots.values(), *(output.value for output in rec.outputs)]
    for node in walk(*others):
        if node.op == "state" and node["name"] in held and node["when"] == "old":
            name = node["name"]
            return Reason(f"{name}[t-1] is read before it may be renewed; read {name}[t]", rec.place(name))
    for name in held:
        state = rec.state(name)
        new = leaf("state", state.axes, state.dtype, name=name, when="new")
        if _width(new) > 1 and None in reads_in(others, [new]):
            return Reason(f"the copy {name} is read whole, not by a contraction over one axis", rec.place(name))
    return None


def _width(node: Node) -> int:
    return len([axis for axis in node.axes if axis != HEADS])


def _given(
    rec: Recurrence, rest: tuple[str, ...], copies: tuple[str, ...]
) -> tuple[Recurrence, tuple[tuple[Node, Node], ...]]:
    """The recurrence without its copies, with leaves for what is made of them; and what the leaves stand for."""
    reaches: dict[Node, set[str]] = {}
    for node in walk(*(rec.updates[name] for name in rest)):
        here = {node["name"]} if node.op == "state" else set()
        reaches[node] = here.union(*(reaches[arg] for arg in node.args))
    given: dict[Node, Node] = {}

    def known(node: Node) -> Node | None:
        if not node.args or _width(node) > 1 or not reaches[node] & set(copies) or reaches[node] & set(rest):
            return None
        if node not in given:
            name = rec.names.get(node) or f"given.{len(given) + 1}"
            given[node] = leaf("input", node.axes, node.dtype, name=name)
        return given[node]

    spans = Spans(rec.spans)
    updates = rebuild([rec.updates[name] for name in rest], known, spans)
    kept = {name: value for name, value in rec.updates.items() if name not in (*rest, *copies)}
    states = tuple(state for state in rec.states if state.name not in copies)
    names = rec.names | {stand: stand["name"] for stand in given.values()}
    inner = replace(
        rec, states=states, updates={**kept, **dict(zip(rest, updates, strict=True))}, names=names, spans=spans
    )
    return inner, tuple((stand, node) for node, stand in given.items())
