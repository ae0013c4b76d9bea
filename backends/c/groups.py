"""Which targets share their loops: those over the same axes, unless one waits for what others have finished."""

from __future__ import annotations

from collections.abc import Iterable

from recc.backends.c.loops import Loops, Target

from recc.ir.node import Node
from recc.tile.cores import REDUCTIONS

MOVES = ("rename", "take")


def grouped(targets: Iterable[Target]) -> list[list[Target]]:
    """The targets in groups, in an order in which each finds in memory what others computed for it.

    Within a group the targets keep their order, which must be one of computation.
    """
    targets = list(targets)
    levels = _Levels(targets)
    groups: dict[tuple, list[Target]] = {}
    for target in targets:
        groups.setdefault((levels.of(target), Loops.stage_key(target)), []).append(target)
    return [groups[key] for key in sorted(groups, key=lambda key: key[0])]  # stable: the order of the first members


def inline_reads(node: Node, made: Iterable[Node]) -> tuple[set[Node], set[Node]]:
    """What the text of `node` reads of `made` and of the leaves; and which of them at another place than its own."""
    stops, found, moved, todo, seen = set(made), set() if node.args else {node}, set(), [node], set()
    while todo:
        each = todo.pop()
        for arg in each.args:
            if arg in stops or not arg.args:
                found.add(arg)
                if each.op in MOVES:
                    moved.add(arg)
            elif arg not in seen:
                seen.add(arg)
                todo.append(arg)
    return found, moved


class _Levels:
    """How many groups must be finished before a target's own."""

    def __init__(self, targets: list[Target]) -> None:
        self.first: dict[Node, Target] = {}
        for target in targets:
            self.first.setdefault(target.node, target)
        self.known: dict[Target, int] = {}

    def of(self, target: Target) -> int:
        if target not in self.known:
            key, level = Loops.stage_key(target), 0
            reads, moved = inline_reads(target.node, self.first)
            for node in reads & self.first.keys():
                other = self.first[node]
                if other.node is target.node:
                    continue
                waits = node in moved or node.op in REDUCTIONS or Loops.stage_key(other) != key
                level = max(level, self.of(other) + waits)
            self.known[target] = level
        return self.known[target]
