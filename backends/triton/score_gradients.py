"""Cotangents of scores: tiles of pairs of tokens that are products with what a triangular system is solved for.

With one rank a chunk has two such tiles, that of the outputs' scores and that of the system's. With r ranks it has
r (r + 1): where they add up in one launch beside the gradients of keys, each with the scores that it meets, nothing
else has room. So they pass through memory, and what is solved for with them: one launch computes them, another the sums
of their rows that gradients of decays and of write strengths are made of, with the scores. Launches after these have
tiles of pairs as operands of products alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from recc.backends.triton.nodes import inner, lies_in, reads, source

from recc.ir.node import COL, ROW, Node

PAIRS = 4  # tiles that add up in one launch beside the gradients of keys


def solved(every: Iterable[Node]) -> set[Node]:
    """Products with a triangular inverse, and sums of these, one for each rank."""
    found: set[Node] = set()
    for node in every:
        product = node.op == "dot" and any(lies_in(source(arg))[0].op == "inverse" for arg in node.args)
        if product or (node.op == "add" and all(arg in found for arg in node.args)):
            found.add(node)
    return found


def pairs(every: Iterable[Node], found: set[Node]) -> set[Node]:
    """The cotangents of scores, where there are many. found: what is solved for."""
    tiles = [node for node in every if node.op == "dot" and set(inner(node.axes)) == {ROW, COL}]
    tiles = [node for node in tiles if any(source(arg) in found for arg in node.args)]
    return set(tiles) if len(tiles) > PAIRS else set()


def rows_of(every: Iterable[Node], tiles: set[Node]) -> set[Node]:
    """Vectors that are sums of what is made of such tiles."""
    below, found = set(tiles), set()
    for node in every:
        if {ROW, COL} <= set(node.axes) and any(arg in below for arg in reads(node)):
            below.add(node)
        if node.op in ("sum", "sum_between") and inner(node.axes) == (ROW,) and node.args[0] in below - tiles:
            found.add(node)
    return found
