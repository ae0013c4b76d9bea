"""The recurrences under jax.lax.scan, compiled by jax.jit: forward, and forward with the gradients of all inputs."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from torch import Tensor
from workloads import Tensors

Arrays = dict[str, jax.Array]
NAME = "jax.lax.scan"


def scan(step: Callable, state: jax.Array, *tokens: jax.Array) -> jax.Array:
    """Over tokens [batch, time, ...]; step(state, *token) returns the next state and the output."""
    along = tuple(jnp.moveaxis(x, 1, 0) for x in tokens)
    return jnp.moveaxis(jax.lax.scan(lambda s, token: step(s, *token), state, along)[1], 0, 1)


def _memory(x: Arrays) -> jax.Array:
    B, _, H, K = x["k"].shape
    return jnp.zeros((B, H, K, x["v"].shape[-1]), x["k"].dtype)


def read(q: jax.Array, S: jax.Array) -> jax.Array:
    return jnp.einsum("bhk,bhkv->bhv", q, S)


def gla(x: Arrays) -> jax.Array:
    def step(S, q, k, v, decay):
        S = decay * S + k[..., :, None] * v[..., None, :]
        return S, read(q, S)

    decay = jnp.exp(x["g"]).reshape(*x["g"].shape[:3], -1, 1)  # a decay per channel, or one a head
    return scan(step, _memory(x), x["q"] * x["q"].shape[-1] ** -0.5, x["k"], x["v"], decay)


def gated_delta_net(x: Arrays) -> jax.Array:
    def step(S, q, k, v, beta, decay):
        S = decay * S
        S = S + k[..., :, None] * (beta * (v - read(k, S)))[..., None, :]
        return S, read(q, S)

    decay = jnp.exp(x["g"])[..., None, None]
    return scan(step, _memory(x), x["q"] * x["q"].shape[-1] ** -0.5, x["k"], x["v"], x["beta"][..., None], decay)


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


FORMS = {"gla": gla, "simple_gla": gla, "gated_delta_net": gated_delta_net, "hgrn": hgrn, "mamba": mamba}


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
