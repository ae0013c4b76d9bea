"""A launch with other nodes in place of some of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from recc.backends.triton.nodes import ordered
from recc.backends.triton.steps import Launch

from recc.ir.node import Node
from recc.ir.ops import build


def users_of(launch: Launch) -> dict[Node, list[Node]]:
    """What is computed from each value."""
    users: dict[Node, list[Node]] = {}
    for node in launch.nodes:
        for arg in dict.fromkeys(node.args):
            users.setdefault(arg, []).append(node)
    return users


def read_once(launch: Launch) -> set[Node]:
    """What a launch computes for one reader alone: it neither reads it from memory nor writes it."""
    users = users_of(launch)
    return {node for node in launch.nodes if len(users.get(node, ())) == 1 and node not in launch.stores}


def added_up(nodes: Iterable[Node], terms: Iterable[Node], alone: Collection[Node]) -> dict[Node, list[Node]]:
    """What terms add up to where nothing else reads them, each with its terms; a term that is read otherwise stands for
    itself. alone: what has one reader."""
    found = {node: [node] for node in terms}
    for node in nodes:
        if node.op == "add" and all(arg in found and arg in alone for arg in node.args):
            first, second = node.args
            found[node] = [*found.pop(first), *found.pop(second)]
    return found


def rebuilt(launch: Launch, new: dict[Node, Node]) -> Launch:
    """The launch with other nodes in place of some of its own, each made of what the launch has. What it stores stands
    at the same place in `stores`."""
    if not new:
        return launch
    loads = set(launch.loads)
    done: dict[Node, Node] = {node: node for node in loads}

    def renewed(node: Node) -> Node:
        args = tuple(done[arg] if arg in done else arg for arg in node.args)
        return node if args == node.args else build(node.op, *args, **dict(node.attrs))

    for node in launch.nodes:
        for part in ordered([new.get(node, node)], set(done)):
            done.setdefault(part, renewed(part))
        done[node] = done[new.get(node, node)]
    stores = [done[node] for node in launch.stores]
    return replace(launch, nodes=[node for node in ordered(stores, loads) if node not in loads], stores=stores)
