"""What leaves the loop over tokens, read off the step graph.

hoisted: reads no state, so it runs over all tokens at once before the core. A past value `x[t-n]` of something hoisted
is a shift of rows and counts as that. sunk: only reads finished states, so it runs over all tokens at once after it.
"""

from __future__ import annotations

from dataclasses import replace

from recc.ir.node import HEADS, Node, Span, Spans, invariant, substitute, walk
from recc.ir.ops import leaf
from recc.ir.program import Domain, Input, Param, Recurrence

NOWHERE = Span(0, 0, 0, 0)
Named = tuple[tuple[str | None, Node], ...]


def moved(rec: Recurrence) -> tuple[Named, Named]:
    """(hoisted, sunk): named locals and outputs, then the largest unnamed expressions (None) that are hoisted."""
    delays = {state.name for state in rec.states if state.delay}
    updates = [update for name, update in rec.updates.items() if name not in delays]
    roots = [*updates, *(output.value for output in rec.outputs)]
    stateful, moving = set[Node](), set[Node]()
    for node in walk(*roots, *rec.names):  # arguments come before their users
        if node.op == "state" and node["name"] not in delays or stateful.intersection(node.args):
            stateful.add(node)
        if node.op in ("input", "state") or moving.intersection(node.args):
            moving.add(node)
    core = set(walk(*updates))
    named = dict(rec.names) | {output.value: output.name for output in rec.outputs}
    hoisted = [(name, node) for node, name in named.items() if node not in stateful and node.args]
    hoisted += [(None, node) for node in _unnamed(roots, named, stateful, moving)]
    after = [(name, node) for node, name in named.items() if node in stateful and node not in core]
    return tuple(hoisted), tuple((name, node) for name, node in after if node.op != "state")


def named_inputs(rec: Recurrence) -> Recurrence:
    """`rec` with each hoisted local as an input of its name, or as a param where it is the same at every token: what
    the core looks like once hoisting is done."""
    hoisted = {node: name for name, node in moved(rec)[0] if name is not None}
    free, spans = Domain(), Spans(rec.spans)
    fixed = {node: name for node, name in hoisted.items() if invariant(node)}
    kinds = {node: "param" if node in fixed else "input" for node in hoisted}
    leaves = {n: spans.inherit(leaf(kinds[n], n.axes, n.dtype, name=name), n) for n, name in hoisted.items()}
    nodes = list(dict.fromkeys([*rec.updates.values(), *(output.value for output in rec.outputs), *rec.names]))
    new = dict(zip(nodes, substitute(nodes, leaves, spans), strict=True))
    places = {node: spans.get(node, NOWHERE) for node in hoisted}
    made = tuple(Input(hoisted[n], n.axes, n.dtype, free, places[n]) for n in hoisted if n not in fixed)
    params = tuple(Param(name, n.axes, n.dtype, None, free, places[n]) for n, name in fixed.items())
    return replace(
        rec,
        inputs=rec.inputs + made,
        params=rec.params + params,
        outputs=tuple(replace(output, value=new[output.value]) for output in rec.outputs),
        updates={name: new[update] for name, update in rec.updates.items()},
        names={new[node]: name for node, name in rec.names.items() if node not in hoisted},
        spans=spans,
    )


def _unnamed(roots: list[Node], named: dict[Node, str], stateful: set[Node], moving: set[Node]) -> list[Node]:
    """Largest expressions without a state or a name; of an outer product, which is never formed, its factors."""
    found, seen, stack = dict[Node, None](), set[Node](), roots[::-1]
    while stack:
        node = stack.pop()
        if node in seen or node in named and node not in stateful:
            continue
        seen.add(node)
        outer = node.op == "mul" and not set(node.args[0].axes) & set(node.args[1].axes) - {HEADS}
        if node in stateful or outer:
            stack += node.args[::-1]
        elif node.args and node in moving and node.op not in ("take", "rename"):
            found.setdefault(node)
    return list(found)
