"""How the rest of a step reads a state: as contractions over one axis, or whole.

A chunked memory never forms its states, only contractions `query @ S`. `rewrite` replaces every largest
subexpression that is affine in the memories and contracts them over one axis by such reads, however it is spelled
(`q @ (S[t-1] + outer(u * k, v))` is a read of `S[t-1]` plus a product of inputs).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from recc.analysis.poly import Algebra, NotAffine, Term, product_node
from recc.ir.node import GRID, HEADS, ROW, Axis, Node, invariant, substitute
from recc.ir.ops import OPS, ZERO, add, build, leaf, mul, ones, rename


@dataclass(frozen=True)
class Read:
    """sum over `axis` of query * state: `state` is a leaf (which state, old or new), query has heads and `axis`.

    The query of a state that is convolved is the same at every token, and may have other axes, too.
    """

    state: Node
    axis: Axis
    query: Node


class WholeState(Exception):
    """A reader uses a state in another way than by contracting one of its axes."""

    def __init__(self, reader: Node, state: Node) -> None:
        super().__init__(state["name"])
        self.reader, self.state = reader, state


def reads_in(readers: Iterable[Node], states: Iterable[Node], convolved: Iterable[Node] = ()) -> list[Read | None]:
    """Every read of the leaves `states` by `readers`; None for each that takes one whole. convolved: see `rewrite`."""
    algebra, found = Algebra(states), list[Read | None]()

    def note(read: Read) -> Node:
        found.append(read)
        axes = (*read.state.axes, *read.query.axes)
        return ones(tuple(axis for axis in axes if axis != read.axis))  # only its axes matter

    for reader in readers:
        try:
            rewrite(reader, algebra, note, convolved)
        except WholeState:
            found.append(None)
    return found


_PASSES = ("add", "sub", "neg", "where")


def rewrite(node: Node, algebra: Algebra, emit: Callable[[Read], Node], convolved: Iterable[Node] = ()) -> Node:
    """`node` with its reads of the algebra's variables replaced by `emit(read)`. Raises WholeState.

    convolved: the variables whose queries must be the same at every token, and may have any axes.
    """
    convolved = frozenset(convolved)
    done: dict[Node, Node] = {}

    def visit(here: Node, reader: Node) -> Node:
        if algebra.variable_in(here) is None:
            return here
        if here not in done:
            done[here] = step(here, reader)
        return done[here]

    def step(here: Node, reader: Node) -> Node:
        if here in algebra.variables:
            raise WholeState(reader, here)
        free = [arg for arg in here.args if algebra.variable_in(arg) is None]
        passes = here.op in _PASSES or (here.op in ("mul", "div") and free) or OPS[here.op].linear == "no"
        if not passes:
            try:
                return _combine(algebra.expand(here), emit, convolved)
            except (NotAffine, _Improper):
                pass
        if here.op == "dot" and not free:
            nested = by_one_side(here)
            if nested is not None:
                return nested
        args = tuple(visit(arg, here) for arg in here.args)
        return algebra.spans.inherit(build(here.op, *args, **dict(here.attrs)), here)

    def by_one_side(here: Node) -> Node | None:
        """A product whose one side reads memories, too, such as a layer's output that the next layer is read with."""
        for place in (0, 1):
            try:
                value = visit(here.args[place], here)
            except WholeState:
                continue
            known = leaf("argument", value.axes, value.dtype, name="read before")
            args = [known if i == place else arg for i, arg in enumerate(here.args)]

            def opened(read: Read, known: Node = known, value: Node = value) -> Node:
                return emit(replace(read, query=substitute([read.query], {known: value})[0]))

            try:
                found = _combine(algebra.expand(build("dot", *args, over=here["over"])), opened, convolved)
            except (NotAffine, _Improper):
                continue
            return substitute([found], {known: value})[0]
        return None

    return visit(node, node)


class _Improper(Exception):
    """A term does not contract exactly one axis of the state with a query of its own."""


def _combine(terms: list[Term], emit: Callable[[Read], Node], convolved: frozenset[Node]) -> Node:
    pieces = [_read(term, convolved) if term.variable is not None else (None, product_node(term)) for term in terms]
    result = ZERO
    for found, scale in pieces:
        result = add(result, scale if found is None else mul(scale, _placed(emit(found[0]), found[1])))
    return result


def _placed(value: Node, mapping: dict[Axis, Axis]) -> Node:
    return rename(value, mapping)


def _read(term: Term, convolved: frozenset[Node]) -> tuple[tuple[Read, dict[Axis, Axis]], Node]:
    """The read in a term, how the other axes of the state are called there, and what it is multiplied by."""
    assert term.variable is not None
    mapping = dict(term.variable["mapping"]) if term.variable.op == "rename" else {}
    leaf = term.variable.args[0] if term.variable.op == "rename" else term.variable
    contracted = [axis for axis in leaf.axes if mapping.get(axis, axis) in term.bound]
    if len(contracted) != 1 or contracted[0] == HEADS:
        raise _Improper
    axis = contracted[0]
    label = mapping.get(axis, axis)
    group, rest, inner = connected(term, label)
    query = product_node(Term(1.0, tuple(group), frozenset(inner - {label})))
    others = {old: new for old, new in mapping.items() if old != axis}
    if leaf in convolved:
        if not invariant(query) or {axis, *others} & set(query.axes) - {label}:
            raise _Improper
        query = rename(query, {new: old for old, new in others.items()})
    elif set(query.axes) - {GRID, HEADS, ROW, label}:
        raise _Improper
    scale = product_node(Term(term.coef, tuple(rest), term.bound - inner))
    return (Read(leaf, axis, rename(query, {label: axis})), others), scale


def connected(term: Term, label: Axis) -> tuple[list[tuple[Node, int]], list[tuple[Node, int]], set[Axis]]:
    """The factors that hang together with the bound axis `label` through bound axes, the rest, and those axes."""
    inner, group = {label}, []
    rest = list(term.factors)
    while True:
        joined = [item for item in rest if inner & set(item[0].axes)]
        if not joined:
            return group, rest, inner
        group += joined
        rest = [item for item in rest if item not in joined]
        inner |= {axis for node, _ in joined for axis in node.axes if axis in term.bound}
