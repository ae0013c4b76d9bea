"""Sums over the pairs of tokens that a row lies between, from sums of rows.

The gradient of a log decay is such a sum of w = X (a . b): a . b are scores and X their cotangents. Where a launch
contracts X with b and with a anyway, and takes the dim of a and b block by block, the sum of a row of w is a . (X b),
that of a column b . (X^T a): vectors that add up on the way, and no tile of pairs waits for the loop's end. The sum
between is then one up the rows of both, over t >= j of row t less column t: what pairs on one side of j leave cancels,
but for the rounding of float32. A token with itself lies between nothing and would enter only to cancel: X b is what X
has below its diagonal times b, and the diagonal times b.
"""

from __future__ import annotations

from recc.backends.triton.loops import sums_over
from recc.backends.triton.rebuilt import rebuilt, users_of
from recc.backends.triton.steps import Launch

from recc.ir.node import COL, ROW, Node
from recc.ir.ops import ZERO, add, build, dot, mul, rename, sub

TURNED, BACK = {ROW: COL}, {COL: ROW}


def between_rows(launch: Launch, dim: str) -> Launch:
    """The launch with sums between rows taken from those that add up over `dim`. What it stores stands at the same
    place in `stores`."""
    users = users_of(launch)
    new: dict[Node, Node] = {}
    for node in launch.nodes:
        if node.op == "sum_between" and not node["before"] and node.args[0].op == "mul":
            for weight, score in (node.args[0].args, node.args[0].args[::-1]):
                if sums_over(score, dim) and not {weight, node.args[0]} & set(launch.stores):
                    new |= _of_rows(node, weight, score, users)
    return rebuilt(launch, new)


def _of_rows(between: Node, weight: Node, score: Node, users: dict[Node, list[Node]]) -> dict[Node, Node]:
    """What stands for the sum between rows of weight times score, and for the products with the weight."""
    if score.op != "dot" or not {ROW, COL} <= set(weight.axes) or len(users[between.args[0]]) != 1:
        return {}
    a, b = score.args if ROW in score.args[0].axes else score.args[::-1]
    across, along = dot(weight, b, (COL,)), dot(weight, a, (ROW,))
    if set(users.get(weight, ())) != {across, along, between.args[0]}:
        return {}
    strict = mul(weight, build("decay", ZERO, ZERO, ZERO, before=True))
    same = build("diagonal", weight)
    rows, columns = dot(strict, b, (COL,)), dot(strict, a, (ROW,))
    sums = dot(a, rows, score["over"]), dot(rename(b, BACK), rename(columns, BACK), score["over"])
    return {
        across: add(rows, mul(same, rename(b, BACK))),
        along: add(columns, mul(rename(same, TURNED), rename(a, TURNED))),
        between: build("rcumsum", sub(*sums)),
    }
