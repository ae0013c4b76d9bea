"""Factors of a product's operand that the sum does not go over stand outside it: (f x) . y = f (x . y).

The operand is then more often a tile as it lies in memory: nothing rounds it again to the precision of matrix products,
and products with several multiples of it share it. What is multiplied instead is the sum, which is wide.
"""

from __future__ import annotations

from dataclasses import replace

from recc.ir.node import COL, GRID, HEADS, Axis, Node, Spans, walk
from recc.ir.ops import build, dot
from recc.tile.program import TileProgram


def outside(program: TileProgram) -> TileProgram:
    """The same values, with what need not stand inside a product of two tiles outside it."""
    spans, done = Spans(program.spans), {}
    for node in walk(*program.roots):
        args = tuple(done[arg] for arg in node.args)
        new = node if args == node.args else spans.inherit(build(node.op, *args, **dict(node.attrs)), node)
        done[node] = spans.inherit(_per_head(new), node) if new.op == "dot" else new

    def each(group: dict[str, Node]) -> dict[str, Node]:
        return {name: done[node] for name, node in group.items()}

    return replace(
        program,
        carries=tuple(replace(carry, new=done[carry.new]) for carry in program.carries),
        stores=each(program.stores),
        sums=each(program.sums),
        kept=each(program.kept),
        names={done.get(node, node): text for node, text in program.names.items()},
        notes={done.get(node, node): text for node, text in program.notes.items()},
        spans=spans,
    )


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
        tile, own = _split(operand, over)
        tiles.append(tile)
        factors += own
    formed = next((place for place, tile in enumerate(tiles) if tile.op == "mul"), None)
    if formed is not None:  # a product that is formed anyway takes numbers up: what is added to the sum needs no scale
        for op, factor in reversed([one for one in factors if all(not arg.axes for arg in one[1])]):
            tiles[formed] = build(op, tiles[formed], *factor)
        factors = [one for one in factors if any(arg.axes for arg in one[1])]
    result = dot(tiles[0], tiles[1], over)
    for op, factor in reversed(factors):
        result = build(op, result, *factor)
    return result if factors or formed is not None else node


def _split(operand: Node, over: tuple[Axis, ...]) -> tuple[Node, list[tuple[str, tuple[Node, ...]]]]:
    """An operand as a tile and the factors around it, the outermost first: an op, and its other argument if any."""
    factors: list[tuple[str, tuple[Node, ...]]] = []
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
