"""Memories with a decay: linear attention and its gated kin."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.base import Result, Tensors, decayed, fla, fold, looped, oracle, time_first


@oracle("linear_attention", "fla naive_recurrent_linear_attn")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    module = fla("linear_attn/naive.py")
    start = (s["S"], s["z"][:, None])
    o, (S, z) = module.naive_recurrent_linear_attn(x["q"], x["k"], x["v"], 1.0, start, True, normalize=True)
    return {"o": o}, {"S": S, "z": z[:, 0]}


@oracle("retnet", "fla naive_retention")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    o = fla("retention/naive.py").naive_retention(*(time_first(x[name]) for name in "qkv"))
    # It has no initial state; what one would add to the outputs is the decayed state under the query.
    g = torch.log(1 - 2 ** (-5 - torch.arange(o.shape[1], dtype=o.dtype)))
    steps = torch.arange(1, o.shape[2] + 1, dtype=o.dtype)
    past = torch.einsum("bthk,bhkv,th->bthv", x["q"], s["S"], torch.exp(steps[:, None] * g)) / x["q"].shape[-1] ** 0.5
    return {"o": time_first(o) + past}, {}


@oracle("lightning", "fla naive_recurrent_simple_gla")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    g = -p["slope"].expand(x["q"].shape[:3])
    o, S = fla("simple_gla/naive.py").naive_recurrent_simple_gla(x["q"], x["k"], x["v"], g, 1.0, s["S"])
    return {"o": o}, {"S": S}


@oracle("simple_gla", "fla naive_recurrent_simple_gla")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    o, S = fla("simple_gla/naive.py").naive_recurrent_simple_gla(*(x[name] for name in "qkvg"), initial_state=s["S"])
    return {"o": o}, {"S": S}


@oracle("simple_gla", "fla naive_chunk_simple_gla")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    arguments = (x[name] for name in "qkvg")
    o, S = fla("simple_gla/naive.py").naive_chunk_simple_gla(*arguments, s["S"], True, chunk_size=16)
    return {"o": o}, {"S": S}


@oracle("gla", "fla naive_recurrent_gla")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    o, S = fla("gla/naive.py").naive_recurrent_gla(*(x[name] for name in "qkvg"), s["S"], True)
    return {"o": o}, {"S": S}


@oracle("hgrn", "fla naive_recurrent_hgrn")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    f, i = fold(x["f"]), fold(x["i"])
    h, last = fla("hgrn/naive.py").naive_recurrent_hgrn((1 - f) * i, f.log(), s["h"].flatten(1), True)
    return {"h": h.view_as(x["f"])}, {"h": last.view_as(s["h"])}


@oracle("hgrn2", "fla naive_recurrent_gla")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    q = x["q"] * x["q"].shape[-1] ** 0.5  # undoes its scale, which is not an argument
    o, S = fla("gla/naive.py").naive_recurrent_gla(q, 1 - x["g"].exp(), x["i"], x["g"], s["S"], True)
    return {"o": o}, {"S": S}


@oracle("rwkv6", "fla naive_recurrent_rwkv6")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    arguments = (time_first(x[name]) for name in "rkvw")
    o, S = fla("rwkv6/recurrent_naive.py").naive_recurrent_rwkv6(*arguments, p["u"], 1.0, s["S"], True)
    return {"o": time_first(o)}, {"S": S}


@oracle("mamba2", "fla naive_recurrent_simple_gla")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    g, write = -p["A_log"].exp() * x["dt"], x["dt"][..., None] * x["x"]
    groups = x["x"].shape[2] // x["B"].shape[2]
    B, C = (x[name].repeat_interleave(groups, 2) for name in "BC")
    y, S = fla("simple_gla/naive.py").naive_recurrent_simple_gla(C, B, write, g, 1.0, s["S"])
    return {"y": y + p["skip"][:, None] * x["x"]}, {"S": S}


@oracle("mlstm", "closed form without a stabiliser")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    """h = C q / max(|n q|, 1), where C sums exp(i) k v^T under the decay sigmoid(f); a state's scale is exp(m)."""
    log_f = F.logsigmoid(x["f"])
    weight, since = decayed(log_f) * x["i"].exp()[:, None], log_f.cumsum(1).exp()  # [B, T, T, H], [B, T, H]
    C0, n0 = s["C"] * s["m"].exp()[..., None, None], s["n"] * s["m"].exp()[..., None]
    C = torch.einsum("btsh,bshk,bshv->bthkv", weight, x["k"], x["v"]) + since[..., None, None] * C0[:, None]
    n = torch.einsum("btsh,bshk->bthk", weight, x["k"]) + since[..., None] * n0[:, None]
    q = x["q"] / x["q"].shape[-1] ** 0.5
    norm = (q * n).sum(-1, keepdim=True).abs().clamp(min=1)
    reached = x["i"] + log_f.flip(1).cumsum(1).flip(1) - log_f  # each token's exponent at the last one
    m = torch.maximum(reached.amax(1), s["m"] + log_f.sum(1))
    final = {"C*exp(m)": C[:, -1], "n*exp(m)": n[:, -1], "m": m}
    return {"h": torch.einsum("bthk,bthkv->bthv", q, C) / norm}, final


