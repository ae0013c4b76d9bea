"""Between which numbers a value certainly lies: from declared domains and from the functions used, never guessed."""

from __future__ import annotations

import math

from recc.ir.node import Node, walk
from recc.ir.program import Recurrence

Interval = tuple[float, float]
ANY: Interval = (-math.inf, math.inf)

# Functions that rise everywhere, and others whose values have bounds of their own.
_RISING = {
    "relu": lambda x: max(x, 0.0),
    "tanh": math.tanh,
    "exp": lambda x: math.exp(min(x, 700.0)) if x < 700 else math.inf,
    "log": lambda x: math.log(x) if x > 0 else -math.inf,
    "sqrt": lambda x: math.sqrt(max(x, 0.0)),
}
_RANGES = {
    "sigmoid": (0.0, 1.0),
    "logsigmoid": (-math.inf, 0.0),
    "softplus": (0.0, math.inf),
    "sin": (-1.0, 1.0),
    "cos": (-1.0, 1.0),
    "sign": (-1.0, 1.0),
    "erf": (-1.0, 1.0),
    "iota": (0.0, math.inf),
    "size": (1.0, math.inf),
    "eye": (0.0, 1.0),
    "ones": (1.0, 1.0),
}


def bounds(rec: Recurrence, node: Node) -> Interval:
    """An interval that holds every element of `node`, a step's expression; infinite where nothing is known."""
    found: dict[Node, Interval] = {}
    for below in walk(node):
        found[below] = _of(rec, below, [found[arg] for arg in below.args]) if below.dtype == "real" else ANY
    return found[node]


def _of(rec: Recurrence, node: Node, args: list[Interval]) -> Interval:
    match node.op, args:
        case "const", _:
            return node["value"], node["value"]
        case (("input" | "param"), _):
            domain = next(item.domain for item in (*rec.inputs, *rec.params) if item.name == node["name"])
            if domain.unit:
                return -1.0, 1.0
            low, high = domain.low, domain.high
            return -math.inf if low is None else low, math.inf if high is None else high
        case "state", _ if rec.state(node["name"]).delay:  # what was there n steps ago, or 0
            low, high = bounds(rec, rec.updates[node["name"]])
            return min(low, 0.0), max(high, 0.0)
        case name, [(low, high)] if name in _RISING:
            return _RISING[name](low), _RISING[name](high)
        case name, _ if name in _RANGES:
            return _RANGES[name]
        case "neg", [(low, high)]:
            return -high, -low
        case "abs", [(low, high)]:
            least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
            return least, max(abs(low), abs(high))
        case (("add" | "sub"), _) if _less_than_its_maximum(node):
            return -math.inf, 0.0
        case "add", [a, b]:
            return a[0] + b[0], a[1] + b[1]
        case "sub", [a, b]:
            return a[0] - b[1], a[1] - b[0]
        case "mul", [a, b]:
            corners = [_product(x, y) for x in a for y in b]
            square = node.args[0] is node.args[1]
            return max(min(corners), 0.0) if square else min(corners), max(corners)
        case "div", [a, b] if b[0] > 0:
            corners = [_product(x, 1 / y) for x in a for y in b]
            return min(corners), max(corners)
        case ("maximum" | "minimum") as name, [a, b]:
            choose = max if name == "maximum" else min
            return choose(a[0], b[0]), choose(a[1], b[1])
        case "where", [_, a, b]:
            return min(a[0], b[0]), max(a[1], b[1])
        case (("rename" | "take" | "amax" | "stopgrad"), [a]):
            return a
    return ANY


def _less_than_its_maximum(node: Node) -> bool:
    """Whether `node` is x - max(x), in any order and under a stopgrad: what a softmax takes exponentials of."""
    terms = {1: list[Node](), -1: list[Node]()}
    for place, arg in enumerate(node.args):
        sign = -1 if node.op == "sub" and place else 1
        if arg.op == "neg":
            sign, arg = -sign, arg.args[0]
        terms[sign].append(arg.args[0] if arg.op == "stopgrad" else arg)
    return any(top.op == "amax" and top.args[0] in terms[1] for top in terms[-1])


def _product(x: float, y: float) -> float:
    return 0.0 if x == 0 or y == 0 else x * y
