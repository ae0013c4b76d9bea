"""Numbers of 8 bits, rounded by torch."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles.base import Result, Tensors, looped, oracle
from oracles.steps import stepped


def near(x: Tensor, scale: Tensor) -> Tensor:
    """x in steps of `scale`, with the gradient of x alone."""
    rounded = scale * torch.clamp(torch.round(x / scale), -128, 127)
    return rounded.detach() + (x - x.detach())


@oracle("quamba", "torch.round, and a loop over tokens")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    u, dt = near(x["x"], p["sx"][:, None]), near(x["dt"], p["sdt"][:, None])
    B, C = near(x["B"], p["sB"][:, None]), near(x["C"], p["sC"][:, None])
    decay = torch.exp(-near(p["A_log"], p["sA"][:, None, None]).exp() * dt[..., None])
    h = looped(decay, torch.einsum("bthd,bthn->bthdn", dt * u, B), s["h"])
    return {"y": torch.einsum("bthdn,bthn->bthd", h, C) + p["skip"] * u}, {"h": h[:, -1]}


@stepped("quamba_decode", "torch.round")
def _(x: Tensors, p: Tensors, s: Tensors):
    scale = p["scale"][:, None, None]
    decay = torch.exp(-p["A_log"].exp() * x["dt"][..., None])
    h = decay * s["h"] + torch.einsum("bhd,bhn->bhdn", x["dt"] * x["x"], x["B"])
    y = torch.einsum("bhdn,bhn->bhd", h, x["C"]) + p["skip"] * x["x"]
    return {"y": y}, {"h": near(h, scale)}
