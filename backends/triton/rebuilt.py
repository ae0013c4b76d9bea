"""A launch with other nodes in place of some of its own."""

from __future__ import annotations

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
