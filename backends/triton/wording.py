"""The text of elementwise ops, and how pieces of text fit together."""

from __future__ import annotations

import math
from collections.abc import Callable

from recc.backends.torch.binding import ATOM, LOOSE, PRODUCT, SUM, UNARY
from recc.backends.torch.text import Text
from recc.backends.triton.nodes import inner

from recc.ir.node import Axis, Node, walk
from recc.tile.ops import LEAST

# The text of each elementwise op, and how tightly it binds.
ELEMENTWISE: dict[str, tuple[str, int]] = {
    "add": ("{0} + {1}", SUM),
    "sub": ("{0} - {1}", SUM),
    "mul": ("{0} * {1}", PRODUCT),
    "div": ("{0} / {1}", PRODUCT),
    "neg": ("-{0}", UNARY),
    "pow": ("tile_power({0}, {1})", ATOM),
    "where": ("tl.where({0}, {1}, {2})", ATOM),
    "exp": ("tl.exp({0})", ATOM),
    "expm1": ("tile_expm1({0})", ATOM),
    "log": ("tl.log({0})", ATOM),
    "log1p": ("tile_log1p({0})", ATOM),
    "sqrt": ("tl.sqrt({0})", ATOM),
    "rsqrt": ("tl.rsqrt({0})", ATOM),
    "sin": ("tl.sin({0})", ATOM),
    "cos": ("tl.cos({0})", ATOM),
    "tanh": ("tile_tanh({0})", ATOM),
    "sigmoid": ("tl.sigmoid({0})", ATOM),
    "logsigmoid": ("tile_logsigmoid({0})", ATOM),
    "softplus": ("tile_softplus({0})", ATOM),
    "relu": ("tl.maximum({0}, 0.0)", ATOM),
    "silu": ("{0} * tl.sigmoid({0})", PRODUCT),
    "gelu": ("tile_gelu({0})", ATOM),
    "erf": ("tl.erf({0})", ATOM),
    "abs": ("tl.abs({0})", ATOM),
    "sign": ("tile_sign({0})", ATOM),
    "floor": ("tl.floor({0})", ATOM),
    "stopgrad": ("{0}", ATOM),
    "maximum": ("tl.maximum({0}, {1})", ATOM),
    "minimum": ("tl.minimum({0}, {1})", ATOM),
    "logaddexp": ("tile_logaddexp({0}, {1})", ATOM),
    "bounded": (f"tl.maximum({{0}}, {LEAST})", ATOM),
    "lt": ("{0} < {1}", LOOSE),
    "le": ("{0} <= {1}", LOOSE),
    "gt": ("{0} > {1}", LOOSE),
    "ge": ("{0} >= {1}", LOOSE),
    "eq": ("{0} == {1}", LOOSE),
    "ne": ("{0} != {1}", LOOSE),
}

# The text of what acts along the rows of one tile: {0} the tile, {1} `rows` aligned with it, and its attributes.
ALONG_ROWS = {
    "cumsum": "tile_cumsum({0})",
    "rcumsum": "tile_rcumsum({0})",
    "end": "tile_at_row({0}, {1}, end)",
    "first": "tile_at_row({0}, {1}, 0)",
    "at_row": "tile_at_row({0}, {1}, {at})",
    "if_end": "tl.where(end == {at}, {0}, 0.0)",
    "put_end": "tl.where({1} == end, {0}, 0.0)",
    "put_first": "tl.where({1} == 0, {0}, 0.0)",
    "until_end": "tl.where({1} <= end, {0}, 0.0)",
    "unshift": "tile_unshift({0}, {1})",
    "tail": "tile_tail({0}, {1}, end)",
    "since": "tile_since({0})",
    "sum_before": "tile_sum_before({0}, {1}, end)",
}


def inlinable(node: Node) -> bool:
    """Whether a node's text may stand inside its only user's."""
    return node.op in ELEMENTWISE or node.op in ("rename", "bounded")


def simple(text: str) -> bool:
    """Whether a text is a name or a call, with or without an index."""
    depth = 0
    for char in text:
        depth += (char in "([") - (char in ")]")
        if depth == 0 and char == " ":
            return False
    return True


def called(text: str) -> str:
    return text if simple(text) else f"({text})"


def aligned_text(text: str, binds: int, source: tuple[Axis, ...], target: tuple[Axis, ...]) -> str:
    """A tile's text with None in the places of the axes that it lacks."""
    source, target = inner(source), inner(target)
    if not source or source == target:
        return text
    index = ", ".join(":" if axis in source else "None" for axis in target)
    return f"{text if binds == ATOM or simple(text) else f'({text})'}[{index}]"


def static_text(node: Node, sizes: Callable[[Axis], str]) -> str:
    """A number that is known at launch as an expression of Python; evaluated where no size occurs in it."""
    text = Text(lambda _: None, sizes)(node)
    if any(below.op == "size" for below in walk(node)):
        return text
    value = float(eval(text, {"math": math, "float": float}))  # our own text: numbers and functions of `math`
    return f'float("{value}")' if math.isinf(value) or math.isnan(value) else repr(value)


def seen_text(mask: Node) -> str:
    """Which rows see which."""
    return f"rows[:, None] {'>' if mask['before'] else '>='} rows[None, :]"


def flag(condition: str) -> str:
    """A condition on numbers that joins a mask. As it stands, Triton's interpreter would give it the type of what it
    compares, and that of 3.9 refuses such a mask."""
    return f"tl.where({condition}, True, False)"
