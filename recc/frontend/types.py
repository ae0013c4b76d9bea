"""Values with a type: a node and its ordered dims. The rules by which dims meet stand here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recc.ir.node import HEADS, Axis, Node, Span
from recc.ir.ops import ONE, const, dot, is_zero, leaf, mul, rename, total


@dataclass(frozen=True, slots=True)
class Value:
    """A typed value. `node` may lack axes that `dims` has (a constant along them); `heads`: it differs by head;
    `span`: where in the text it is written, for errors of the operation that takes it."""

    node: Node
    dims: tuple[str, ...] = ()
    heads: bool = False
    span: Span | None = None

    @property
    def dtype(self) -> str:
        return self.node.dtype

    @property
    def labels(self) -> tuple[Axis, ...]:
        return labels(self.dims)


def labels(dims: Sequence[str]) -> tuple[Axis, ...]:
    """The axis labels of ordered dims: the n-th repetition of a dim has n primes.

    >>> labels(("K", "V", "K"))
    ('K', 'V', "K'")
    """
    return tuple(dim + "'" * list(dims[:at]).count(dim) for at, dim in enumerate(dims))


def axes_of(dims: Sequence[str], shared: bool) -> tuple[Axis, ...]:
    """Axes in declared order, heads first."""
    return labels(dims) if shared else (HEADS, *labels(dims))


def type_text(dims: Sequence[str] | None) -> str:
    return " x ".join(dims) if dims else "scalar"


def merge(values: Sequence[Value]) -> tuple[str, ...] | tuple[Value, Value, str]:
    """The dims of an elementwise result, or two values and the dim that they cannot meet along.

    Operands meet by dim name. A dim that one value has once and another twice is ambiguous.
    """
    longest = max(values, key=lambda value: len(value.dims))
    dims = list(longest.dims)
    for value in values:
        dims += [dim for dim in dict.fromkeys(value.dims) if dim not in dims for _ in range(value.dims.count(dim))]
    for dim in dict.fromkeys(dims):
        having = [value for value in values if dim in value.dims]
        for value in having:
            if value.dims.count(dim) != having[0].dims.count(dim):
                return having[0], value, dim
    return tuple(dims)


def relabel(value: Value, dims: Sequence[str], kept: Sequence[Axis], span: Span | None = None) -> Value:
    """`value` whose axes `kept` (in this order) become the dims `dims` by position."""
    return Value(rename(value.node, dict(zip(kept, labels(dims), strict=True))), tuple(dims), value.heads)


def transpose(value: Value) -> Value:
    return relabel(value, value.dims[::-1], value.labels[::-1])


def outer(a: Value, b: Value) -> tuple[Value, Value, tuple[str, ...]]:
    """Two vectors relabelled so that an elementwise operation makes the matrix of all pairs, and its dims.

    The operands come without dims: their axes are told apart by label, not by the dim's name.
    """
    dims = a.dims + b.dims
    names = labels(dims)
    left = rename(a.node, dict(zip(a.labels, names, strict=False)))
    right = rename(b.node, dict(zip(b.labels, names[len(a.dims) :], strict=True)))
    return Value(left, (), a.heads, a.span), Value(right, (), b.heads, b.span), dims


def contract(a: Value, b: Value) -> tuple[Node, Node, Axis, tuple[str, ...]]:
    """The nodes of a and b relabelled for ``a @ b``, the axis that they share, and the dims of the product."""
    dim = a.dims[-1]
    dims = a.dims[:-1] + b.dims[1:]
    names = labels(dims)
    shared = dim + "'" * dims.count(dim)
    left = dict(zip(a.labels, (*names[: len(a.dims) - 1], shared), strict=True))
    right = dict(zip(b.labels, (shared, *names[len(a.dims) - 1 :]), strict=True))
    return rename(a.node, left), rename(b.node, right), shared, dims


def product(a: Value, b: Value, size: Node) -> Value:
    """``a @ b``. `size` is the contracted dim's size, for the case that neither node varies along it."""
    left, right, axis, dims = contract(a, b)
    node = dot(left, right, (axis,))
    if axis not in left.axes and axis not in right.axes:
        node = mul(node, size)
    return Value(node, dims, a.heads or b.heads)


def twice(matrix: Value, x: Value) -> str | None:
    """The dim along which `matrix` maps `x`: the only one that it has twice, which `x` has once."""
    found = [dim for dim in dict.fromkeys(matrix.dims) if matrix.dims.count(dim) > 1]
    fits = len(found) == 1 and matrix.dims.count(found[0]) == 2 and x.dims.count(found[0]) == 1
    return found[0] if fits else None


def mapped(matrix: Value, x: Value, dim: str, size: Node) -> Value:
    """The sum of matrix[.., dim, dim', ..] * x[.., dim', ..] over dim'; their other dims meet by name."""
    column = dim + "'"
    node = dot(matrix.node, rename(x.node, {dim: column}), (column,))
    if column not in matrix.node.axes and dim not in x.node.axes:
        node = mul(node, size)
    dims = merge([Value(ONE, tuple(dict.fromkeys(matrix.dims))), x])
    return Value(node, dims, matrix.heads or x.heads)


def add_up(value: Value, axes: Sequence[Axis], sizes: dict[Axis, Node]) -> Node:
    """The sum over `axes`; along an axis that the node lacks it is a multiple."""
    if is_zero(value.node):
        return const(0)
    node = total(value.node, tuple(axis for axis in axes if axis in value.node.axes))
    for axis in axes:
        if axis not in value.node.axes:
            node = mul(node, sizes[axis])
    return node


def eye(dim: str) -> Value:
    return Value(leaf("eye", labels((dim, dim))), (dim, dim))


def iota(dim: str) -> Value:
    node = leaf("iota", (dim,), dim=dim)
    return Value(node, (), True) if dim == HEADS else Value(node, (dim,))
