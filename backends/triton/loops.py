"""Launches that take a dim block by block: tiles are as small as registers hold, and sums over it add up on the way.

Sums over the dim are complete when its loop has ended. What depends on them and has the dim itself needs another loop,
which loads its tiles again.
"""

from __future__ import annotations

from dataclasses import dataclass

from recc.backends.triton.nodes import dims, inner, ordered, reads, source
from recc.backends.triton.order import numbers
from recc.backends.triton.steps import Launch

from recc.ir.node import Axis, Node, dim_of

SUMS = ("dot", "sum", "score")
KEPT = 1 << 15  # numbers that may be kept throughout a loop: half of a multiprocessor's registers, at dims of 128


@dataclass(frozen=True)
class Loop:
    """One loop over a dim. before: what is computed ahead of it; nodes: its body, in order; sums: those of them that
    add up over the dim; loads: what it reads block by block."""

    before: list[Node]
    nodes: list[Node]
    sums: set[Node]
    loads: list[Node]


def has(node: Node, dim: str) -> bool:
    """Whether a tile has blocks of `dim`."""
    return any(dim_of(axis) == dim for axis in dims(node.axes))


def after_sums(launch: Launch, dim: str) -> set[Node]:
    """What of a launch follows from a sum over `dim`."""
    found: set[Node] = set()
    for node in launch.nodes:
        if any(arg in found or sums_over(arg, dim) for arg in node.args):
            found.add(node)
    return found


def loops(launch: Launch, dim: str) -> list[Loop] | None:
    """The loops over `dim` that compute a launch; None where it is needed whole. The last may have no body.

    Where more tiles add up in one loop than registers hold, sums are left to a later one, which loads their tiles
    again, as long as that helps.
    """
    if launch.walks or any(_whole(node, dim) for node in launch.nodes):
        return None
    late: dict[Node, int] = {}
    wide = [node for node in launch.nodes if sums_over(node, dim) and len(inner(node.axes)) == 2]
    found = _loops(launch, dim, late)
    while kept(found, launch.rows) > KEPT:
        places = {node: at for at, loop in enumerate(found) for node in loop.sums}
        tried = [{**late, node: places[node] + 1} for node in wide]
        least, place = min((kept(_loops(launch, dim, one), launch.rows), place) for place, one in enumerate(tried))
        if least >= kept(found, launch.rows):
            break
        late = tried[place]
        found = _loops(launch, dim, late)
    return found


def _loops(launch: Launch, dim: str, late: dict[Node, int]) -> list[Loop]:
    """late: sums that wait for a later loop than the first that could take them."""
    level: dict[Node, int] = {}
    for node in launch.nodes:
        ready = max((level[arg] + sums_over(arg, dim) for arg in reads(node) if arg in level), default=0)
        level[node] = max(ready, late.get(node, 0))
    _postpone(launch, dim, level)
    found = []
    for at in range(max(level.values(), default=0) + 2):
        here = [node for node in launch.nodes if level[node] == at]
        before = [node for node in here if not has(node, dim) and not sums_over(node, dim)]
        sums = {node for node in here if sums_over(node, dim)}
        roots = [node for node in here if node in sums or (has(node, dim) and node in launch.stores)]
        stops = {node for node in ordered(roots) if node not in sums and not has(node, dim)} | set(launch.loads)
        stops |= {node for node in level if sums_over(node, dim) and level[node] < at}
        body = [node for node in ordered(roots, stops) if node in level and node not in stops]
        if before or body:
            read = {arg for node in body for arg in reads(node)}
            loads = [node for node in launch.loads if has(node, dim) and node in read]
            found.append(Loop(before, body, sums, loads))
    return found


def kept(found: list[Loop], rows: int) -> int:
    """The most numbers of 32 bits that tiles outside of a loop take throughout it: what adds up, and what is there
    before and read in it or later. What is no sum is as narrow as products take it; what follows from vectors, or lies
    in memory, is not kept."""
    most, there = 0, set()
    for at, loop in enumerate(found):
        there |= {node for node in loop.before if any(len(inner(arg.axes)) == 2 for arg in reads(node))}
        later = [*loop.nodes, *(node for part in found[at + 1 :] for node in (*part.before, *part.nodes))]
        read = {source(arg) for node in later for arg in reads(node)}
        tiles = [node for node in there if node in read and node.op != "rename"]
        tiles = [node for node in {*tiles, *loop.sums} if len(inner(node.axes)) == 2]
        added = {node for part in found[: at + 1] for node in part.sums}
        if loop.nodes:
            most = max(most, sum(numbers(node, rows) // (1 if node in added else 2) for node in tiles))
        there |= loop.sums
    return most


def _postpone(launch: Launch, dim: str, level: dict[Node, int]) -> None:
    """What stands outside of loops is computed ahead of the first one that needs it: nothing is kept throughout a loop
    that does not read it. What is smaller than what it is made of is not put off: a vector of tiles, or an operand of
    products, which is rounded, of a sum."""
    users: dict[Node, list[Node]] = {}
    rounded: set[Node] = set()  # what is made of a tile that a loop has added up, but for products
    for node in launch.nodes:
        for arg in reads(node):
            users.setdefault(arg, []).append(node)
        tiles = [arg for arg in reads(node) if len(inner(arg.axes)) == 2]
        if node.op not in SUMS and any(arg in rounded or sums_over(arg, dim) for arg in tiles):
            rounded.add(node)
    for node in reversed(launch.nodes):
        outside = not has(node, dim) and not sums_over(node, dim) and node not in launch.stores
        if outside and node in users and not shrinks(node) and node not in rounded:
            level[node] = min(level[user] for user in users[node])


def shrinks(node: Node) -> bool:
    """Whether a vector is made of tiles."""
    return len(inner(node.axes)) < 2 and any(len(inner(arg.axes)) == 2 for arg in reads(node))


def _over(node: Node) -> tuple[Axis, ...]:
    over = dict(node.attrs).get("over", ())
    return (over,) if isinstance(over, str) else over


def sums_over(node: Node, dim: str) -> bool:
    """Whether a node adds up over `dim`."""
    return node.op in SUMS and any(dim_of(axis) == dim for axis in _over(node))


def _whole(node: Node, dim: str) -> bool:
    """Whether a node needs all of `dim` at once."""
    if [dim_of(axis) for axis in dims(node.axes)].count(dim) > 1:
        return True
    if node.op in ("take", "put", "stack"):
        return dim_of(node["axis"]) == dim
    return node.op == "amax" and any(dim_of(axis) == dim for axis in node["over"])
