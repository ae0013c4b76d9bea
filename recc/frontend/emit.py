"""Typed operations: each checks shapes and dtypes, reports what does not fit, and builds nodes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from recc.frontend import types
from recc.frontend.diagnostics import Bag, Diagnostic, Label
from recc.frontend.messages import shapes
from recc.frontend.types import Value
from recc.ir.node import BOOL, COMPLEX, HEADS, Node, Span
from recc.ir.ops import OPS, build, const, leaf

SIGNS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "**": "pow",
         "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}  # fmt: skip
_WORDS = {op: sign for sign, op in SIGNS.items()} | {"maximum": "max", "minimum": "min", "neg": "-"}
_ORDERED = {"lt", "le", "gt", "ge"}
_EXACT = 2**53  # whole numbers up to here are floats without rounding

# What numbers alone come to: for bounds of domains, and to refuse 1/0 and 10 ** 10 ** 10 before they are computed.
_NUMERIC: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "neg": lambda a: -a,
    "div": lambda a, b: a / b, "pow": lambda a, b: float(a) ** float(b), "exp": math.exp, "expm1": math.expm1,
    "log": math.log, "log1p": math.log1p, "sqrt": math.sqrt, "rsqrt": lambda a: 1 / math.sqrt(a), "sin": math.sin,
    "cos": math.cos, "tanh": math.tanh, "abs": abs, "maximum": max, "minimum": min, "erf": math.erf,
    "floor": math.floor, "sigmoid": lambda a: 0.5 * (1 + math.tanh(a / 2)), "stopgrad": lambda a: a,
    "surrogate": lambda value, smooth: value, "clip_gradient": lambda x, limit: x,
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b,
}  # fmt: skip


class Refused(Exception):
    """An operation that does not fit; the reason is in the bag already."""


class Emit:
    """Builds typed values. `sizes` are the sizes of dims, None where only the tensors know.

    `calls` are the places of the functions being unfolded: an error in a function's body points at its call, too.
    """

    def __init__(self, bag: Bag, sizes: dict[str, int | None]) -> None:
        self.bag, self.sizes = bag, sizes
        self.numbers: dict[Node, float] = {}
        # The axes and dims of the param whose initialiser is being built: those that random numbers are drawn for.
        self.random_axes: tuple[str, ...] | None = None
        self.random_dims: tuple[str, ...] = ()
        self.draws = 0
        self.calls: list[Span] = []

    def refuse(self, diagnostic: Diagnostic) -> Refused:
        if self.calls:
            diagnostic = replace(diagnostic, labels=(*diagnostic.labels, Label(self.calls[0], "called here")))
        self.bag.add(diagnostic)
        return Refused()

    def number(self, value: float) -> Value:
        """A constant; whole numbers stay whole while they are exact."""
        if float(value).is_integer() and abs(value) <= _EXACT:
            value = int(value)
        node = const(value)
        self.numbers[node] = value
        return Value(node)

    def size(self, dim: str) -> Value:
        fixed = self.sizes.get(dim)
        return Value(leaf("size", (), dim=dim)) if fixed is None else self.number(fixed)

    def op(self, name: str, *values: Value, span: Span, at: Span | None = None) -> Value:
        """The elementwise operation `name`; operands broadcast by dim name. `at`: its sign, for errors."""
        self._dtypes(name, values, at or span)
        dims = types.merge(values)
        if dims and isinstance(dims[0], Value):
            raise self.refuse(shapes.ambiguous(_WORDS.get(name, name), *dims, at or span))
        known = [self.numbers.get(value.node) for value in values]
        if name == "div" and known[1] == 0:
            raise self.refuse(shapes.division_by_zero(span))
        heads = any(value.heads for value in values)
        if name == "where" and known[0] is not None:
            return Value(values[1 if known[0] else 2].node, dims, heads)
        result = None
        if name in _NUMERIC and None not in known:
            try:
                result = _NUMERIC[name](*known)
                if isinstance(result, complex) or not math.isfinite(result):
                    raise OverflowError
            except (ArithmeticError, ValueError):
                raise self.refuse(shapes.not_a_number(span)) from None
        try:
            node = build(name, *(value.node for value in values))
        except OverflowError:
            raise self.refuse(shapes.not_a_number(span)) from None
        if result is not None:
            if node.op == "const":
                return Value(self.number(result).node, dims, heads)
            self.numbers[node] = result
        return Value(node, dims, heads)

    def _dtypes(self, name: str, values: Sequence[Value], span: Span) -> None:
        word = _WORDS.get(name, name)
        if name == "where":
            if values[0].dtype != BOOL:
                raise self.refuse(shapes.condition_expected(values[0], span))
            values = values[1:]
        for value in values:
            if value.dtype == BOOL:
                raise self.refuse(shapes.bool_as_number(word, value, span))
        real_only = OPS[name].real_only or name in _ORDERED or name == "complex"
        for value in values:
            if real_only and value.dtype == COMPLEX:
                raise self.refuse(shapes.complex_refused(word, value, span))

    def real(self, word: str, value: Value, span: Span) -> None:
        """Refuses a complex or boolean value."""
        if value.dtype == COMPLEX:
            raise self.refuse(shapes.complex_refused(word, value, span))
        if value.dtype == BOOL:
            raise self.refuse(shapes.bool_as_number(word, value, span))

    def rank(self, word: str, value: Value, rank: int, span: Span) -> None:
        if len(value.dims) != rank:
            raise self.refuse(shapes.wrong_rank(word, rank, value, span))

    def matmul(self, a: Value, b: Value, at: Span) -> Value:
        self.pair("@", a, b, at)
        return types.product(a, b, self.size(a.dims[-1]).node)

    def pair(self, word: str, a: Value, b: Value, span: Span) -> None:
        """Refuses operands that a matrix product does not take."""
        for value in (a, b):
            if value.dtype == BOOL:
                raise self.refuse(shapes.bool_as_number(word, value, span))
        if not (1 <= len(a.dims) <= 2 and 1 <= len(b.dims) <= 2) or a.dims[-1] != b.dims[0]:
            raise self.refuse(shapes.product_mismatch(word, a, b, span, self.sizes))

    def over(self, word: str, value: Value, dims: Sequence[str] | None, span: Span) -> tuple[str, ...]:
        """The axis labels that a reduction over `dims` (None: all) runs along."""
        if dims is None:
            return value.labels
        for dim in dims:
            if dim == HEADS:
                if not value.heads:
                    raise self.refuse(shapes.heads_of_shared(word, value, span))
            elif value.dims.count(dim) != 1:
                raise self.refuse(shapes.over_missing(word, dim, value, span))
        return tuple(dims)

    def sum(self, value: Value, axes: Sequence[str]) -> Value:
        sizes = {axis: self.size(axis.rstrip("'")).node for axis in axes}
        return self._reduced(value, axes, types.add_up(value, axes, sizes))

    def max(self, value: Value, axes: Sequence[str]) -> Value:
        here = tuple(axis for axis in axes if axis in value.node.axes)
        return self._reduced(value, axes, build("amax", value.node, over=here))

    def _reduced(self, value: Value, axes: Sequence[str], node: Node) -> Value:
        kept = [(dim, axis) for dim, axis in zip(value.dims, value.labels, strict=True) if axis not in axes]
        dims = tuple(dim for dim, _ in kept)
        return types.relabel(Value(node, dims, value.heads and HEADS not in axes), dims, [axis for _, axis in kept])

    def count(self, axes: Sequence[str], span: Span) -> Value:
        """How many elements there are along `axes`."""
        total = self.number(1)
        for axis in axes:
            total = self.op("mul", total, self.size(axis.rstrip("'")), span=span)
        return total

    def take(self, value: Value, dim: str, index: int) -> Value:
        """Element `index` along the first axis of `dim`."""
        axis = value.labels[value.dims.index(dim)]
        node = build("take", value.node, axis=axis, index=index)
        return self._reduced(value, (axis,), node)
