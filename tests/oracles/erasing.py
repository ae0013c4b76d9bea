"""Memories that erase: the delta rule and its kin."""

from __future__ import annotations

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
