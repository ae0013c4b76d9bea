"""Orders the states of a step: its strongly connected components, each after those it reads.

State b depends on a when b's update reads a, before or after this step. Within a component, reads of a state after
its update are replaced by that update, so that a component's updates stand in terms of old states alone.
"""

from __future__ import annotations

from recc.ir.node import Node, substitute, walk
from recc.ir.program import Recurrence


def state_leaves(node: Node) -> dict[str, set[str]]:
    """Which states `node` reads, and when: {"S": {"old", "new"}}."""
    found: dict[str, set[str]] = {}
    for below in walk(node):
        if below.op == "state":
            found.setdefault(below["name"], set()).add(below["when"])
    return found


def components(rec: Recurrence) -> list[tuple[str, ...]]:
    """Strongly connected components, sources first (Tarjan); states keep their declared order within one."""
    names = [state.name for state in rec.states]
    reads = {name: [n for n in names if n in state_leaves(rec.updates[name])] for name in names}
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    done: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in reads[name]:
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            cut = stack.index(name)
            group, stack[cut:] = stack[cut:], []
            done.append(tuple(sorted(group, key=names.index)))

    for name in names:
        if name not in index:
            visit(name)
    return done


def own_terms(rec: Recurrence, group: tuple[str, ...]) -> dict[str, Node]:
    """The updates of a component with its own `new` states replaced by their updates; `rec.spans` takes them up."""
    updates = {name: rec.updates[name] for name in group}
    for _ in group:
        new = {
            leaf: updates[leaf["name"]]
            for update in updates.values()
            for leaf in walk(update)
            if leaf.op == "state" and leaf["when"] == "new" and leaf["name"] in group
        }
        if not new:
            return updates
        updates = dict(zip(updates, substitute(updates.values(), new, rec.spans), strict=True))
    return updates


def levels(rec: Recurrence, groups: list[tuple[str, ...]]) -> dict[tuple[str, ...], int]:
    """How long the longest chain of components before each is: components of one level are independent."""
    level: dict[tuple[str, ...], int] = {}
    for group in groups:
        before = {name for member in group for name in state_leaves(rec.updates[member])} - set(group)
        level[group] = max((level[other] + 1 for other in level if before & set(other)), default=0)
    return level
