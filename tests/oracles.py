"""Independent public references, one or more for each spec, in the layout of the specs.

Each takes inputs ``[batch, time, heads, ...]``, params ``[heads, ...]`` and an initial state ``[batch, heads, ...]``,
all by name, and returns outputs and those final states that it knows. They come from flash-linear-attention's
pure-PyTorch functions, from torch.nn, or, where no public code is at hand, from a closed form: a sum over all
earlier tokens, which has no loop and no state to get wrong in the same way.
"""

from __future__ import annotations

import importlib.util
import math
import re
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = Mapping[str, Tensor]
Result = tuple[dict[str, Tensor], dict[str, Tensor]]
Oracle = Callable[[Tensors, Tensors, Tensors], Result]
ORACLES: dict[str, dict[str, Oracle]] = {}


def oracle(spec: str, source: str) -> Callable[[Oracle], Oracle]:
    def register(function: Oracle) -> Oracle:
        ORACLES.setdefault(spec, {})[source] = function
        return function

    return register


@cache
def fla(path: str) -> types.ModuleType:
    """A module of the installed `fla` that is plain torch, without importing the package, which wants a GPU's driver.

    These functions cast to float32 inside, whatever they are given. The casts are widened to float64 as the module
    is loaded, so that agreement can be asked for to the rounding of float64 and not to that of float32.
    """
    package = importlib.util.find_spec("fla")
    if package is None or not package.submodule_search_locations:
        pytest.skip("fla-core is not installed (pip install --no-deps fla-core==0.6.0 einops)")
    file = Path(package.submodule_search_locations[0]) / "ops" / path
    text = file.read_text().replace(".float()", ".double()")
    text = re.sub(r"torch\.float(32)?\b", "torch.float64", text)
    module = types.ModuleType(f"oracle_{path.replace('/', '_').removesuffix('.py')}")
    exec(compile(text, str(file), "exec"), module.__dict__)
    return module


def time_first(x: Tensor) -> Tensor:
    """Between ``[batch, time, heads, ...]`` and ``[batch, heads, time, ...]``."""
    return x.transpose(1, 2)


def fold(x: Tensor) -> Tensor:
    """Heads and channels as one axis of channels."""
    return x.flatten(2)


def decayed(log_decay: Tensor) -> Tensor:
    """``[batch, time t, time s, ...]``: what remains at t of what was written at s, 0 before that.

    The decays between s and t are added up, not subtracted from each other's totals, so strong ones cost no digits.
    """
    time = torch.arange(log_decay.shape[1])
    t, s, r = time[:, None, None], time[:, None], time
    between = ((s < r) & (r <= t)).to(log_decay.dtype)
    total = torch.einsum("tsr,br...->bts...", between, log_decay)
    seen = (time[:, None] >= time).reshape(1, len(time), len(time), *[1] * (log_decay.dim() - 2))
    return total.masked_fill(~seen, -math.inf).exp()


# --- memories with a decay ----------------------------------------------------------------------------------


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


# --- memories that erase ------------------------------------------------------------------------------------


@oracle("delta_net", "fla delta_rule_recurrence")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    arguments = (time_first(x[name]) for name in ("q", "k", "v", "beta"))
    o, S = fla("delta_rule/naive.py").delta_rule_recurrence(*arguments, s["S"])
    return {"o": time_first(o)}, {"S": S}


@oracle("gated_delta_net", "fla naive_recurrent_gated_delta_rule")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    function = fla("gated_delta_rule/naive.py").naive_recurrent_gated_delta_rule
    o, S = function(x["q"], x["k"], x["v"], x["beta"], x["g"], initial_state=s["S"], output_final_state=True)
    return {"o": o}, {"S": S}


@oracle("gated_delta_net", "fla naive_chunk_gated_delta_rule")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    function = fla("gated_delta_rule/naive.py").naive_chunk_gated_delta_rule
    arguments = (x[name] for name in ("q", "k", "v", "g", "beta"))  # g before beta here
    o, S = function(*arguments, chunk_size=16, initial_state=s["S"], output_final_state=True)
    return {"o": o}, {"S": S}


@oracle("delta_product", "fla naive_recurrent_gated_delta_product")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    steps = x["k"].shape[3]
    k, v, beta = (x[name].movedim(3, 2).flatten(1, 2) for name in ("k", "v", "beta"))  # micro-steps along time
    function = fla("gated_delta_product/naive.py").naive_recurrent_gated_delta_product
    scale = x["q"].shape[-1] ** -0.5
    o, S = function(x["q"], k, v, x["g"], beta, scale, None, s["S"], True, num_householder=steps)
    return {"o": o}, {"S": S}


@oracle("kda", "fla naive_recurrent_kda")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    arguments = (x[name] for name in ("q", "k", "v", "g", "beta"))
    o, S = fla("kda/naive.py").naive_recurrent_kda(*arguments, initial_state=s["S"], output_final_state=True)
    return {"o": o}, {"S": S}


@oracle("rwkv7", "fla dplr_recurrence")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    q = x["r"] * x["r"].shape[-1] ** 0.5  # undoes its scale, which is not an argument
    arguments = (q, x["k"], x["v"], -x["kappa"], x["kappa"] * x["a"], x["w"])
    o, S = fla("generalized_delta_rule/dplr/naive.py").dplr_recurrence(*map(time_first, arguments), s["S"])
    return {"o": time_first(o)}, {"S": S}


# --- diagonal and elementwise -------------------------------------------------------------------------------


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


# --- gated cells --------------------------------------------------------------------------------------------


def by_head(cell: type[torch.nn.RNNBase], x: list[Tensor], R: list[Tensor], biases: Tensors, start: list[Tensor]):
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


# --- whole layers -------------------------------------------------------------------------------------------


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
