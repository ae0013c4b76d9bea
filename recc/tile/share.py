"""Products of three factors, two of which are multiplied elsewhere: that product is taken, in place of another.

Reverse mode multiplies the cotangent of a product by one factor and then by the other. One order makes a new wide tile,
the other one that is there: in the score of a chunk, (P G) D where P D is what the keys' gradient is made of.
"""

from __future__ import annotations

from recc.ir.node import Node, Spans, rebuild, walk
from recc.ir.ops import mul


def share(roots: list[Node], spans: Spans | None = None) -> list[Node]:
    """The same values. spans: takes up what is new."""
    users: dict[Node, int] = {}
    for node in walk(*roots):
        for arg in node.args:
            users[arg] = users.get(arg, 0) + 1

    def rule(node: Node) -> Node | None:
        if node.op != "mul":
            return None
        for inner, outer in (node.args, node.args[::-1]):
            if inner.op != "mul" or users.get(inner, 0) != 1 or len(inner.axes) < len(node.axes):
                continue
            for first, second in (inner.args, inner.args[::-1]):
                for there in (mul(first, outer), mul(outer, first)):
                    if users.get(there, 0) and there is not node and there.axes == node.axes:
                        return mul(there, second)
        return None

    found = {node: new for node in walk(*roots) if (new := rule(node)) is not None}
    while True:  # a factor may be such a product itself
        within = dict(zip(found, rebuild(found.values(), found.get, spans), strict=True))
        if within == found:
            return rebuild(roots, found.get, spans)
        found = within
