"""What a recurrence starts from: its state before the first token, and fresh parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from recc.ir.evaluate import (
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
from recc.ir.node import COMPLEX, HEADS, Node, sort_axes, walk
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
    known = {p.name: canonical(weights[p.name], p.axes, 0)[None] for p in rec.params if p.name in weights}
    states: dict[str, Tensor] = {}
    for state in rec.states:
        if state.name in given:
            shape = [rows, *shapes.shape(state.axes)]
            if list(given[state.name].shape) != shape:
                raise ValueError(f"initial state `{state.name}` is {list(given[state.name].shape)}, expected {shape}")
            states[state.name] = given[state.name]
        elif state.init is not None:
            value = broadcast(state.init.axes, sort_axes(state.axes), shapes, state.dtype)(
                _evaluate(state.init, shapes, known)
            )
            states[state.name] = declared(value, state.axes, 1).expand(rows, *shapes.shape(state.axes))
        elif strict:
            raise ValueError(f"state `{state.name}` has no declared start: pass it in `initial_state`")
    return states


def _fresh(param: Param, shapes: Shapes, generator: torch.Generator | None) -> Tensor:
    axes = sort_axes(param.axes)
    shape, kind = shapes.shape(axes), {"dtype": shapes.dtype, "device": shapes.device}
    if param.init is not None:
        value = broadcast(param.init.axes, axes, shapes, param.dtype)(_evaluate(param.init, shapes, {}, generator))[0]
    else:
        first = next((shapes.size(axis) for axis in param.axes if axis != HEADS), 1)
        parts = 2 if param.dtype == COMPLEX else 1
        drawn = torch.randn([parts, *shape], generator=generator, **kind) / math.sqrt(first)
        value = torch.complex(*drawn) if parts == 2 else drawn[0]
    return declared(value, param.axes, 0).clone(memory_format=torch.contiguous_format)


def _evaluate(
    root: Node, shapes: Shapes, params: Mapping[str, Tensor], generator: torch.Generator | None = None
) -> Tensor:
    """An expression over constants, sizes, random draws and `params`, ``[1, *its axes]`` in canonical order."""
    values: dict[Node, Tensor] = {}
    for node in walk(root):
        args = [values[arg] for arg in node.args]
        match node.op:
            case "param":
                values[node] = params[node["name"]]
            case "uniform" | "normal":
                draw = torch.rand if node.op == "uniform" else torch.randn
                shape = [1, *shapes.shape(node.axes)]
                drawn = draw(shape, generator=generator, dtype=shapes.dtype, device=shapes.device)
                pairs = zip(node.args, args, strict=True)  # both may have fewer axes than the draw
                first, second = (broadcast(a.axes, node.axes, shapes, a.dtype)(x) for a, x in pairs)
                values[node] = first + drawn * (second - first if node.op == "uniform" else second)
            case _:
                values[node] = function_of(node, shapes)(*args)
    return values[root]