@oracle("mlstm_sig", "fla naive_recurrent_simple_gla")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    function = fla("simple_gla/naive.py").naive_recurrent_simple_gla
    h, C = function(x["q"], x["i"].sigmoid()[..., None] * x["k"], x["v"], F.logsigmoid(x["f"]), initial_state=s["C"])
    return {"h": h}, {"C": C}


@oracle("liger", "fla naive_recurrent_gla")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    q = x["q"].softmax(-1) * x["q"].shape[-1] ** 0.5  # undoes its scale, which is not an argument
    g = F.logsigmoid(x["k"]) / 16
    o, S = fla("gla/naive.py").naive_recurrent_gla(q, x["k"].softmax(-1), x["v"], g, s["S"], True)
    return {"o": o}, {"S": S}


@oracle("gsa", "fla naive_recurrent_gsa")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    arguments = (x["q"], x["k"], x["v"], 1 - x["f"].exp(), x["f"])
    o, (Sk, Sv) = fla("gsa/naive.py").naive_recurrent_gsa(*arguments, None, (s["Sk"], s["Sv"]), True)
    return {"o": o}, {"Sk": Sk, "Sv": Sv}


@oracle("plstm_1d", "a loop over tokens")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    write = torch.einsum("bth,bthk,bthv->bthkv", x["s"], x["k"], x["v"])
    C = looped(x["tau"][..., None, None], write, s["C"])
    before = torch.cat([s["C"][:, None], C[:, :-1]], 1)
    y = x["m"][..., None] * torch.einsum("bthk,bthkv->bthv", x["q"], before)
    y = y + (x["d"] * (x["q"] * x["k"]).sum(-1))[..., None] * x["v"]
    return {"y": y / x["q"].shape[-1] ** 0.5}, {"C": C[:, -1]}


@oracle("swla", "closed form")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    one = torch.einsum("bth,bthk,bthv->bthkv", x["eta"], x["k"], x["v"])
    write = sum(F.pad(one, [0, 0] * 3 + [lag, 0])[:, : one.shape[1]] for lag in range(4))
    since = x["g"].cumsum(1).exp()[..., None, None]
    M = torch.einsum("btsh,bshkv->bthkv", decayed(x["g"]), write) + since * s["M"][:, None]
    return {"o": torch.einsum("bthk,bthkv->bthv", x["q"], M)}, {"M": M[:, -1]}


@oracle("rwkv4", "closed form without a scale")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    log_decay = -p["w"].expand(x["k"].shape)
    since, scale = log_decay.cumsum(1).exp(), s["log_scale_a"].exp()

    def summed(write: Tensor, start: Tensor) -> Tensor:
        return torch.einsum("btshd,bshd->bthd", decayed(log_decay), write) + since * (scale * start)[:, None]

    a, b = summed(x["k"].exp() * x["v"], s["a"]), summed(x["k"].exp(), s["b"])
    before = [torch.cat([(scale * s[name])[:, None], value[:, :-1]], 1) for name, value in (("a", a), ("b", b))]
    now = (p["u"] + x["k"]).exp()
    o = x["r"].sigmoid() * (before[0] + now * x["v"]) / (before[1] + now)
    return {"o": o}, {"a*exp(log_scale_a)": a[:, -1], "b*exp(log_scale_a)": b[:, -1]}


@oracle("aaren", "torch's scaled_dot_product_attention")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    """The state that it starts from is one more token, whose value is a / c and whose weight is c exp(log_scale_a)."""
    start = s["log_scale_a"] + s["c"].log()
    k, v = time_first(x["k"]), torch.cat([(s["a"] / s["c"][..., None])[:, :, None], time_first(x["v"])], 2)
    time = k.shape[2]
    seen = torch.ones(time, time, dtype=torch.bool).tril()
    score = torch.einsum("hk,bhsk->bhs", p["q"], k) / k.shape[-1] ** 0.5
    bias = torch.cat([start[..., None], score], -1)[:, :, None].expand(-1, -1, time, -1)
    mask = F.pad(seen, (1, 0), value=True)
    none = torch.zeros(*k.shape[:2], time + 1, 1, dtype=k.dtype)
    o = F.scaled_dot_product_attention(none[:, :, 1:], none, v, bias.masked_fill(~mask, -math.inf))
    c = torch.exp(bias[:, :, -1]).sum(-1)
    return {"o": time_first(o)}, {"c*exp(log_scale_a)": c, "a*exp(log_scale_a)": c[..., None] * o[:, :, -1]}


@oracle("lightnet", "a softmax over time for each channel")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    scale = s["log_scale_S"].exp()
    S = torch.cat([(scale[..., None] * s["S"])[:, None], x["k"].exp()[..., None] * x["v"][..., None, :]], 1).cumsum(1)
    z = torch.cat([(scale * s["z"])[:, None], x["k"].exp()], 1).cumsum(1)
    o = torch.einsum("bthk,bthkv->bthv", x["q"], (S / z[..., None])[:, 1:])
    return {"o": o}, {"S*exp(log_scale_S)": S[:, -1], "z*exp(log_scale_S)": z[:, -1]}
