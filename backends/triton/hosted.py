"""What of a program torch computes, and what kernels do: torch has matrix products for projections and for sums over
the batch."""

from __future__ import annotations

from collections.abc import Sequence

from recc.backends.torch.binding import is_static
from recc.backends.triton.nodes import CONSTANT, CONTRACTIONS, LEAVES, inner, meets_heads, reads

from recc.ir.node import COL, GRID, HEADS, ROW, Node, dim_of


def hosted(every: Sequence[Node], carried: set[Node], split: str | None) -> tuple[set[Node], set[Node]]:
    """What torch computes, and contractions among it of which each program of a kernel computes its part.

    every: all nodes, arguments first; carried: the states that enter chunks; split: the dim that programs share.
    """
    partial = {node for node in every if _is_partial(node, split)}
    host: set[Node] = set()
    for node in every:  # those before it first
        host |= {node} if node in partial or _is_host(node, host) else set()
    _add_views(every, carried, host, partial)
    return host, partial


def _is_partial(node: Node, split: str | None) -> bool:
    """Whether a contraction goes over programs, and each of them can do its own part."""
    if node.op not in ("dot", "sum"):
        return False
    over = set(node["over"])
    blocked = split is not None and any(dim_of(axis) == split for axis in over)
    across = GRID in over or blocked
    if not across or (HEADS in over and GRID not in over):
        return False
    if node.op == "sum":
        return True
    a, b = (set(inner(arg.axes)) for arg in node.args)
    both = all(GRID in arg.axes for arg in node.args) and not meets_heads(node)
    return both and (a <= b or b <= a)


def _is_host(node: Node, host: set[Node]) -> bool:
    if is_static(node) or node.op in LEAVES or node.op in CONSTANT:
        return False
    if node.op in ("add", "sub", "neg") and all(arg in host for arg in node.args):
        return True
    if not set(node.axes) & {GRID, ROW, COL}:  # params alone; `iota` along a dim is the kernels' own
        return HEADS in node.axes or bool(node.args)
    if node.op in CONTRACTIONS and {GRID, HEADS} & set(node["over"]):
        return True
    if node.op == "dot":
        fixed = [arg for arg in node.args if not set(arg.axes) & {GRID, ROW, COL}]
        return any(set(inner(arg.axes)) - set(node["over"]) or meets_heads(node) for arg in fixed)
    return False


def _add_views(every: Sequence[Node], carried: set[Node], host: set[Node], partial: set[Node]) -> None:
    """What only relabels or repeats a tensor in memory is torch's, too, where torch reads it: a view."""
    wanted = {arg for node in host - partial for arg in reads(node)}
    for node in reversed(every):
        view = node.op == "rename" or (node.op == "mul" and len(reads(node)) == 1)
        if view and node in wanted and node not in host:
            (source,) = reads(node)
            if (source.op in LEAVES and source not in carried) or source in host:
                host.add(node)
