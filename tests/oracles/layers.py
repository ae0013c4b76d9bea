"""Whole layers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.base import Result, Tensors, fla, fold, oracle


def heads_of(x: Tensor, W: Tensor) -> Tensor:
    """``[batch, time, D]`` through ``[heads, D, N]``."""
    return torch.einsum("btd,hdn->bthn", x, W)


@oracle("gla_layer", "fla naive_recurrent_gla between torch's layers")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    u = x["x"]
    g = F.logsigmoid(torch.einsum("btl,hlk->bthk", F.linear(u, p["Wa"].T), p["Wb"]) + p["b"]) / 16
    q, k, v, r = (heads_of(u, p[name]) for name in ("Wq", "Wk", "Wv", "Wr"))
    o, S = fla("gla/naive.py").naive_recurrent_gla(q, k, v, g, s["S"], True)
    o = F.rms_norm(o, o.shape[-1:], p["norm"], 1e-5) * F.silu(r + p["br"])
    return {"y": o.flatten(2) @ p["Wo"].flatten(0, 1)}, {"S": S}


@oracle("gated_delta_net_layer", "fla naive_recurrent_gated_delta_rule between torch's layers")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    u = x["x"]

    def convolved(name: str) -> Tensor:
        """Depthwise causal convolution of width 4; torch's taps run from the oldest token to the newest."""
        projected = heads_of(u, p[f"W{name}"])
        taps = torch.stack([p[f"{name}{i}"].flatten() for i in (3, 2, 1, 0)], -1)
        padded = F.pad(fold(projected).transpose(1, 2), (3, 0))
        mixed = F.conv1d(padded, taps[:, None], groups=taps.shape[0])
        return F.silu(mixed.transpose(1, 2)).view_as(projected)

    def unit(value: Tensor) -> Tensor:
        return value * torch.rsqrt(value.square().sum(-1, keepdim=True) + 1e-6)

    rate = F.softplus(u @ p["Wa"].T + p["dt_bias"])
    function = fla("gated_delta_rule/naive.py").naive_recurrent_gated_delta_rule
    arguments = (unit(convolved("q")), unit(convolved("k")), convolved("v"))
    gates = ((u @ p["Wb"].T).sigmoid(), -p["A_log"].exp() * rate)
    o, S = function(*arguments, *gates, initial_state=s["S"], output_final_state=True)
    o = F.rms_norm(o, o.shape[-1:], p["norm"], 1e-5) * F.silu(heads_of(u, p["Wr"]))
    return {"y": o.flatten(2) @ p["Wo"].flatten(0, 1)}, {"S": S}
