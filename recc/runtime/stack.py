"""Layers of one recurrence, each behind a linear projection: what torch.nn.LSTM is to its cell, for any spec."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recc.ir.node import HEADS, Node, dim_of, walk
from recc.ir.program import Param, Recurrence
from recc.runtime.module import Module

State = list[dict[str, Tensor]]


class Stack(nn.Module):
    """`layers` times a projection of the features to the spec's inputs, and the spec's recurrence. `recc.Module` makes
    it where it is given `hidden`.

        lstm = recc.Module("lstm", hidden=64, features=32, layers=2, bidirectional=True)
        y = lstm(x)                                     # [batch, time, 32] to [batch, time, 2 x 64]
        y, state = lstm(x, initial_state=state, return_final_state=True)
        lstm.load_state_dict(torch_lstm.state_dict())   # of a torch.nn.LSTM(32, 64, 2, bidirectional=True)

    hidden: the size of a layer's output in one direction, heads x its dim; features: of the input, by default as many.
    Each layer reads the output of the layer before it, both directions side by side, the forward one first. A
    bidirectional layer runs a second recurrence with params of its own from the last token to the first. `dropout`
    is applied between layers while training. `batch_first=False` takes and gives [time, batch, features].

    A state is a list of dicts as of the op, one for each layer and direction in the order of torch's h_n: layer 0
    forward, layer 0 backward, layer 1 forward, ... cu_seqlens, truncate, clip_gradient: as for
    the op.
    Other arguments are those of `recc.Module`. Raises ValueError where a spec's inputs and output do not fit a stack.
    """

    def __init__(self, spec: str, *, hidden: int, features: int | None = None, layers: int = 1,
                 bidirectional: bool = False, heads: int = 1, bias: bool = True, dropout: float = 0.0,
                 batch_first: bool = True, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
                 generator: torch.Generator | None = None, **options: Any) -> None:  # fmt: skip
        super().__init__()
        self.hidden, self.features, self.heads = hidden, features or hidden, heads
        self.directions, self.dropout, self.batch_first = 1 + bidirectional, dropout, batch_first
        made = {"heads": heads, "dtype": dtype, "device": device, "generator": generator, **options}
        if hidden % heads:
            raise ValueError(f"hidden = {hidden} is no multiple of heads = {heads}")
        width = self.features
        self.layers = nn.ModuleList()
        for _ in range(layers):
            self.layers.append(nn.ModuleList(Layer(spec, width, hidden, bias, made) for _ in range(self.directions)))
            width = hidden * self.directions
        self.register_load_state_dict_pre_hook(_from_torch)

    def forward(self, x: Tensor, *, initial_state: State | None = None, return_final_state: bool = False,
                cu_seqlens: Tensor | None = None, truncate: int | None = None,
                clip_gradient: float | None = None) -> Any:  # fmt: skip
        x = x if self.batch_first else x.transpose(0, 1)
        entering = iter(initial_state or [None] * (len(self.layers) * self.directions))
        final: State = []
        for place, directions in enumerate(self.layers):
            if place:
                x = F.dropout(x, self.dropout, self.training)
            outputs = []
            for backward, layer in enumerate(directions):
                options = {"reverse": bool(backward), "cu_seqlens": cu_seqlens, "truncate": truncate,
                           "clip_gradient": clip_gradient}  # fmt: skip
                y, state = layer(x, next(entering), **options)
                outputs.append(y)
                final.append(state)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
        x = x if self.batch_first else x.transpose(0, 1)
        return (x, final) if return_final_state else x

    def step(self, x: Tensor, *, state: State) -> tuple[Tensor, State]:
        """One token, [batch, features]: the last layer's output and the new state."""
        if self.directions > 1:
            raise ValueError("a bidirectional stack needs the whole sequence: it has no step")
        final: State = []
        for (layer,), held in zip(self.layers, state, strict=True):
            x, held = layer.step(x, held)
            final.append(held)
        return x, final

    def project(self) -> None:
        """Puts every param of the recurrences back into its declared domain; see recc.Module."""
        for directions in self.layers:
            for layer in directions:
                layer.cell.project()

    def init_state(self, batch: int, *, dtype: torch.dtype = torch.float32, device: Any = None) -> State:
        """The state before the first token."""
        cells = [layer.cell for directions in self.layers for layer in directions]
        return [cell.init_state(batch, dtype=dtype, device=device) for cell in cells]

    def extra_repr(self) -> str:
        return f"{self.features}, {self.hidden}, layers={len(self.layers)}, bidirectional={self.directions == 2}"


