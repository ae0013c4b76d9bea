"""How tightly the text of an expression binds, and which expressions are numbers."""

from __future__ import annotations

from recc.ir.node import Node, walk
from recc.ir.ops import OPS

# How tightly a text binds: a name or call, a product, a sum, anything else.
ATOM, UNARY, POWER, PRODUCT, SUM, LOOSE = 0, 1, 1, 2, 3, 4
BINDS = {"add": SUM, "sub": SUM, "mul": PRODUCT, "div": PRODUCT, "neg": UNARY, "pow": POWER,
          "lt": LOOSE, "le": LOOSE, "gt": LOOSE, "ge": LOOSE, "eq": LOOSE, "ne": LOOSE}  # fmt: skip


def is_static(node: Node) -> bool:
    """Whether a node is a number that is known when the program starts: constants and dim sizes."""
    return (
        all(below.op in ("const", "size") or (below.args and below.op in OPS) for below in walk(node)) and not node.axes
    )
