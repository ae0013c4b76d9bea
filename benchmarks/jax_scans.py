"""The recurrences under jax.lax.scan, compiled by jax.jit: forward, and forward with the gradients of all inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor
from workloads import MATRICES, Tensors

Arrays = dict[str, jax.Array]


def scan(step: Callable, state: Any, *tokens: jax.Array) -> jax.Array:
    """Over tokens [batch, time, ...]; step(state, *token) returns the next state and the output."""
    along = tuple(jnp.moveaxis(x, 1, 0) for x in tokens)
    return jnp.moveaxis(jax.lax.scan(lambda s, token: step(s, *token), state, along)[1], 0, 1)


def _memory(x: Arrays) -> jax.Array:
    B, _, H, K = x["k"].shape
    return jnp.zeros((B, H, K, x["v"].shape[-1]), x["k"].dtype)


def read(q: jax.Array, S: jax.Array) -> jax.Array:
    return jnp.einsum("bhk,bhkv->bhv", q, S)


def gla(x: Arrays) -> jax.Array:
    decay = jnp.exp(x["g"]).reshape(*x["g"].shape[:3], -1, 1)  # a decay per channel, or one a head
    return _decayed(_scaled(x["q"]), x["k"], x["v"], decay)


def _scaled(q: jax.Array) -> jax.Array:
    return q * q.shape[-1] ** -0.5


def _decayed(q: jax.Array, k: jax.Array, v: jax.Array, decay: jax.Array) -> jax.Array:
    def step(S, q, k, v, decay):
        S = decay * S + k[..., :, None] * v[..., None, :]
        return S, read(q, S)

    return scan(step, jnp.zeros((k.shape[0], *k.shape[2:], v.shape[-1]), k.dtype), q, k, v, decay)


def mamba2(x: Arrays) -> jax.Array:
    decay = jnp.exp(-jnp.exp(x["A_log"]) * x["dt"])[..., None, None]
    y = _decayed(x["C"], x["B"], x["dt"][..., None] * x["x"], decay)
    return y + x["skip"][:, None] * x["x"]


def delta(x: Arrays) -> jax.Array:
    """Gated or not."""

    def step(S, q, k, v, beta, *decay):
        S = decay[0] * S if decay else S
        S = S + k[..., :, None] * (beta * (v - read(k, S)))[..., None, :]
        return S, read(q, S)

    decay = (jnp.exp(x["g"])[..., None, None],) if "g" in x else ()
    return scan(step, _memory(x), _scaled(x["q"]), x["k"], x["v"], x["beta"][..., None], *decay)


def rwkv7(x: Arrays) -> jax.Array:
    def step(S, r, k, v, decay, kappa, removed):
        S = decay * S - removed[..., :, None] * read(kappa, S)[..., None, :] + k[..., :, None] * v[..., None, :]
        return S, read(r, S)

    decay = jnp.exp(x["w"])[..., None]
    return scan(step, _memory(x), x["r"], x["k"], x["v"], decay, x["kappa"], x["a"] * x["kappa"])


def mlstm(x: Arrays) -> jax.Array:
    def step(state, q, k, v, i, keep):
        C, n, m = state
        top = jnp.maximum(keep + m, i)
        f, i = jnp.exp(keep + m - top)[..., None], jnp.exp(i - top)[..., None]
        C, n = f[..., None] * C + (i * k)[..., :, None] * v[..., None, :], f * n + i * k
        norm = jnp.maximum(jnp.abs((q * n).sum(-1)), jnp.exp(-top))
        return (C, n, top), read(q, C) / norm[..., None]

    start = _memory(x), jnp.zeros_like(x["k"][:, 0]), jnp.zeros_like(x["i"][:, 0])
    return scan(step, start, _scaled(x["q"]), x["k"], x["v"], x["i"], jax.nn.log_sigmoid(x["f"]))


def hgrn(x: Arrays) -> jax.Array:
    def step(h, f, write):
        h = f * h + write
        return h, h

    return scan(step, jnp.zeros_like(x["f"][:, 0]), x["f"], (1 - x["f"]) * x["i"])


def mamba(x: Arrays) -> jax.Array:
    rate = -jnp.exp(x["A_log"])

    def step(h, u, dt, B, C):
        h = jnp.exp(rate * dt[..., None]) * h + (dt * u)[..., None] * B[..., None, :]
        return h, jnp.einsum("bhdn,bhn->bhd", h, C) + x["skip"] * u

    start = jnp.zeros((x["x"].shape[0], *rate.shape), rate.dtype)
    return scan(step, start, x["x"], x["dt"], x["B"], x["C"])


def ema(x: Arrays) -> jax.Array:
    alpha, delta = jax.nn.sigmoid(x["alpha"]), jax.nn.sigmoid(x["delta"])
    decay, weight = 1 - alpha * delta, alpha * x["beta"]

    def step(h, u):
        h = decay * h + weight * u[..., None]
        return h, (x["eta"] * h).sum(-1)

    return scan(step, jnp.zeros((x["x"].shape[0], *decay.shape), decay.dtype), x["x"])


def para_gru(x: Arrays) -> jax.Array:
    def step(h, xz, xr, xc):
        z, r = jax.nn.sigmoid(xz + x["az"] * h), jax.nn.sigmoid(xr + x["ar"] * h)
        h = h + z * (jnp.tanh(xc + x["ac"] * (r * h)) - h)
        return h, h

    return scan(step, jnp.zeros_like(x["xz"][:, 0]), x["xz"], x["xr"], x["xc"])


def _cell(x: Arrays, spec: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The recurrent matrices as one [D, gates * D], what the gates have of the inputs, and the zeros at the start."""
    R = jnp.concatenate([x[name][0] for name in MATRICES[spec]]).T
    return R, x["x"] @ x["W"].T, jnp.zeros((x["x"].shape[0], R.shape[0]), R.dtype)


