"""Products over a dim that a launch takes block by block, gathered in few accumulators.

Each of them takes the registers of its tile throughout the loop. Where several are terms of one sum, each times a
factor of its rows, the factors go inside, r (x . y) = (r x) . y, and all of them add up in one tile. Where a row of a
product is contracted with another tile, too, that is a sum over the loop of a row with a narrow tile, and nothing else
reads the product: sum over k of (x . y) k = sum over v of x (k . y).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from recc.backends.triton.loops import KEPT, after_sums, sums_over
from recc.backends.triton.nodes import inner, ordered, sums_on
from recc.backends.triton.order import numbers
from recc.backends.triton.rebuilt import added_up, read_once, users_of
from recc.backends.triton.steps import Launch

from recc.ir.node import ROW, Axis, Node
from recc.ir.ops import add, build, dot, neg, rename
from recc.tile.outside import Factor, factored, times

Labels = tuple[tuple[Axis, Axis], ...]


@dataclass(frozen=True)
class Term:
    """One term of a sum. core: it without the factors around it; labels: what its axes are called in the sum."""

    node: Node
    core: Node
    negative: bool
    labels: Labels


@dataclass(frozen=True)
class Contraction:
    """A vector: rows of `core` contracted over `axis` with those of `tile`, times factors of the rows."""

    core: Node
    tile: Node
    axis: Axis
    factors: tuple[Factor, ...]


def gathered(launch: Launch, dim: str) -> Launch:
    """The launch with sums over `dim` gathered. What it stores stands at the same place in `stores`.

    A single product of a sum is gathered, too, where the products that take its place are there anyway, or where so
    many tiles add up that nothing may be left to do with them after the loop.
    """
    found = _Gathering(launch, dim, False).launched()
    return _Gathering(launch, dim, True).launched() if _numbers(found, dim) >= KEPT else found


def _numbers(launch: Launch, dim: str) -> int:
    """How many numbers the tiles have that add up over `dim`."""
    products = [node for node in launch.nodes if sums_over(node, dim) and sums_on(node, inner(node["over"]))]
    return sum(numbers(total, launch.rows) for total in added_up(launch.nodes, products, read_once(launch)))


class _Gathering:
    def __init__(self, launch: Launch, dim: str, single: bool) -> None:
        self.launch, self.dim = launch, dim
        self.users, self.once = users_of(launch), read_once(launch)
        self.late = after_sums(launch, dim)
        self.contractions: dict[Node, Contraction] = {}
        self.sums: dict[Node, list[Term]] = {}  # by the outermost node
        self.inside: set[Term] = set()  # the terms that are gathered
        for node in launch.nodes:
            terms = list(self._terms(node, False, ())) if self._outermost(node) else []
            found = {term: found for term in terms if (found := self._gathers(term)) is not None}
            if len(found) > 1 or any(one and (single or self._is_spared(one)) for one in found.values()):
                self.sums[node] = terms
                self.inside |= set(found)
                for one in found.values():
                    self.contractions |= one

    # --- what is there ---------------------------------------------------------------------------------------

    def _outermost(self, node: Node) -> bool:
        """Whether a node is a sum, and not itself a term of one."""
        inside = node in self.once and self.users[node][0].op in ("add", "sub", "neg")
        return node.op in ("add", "sub") and not inside

    def _terms(self, node: Node, negative: bool, labels: Labels, inside: bool = False) -> Iterator[Term]:
        opened = not inside or node in self.once
        if node.op in ("add", "sub") and opened:
            first, second = node.args
            yield from self._terms(first, negative, labels, True)
            yield from self._terms(second, negative != (node.op == "sub"), labels, True)
        elif node.op == "rename" and opened and not labels and node.args[0].op == "add" and node.args[0] in self.once:
            yield from self._terms(node.args[0], negative, node["mapping"], True)
        else:
            yield Term(node, factored(node, ())[0], negative, labels)

    def _gathers(self, term: Term) -> dict[Node, Contraction] | None:
        """Where a term is a product over the loop that nothing else needs as a tile: the contractions of its rows."""
        core, factors = term.core, factored(term.node, ())[1]
        product = sums_over(core, self.dim) and sums_on(core, inner(core["over"])) and core not in self.launch.stores
        if not product or term.labels or not all(map(self._of_rows, factors)):
            return None
        found: dict[Node, Contraction] = {}
        for multiple, around in self._multiples(core).items():
            if multiple in self.launch.stores:
                return None
            for user in self.users.get(multiple, ()):
                if multiple is term.node and user.op in ("add", "sub"):
                    continue
                if not self._is_multiple(user, core) and not self._contracts(user, multiple, core, around, found):
                    return None
        return found

    def _is_spared(self, found: dict[Node, Contraction]) -> bool:
        """Whether products that contractions of rows need are there anyway: then none is left after the loop."""
        return all(self._across(one, {}) in self.launch.nodes for one in found.values())

    def _across(self, found: Contraction, done: dict[Node, Node]) -> Node:
        """The product over which rows are contracted instead."""
        return dot(_new(found.tile, done), self._sides(found.core, done)[1], (found.axis,))

    def _of_rows(self, factor: Factor) -> bool:
        """Whether a factor has one number for each row at most, and is there before the loop."""
        return _are_vectors([factor]) and not any(arg in self.late for arg in factor[1])

    def _is_multiple(self, node: Node, core: Node) -> bool:
        found, factors = factored(node, ())
        return found is core and node is not core and _are_vectors(factors)

    def _multiples(self, core: Node) -> dict[Node, tuple[Factor, ...]]:
        """A product, and it times factors of its rows."""
        every = [node for node in self.launch.nodes if self._is_multiple(node, core)]
        return {core: ()} | {node: tuple(factored(node, ())[1]) for node in every}

    def _contracts(self, user: Node, multiple: Node, core: Node, around: tuple[Factor, ...],
                   found: dict[Node, Contraction]) -> bool:  # fmt: skip
        """Whether a user of a multiple of `core` is its contraction with another tile, row by row; takes it up."""
        if user.op not in ("mul", "dot") or user.args.count(multiple) != 1:
            return False
        tile, more = factored(next(arg for arg in user.args if arg is not multiple), ())
        sums = [user] if user.op == "dot" else self.users.get(user, [])
        if set(tile.axes) != set(core.axes) or tile in self.late or tile in self.users.get(core, ()):
            return False
        if not _are_vectors(more) or user in self.launch.stores:
            return False
        for node in sums:
            if node.op not in ("sum", "dot") or len(node["over"]) != 1 or ROW in node["over"]:
                return False
            found[node] = Contraction(core, tile, node["over"][0], (*around, *more))
        return bool(sums)

    # --- what becomes of it ------------------------------------------------------------------------------------

    def launched(self) -> Launch:
        if not self.sums:
            return self.launch
        done: dict[Node, Node] = {}
        for node in [*self.launch.loads, *self.launch.nodes]:
            if node in self.launch.loads:
                done[node] = node
            elif node in self.sums:
                done[node] = self._sum(self.sums[node], done)
            elif node in self.contractions:
                done[node] = self._contraction(self.contractions[node], done)
            else:
                args = tuple(_new(arg, done) for arg in node.args)
                done[node] = node if args == node.args else build(node.op, *args, **dict(node.attrs))
        stores, loads = [done[node] for node in self.launch.stores], set(self.launch.loads)
        nodes = [node for node in ordered(stores, loads) if node not in loads]
        return replace(self.launch, nodes=nodes, stores=stores)

    def _sides(self, core: Node, done: dict[Node, Node]) -> tuple[Node, Node]:
        """The operand of a product that has its rows, and the other one."""
        first, second = core.args if ROW in core.args[0].axes else core.args[::-1]
        return _new(first, done), _new(second, done)

    def _sum(self, terms: list[Term], done: dict[Node, Node]) -> Node:
        """What is gathered, then what is no product, then products, which are summed on top."""
        inside, values, products = [], [], []
        for term in terms:
            if term in self.inside:
                rows, other = self._sides(term.core, done)
                value = dot(times(rows, _renewed(factored(term.node, ())[1], done)), other, term.core["over"])
                inside.append((term.negative, value))
            else:
                value = rename(_new(term.node, done), dict(term.labels))
                bare = term.core is term.node and term.core.op == "dot"
                (products if bare else values).append((term.negative, value))
        total = None
        for negative, value in [*inside, *values, *products]:
            value = neg(value) if negative else value
            total = value if total is None else add(total, value)
        assert total is not None
        return total

    def _contraction(self, found: Contraction, done: dict[Node, Node]) -> Node:
        rows, _ = self._sides(found.core, done)
        return times(dot(rows, self._across(found, done), found.core["over"]), _renewed(found.factors, done))


def _new(node: Node, done: dict[Node, Node]) -> Node:
    return done.get(node, node)


def _renewed(factors: Sequence[Factor], done: dict[Node, Node]) -> list[Factor]:
    return [(op, tuple(_new(arg, done) for arg in args)) for op, args in factors]


def _are_vectors(factors: Sequence[Factor]) -> bool:
    """Whether factors have one number for each row at most."""
    return all(set(inner(arg.axes)) <= {ROW} for _, args in factors for arg in args)
