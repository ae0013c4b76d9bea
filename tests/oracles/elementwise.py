"""Transitions that act elementwise: averages, state spaces, gates that read no state."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from oracles.base import Result, Tensors, decayed, fla, fold, looped, oracle


@oracle("mamba", "closed form")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    log_decay = -p["A_log"].exp() * x["dt"][..., None]  # [B, T, H, D, N]
    write = torch.einsum("bshd,bshd,bshn->bshdn", x["dt"], x["x"], x["B"])
    h = torch.einsum("btshdn,bshdn->bthdn", decayed(log_decay), write) + log_decay.cumsum(1).exp() * s["h"][:, None]
    return {"y": torch.einsum("bthn,bthdn->bthd", x["C"], h) + p["skip"] * x["x"]}, {"h": h[:, -1]}


@oracle("ema", "closed form")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    """A convolution with the kernel sum over n of eta alpha beta (1 - alpha delta)^t."""
    alpha, delta = p["alpha"].sigmoid(), p["delta"].sigmoid()
    time = x["x"].shape[1]
    powers = (1 - alpha * delta) ** torch.arange(time + 1, dtype=alpha.dtype).reshape(-1, 1, 1, 1)  # [T+1, H, D, N]
    kernel = (p["eta"] * alpha * p["beta"] * powers[:-1]).sum(-1)
    lags = (torch.arange(time)[:, None] - torch.arange(time)).clamp(min=0)
    matrix = kernel[lags] * torch.ones(time, time).tril()[..., None, None]
    y = torch.einsum("tshd,bshd->bthd", matrix, x["x"]) + torch.einsum(
        "thdn,hdn,bhdn->bthd", powers[1:], p["eta"], s["h"]
    )
    h = torch.einsum("shdn,bshd->bhdn", alpha * p["beta"] * powers[:-1].flip(0), x["x"]) + powers[-1] * s["h"]
    return {"y": y}, {"h": h}


@oracle("min_gru", "fla naive_recurrent_hgrn")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    z, keep = fold(x["xz"]).sigmoid(), F.logsigmoid(-fold(x["xz"]))
    h, last = fla("hgrn/naive.py").naive_recurrent_hgrn(z * fold(x["xh"]), keep, s["h"].flatten(1), True)
    return {"h": h.view_as(x["xh"])}, {"h": last.view_as(s["h"])}


@oracle("lru", "closed form")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    magnitude, phase = torch.exp(-p["nu"].exp()), p["theta"].exp()
    time = x["u"].shape[1]
    t = torch.arange(time + 1, dtype=magnitude.dtype).reshape(-1, 1, 1)
    powers = torch.polar(magnitude**t, phase * t)  # [T+1, H, N]
    B = torch.complex(p["B_re"], p["B_im"]) * (1 - magnitude**2).sqrt()[..., None]
    C = torch.complex(p["C_re"], p["C_im"])
    kernel = torch.einsum("hdn,thn,hnc->thdc", C, powers[:-1], B).real
    lags = (torch.arange(time)[:, None] - torch.arange(time)).clamp(min=0)
    matrix = kernel[lags] * torch.ones(time, time).tril()[..., None, None, None]
    y = torch.einsum("tshdc,bshc->bthd", matrix, x["u"]) + p["skip"] * x["u"]
    y = y + torch.einsum("hdn,thn,bhn->bthd", C, powers[1:], s["x"]).real
    last = torch.einsum("shn,hnc,bshc->bhn", powers[:-1].flip(0), B, x["u"].to(B.dtype)) + powers[-1] * s["x"]
    return {"y": y}, {"x": last}


@oracle("mamba_signed", "a loop over tokens")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    gain = 2 * (-p["A_log"].exp() * x["dt"][..., None]).exp() - 1
    h = looped(gain, torch.einsum("bthd,bthd,bthn->bthdn", x["dt"], x["x"], x["B"]), s["h"])
    return {"y": torch.einsum("bthn,bthdn->bthd", x["C"], h) + p["skip"] * x["x"]}, {"h": h[:, -1]}