def gru(x: Arrays) -> jax.Array:
    R, gates, zeros = _cell(x, "gru")

    def step(h, gates):
        (xr, xz, xn), (hr, hz, hn) = jnp.split(gates, 3, -1), jnp.split(h @ R, 3, -1)
        z, n = jax.nn.sigmoid(xz + hz), jnp.tanh(xn + jax.nn.sigmoid(xr + hr) * (hn + x["bn"][0]))
        h = n + z * (h - n)
        return h, h

    return scan(step, zeros, gates)


def lstm(x: Arrays) -> jax.Array:
    R, gates, zeros = _cell(x, "lstm")

    def step(state, gates):
        h, c = state
        i, f, g, o = jnp.split(gates + h @ R, 4, -1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    return scan(step, (zeros, zeros), gates)


FORMS = {
    "gla": gla, "simple_gla": gla, "mamba2": mamba2, "gated_delta_net": delta, "delta_net": delta, "rwkv7": rwkv7,
    "mlstm": mlstm, "hgrn": hgrn, "mamba": mamba, "ema": ema, "para_gru": para_gru, "gru": gru, "lstm": lstm,
}  # fmt: skip


class Compiled:
    """One spec's scan on the same numbers as torch's tensors; calls return when the results are there."""

    def __init__(self, spec: str, tensors: Tensors, cotangent: Tensor):
        form = FORMS[spec]
        self.x = {name: _array(x) for name, x in tensors.items()}
        self.cotangent = _array(cotangent)
        self._forward = jax.jit(form)
        self._both = jax.jit(lambda x, dy: (lambda y, back: (y, back(dy)[0]))(*jax.vjp(form, x)))

    def forward(self) -> jax.Array:
        return self._forward(self.x).block_until_ready()

    def both(self) -> tuple[jax.Array, Arrays]:
        return jax.block_until_ready(self._both(self.x, self.cotangent))

    def results(self) -> tuple[Tensor, ...]:
        """The output and all gradients, as torch's tensors."""
        y, grads = self.both()
        return tuple(torch.from_numpy(np.array(a)) for a in (y, *(grads[name] for name in self.x)))


def _array(x: Tensor) -> jax.Array:
    return jnp.asarray(x.detach().numpy())
