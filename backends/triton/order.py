"""The order of what a kernel computes: a tile takes registers from where it is loaded or computed to its last use.

The nodes of a launch are a partial order. Of the orders that are tried, the one is taken in which the tiles that are
there at a time are smallest, counted in numbers. The count is not what a compiler makes of it: a tile of a
configuration may name another order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from recc.backends.torch.binding import is_static
from recc.backends.triton.nodes import inner, reads

from recc.ir.node import COL, ROW, Axis, Node, dim_of

# Of the spec's text; the widest tile that is there is done with before the next; what adds fewest numbers comes next;
# results from the last to the first. The last is taken only where it is named.
ORDERS = ("text", "widest", "least", "back")
TYPICAL = 128  # places of a dim
RANKS = 2


def numbers(node: Node, rows: int) -> int:
    """How many numbers the tile of a node has."""
    return math.prod(_extent(axis, rows) for axis in inner(node.axes))


def _extent(axis: Axis, rows: int) -> int:
    if axis in (ROW, COL, "@a", "@b"):
        return rows
    return RANKS if dim_of(axis).startswith("@") else TYPICAL


class Order:
    """nodes: what is computed, arguments first; loads: tiles that are loaded when they are first read; held: tiles that
    are there from the start; last: those that must be there at the end. rows: tokens in a chunk.

    An operand of matrix products alone takes half a register a number, where it is loaded as narrow as it lies.
    """

    def __init__(
        self,
        nodes: Iterable[Node],
        loads: Iterable[Node],
        held: Iterable[Node] = (),
        last: Iterable[Node] = (),
        rows: int = 64,
    ) -> None:
        self.nodes, self.loads, self.held = list(nodes), list(loads), list(held)
        items = [*self.held, *self.loads, *self.nodes]
        self.place = {node: at for at, node in enumerate(items)}
        self.items, self.last = items, {self.place[node] for node in last if node in self.place}
        self.args = [self._args(node) for node in items]
        self.users = [0] * len(items)
        for at, args in enumerate(self.args):
            for arg in args:
                self.users[arg] |= 1 << at
        self.below = [0] * len(items)  # what must be there before, as bits
        for at, args in enumerate(self.args):
            for arg in args:
                self.below[at] |= self.below[arg] | 1 << arg
        loaded = range(len(self.held), len(self.held) + len(self.loads))
        self.weight = [numbers(node, rows) // (2 if at in loaded else 1) for at, node in enumerate(items)]
        for at, node in enumerate(items):
            if node.op == "rename" or is_static(node):
                self.weight[at] = 0
        self.start = (1 << len(self.held)) - 1

    def _args(self, node: Node) -> list[int]:
        if node in self.held or node in self.loads:
            return []
        return [self.place[arg] for arg in reads(node) if arg in self.place]

    def peak(self, order: Iterable[int]) -> tuple[int, int]:
        """The most numbers that are there at a time, and their sum over all steps."""
        done, live, most, total = self.start, set(range(len(self.held))), 0, 0
        for at in order:
            for arg in self.args[at]:
                if not done >> arg & 1:
                    live.add(arg)
                    done |= 1 << arg
            live.add(at)
            now = sum(self.weight[x] for x in live)
            most, total = max(most, now), total + now
            done |= 1 << at
            live = {x for x in live if self.users[x] & ~done or x in self.last}
        return most, total

    def best(self, name: str | None = None) -> list[Node]:
        """The nodes in the best order that was found, or in the one of ORDERS that has this name."""
        first = len(self.held) + len(self.loads)
        text = list(range(first, len(self.items)))
        tries = [lambda: text, lambda: self._greedy(True), lambda: self._greedy(False), lambda: self._back(text)]
        orders = [one() for one in tries[:-1]] if name is None else [tries[ORDERS.index(name)]()]
        return [self.items[at] for at in min(orders, key=self.peak)]

    def _back(self, text: list[int]) -> list[int]:
        order: list[int] = []
        for root in reversed([at for at in text if not self.users[at]]):
            order += [at for at in text if (self.below[root] >> at & 1 or at == root) and at not in order]
        return order

    def _greedy(self, widest: bool) -> list[int]:
        first = len(self.held) + len(self.loads)
        done, order = self.start, []
        waiting = list(range(first, len(self.items)))
        while waiting:
            live = [x for x in range(len(self.items)) if done >> x & 1 and self.users[x] & ~done]
            choices = self._choices(live, done, waiting) if widest else waiting
            chosen = min(choices, key=lambda at: (self._change(at, done, live), at))
            closure = (self.below[chosen] | 1 << chosen) & ~done
            for at in waiting:
                if closure >> at & 1:
                    order.append(at)
            done |= closure
            waiting = [at for at in waiting if not done >> at & 1]
        return order

    def _choices(self, live: list[int], done: int, waiting: list[int]) -> list[int]:
        """What uses the widest tile that is there, or is to be loaded."""
        first = len(self.held)
        own = [x for x in live if x >= first] or [x for x in range(first, first + len(self.loads)) if not done >> x & 1]
        for tile in sorted(own, key=lambda x: (-self.weight[x], x)):
            users = [at for at in waiting if self.users[tile] >> at & 1]
            if users:
                return users
        return waiting

    def _change(self, at: int, done: int, live: list[int]) -> int:
        """By how much what is there grows when a node is computed with all that it needs."""
        closure = (self.below[at] | 1 << at) & ~done
        after, change, rest = done | closure, 0, closure
        while rest:
            bit = rest & -rest
            x = bit.bit_length() - 1
            rest ^= bit
            if self.users[x] & ~after or x in self.last:
                change += self.weight[x]
        return change - sum(self.weight[x] for x in live if not self.users[x] & ~after and x not in self.last)
