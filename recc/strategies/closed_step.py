"""A component's step as a function of its states and of what else it takes, for operations that hold a step; and what
such an operation has found, handed out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recc.analysis.plan import Component
from recc.ir.names import free_name
from recc.ir.node import ROW, Axis, Node, substitute, walk
from recc.ir.ops import build, spread
from recc.strategies.lowering import Lowering
from recc.tile.solve import argument, of_state


class ClosedStep:
    """updates: the next states over tiles. arguments: for each leaf of a state in them, the argument that it is.

    taken: what else the step reads, with the argument that it is. What reads no state is computed outside. along: axes
    that an argument with rows has, whether or not what it stands for has them.
    """

    def __init__(
        self, low: Lowering, updates: list[Node], arguments: Mapping[Node, Node], along: tuple[Axis, ...] = ()
    ) -> None:
        self.low, self.arguments = low, arguments
        names = low.rec.names
        self.named = dict(zip(substitute(names, low.table), names.values(), strict=True))
        self.taken: dict[Node, Node] = {}
        live = above(updates, arguments)
        for node in walk(*updates):
            for arg in node.args if node in live else ():
                if arg not in live and _varies(arg):
                    self.taken.setdefault(
                        arg, argument(self._name(arg), like=spread(arg, along) if ROW in arg.axes else arg)
                    )

    def of(self, nodes: list[Node]) -> list[Node]:
        """Expressions of the step in terms of its arguments."""
        return substitute(nodes, {**self.taken, **self.arguments}, self.low.spans)

    def name_parts(self) -> None:
        """Calls the parts of the step in generated code what the spec calls them."""
        for node, name in self.named.items():
            if any(below in self.arguments for below in walk(node)):
                self.low.names.setdefault(self.of([node])[0], name)

    def _name(self, node: Node) -> str:
        """What an argument is called: as in the spec, if that has a name for it."""
        wish = node["name"] if node.op in ("tile", "param") else self.named.get(node, "x")
        used = {leaf["name"] for leaf in (*self.arguments.values(), *self.taken.values())}
        return free_name(wish, used)


def hand_out(low: Lowering, component: Component, trajectory: Node) -> None:
    """What reads the states of a component, and what leaves the chunk, from the states at all its tokens."""
    count = len(component.states)
    for place, name in enumerate(component.states):
        new = of_state(trajectory, place, count)
        low.table[low.leaf(name, "new")] = new
        low.table[low.leaf(name)] = build("shift", new, low.carry(name))
        low.leave(component, name, of_state(build("end", trajectory), place, count))


def above(roots: list[Node], leaves: Iterable[Node]) -> set[Node]:
    """What depends on `leaves`."""
    live = set(leaves)
    for node in walk(*roots):
        if live.intersection(node.args):
            live.add(node)
    return live


def _varies(node: Node) -> bool:
    """Whether a value depends on tensors, so that a function must be given it."""
    return any(below.op in ("tile", "param", "carry") for below in walk(node))
