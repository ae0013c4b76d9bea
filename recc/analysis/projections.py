"""A recurrence whose projections stand apart: products of tokens with matrices of params, off the path from state to
state.

Over all tokens at once they are products of matrices, for which every machine has a library. What is left between them
is a recurrence again, the core: it takes the products before it as inputs, and puts out what those behind it multiply.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from recc.analysis.moved import NOWHERE
from recc.ir.names import free_name
from recc.ir.node import COMPLEX, HEADS, REAL, Node, Spans, dim_of, substitute, walk
from recc.ir.ops import build, dot, leaf
from recc.ir.program import Domain, Input, Output, Recurrence


@dataclass(frozen=True)
class Apart:
    """before: the core's new inputs, in terms of inputs and params. behind: the outputs that the core does not put out
    itself, in terms of inputs, params, `before` and what else the core puts out; those two as leaves `input`. All that
    passes between the three is real."""

    before: tuple[Output, ...]
    core: Recurrence
    behind: tuple[Output, ...]


def apart(rec: Recurrence) -> Apart | None:
    """`rec` with its projections apart, or None where it has none."""
    return _Division(rec).found()


class _Division:
    def __init__(self, rec: Recurrence) -> None:
        self.rec = rec
        self.updates, self.values = list(rec.updates.values()), [output.value for output in rec.outputs]
        self.nodes = list(walk(*self.updates, *self.values))
        self.moving = self._above(node for node in self.nodes if node.op in ("input", "state"))
        self.stateful = self._above(node for node in self.nodes if node.op == "state")
        self.of_params = self._above(node for node in self.nodes if node.op == "param")
        path = set(walk(*self.updates))
        products = [node for node in self.nodes if self._matrix(node) is not None]
        self.front = [node for node in products if node not in self.stateful]
        self.behind = self._above(node for node in products if node in self.stateful and node not in path)
        if any(len(_dims(node)) > 1 for node in self._needed()):
            self.behind = set()  # a value as wide as a memory would pass through main memory at every token
        self.taken = {x.name for x in (*rec.inputs, *rec.params, *rec.states, *rec.outputs)}
        self.spans = Spans(rec.spans)

    def _above(self, nodes: Iterable[Node]) -> set[Node]:
        found = set(nodes)
        for node in self.nodes:
            if not found.isdisjoint(node.args):
                found.add(node)
        return found

    def _matrix(self, node: Node) -> Node | None:
        """Of a product of what tokens have with a matrix of params, the matrix: it has an axis that they have not."""
        fixed = [arg for arg in node.args if arg not in self.moving]
        if node.op != "dot" or len(fixed) != 1 or fixed[0] not in self.of_params:
            return None
        (of_tokens,) = (arg for arg in node.args if arg in self.moving)
        wide = len(_dims(node)) > max(1, len(_dims(of_tokens)))
        return fixed[0] if set(fixed[0].axes) - set(of_tokens.axes) and not wide else None

    def _needed(self) -> list[Node]:
        """What the core puts out for those behind it."""
        args = dict.fromkeys(arg for node in self.nodes if node in self.behind for arg in node.args)
        return [arg for arg in args if arg in self.stateful and arg not in self.behind]

    def found(self) -> Apart | None:
        products = [*self.front, *(node for node in self.nodes if node in self.behind)]
        matrices = [matrix for node in products if (matrix := self._matrix(node)) is not None]
        if not any(len(_dims(matrix)) > 1 for matrix in matrices):
            return None
        given = {node: self._parts(node, "projected") for node in self.front}
        put_out = {node: self._parts(node, "read") for node in self._needed()}
        into = {node: self._whole(node, names) for node, names in given.items()}
        core = self._core(into, put_out)
        results = [output for output in self.rec.outputs if output.value in self.behind]
        leaves = into | {node: self._whole(node, names) for node, names in put_out.items()}
        behind = substitute([output.value for output in results], leaves)
        read = {node["name"] for node in walk(*_roots(core)) if node.op == "input"}
        used = read | {node["name"] for node in walk(*behind) if node.op == "input"}
        before = [value for node, parts in given.items() for value in self._values(node, parts) if value.name in used]
        made = [Input(value.name, value.axes, REAL, Domain(), value.span) for value in before if value.name in read]
        core = _fitting(replace(core, inputs=(*self.rec.inputs, *made)), read)
        values = map(_over_heads, behind)
        return Apart(tuple(before), core, tuple(replace(o, value=value) for o, value in zip(results, values)))

    def _core(self, into: dict[Node, Node], put_out: dict[Node, dict[str, Node]]) -> Recurrence:
        """The recurrence between, with all inputs and params."""
        rec, spans = self.rec, self.spans
        kept = [output for output in rec.outputs if output.value not in self.behind]
        outputs = [*kept, *(value for node, parts in put_out.items() for value in self._values(node, parts))]
        nodes = list(dict.fromkeys([*self.updates, *(output.value for output in outputs), *rec.names]))
        new = dict(zip(nodes, substitute(nodes, into, spans), strict=True))
        return replace(
            rec,
            outputs=tuple(replace(output, value=new[output.value]) for output in outputs),
            updates={name: new[update] for name, update in rec.updates.items()},
            names={new[node]: name for node, name in rec.names.items() if node not in into},
            spans=spans,
        )

    def _parts(self, node: Node, word: str) -> dict[str, Node]:
        """A value as the real ones that pass between, under names that nothing else has."""
        wish = self.rec.names.get(node, word)
        if node.dtype != COMPLEX:
            return {self._name(wish): node}
        return {self._name(f"{wish}_{part}"): build(op, node) for part, op in (("re", "real"), ("im", "imag"))}

    def _values(self, node: Node, parts: dict[str, Node]) -> list[Output]:
        place = self.spans.get(node, NOWHERE)
        return [Output(name, part.axes, REAL, part, place) for name, part in parts.items()]

    def _name(self, wish: str) -> str:
        name = free_name(wish, self.taken)
        self.taken.add(name)
        return name

    def _whole(self, node: Node, parts: dict[str, Node]) -> Node:
        leaves = [self.spans.inherit(leaf("input", node.axes, REAL, name=name), node) for name in parts]
        return self.spans.inherit(build("complex", *leaves), node) if len(leaves) > 1 else leaves[0]


def _roots(rec: Recurrence) -> list[Node]:
    return [*rec.updates.values(), *(output.value for output in rec.outputs)]


def _dims(node: Node) -> list[str]:
    return [axis for axis in node.axes if axis != HEADS]


def _fitting(core: Recurrence, read: set[str]) -> Recurrence:
    """The core without the inputs and params that it does not read, unless the size of a dim is known from them alone;
    it has one input at least, which says how many tokens there are."""
    nodes = list(walk(*_roots(core), *(state.init for state in core.states if state.init is not None)))
    read = read | {node["name"] for node in nodes if node.op == "param"}
    wanted = {dim_of(axis) for node in nodes for axis in node.axes}
    wanted |= {node["dim"] for node in nodes if node.op == "size"}
    known = {dim_of(axis) for x in (*core.inputs, *core.params) if x.name in read for axis in x.axes}
    known |= {dim_of(axis) for state in core.states for axis in state.axes}
    known |= {dim for dim, size in core.dims.items() if size is not None}
    for declared in (*core.params, *core.inputs):
        own = {dim_of(axis) for axis in declared.axes}
        if own & (wanted - known):
            known |= own
            read = read | {declared.name}
    inputs = tuple(declared for declared in core.inputs if declared.name in read) or core.inputs[:1]
    return replace(core, inputs=inputs, params=tuple(param for param in core.params if param.name in read))


def _over_heads(root: Node) -> Node:
    """`root` with the sum over heads of a product as one product over both axes, which forms no value a head."""

    def joined(node: Node) -> Node | None:
        if node.op != "sum" or node["over"] != (HEADS,) or node.args[0].op != "dot":
            return None
        a, b = node.args[0].args
        both = HEADS in a.axes and HEADS in b.axes
        return dot(a, b, (HEADS, *node.args[0]["over"])) if both else None

    return substitute([root], {node: new for node in walk(root) if (new := joined(node)) is not None})[0]