class Layer(nn.Module):
    """One direction of one layer: the projection of the features to the inputs of the recurrence, and its params."""

    def __init__(self, spec: str, features: int, hidden: int, bias: bool, options: dict[str, Any]) -> None:
        super().__init__()
        rec = Module.recurrence_of(spec, options)
        dim = _output_dim(rec)
        self.cell = Module(spec, **{**options, dim: hidden // options["heads"]})
        self.shapes = [[self._size(axis) for axis in item.axes] for item in rec.inputs]
        self.widths = [int(torch.Size(shape).numel()) for shape in self.shapes]
        made = {"dtype": options["dtype"], "device": options["device"]}
        self.projection = nn.Linear(features, sum(self.widths), bias=bias, **made)

    def _size(self, axis: str) -> int:
        size = self.cell.heads if axis == HEADS else self.cell.sizes[dim_of(axis)]
        if size is None:
            raise ValueError(f"{self.cell.recurrence.name}: give the size of {dim_of(axis)}: an input has that axis")
        return size

    def _inputs(self, x: Tensor) -> list[Tensor]:
        parts = self.projection(x).split(self.widths, -1)
        return [part.unflatten(-1, shape) if shape else part[..., 0] for part, shape in zip(parts, self.shapes)]

    def forward(self, x: Tensor, state: Any, **options: Any) -> tuple[Tensor, dict[str, Tensor]]:
        y, final = self.cell(*self._inputs(x), initial_state=state, return_final_state=True, **options)
        return y.flatten(2), final

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, dict[str, Tensor]]:
        y, final = self.cell.step(*self._inputs(x), state=state)
        return y.flatten(1), final


def _output_dim(rec: Recurrence) -> str:
    """The dim that `hidden` is the size of: the one that the one output has."""
    dims = [axis for axis in rec.outputs[0].axes if axis != HEADS]
    if len(rec.outputs) != 1 or len(dims) != 1 or rec.outputs[0].dtype != "real":
        found = "; ".join(f"{y.name} : {' x '.join(y.axes)}" for y in rec.outputs)
        raise ValueError(f"{rec.name} has the outputs {found}; layers with `hidden` need one output, a real vector")
    return dims[0]


# --- torch's packed weights -------------------------------------------------------------------------------------
# torch.nn.LSTM, GRU and RNN keep the weights of all gates in one matrix, gate after gate, and have a second bias on the
# recurrent product. Which of a spec's params these are stands in its step: a matrix multiplies the state, in the order
# of the inputs; a vector that is added to that product is the recurrent bias; of a gate that has none the projection's
# bias is the sum of both.


def recurrent_weights(rec: Recurrence) -> list[tuple[str, str | None]]:
    """For each input, in order, the matrix that multiplies the state for that gate, and its bias or None."""
    nodes = list(walk(*rec.updates.values()))
    found = []
    for param in rec.params:
        if len(_dims(param)) != 2:
            continue
        products = [node for node in nodes if node.op == "dot" and any(_is(arg, param) for arg in node.args)]
        added = [arg for node in nodes if node.op == "add" and set(products) & set(node.args) for arg in node.args]
        vectors = [p.name for p in rec.params if len(_dims(p)) == 1 and any(_is(arg, p) for arg in added)]
        found.append((param.name, vectors[0] if vectors else None))
    covered = {name for pair in found for name in pair if name}
    if len(found) != len(rec.inputs) or covered != {param.name for param in rec.params}:
        raise ValueError(
            f"{rec.name} has not torch's weights: those are one matrix for each of its inputs ({_names(rec.inputs)}), "
            f"with or without a bias, and its params are {_names(rec.params)}"
        )
    return found


def _is(node: Node, param: Param) -> bool:
    node = node.args[0] if node.op == "rename" else node
    return node.op == "param" and node["name"] == param.name


def _dims(param: Param) -> list[str]:
    return [axis for axis in param.axes if axis != HEADS]


def _names(items: Any) -> str:
    return ", ".join(item.name for item in items) or "none"


def _from_torch(stack: Stack, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Renames and splits the weights of a torch.nn.LSTM, GRU or RNN in place, as `load_state_dict` is given them."""
    if f"{prefix}weight_ih_l0" not in state_dict:
        return
    if any(key.startswith(f"{prefix}weight_hr") for key in state_dict):
        raise ValueError("a torch.nn.LSTM with proj_size has a projection of its output, which a stack has not")
    if stack.heads != 1:
        raise ValueError(f"torch's recurrent matrices mix all units: load them with heads=1, not {stack.heads}")
    for place, directions in enumerate(stack.layers):
        for backward, layer in enumerate(directions):
            _one_layer(layer, state_dict, prefix, f"_l{place}{'_reverse' * backward}", f"layers.{place}.{backward}")


def _one_layer(layer: Any, state_dict: dict[str, Tensor], prefix: str, end: str, path: str) -> None:
    roles = recurrent_weights(layer.cell.recurrence)
    taken = {
        key: state_dict.pop(f"{prefix}{key}{end}", None) for key in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    if taken["weight_ih"] is None or taken["weight_hh"] is None:
        return  # torch's own check says which keys are missing
    new = f"{prefix}{path}."
    state_dict[f"{new}projection.weight"] = taken["weight_ih"]
    for (matrix, _), part in zip(roles, taken["weight_hh"].chunk(len(roles)), strict=True):
        state_dict[f"{new}cell.{matrix}"] = part[None]
    zero = taken["weight_ih"].new_zeros(taken["weight_ih"].shape[0])
    given = [zero if taken[key] is None else taken[key] for key in ("bias_ih", "bias_hh")]
    inner, outer = given[0].clone(), given[1].chunk(len(roles))
    for (_, bias), total, part in zip(roles, inner.chunk(len(roles)), outer, strict=True):
        if bias is None:
            total += part
        else:
            state_dict[f"{new}cell.{bias}"] = part[None]
    if layer.projection.bias is not None:
        state_dict[f"{new}projection.bias"] = inner
