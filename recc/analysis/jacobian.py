"""The structure of d(new states)/d(old states) of a component that is not affine, read off the step graph.

An update reaches a state's axis either element by element, or by a sum over it. All elementwise: diagonal, or a
block of k for k coupled states. A sum over a dim: dense within a head. A sum over heads: dense.
"""

from __future__ import annotations

from recc.ir.node import HEADS, Axis, Node, walk
from recc.ir.program import Recurrence

# How a node depends on one state: for each path, where each of the state's axes went (None: summed over).
Path = frozenset[tuple[Axis, "Axis | None"]]


def paths(update: Node, state: str) -> set[Path]:
    """All ways in which `update` reaches the old value of `state`."""
    found: dict[Node, set[Path]] = {}
    for node in walk(update):
        if node.op == "state" and node["name"] == state and node["when"] == "old":
            found[node] = {frozenset((axis, axis) for axis in node.axes)}
            continue
        here = {path for arg in node.args for path in found[arg]}
        match node.op:
            case "rename":
                table = dict(node["mapping"])
                here = {frozenset((a, table.get(x, x) if x else None) for a, x in path) for path in here}
            case "dot" | "sum" | "amax":
                here = {frozenset((a, None if x in node["over"] else x) for a, x in path) for path in here}
            case "take":
                here = {frozenset((a, None if x == node["axis"] else x) for a, x in path) for path in here}
        found[node] = here
    return found[update]


def structure(rec: Recurrence, updates: dict[str, Node]) -> str:
    """diagonal, block-k, head-block-dense or dense, for the component whose updates these are."""
    every = [path for update in updates.values() for state in updates for path in paths(update, state)]
    mixed = [axis for path in every for axis, went in path if went != axis]
    if HEADS in mixed:
        return "dense"
    if mixed:
        return "head-block-dense" if any(HEADS in rec.state(name).axes for name in updates) else "dense"
    return "diagonal" if len(updates) == 1 else f"block-{len(updates)}"
