"""Products that have a side in common, as one product of the sum of their other sides.

Terms of one sum, each a product times factors of its rows, may stand under moves of the rows, as the cotangents of a
tile and of its delays do. Both go inside: U(x . y) = U(x) . y for rows that move up. What was a wide tile for each
delay, moved and added to the next, is one; narrow tiles are moved and added in its place. Without moves products add
up in one tile anyway.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recc.backends.triton.loops import after_sums, sums_over
from recc.backends.triton.nodes import inner, sums_on
from recc.backends.triton.rebuilt import read_once, rebuilt
from recc.backends.triton.steps import Launch

from recc.ir.node import COL, ROW, Axis, Node
from recc.ir.ops import add, build, dot, rename

Side = tuple[Node, tuple[Axis, ...]]  # what products have in common, and the axes that they go over
TURNED, BACK = {ROW: COL, COL: ROW}, (COL, ROW)


@dataclass(frozen=True)
class Sum:
    """products: by their common side, the sum of the other ones, which have the rows; rest: what else is added, if
    anything; terms: how many products there are; moved: whether the rows of one have moved."""

    products: dict[Side, Node]
    rest: Node | None = None
    terms: int = 0
    moved: bool = False

    @property
    def value(self) -> Node:
        total = self.rest
        for (side, over), rows in self.products.items():
            product = dot(rows, side, over)
            total = product if total is None else add(total, product)
        assert total is not None
        return total

    def each(self, change: Callable[[Node], Node], moves: bool) -> Sum:
        """The sum with every term changed."""
        products = {side: change(rows) for side, rows in self.products.items()}
        return Sum(products, None if self.rest is None else change(self.rest), self.terms, self.moved or moves)


def one_side(launch: Launch, dim: str) -> Launch:
    """The launch, which takes `dim` block by block, with products that have a common side made one. What it stores
    stands at the same place in `stores`."""
    return rebuilt(launch, _Sums(launch, dim).merged())


class _Sums:
    def __init__(self, launch: Launch, dim: str) -> None:
        self.launch, self.dim = launch, dim
        self.once, self.late = read_once(launch), after_sums(launch, dim)
        self.sums: dict[Node, Sum] = {}
        self.inside: set[Node] = set()  # sums that are part of a larger one
        for node in launch.nodes:
            found = self._product(node) or self._sum(node)
            if found is not None:
                self.sums[node] = found

    def merged(self) -> dict[Node, Node]:
        """By sums that are no part of others and need fewer products so, what stands for them."""
        outermost = [(node, found) for node, found in self.sums.items() if node not in self.inside]
        return {node: found.value for node, found in outermost if found.moved and len(found.products) < found.terms}

    def _product(self, node: Node) -> Sum | None:
        """A product of two tiles, of which one alone has the rows."""
        if node.op == "rename" and node["mapping"] == (BACK,) and node.args[0] in self.once:
            product = node.args[0]
            turned = [rename(arg, TURNED) for arg in product.args]
        else:
            product, turned = node, list(node.args)
        if product in self.launch.loads or product.op != "dot" or not sums_on(product, inner(product["over"])):
            return None
        over = tuple(TURNED.get(axis, axis) if product is not node else axis for axis in product["over"])
        rows, side = turned if ROW in turned[0].axes else turned[::-1]
        late = sums_over(product, self.dim) and self.late.intersection(product.args)
        return Sum({(side, over): rows}, terms=1) if ROW in rows.axes and ROW not in side.axes and not late else None

    def _sum(self, node: Node) -> Sum | None:
        """A sum of products, and of what else there is, from those that its arguments are."""
        parts = [arg for arg in node.args if arg in self.sums and arg.axes == node.axes and arg in self.once]
        others = [arg for arg in node.args if arg not in parts]
        vectors = all(set(inner(arg.axes)) <= {ROW} and arg not in self.late for arg in others)
        match node.op, parts:
            case "add", [_, *_]:
                found = _added([*(self.sums[arg] for arg in parts), *(Sum({}, arg) for arg in others)])
            case "unshift", [part]:
                found = self.sums[part].each(lambda tile: build("unshift", tile), True)
            case "mul", [part] if vectors:
                found = self.sums[part].each(lambda tile: build("mul", tile, *others), False)
            case _:
                return None
        self.inside.update(parts)
        return found


def _added(parts: list[Sum]) -> Sum:
    products: dict[Side, Node] = {}
    rest: Node | None = None
    for part in parts:
        for side, rows in part.products.items():
            products[side] = add(products[side], rows) if side in products else rows
        if part.rest is not None:
            rest = part.rest if rest is None else add(rest, part.rest)
    return Sum(products, rest, sum(part.terms for part in parts), any(part.moved for part in parts))
