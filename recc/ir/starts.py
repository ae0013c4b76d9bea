"""What a recurrence starts from: its state before the first token, and fresh parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recc.ir.evaluate import (
    ELEMENTWISE,
    Shapes,
    Sizes,
    as_complex,
    broadcast,
    canonical,
    cast,
    declared,
    fixed_sizes,
    function_of,
)
from recc.ir.node import COMPLEX, HEADS, Node, sort_axes
from recc.ir.program import Param, Recurrence


def initial_state(
    rec: Recurrence,
    sizes: Sizes,
    batch: int,
    heads: int,
    params: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> dict[str, Tensor]:
    """The state before the first token, ``[batch, heads, *dims]`` each; one without a declared start is left out."""
    shapes = Shapes({**fixed_sizes(rec), **sizes, HEADS: heads}, dtype, torch.device(device))
    weights = {name: x.to(shapes.device) for name, x in (params or {}).items()}
    weights = {p.name: cast(weights[p.name], p.dtype, dtype) for p in rec.params if p.name in weights}
    return starting_state(rec, shapes, batch, weights, {}, strict=False)


def init_params(
    rec: Recurrence,
    sizes: Sizes,
    heads: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """Fresh parameters ``[heads, *dims]``; one without an initialiser is normal with deviation 1/sqrt(its first dim).

    Random numbers are drawn in float64 in the order of declaration, so one seed means the same numbers in every dtype.
    """
    shapes = Shapes({**fixed_sizes(rec), **sizes, HEADS: heads}, torch.float64, torch.device(device))
    return {
        p.name: _fresh(p, shapes, generator).to(as_complex(dtype) if p.dtype == COMPLEX else dtype) for p in rec.params
    }


def starting_state(
    rec: Recurrence,
    shapes: Shapes,
    rows: int,
    weights: Mapping[str, Tensor],
    given: Mapping[str, Tensor],
    strict: bool = True,
) -> dict[str, Tensor]:
    """The states in `given`, and the declared start of the others, as ``[rows, heads, *dims]``."""
    states: dict[str, Tensor] = {}
    for state in rec.states:
        if state.name in given:
            shape = [rows, *shapes.shape(state.axes)]
            if list(given[state.name].shape) != shape:
                raise ValueError(f"initial state `{state.name}` is {list(given[state.name].shape)}, expected {shape}")
            states[state.name] = given[state.name]
        elif state.init is not None:
            value = _evaluate(state.init, shapes, rec, weights)
            value = broadcast(state.init.axes, sort_axes(state.axes), shapes, state.dtype)(value)
            states[state.name] = declared(value, state.axes, 1).expand(rows, *shapes.shape(state.axes))
        elif strict:
            raise ValueError(f"state `{state.name}` has no declared start: pass it in `initial_state`")
    return states


def _evaluate(node: Node, shapes: Shapes, rec: Recurrence, weights: Mapping[str, Tensor]) -> Tensor:
    """An expression over constants and parameters."""
    if node.op == "param":
        axes = next(p.axes for p in rec.params if p.name == node["name"])
        return canonical(weights[node["name"]], axes, 0)[None]
    return function_of(node, shapes)(*[_evaluate(arg, shapes, rec, weights) for arg in node.args])


def _fresh(param: Param, shapes: Shapes, generator: torch.Generator | None) -> Tensor:
    axes = sort_axes(param.axes)
    shape, kind = shapes.shape(axes), {"dtype": shapes.dtype, "device": shapes.device}

    def value(node: Node) -> Tensor:
        """``[*axes]`` or something that broadcasts to it; every random draw has the parameter's whole shape."""
        args = [value(arg) for arg in node.args]
        if node.op == "uniform":
            low, high = args
            return low + (high - low) * torch.rand(shape, generator=generator, **kind)
        if node.op == "normal":
            mean, deviation = args
            return mean + deviation * torch.randn(shape, generator=generator, **kind)
        if node.op in ELEMENTWISE:
            return ELEMENTWISE[node.op](*args)
        return function_of(node, shapes)()[0][tuple(slice(None) if axis in node.axes else None for axis in axes)]

    if param.init is None:
        first = next((shapes.size(axis) for axis in param.axes if axis != HEADS), 1)
        parts = 2 if param.dtype == COMPLEX else 1
        drawn = torch.randn([parts, *shape], generator=generator, **kind) / math.sqrt(first * parts)
        result = torch.complex(*drawn) if parts == 2 else drawn[0]
    else:
        result = value(param.init).expand(shape)
    return declared(result, param.axes, 0).clone(memory_format=torch.contiguous_format)
