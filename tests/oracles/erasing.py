"""Memories that erase: the delta rule and its kin."""

from __future__ import annotations

import torch
from torch import Tensor

from oracles.base import Result, Tensors, fla, oracle, time_first


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


@oracle("delta_net_signed", "fla delta_rule_recurrence")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    arguments = (time_first(x[name]) for name in ("q", "k", "v", "beta"))
    o, S = fla("delta_rule/naive.py").delta_rule_recurrence(*arguments, s["S"])
    return {"o": time_first(o)}, {"S": S}


@oracle("comba", "fla dplr_recurrence")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    g, beta = x["g"][..., None].expand(x["k"].shape), x["beta"][..., None]
    arguments = (x["q"], beta * x["k"], x["v"], -x["p"], beta * x["k"], g)
    o, S = fla("generalized_delta_rule/dplr/naive.py").dplr_recurrence(*map(time_first, arguments), s["S"])
    return {"o": time_first(o)}, {"S": S}


@oracle("comba", "fla naive_chunk_comba")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    """Not naive_recurrent_comba, which lets the state decay before it is read under p; the paper does not."""
    arguments = (x[name] for name in ("q", "k", "v", "p", "g", "beta"))
    o, S = fla("comba/naive.py").naive_chunk_comba(*arguments, 16, None, s["S"], True)
    return {"o": o}, {"S": S}


@oracle("iplr", "fla iplr_recurrence")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    arguments = (time_first(x[name]) for name in ("q", "k", "v", "a", "b"))
    o, S = fla("generalized_delta_rule/iplr/naive.py").iplr_recurrence(*arguments, s["S"])
    return {"o": time_first(o)}, {"S": S}


@oracle("gdn2", "fla naive_recurrent_gdn2")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    arguments = (x[name] for name in ("q", "k", "v", "g", "b", "w"))
    o, S = fla("gdn2/naive.py").naive_recurrent_gdn2(*arguments, None, s["S"], True)
    return {"o": o}, {"S": S}


@oracle("omega_net", "a loop over tokens, the gradient by autograd")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    """M[t] = exp(g) M[t-1] less the gradient at M[t-1] of the last three tokens' eta / 2 |k M - v|^2."""
    M, outputs = s["M"], []

    def loss(M: Tensor, t: int) -> Tensor:
        window = slice(max(0, t - 2), t + 1)
        error = torch.einsum("bshk,bhkv->bshv", x["k"][:, window], M) - x["v"][:, window]
        return (x["eta"][:, window] * error.square().sum(-1)).sum() / 2

    for t in range(x["q"].shape[1]):
        M = x["g"][:, t, :, None, None].exp() * M - torch.func.grad(loss)(M, t)
        outputs.append(torch.einsum("bhk,bhkv->bhv", x["q"][:, t], M))
    return {"o": torch.stack(outputs, 1)}, {"M": M}


@oracle("momentum_delta", "a loop over tokens, the gradient by autograd")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    G, M, outputs = s["G"], s["M"], []

    def loss(M: Tensor, t: int) -> Tensor:
        error = torch.einsum("bhk,bhkv->bhv", x["k"][:, t], M) - x["v"][:, t]
        return (x["theta"][:, t] * error.square().sum(-1)).sum() / 2

    for t in range(x["q"].shape[1]):
        alpha, eta = (x[name][:, t, :, None, None] for name in ("alpha", "eta"))
        G = eta * G - torch.func.grad(loss)(M, t)
        M = (1 - alpha) * M + G
        outputs.append(torch.einsum("bhk,bhkv->bhv", x["q"][:, t], M))
    return {"o": torch.stack(outputs, 1)}, {"G": G, "M": M}


@oracle("momentum_delta", "fla recurrent_momentum_delta_rule_ref")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    function = fla("momentum_delta_rule/naive.py").recurrent_momentum_delta_rule_ref
    gates = (torch.log1p(-x["alpha"]), x["eta"].log(), x["k"], torch.ones_like(x["eta"]), x["theta"])
    o, final = function(x["q"], x["k"], x["v"], *gates, 1.0, s["M"], -s["G"], True)
    return {"o": o}, {"M": final[0], "G": -final[1]}
