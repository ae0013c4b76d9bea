"""What stands in a tile beyond a dim's size: dims are padded to powers of two, and sums must not see the padding."""

from __future__ import annotations

from collections.abc import Callable

from recc.backends.torch.binding import is_static
from recc.backends.triton.nodes import dims, inner, reads

from recc.ir.node import Axis, Node, dim_of

ZERO, FINITE, ANY = 0, 1, 2  # what is known of the padding along an axis
_OF_ZERO = ("neg", "stopgrad", "sin", "tanh", "silu", "gelu", "relu", "erf", "abs", "sign", "floor", "until_end",
            "cumsum", "rcumsum", "unshift", "end", "first", "at_row", "if_end", "put_end", "put_first", "sum_before",
            "diagonal", "expm1", "take", "put", "log1p")  # fmt: skip
_OF_FINITE = ("exp", "sigmoid", "cos", "softplus", "logsigmoid", "bounded", "since", "channel_since", "channel_tail",
              "tail", "lt", "le", "gt", "ge", "eq", "ne", "maximum", "minimum", "ones", "iota")  # fmt: skip


class Padding:
    """Facts about the padding of the tiles of one kernel. in_memory(node): loaded, so that padding is zero."""

    def __init__(self, in_memory: Callable[[Node], bool]) -> None:
        self.in_memory = in_memory
        self.known: dict[tuple[Node, Axis], int] = {}

    def of(self, node: Node, axis: Axis) -> int:
        key = node, axis
        if key not in self.known:
            self.known[key] = self._find(node, axis)
        return self.known[key]

    def _find(self, node: Node, axis: Axis) -> int:
        if axis not in node.axes or is_static(node):
            return FINITE
        if self.in_memory(node):
            return ZERO
        if node.op == "rename":
            back = {new: old for old, new in node["mapping"]}
            return self.of(node.args[0], back.get(axis, axis))
        args = [self.of(arg, axis) for arg in reads(node)]
        match node.op:
            case "mul":
                if len(args) == 1:
                    return max(args[0], FINITE) if axis not in reads(node)[0].axes else args[0]
                return ANY if ANY in args else min(args)
            case "div" if is_static(node.args[1]) or (args[0] == ZERO and axis not in node.args[1].axes):
                return args[0]  # a divisor of zero spoils what is not padding, too
            case "dot":
                own = [self.of(arg, axis) for arg in node.args if axis in arg.axes]
                return ZERO if own == [ZERO] else max(own)
            case "sum" | "rename":
                return args[0]
            case "add" | "sub" | "shift" | "where":
                relevant = args[1:] if node.op == "where" else args
                return max(relevant)
            case "scan":
                return max(args[1:]) if args[1:] == [ZERO, ZERO] and args[0] != ANY else ANY
            case "score_rows" | "score_cols":
                return self.of(reads(node)[1], axis)
            case "stack":
                return ZERO if axis == node["axis"] else max(args)
        if node.op in _OF_ZERO:
            return args[0] if args else ANY
        if node.op in _OF_FINITE:
            return ANY if ANY in args else FINITE
        return ANY

    def zeroed(self, node: Node, over: tuple[Axis, ...], text: str, axes: tuple[Axis, ...]) -> str:
        """`text`, a tile of `axes` that holds `node`, with zeros in the padding along `over`."""
        for axis in over:
            if axis in dims(axes) and self.of(node, axis) != ZERO and not dim_of(axis).startswith("@"):
                text = f"tl.where({_aligned(axis, axes)}, {text}, 0.0)"
        return text

    def operand(self, place: int, dot: Node, over: tuple[Axis, ...], text: str) -> str:
        """One operand of a contraction, masked where the product would not vanish in the padding."""
        own, other = dot.args[place], dot.args[1 - place]
        for axis in over:
            if axis not in dims(own.axes) or self.of(own, axis) == ZERO:
                continue
            rest = self.of(other, axis)
            # Zero times finite is zero. Where neither is zero, the first operand is made so, and the other finite.
            if rest == ZERO and self.of(own, axis) == FINITE:
                continue
            if rest != ZERO and place == 1 and self.of(own, axis) == FINITE:
                continue
            text = self.zeroed(own, (axis,), text, own.axes)
        return text


def _aligned(axis: Axis, axes: tuple[Axis, ...]) -> str:
    index = ", ".join(":" if a == axis else "None" for a in inner(axes))
    return f"in_{dim_of(axis)}" if len(inner(axes)) == 1 else f"in_{dim_of(axis)}[{index}]"
