"""Expressions as a person would write them, in the spec's own names: for `explain`, errors and comments."""

from __future__ import annotations

from collections.abc import Mapping

from recc.ir.node import Node

DEPTH = 60  # levels of an expression that are shown; an unrolled update can have thousands
# fmt: off
_INFIX = {"add": ("+", 1), "sub": ("-", 1), "mul": ("*", 2), "div": ("/", 2), "pow": ("**", 4),
          "lt": ("<", 0), "le": ("<=", 0), "gt": (">", 0), "ge": (">=", 0), "eq": ("==", 0), "ne": ("!=", 0)}
# fmt: on


def show(node: Node, names: Mapping[Node, str] | None = None, limit: int = 400) -> str:
    """`node` as text in the language of specs; nodes in `names` are shown by name. Longer text is cut."""
    return _clip(_show(node, names or {}, 0, DEPTH), limit)


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 4] + " ..."


def _show(node: Node, names: Mapping[Node, str], level: int, depth: int) -> str:
    if depth == 0:
        return "..."
    depth -= 1
    if node in names:
        return names[node]
    args = node.args
    if node.op in _INFIX:
        sign, own = _INFIX[node.op]
        right = own + (node.op in ("sub", "div", "pow") or (node.op == "mul" and _starts_with_dot(args[1])))
        text = f"{_show(args[0], names, own, depth)} {sign} {_show(args[1], names, right, depth)}"
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
            return f"{name}[t-1]" if node["when"] == "old" else f"{name}[t]"
        case "size":
            return node["dim"]
        case "eye":
            return f"eye({node.axes[0]})"
        case "iota":
            return f"iota({node.axes[0]})"
        case "neg":
            text = f"-{_show(args[0], names, 3, depth)}"
            return f"({text})" if level > 1 else text
        case "dot":
            text = f"{_show(args[0], names, 2, depth)} @ {_show(args[1], names, 3, depth)}"
            return f"({text})" if level > 2 else text
        case "sum" | "amax":
            word = "sum" if node.op == "sum" else "max"
            return f"{word}({_show(args[0], names, 0, depth)}, over={', '.join(node['over'])})"
        case "rename":
            swapped = {old: new for old, new in node["mapping"]}
            text = _show(args[0], names, 5, depth)
            return f"{text}.T" if len(swapped) == 2 and set(swapped) == set(swapped.values()) else text
        case "take":
            return f"{_show(args[0], names, 5, depth)}[{node['index'] + 1}]"
        case _:
            return f"{node.op}({', '.join(_show(arg, names, 0, depth) for arg in args)})"


def _starts_with_dot(node: Node) -> bool:
    """Whether the text of a product begins with `a @ b`: `x * a @ b` would mean `(x * a) @ b`."""
    while node.op in ("mul", "div"):
        node = node.args[0]
    return node.op == "dot"
