"""Gated cells, which torch has itself."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from oracles.base import Result, Tensors, oracle


def by_head(
    cell: Callable[..., torch.nn.RNNBase], x: list[Tensor], R: list[Tensor], biases: Tensors, start: list[Tensor]
):
    """torch's cell for each head, its input projection the identity, so that its inputs are the projected tokens."""
    D, outputs, finals = x[0].shape[-1], [], []
    for head in range(x[0].shape[2]):
        weights = {
            "weight_ih_l0": torch.eye(len(x) * D, dtype=x[0].dtype),
            "weight_hh_l0": torch.cat([matrix[head] for matrix in R]),
            "bias_ih_l0": torch.zeros(len(x) * D, dtype=x[0].dtype),
            "bias_hh_l0": torch.cat([biases[i][head] if i in biases else x[0].new_zeros(D) for i in range(len(x))]),
        }
        module = cell(len(x) * D, D, batch_first=True, dtype=x[0].dtype)
        states = [state[:, head][None] for state in start]
        arguments = (torch.cat([gate[:, :, head] for gate in x], -1), states[0] if len(states) == 1 else tuple(states))
        y, last = torch.func.functional_call(module, weights, arguments)
        outputs.append(y)
        finals.append([last] if isinstance(last, Tensor) else list(last))
    return torch.stack(outputs, 2), [torch.stack([final[i][0] for final in finals], 1) for i in range(len(start))]


@oracle("lstm", "torch.nn.LSTM")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    gates, R = [x[name] for name in ("xi", "xf", "xg", "xo")], [p[name] for name in ("Ri", "Rf", "Rg", "Ro")]
    y, (h, c) = by_head(torch.nn.LSTM, gates, R, {}, [s["h"], s["c"]])
    return {"h": y}, {"h": h, "c": c}


@oracle("gru", "torch.nn.GRU")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    gates, R = [x[name] for name in ("xr", "xz", "xn")], [p[name] for name in ("Rr", "Rz", "Rn")]
    y, (h,) = by_head(torch.nn.GRU, gates, R, {2: p["bn"]}, [s["h"]])
    return {"h": y}, {"h": h}


@oracle("elman", "torch.nn.RNN")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    y, (h,) = by_head(torch.nn.RNN, [x["x"]], [p["R"]], {}, [s["h"]])
    return {"h": y}, {"h": h}


@oracle("elman_relu", "torch.nn.RNN")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    y, (h,) = by_head(partial(torch.nn.RNN, nonlinearity="relu"), [x["x"]], [p["R"]], {}, [s["h"]])
    return {"h": y}, {"h": h}
