"""Expressions as a person would write them, in the spec's own names: for `explain`, errors and comments."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from recc.ir.node import Node

DEPTH = 60  # levels of an expression that are shown; an unrolled update can have thousands
# fmt: off
_INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2), "pow": ("**", 4),
          "lt": ("<", 0), "le": ("<=", 0), "gt": (">", 0), "ge": (">=", 0), "eq": ("==", 0), "ne": ("!=", 0)}
# fmt: on
_WORDS = {"amax": "max", "maximum": "max", "minimum": "min"}


def word(op: str) -> str:
    """What a spec calls the op: `>=` for ge, `max` for maximum."""
    return _INFIX[op][0] if op in _INFIX else _WORDS.get(op, op)


def show(node: Node, names: Mapping[Node, str] | None = None, limit: int = 400) -> str:
    """`node` as text in the language of specs; nodes in `names` are shown by name. Longer text is cut."""
    names, done = names or {}, {}

    def text(node: Node, level: int, depth: int) -> str:
        if depth == 0:
            return "..."
        if node in names:
            return names[node]
        key = node, level, depth
        if key not in done:  # once, and no more than is shown: where parts recur, the text doubles with each level
            done[key] = _show(node, level, lambda arg, level: text(arg, level, depth - 1))[: limit + 1]
        return done[key]

    shown = text(node, 0, DEPTH)
    return shown if len(shown) <= limit else shown[: limit - 4] + " ..."


def _show(node: Node, level: int, of: Callable[[Node, int], str]) -> str:
    """The text of a node among operators of `level`; `of(arg, level)` is that of an argument."""
    args = node.args
    if node.op in _INFIX:
        sign, own = _INFIX[node.op]
        right = own + (node.op in ("sub", "div", "pow") or (node.op == "mul" and _starts_with_dot(args[1])))
        text = f"{of(args[0], own)} {sign} {of(args[1], right)}"
        return f"({text})" if own < level else text
    match node.op:
        case "const":
            value = node["value"]
            text = str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"
            return f"({text})" if value < 0 and level > 1 else text
        case "input" | "param" | "tile":
            return node["name"]
        case "state":
            name = node["name"]
            if name.endswith("]"):  # a delayed value is spelled as it was read
                return name
            return {"old": f"{name}[t-1]", "new": f"{name}[t]", "beside": f"{name}_beside"}[node["when"]]
        case "size":
            return node["dim"]
        case "eye":
            return f"eye({node.axes[0]})"
        case "iota":
            return f"iota({node.axes[0]})"
        case "neg":
            text = f"-{of(args[0], 3)}"
            return f"({text})" if level > 1 else text
        case "dot":
            text = f"{of(args[0], 2)} @ {of(args[1], 3)}"
            return f"({text})" if level > 2 else text
        case "sum" | "amax":
            return f"{word(node.op)}({of(args[0], 0)}, over={', '.join(node['over'])})"
        case "rename":
            swapped = {old: new for old, new in node["mapping"]}
            text = of(args[0], 5)
            return f"{text}.T" if len(swapped) == 2 and set(swapped) == set(swapped.values()) else text
        case "take":
            return f"{of(args[0], 5)}[{node['index'] + 1}]"
        case _:
            return f"{word(node.op)}({', '.join(of(arg, 0) for arg in args)})"


def _starts_with_dot(node: Node) -> bool:
    """Whether the text of a product begins with `a @ b`: `x * a @ b` would mean `(x * a) @ b`."""
    while node.op in ("mul", "div"):
        node = node.args[0]
    return node.op == "dot"
