"""The functions of the language: the registry's own ops, and the composites that are built from them.

A composite becomes primitive nodes here, so that nothing after the front end has to know it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recc.frontend import types
from recc.frontend.messages import shapes
from recc.frontend.types import Value
from recc.ir.node import COMPLEX, HEADS, REAL, Span, dim_of
from recc.ir.node import make as make_node
from recc.ir.ops import ONE, OPS, is_zero, leaf, neg, spread
from recc.tile.adjoint import cotangents

if TYPE_CHECKING:
    from recc.frontend.emit import Emit

CONSTANTS = {"pi": math.pi}


@dataclass(frozen=True, slots=True)
class Function:
    """One function. `make(emit, args, over, span)` builds its value; `over` tells whether it takes `over=`.

    takes: "values", or "dim" for those whose argument is a dim's name; `random` ones stand in initialisers only.
    """

    name: str
    signature: str
    low: int
    high: int
    make: Callable[[Emit, list[Value], tuple[str, ...] | None, Span], Value]
    over: bool = False
    takes: str = "values"
    random: bool = False


FUNCTIONS: dict[str, Function] = {}


def _function(signature: str, low: int, high: int | None = None, **facts) -> Callable:
    def add(make: Callable) -> Callable:
        name = signature.partition("(")[0]
        FUNCTIONS[name] = Function(name, signature, low, low if high is None else high, make, **facts)
        return make

    return add


def _elementwise(op: str) -> Callable:
    return lambda e, args, over, span: e.op(op, *args, span=span)


_ARGUMENTS = {"where": "condition, a, b", "complex": "re, im", "logaddexp": "a, b", "surrogate": "value, smooth",
              "clip_gradient": "x, limit"}  # fmt: skip
for _name, _op in OPS.items():
    if _op.user:
        _function(f"{_name}({_ARGUMENTS.get(_name, 'x')})", _op.arity)(_elementwise(_name))


def _extremum(op: str, word: str) -> Callable:
    def make(e: Emit, args: list[Value], over: tuple[str, ...] | None, span: Span) -> Value:
        if len(args) == 2:
            if over is not None:
                raise e.refuse(shapes.over_with_two(word, span))
            return e.op(op, *args, span=span)
        e.real(word, args[0], span)
        axes = e.over(word, args[0], over, span)
        if op == "maximum":
            return e.max(args[0], axes)
        return e.op("neg", e.max(e.op("neg", args[0], span=span), axes), span=span)

    return make


_function("max(a, b)  or  max(x, over=dim)", 1, 2, over=True)(_extremum("maximum", "max"))
_function("min(a, b)  or  min(x, over=dim)", 1, 2, over=True)(_extremum("minimum", "min"))


@_function("sum(x, over=dim)", 1, over=True)
def _sum(e: Emit, args: list[Value], over, span: Span) -> Value:
    if args[0].dtype == "bool":
        raise e.refuse(shapes.bool_as_number("sum", args[0], span))
    return e.sum(args[0], e.over("sum", args[0], over, span))


@_function("mean(x, over=dim)", 1, over=True)
def _mean(e: Emit, args: list[Value], over, span: Span) -> Value:
    if args[0].dtype == "bool":
        raise e.refuse(shapes.bool_as_number("mean", args[0], span))
    axes = e.over("mean", args[0], over, span)
    return e.op("div", e.sum(args[0], axes), e.count(axes, span), span=span)


def _squares(e: Emit, word: str, args: list[Value], over, span: Span) -> tuple[Value, tuple[str, ...]]:
    """The sum of |x|^2, and the axes it runs along."""
    (x,) = args
    if x.dtype == "bool":
        raise e.refuse(shapes.bool_as_number(word, args[0], span))
    axes = e.over(word, x, over, span)
    square = e.op("mul", x, x, span=span)
    if x.dtype == COMPLEX:
        square = e.op("real", e.op("mul", x, e.op("conj", x, span=span), span=span), span=span)
    return e.sum(square, axes), axes


@_function("norm(x, over=dim)", 1, over=True)
def _norm(e: Emit, args: list[Value], over, span: Span) -> Value:
    return e.op("sqrt", _squares(e, "norm", args, over, span)[0], span=span)


@_function("l2norm(x, over=dim)", 1, over=True)
def _l2norm(e: Emit, args: list[Value], over, span: Span) -> Value:
    total, _ = _squares(e, "l2norm", args, over, span)
    scale = e.op("rsqrt", e.op("add", total, e.number(1e-6), span=span), span=span)
    return e.op("mul", args[0], scale, span=span)


@_function("rmsnorm(x, over=dim)", 1, over=True)
def _rmsnorm(e: Emit, args: list[Value], over, span: Span) -> Value:
    total, axes = _squares(e, "rmsnorm", args, over, span)
    mean = e.op("div", total, e.count(axes, span), span=span)
    scale = e.op("rsqrt", e.op("add", mean, e.number(1e-5), span=span), span=span)
    return e.op("mul", args[0], scale, span=span)


def _shifted(e: Emit, word: str, x: Value, over, span: Span) -> tuple[Value, Value, tuple[str, ...]]:
    """exp(x - max), the max, and the axes: the shift keeps exp from overflowing and has no gradient."""
    e.real(word, x, span)
    axes = e.over(word, x, over, span)
    top = e.op("stopgrad", e.max(x, axes), span=span)
    return e.op("exp", e.op("sub", x, top, span=span), span=span), top, axes


@_function("softmax(x, over=dim)", 1, over=True)
def _softmax(e: Emit, args: list[Value], over, span: Span) -> Value:
    weights, _, axes = _shifted(e, "softmax", args[0], over, span)
    return e.op("div", weights, e.sum(weights, axes), span=span)


@_function("logsumexp(x, over=dim)", 1, over=True)
def _logsumexp(e: Emit, args: list[Value], over, span: Span) -> Value:
    weights, top, axes = _shifted(e, "logsumexp", args[0], over, span)
    return e.op("add", top, e.op("log", e.sum(weights, axes), span=span), span=span)


@_function("clamp(x, low, high)", 3)
def _clamp(e: Emit, args: list[Value], over, span: Span) -> Value:
    for arg in args:
        e.real("clamp", arg, span)
    return e.op("minimum", e.op("maximum", args[0], args[1], span=span), args[2], span=span)


@_function("round(x)", 1)
def _round(e: Emit, args: list[Value], over, span: Span) -> Value:
    """To the nearest whole number, halves to the even one, without a sum that would round itself."""
    (x,) = args
    e.real("round", x, span)
    down = e.op("floor", x, span=span)
    part = e.op("sub", x, down, span=span)
    half = e.op("floor", e.op("mul", down, e.number(0.5), span=span), span=span)
    odd = e.op("sub", down, e.op("mul", half, e.number(2), span=span), span=span)
    over_half = e.op("where", e.op("gt", part, e.number(0.5), span=span), e.number(1), e.number(0), span=span)
    step = e.op("where", e.op("eq", part, e.number(0.5), span=span), odd, over_half, span=span)
    return e.op("add", down, step, span=span)


@_function("apply(M, x)", 2)
def _apply(e: Emit, args: list[Value], over, span: Span) -> Value:
    for arg in args:
        if arg.dtype == "bool":
            raise e.refuse(shapes.bool_as_number("apply", arg, span))
    dim = types.twice(*args)
    clash = dim and types.merge([Value(args[0].node, tuple(dict.fromkeys(args[0].dims))), args[1]])
    if not clash or isinstance(clash[0], Value):
        raise e.refuse(shapes.not_applicable(*args, span))
    return types.mapped(*args, dim, e.size(dim).node)


@_function("outer(a, b)", 2)
def _outer(e: Emit, args: list[Value], over, span: Span) -> Value:
    for arg in args:
        e.rank("outer", arg, 1, span)
    left, right, dims = types.outer(*args)
    product = e.op("mul", left, right, span=span)
    return Value(product.node, dims, product.heads)


@_function("diag(a)", 1)
def _diag(e: Emit, args: list[Value], over, span: Span) -> Value:
    (a,) = args
    e.rank("diag", a, 1, span)
    if a.dtype == "bool":
        raise e.refuse(shapes.bool_as_number("diag", args[0], span))
    matrix = types.eye(a.dims[0])
    return Value(e.op("mul", Value(a.node), Value(matrix.node), span=span).node, matrix.dims, a.heads)


def _semiring(word: str, combine: str) -> Callable:
    """A matrix product with + for the product and `combine` for the sum."""

    def make(e: Emit, args: list[Value], over, span: Span) -> Value:
        e.pair(word, *args, span)
        left, right, axis, dims = types.contract(*args)
        heads = args[0].heads or args[1].heads
        inner = e.op("add", Value(left, (), heads), Value(right, (), heads), span=span)
        # The shared axis stands last, under its own label, until it is reduced away.
        pairs = Value(inner.node, (*dims, axis.rstrip("'")), heads)
        return _along(e, combine, pairs, axis, span)

    return make


def _along(e: Emit, combine: str, pairs: Value, axis: str, span: Span) -> Value:
    if combine == "max":
        e.real("maxplus", pairs, span)
        return e.max(pairs, (axis,))
    if combine == "argmax":
        e.real("argmaxplus", pairs, span)
        best, places = e.max(pairs, (axis,)).node, neg(leaf("iota", (axis,), dim=dim_of(axis)))
        best, places = (Value(node, pairs.dims, pairs.heads) for node in (best, places))  # by axis label, as below
        hits = e.op("where", e.op("eq", pairs, best, span=span), places, e.number(-math.inf), span=span)
        return e.op("neg", e.max(Value(hits.node, pairs.dims, pairs.heads), (axis,)), span=span)
    e.real("logmatmulexp", pairs, span)
    top = e.op("stopgrad", e.max(pairs, (axis,)), span=span)
    # By axis label, not by dim name: the dim that is reduced may also be one of those that stay.
    shift = Value(top.node, pairs.dims, top.heads)
    weights = e.op("exp", e.op("sub", pairs, shift, span=span), span=span)
    return e.op("add", top, e.op("log", e.sum(weights, (axis,)), span=span), span=span)


_function("maxplus(a, b)", 2)(_semiring("maxplus", "max"))
_function("argmaxplus(a, b)", 2)(_semiring("argmaxplus", "argmax"))
_function("logmatmulexp(a, b)", 2)(_semiring("logmatmulexp", "logsumexp"))


@_function("grad(loss, x)", 2)
def _grad(e: Emit, args: list[Value], over, span: Span) -> Value:
    loss, x = args
    if loss.dims or loss.dtype != REAL:
        raise e.refuse(shapes.gradient_of_many(loss, span))
    found = cotangents([(loss.node, ONE)], [x.node])[x.node]
    if is_zero(found):
        raise e.refuse(shapes.gradient_of_nothing(x, span))
    return Value(spread(found, x.node.axes), x.dims, x.heads)


@_function("eye(dim)", 1, takes="dim")
def _eye(e: Emit, args: list[Value], over, span: Span) -> Value:
    if over[0] == HEADS:
        raise e.refuse(shapes.eye_of_heads(span))
    return types.eye(over[0])


@_function("iota(dim)", 1, takes="dim")
def _iota(e: Emit, args: list[Value], over, span: Span) -> Value:
    return types.iota(over[0])


@_function("ones(dim)", 1, takes="dim")
def _ones(e: Emit, args: list[Value], over, span: Span) -> Value:
    one = e.number(1).node
    return Value(one, (), True) if over[0] == HEADS else Value(one, (over[0],))


def _random(op: str) -> Callable:
    def make(e: Emit, args: list[Value], over, span: Span) -> Value:
        axes = e.random_axes
        if axes is None:
            raise e.refuse(shapes.random_misplaced(op, span))
        for arg in args:
            e.real(op, arg, span)
        e.draws += 1
        # Two draws are two nodes, though their bounds be the same.
        node = make_node(op, tuple(arg.node for arg in args), axes, draw=e.draws)
        return Value(node, e.random_dims, HEADS in axes)

    return make


_function("uniform(low, high)", 2, random=True)(_random("uniform"))
_function("normal(mean, std)", 2, random=True)(_random("normal"))
