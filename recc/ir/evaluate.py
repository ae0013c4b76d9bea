"""What one node computes, for the sequential reference: the meaning of the step IR, written a second time.

Every value is a tensor ``[batch, *axes]`` with its axes in the canonical order of `recc.ir.node.sort_axes`, so that
operands align by inserting axes of size one. The batch of what does not depend on an input is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from recc.ir.node import COMPLEX, Axis, Node, dim_of, sort_axes
from recc.ir.program import Recurrence

Sizes = Mapping[str, int]  # of each dim, and of `heads`

# What each elementwise op of the registry computes; the fast path has its own text, and shares nothing with this.
ELEMENTWISE: dict[str, Callable[..., Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "neg": torch.neg,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "where": torch.where,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": torch.log,
    "log1p": torch.log1p,
    "sqrt": torch.sqrt,
    "rsqrt": lambda x: 1 / torch.sqrt(x),
    "sin": torch.sin,
    "cos": torch.cos,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    # torch's own softplus is linear above 20, which is wrong by 2e-9 there
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "relu": torch.relu,
    "silu": lambda x: x * torch.sigmoid(x),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x * math.sqrt(0.5))),
    "erf": torch.erf,
    "atan2": torch.atan2,
    "abs": torch.abs,
    "sign": torch.sgn,
    "floor": torch.floor,
    "stopgrad": torch.Tensor.detach,
    "surrogate": lambda value, smooth: value.detach() + (smooth - smooth.detach()).nan_to_num(),
    "clip_gradient": lambda x, limit: _Clipped.apply(x, limit),
    "maximum": torch.maximum,
    "minimum": torch.minimum,
    "logaddexp": torch.logaddexp,
    "lt": torch.lt,
    "le": torch.le,
    "gt": torch.gt,
    "ge": torch.ge,
    "eq": torch.eq,
    "ne": torch.ne,
    "conj": torch.conj_physical,
    "real": lambda z: torch.real(z) if z.is_complex() else z,
    "imag": lambda z: torch.imag(z) if z.is_complex() else torch.zeros_like(z),
    "complex": lambda re, im: torch.complex(*torch.broadcast_tensors(re, im)),
}


class _Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, limit: Tensor) -> Tensor:
        ctx.save_for_backward(limit)
        return torch.broadcast_tensors(x, limit)[0].clone()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        (limit,) = ctx.saved_tensors
        return grad.clamp(-limit, limit), None


@dataclass(frozen=True)
class Shapes:
    """What turns an axis into a number and a value into a tensor."""

    sizes: Sizes
    dtype: torch.dtype
    device: torch.device

    def size(self, axis: Axis) -> int:
        if dim_of(axis) not in self.sizes:
            raise ValueError(f"the size of dim `{dim_of(axis)}` is not known: no tensor shows it; pass it in `sizes`")
        return self.sizes[dim_of(axis)]

    def shape(self, axes: Iterable[Axis]) -> list[int]:
        return [self.size(axis) for axis in axes]

    def dtype_of(self, kind: str) -> torch.dtype:
        return as_complex(self.dtype) if kind == COMPLEX else self.dtype


def function_of(node: Node, shapes: Shapes) -> Callable[..., Tensor]:
    """What `node` computes from its arguments, each ``[batch, *its axes]`` in canonical order."""
    kind = {"dtype": shapes.dtype, "device": shapes.device}
    match node.op:
        case "const":
            return lambda: torch.tensor([node["value"]], **kind)
        case "size":
            return lambda: torch.tensor([shapes.size(node["dim"])], **kind)
        case "iota":
            return lambda: torch.arange(shapes.size(node.axes[0]), **kind)[None]
        case "eye":
            return lambda: torch.eye(shapes.size(node.axes[0]), **kind)[None]
        case "ones":
            return lambda: torch.ones([1, *shapes.shape(node.axes)], **kind)
        case "dot":
            a, b = node.args
            letter = {axis: chr(ord("a") + i) for i, axis in enumerate(sort_axes(a.axes + b.axes))}
            left, right, out = ("".join(letter[x] for x in axes) for axes in (a.axes, b.axes, node.axes))
            equation, dtype = f"z{left},z{right}->z{out}", shapes.dtype_of(node.dtype)
            return lambda x, y: torch.einsum(equation, x.to(dtype), y.to(dtype))
        case "sum" | "amax":
            dims = [node.args[0].axes.index(axis) + 1 for axis in node["over"]]
            reduce = torch.sum if node.op == "sum" else torch.amax
            return lambda x: reduce(x, dim=dims)
        case "rename":
            table = dict(node["mapping"])
            now = [table.get(axis, axis) for axis in node.args[0].axes]
            order = [0, *(now.index(axis) + 1 for axis in node.axes)]
            return lambda x: x.permute(order)
        case "take":
            place = node.args[0].axes.index(node["axis"]) + 1
            return lambda x: x.select(place, node["index"])
        case "put":
            place = node.axes.index(node["axis"]) + 1
            size = node["size"] if isinstance(node["size"], int) else shapes.size(node["size"])
            index = node["index"] % size
            return lambda x: torch.stack([x if i == index else torch.zeros_like(x) for i in range(size)], dim=place)
    if node.op not in ELEMENTWISE:
        raise NotImplementedError(f"the reference has no meaning for op `{node.op}`")
    function, views = ELEMENTWISE[node.op], [view_as(a.axes, node.axes) for a in node.args]
    if all(view is None for view in views):
        return function
    return lambda *xs: function(*[x if view is None else x[view] for x, view in zip(xs, views, strict=True)])


def view_as(axes: Sequence[Axis], target: Sequence[Axis]) -> tuple | None:
    """The index that gives ``[batch, *axes]`` an axis of size one for each axis that only `target` has."""
    if tuple(axes) == tuple(target):
        return None
    return (slice(None), *(slice(None) if axis in axes else None for axis in target))


def broadcast(axes: Sequence[Axis], target: Sequence[Axis], shapes: Shapes, kind: str) -> Callable[[Tensor], Tensor]:
    """Canonical ``[batch, *axes]`` as ``[batch, *target]``, also canonical, in the dtype for `kind`."""
    view, shape, dtype = view_as(axes, target), shapes.shape(target), shapes.dtype_of(kind)
    return lambda x: (x if view is None else x[view].expand(-1, *shape)).to(dtype)


def canonical(x: Tensor, axes: Sequence[Axis], leading: int) -> Tensor:
    """``[*leading, *axes as declared]`` with its axes in canonical order."""
    return x.permute(*range(leading), *(leading + list(axes).index(axis) for axis in sort_axes(axes)))


def declared(x: Tensor, axes: Sequence[Axis], leading: int) -> Tensor:
    """The inverse of `canonical`."""
    return x.permute(*range(leading), *(leading + sort_axes(axes).index(axis) for axis in axes))


def as_complex(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype == torch.float64 else torch.complex64


def cast(x: Tensor, kind: str, dtype: torch.dtype) -> Tensor:
    return x.to(as_complex(dtype) if kind == COMPLEX else dtype)


def fixed_sizes(rec: Recurrence) -> dict[str, int]:
    return {dim: size for dim, size in rec.dims.items() if size is not None}
