"""Each recurrence as the loop that one writes in torch: what can be done for all tokens at once is done before it.

`Loop.tokens` are what a step reads, [batch, time, ...] each; `step(state, *token)` returns the next state and the
token's output. Tokens are taken with `unbind`: indexing each would cost a tensor of zeros for every token backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from workloads import MATRICES, Tensors


@dataclass
class Loop:
    start: Callable[[], Any]
    tokens: tuple[Tensor, ...]
    step: Callable[..., tuple[Any, Tensor]]


LOOPS: dict[str, Callable[[Tensors], Loop]] = {}


def run(spec: str, tensors: Tensors) -> Tensor:
    """All tokens, one after the other."""
    loop = LOOPS[spec](tensors)
    state, outputs = loop.start(), []
    for token in zip(*(x.unbind(1) for x in loop.tokens), strict=True):
        state, output = loop.step(state, *token)
        outputs.append(output)
    return torch.stack(outputs, 1)


def _loop(*specs: str) -> Callable:
    def register(function: Callable[[Tensors], Loop]) -> Callable[[Tensors], Loop]:
        LOOPS.update(dict.fromkeys(specs, function))
        return function

    return register


def memory(x: Tensors) -> Tensor:
    """The empty memory [batch, heads, K, V] under keys and values [batch, time, heads, ...]."""
    k, v = x["k"], x["v"]
    return k.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3])


def column(x: Tensor) -> Tensor:
    return x[..., :, None]


def row(x: Tensor) -> Tensor:
    return x[..., None, :]


def read(q: Tensor, S: Tensor) -> Tensor:
    """q S, with q [..., K] and S [..., K, V]."""
    return (row(q) @ S).squeeze(-2)


@_loop("gla", "simple_gla")
def _(x: Tensors) -> Loop:
    decay = column(x["g"].exp()) if x["g"].dim() == 4 else x["g"].exp()[..., None, None]

    def step(S, q, k, v, decay):
        S = decay * S + column(k) * row(v)
        return S, read(q, S)

    return Loop(lambda: memory(x), (x["q"] * x["q"].shape[-1] ** -0.5, x["k"], x["v"], decay), step)


@_loop("gated_delta_net", "delta_net")
def _(x: Tensors) -> Loop:
    def step(S, q, k, v, beta, *decay):
        S = decay[0] * S if decay else S
        S = S + column(k) * row(beta * (v - read(k, S)))
        return S, read(q, S)

    tokens = (x["q"] * x["q"].shape[-1] ** -0.5, x["k"], x["v"], column(x["beta"]))
    return Loop(lambda: memory(x), (*tokens, x["g"].exp()[..., None, None]) if "g" in x else tokens, step)


@_loop("rwkv7")
def _(x: Tensors) -> Loop:
    def step(S, r, k, v, decay, kappa, removed):
        S = decay * S - column(removed) * row(read(kappa, S)) + column(k) * row(v)
        return S, read(r, S)

    return Loop(
        lambda: memory(x), (x["r"], x["k"], x["v"], column(x["w"].exp()), x["kappa"], x["a"] * x["kappa"]), step
    )


@_loop("mlstm")
def _(x: Tensors) -> Loop:
    def step(state, q, k, v, i, keep):
        C, n, m = state
        top = torch.maximum(keep + m, i)
        f, i = column((keep + m - top).exp()), column((i - top).exp())
        C, n = f[..., None] * C + column(i * k) * row(v), f * n + i * k
        norm = torch.maximum((q * n).sum(-1).abs(), (-top).exp())
        return (C, n, top), read(q, C) / column(norm)

    def start():
        return memory(x), torch.zeros_like(x["k"][:, 0]), torch.zeros_like(x["i"][:, 0])

    return Loop(start, (x["q"] * x["q"].shape[-1] ** -0.5, x["k"], x["v"], x["i"], F.logsigmoid(x["f"])), step)


@_loop("mamba")
def _(x: Tensors) -> Loop:
    decay = torch.exp(-x["A_log"].exp() * column(x["dt"]))
    write = column(x["dt"] * x["x"]) * row(x["B"])

    def step(h, decay, write, C, u):
        h = decay * h + write
        return h, (h @ column(C)).squeeze(-1) + x["skip"] * u

    return Loop(lambda: torch.zeros_like(decay[:, 0]), (decay, write, x["C"], x["x"]), step)


@_loop("mamba2")
def _(x: Tensors) -> Loop:
    decay = torch.exp(-x["A_log"].exp() * x["dt"])[..., None, None]

    def step(S, decay, B, C, write, u):
        S = decay * S + column(B) * row(write)
        return S, read(C, S) + column(x["skip"]) * u

    def start() -> Tensor:
        B, u = x["B"], x["x"]
        return B.new_zeros(B.shape[0], B.shape[2], B.shape[3], u.shape[3])

    return Loop(start, (decay, x["B"], x["C"], column(x["dt"]) * x["x"], x["x"]), step)


@_loop("ema")
def _(x: Tensors) -> Loop:
    alpha, delta = x["alpha"].sigmoid(), x["delta"].sigmoid()
    decay, weight = 1 - alpha * delta, alpha * x["beta"]

    def step(h, u):
        h = decay * h + weight * column(u)
        return h, (x["eta"] * h).sum(-1)

    return Loop(lambda: decay.new_zeros(x["x"].shape[0], *decay.shape), (x["x"],), step)


@_loop("hgrn")
def _(x: Tensors) -> Loop:
    def step(h, f, write):
        h = f * h + write
        return h, h

    return Loop(lambda: torch.zeros_like(x["f"][:, 0]), (x["f"], (1 - x["f"]) * x["i"]), step)


@_loop("para_gru")
def _(x: Tensors) -> Loop:
    def step(h, xz, xr, xc):
        z, r = torch.sigmoid(xz + x["az"] * h), torch.sigmoid(xr + x["ar"] * h)
        h = h + z * (torch.tanh(xc + x["ac"] * (r * h)) - h)
        return h, h

    return Loop(lambda: torch.zeros_like(x["xz"][:, 0]), (x["xz"], x["xr"], x["xc"]), step)


def _stacked(spec: str, x: Tensors) -> Tensor:
    """The recurrent matrices as one [gates * D, D], and what they read, as torch's cells hold them."""
    return torch.cat([x[name][0] for name in MATRICES[spec]])


@_loop("gru")
def _(x: Tensors) -> Loop:
    R, bn = _stacked("gru", x), x["bn"][0]

    def step(h, gates):
        (xr, xz, xn), (hr, hz, hn) = gates.chunk(3, -1), F.linear(h, R).chunk(3, -1)
        z, n = torch.sigmoid(xz + hz), torch.tanh(xn + torch.sigmoid(xr + hr) * (hn + bn))
        h = n + z * (h - n)
        return h, h

    return Loop(lambda: x["x"].new_zeros(x["x"].shape[0], R.shape[1]), (F.linear(x["x"], x["W"]),), step)


@_loop("lstm")
def _(x: Tensors) -> Loop:
    R = _stacked("lstm", x)

    def step(state, gates):
        h, c = state
        i, f, g, o = (gates + F.linear(h, R)).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h, c), h

    def start():
        zeros = x["x"].new_zeros(x["x"].shape[0], R.shape[1])
        return zeros, zeros

    return Loop(start, (F.linear(x["x"], x["W"]),), step)
