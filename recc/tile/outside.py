"""Factors of a product's operand that the sum does not go over stand outside it: (f x) . y = f (x . y).

The operand is then more often a tile as it lies in memory: nothing rounds it again to the precision of matrix products,
and products with several multiples of it share it. What is multiplied instead is the sum, which is wide.
"""

from __future__ import annotations

from collections.abc import Iterable

from recc.ir.node import COL, GRID, HEADS, ROW, Axis, Node, Spans, walk
from recc.ir.ops import build, dot, is_zero
from recc.tile.program import TileProgram, with_values

Factor = tuple[str, tuple[Node, ...]]  # an op, and its other argument if any


def outside(program: TileProgram) -> TileProgram:
    """The same values, with what need not stand inside a product of two tiles outside it."""
    spans, done = Spans(program.spans), {}
    for node in walk(*program.roots):
        args = tuple(done[arg] for arg in node.args)
        new = node if args == node.args else spans.inherit(build(node.op, *args, **dict(node.attrs)), node)
        new = _per_head(new) if new.op == "dot" else _masked_last(new)
        done[node] = spans.inherit(new, node)
    return with_values(program, done, spans)


def is_mask(node: Node) -> bool:
    """Whether a decay from row to row is one of nothing: 1 where a row is seen, else 0."""
    return node.op == "decay" and all(map(is_zero, node.args[:2]))


def _masked_last(node: Node) -> Node:
    """A number times a masked value: the mask is around both."""
    if node.op not in ("mul", "div") or node.args[0].op != "mul" or node.args[1].axes:
        return node
    value, mask = sorted(node.args[0].args, key=is_mask)
    return build("mul", build(node.op, value, node.args[1]), mask) if is_mask(mask) else node


def _per_head(node: Node) -> Node:
    """A contraction over heads and over a chunk's tokens at once as one a head, and the sum of those: a chunk's tiles
    are there in kernels alone, which compute one head each."""
    over = node["over"]
    if HEADS not in over or COL not in over:
        return _moved(node)
    own = dot(*node.args, tuple(axis for axis in over if axis != HEADS))
    return build("sum", _moved(own), over=(HEADS,))


def _moved(node: Node) -> Node:
    """A contraction without the factors of its operands that it does not go over, times them."""
    over, tiles, factors = node["over"], [], []
    for operand in node.args:
        tile, own = factored(operand, over)
        tiles.append(tile)
        factors += own
    tiles = _shifted(tiles, over)
    formed = next((place for place, tile in enumerate(tiles) if tile.op == "mul"), None)
    if formed is None and not {ROW, COL} & set(node.axes) and any(not arg.axes for _, args in factors for arg in args):
        formed = 0  # a state's, on top of which it is summed: no tile of its own
    if formed is not None:  # a product that is formed anyway takes numbers up: what is added to the sum needs no scale
        for op, factor in reversed([one for one in factors if all(not arg.axes for arg in one[1])]):
            tiles[formed] = _masked_last(build(op, tiles[formed], *factor))
        factors = [one for one in factors if any(arg.axes for arg in one[1])]
    result = dot(tiles[0], tiles[1], over)
    return times(result, factors)


def times(tile: Node, factors: Iterable[Factor]) -> Node:
    """A tile with factors around it again: those that are multiplied are one vector, which meets the tile once."""
    vector: Node | None = None
    for op, factor in reversed(list(factors)):
        if op == "mul" or (op == "neg" and vector is not None):
            vector = factor[0] if vector is None else build(op, vector, *factor)
        else:
            tile = build(op, tile, *factor)
    return tile if vector is None else build("mul", tile, vector)


def _shifted(tiles: list[Node], over: tuple[Axis, ...]) -> list[Node]:
    """The operands, with factors along the sum on the one that is computed: the other stays as it lies in memory."""
    for place, tile in enumerate(tiles):
        plain, factors = factored(tile, ())
        other = tiles[1 - place]
        along = all(_tile(arg) <= set(over) & set(other.axes) for _, args in factors for arg in args)
        if factors and along and _loaded(plain) and not _loaded(factored(other, ())[0]):
            shifted = [plain, times(other, factors)]
            return shifted if place == 0 else shifted[::-1]
    return tiles


def _loaded(node: Node) -> bool:
    return (node.args[0] if node.op == "rename" else node).op == "tile"


def factored(operand: Node, over: tuple[Axis, ...]) -> tuple[Node, list[Factor]]:
    """An operand as a tile and the factors around it that lack the axes `over`, the outermost first."""
    factors: list[Factor] = []
    while True:
        if operand.op == "neg":
            factors.append(("neg", ()))
            operand = operand.args[0]
            continue
        pairs = {"mul": (operand.args, operand.args[::-1]), "div": (operand.args,)}.get(operand.op, ())
        for tile, factor in pairs:
            whole = tile.axes == operand.axes and len(_tile(factor)) < len(_tile(tile)) == 2
            if whole and not set(factor.axes) & set(over):
                factors.append((operand.op, (factor,)))
                operand = tile
                break
        else:
            return operand, factors


def _tile(node: Node) -> set[Axis]:
    return set(node.axes) - {GRID, HEADS}
