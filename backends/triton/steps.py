"""The steps of a schedule: launches of kernels, and calls of torch between them.

Slots order them: 3i is the host's, 3i + 1 that of kernels over all chunks, 3i + 2 that of the kernels which walk the
chunks of a sequence in order.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from recc.backends.triton.nodes import dims

from recc.ir.node import Node, dim_of
from recc.tile.outer import Crossing
from recc.tile.program import Carry

HOST, KERNEL, WALK = 0, 1, 2


def up(slot: int, kind: int) -> int:
    """The first slot from `slot` on that is one of `kind`."""
    return slot + (kind - slot) % 3


@dataclass
class Launch:
    """A kernel. nodes: what it computes, in order; loads: what it reads from memory; stores: what it writes.

    walks: the carries that it takes along a sequence's chunks, none where all chunks run at once. split: the dim that
    several programs share, in blocks; loop: the dim that a program takes block by block. outer: for a walk, what lets
    each outer chunk be walked by programs of its own; empty where its states have no such form. rows: of a chunk.
    """

    slot: int
    nodes: list[Node]
    loads: list[Node]
    stores: list[Node]
    walks: list[Carry] = field(default_factory=list)
    split: str | None = None
    loop: str | None = None
    outer: list[Outer] = field(default_factory=list)
    rows: int = 64

    @property
    def dims(self) -> list[str]:
        """The dims of the spec that its tiles have."""
        every = [*self.nodes, *self.loads, *(carry.old for carry in self.walks)]
        found = {dim_of(axis) for node in every for axis in dims(node.axes)}
        return sorted(dim for dim in found if not dim.startswith("@"))


@dataclass
class Outer:
    """How the states of one level cross outer chunks. own: walks each outer chunk from nothing, and with it transitions
    that act elementwise; dense: walks the others; cross: each takes some states from outer chunk to outer chunk."""

    crossings: list[Crossing]
    own: Launch
    dense: Launch | None
    cross: list[Launch]

    @property
    def launches(self) -> list[Launch]:
        return [self.own, *([self.dense] if self.dense else []), *self.cross]


@dataclass
class Host:
    """Calls of torch."""

    slot: int
    nodes: list[Node]


def alike(carries: list[Carry]) -> list[list[Carry]]:
    """Matrices by their dims, each with those that have no others: beside it another would be whole in each program
    that takes a block of it. Vectors go with the first."""
    groups: list[list[Carry]] = []
    for carry in sorted(carries, key=lambda carry: -len(dims(carry.old.axes))):
        own = set(dims(carry.old.axes))
        group = next((group for group in groups if len(own) < 2 or own <= set(dims(group[0].old.axes))), None)
        groups += [[carry]] if group is None else []
        if group is not None:
            group.append(carry)
    return groups
