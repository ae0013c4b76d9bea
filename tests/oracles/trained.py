"""Memories that are trained as they are used: loops over tokens whose gradients are autograd's."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.base import Result, Tensors, oracle


def apply(x: Tensor, W: Tensor) -> Tensor:
    """``[batch, heads, K]`` through ``[batch, heads, K, V]``."""
    return torch.einsum("bhk,bhkv->bhv", x, W)


def slopes(loss: Callable[..., Tensor], weights: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The gradients of a loss for each batch entry and head, which do not see each other's weights."""
    return torch.func.grad(lambda weights: loss(*weights).sum())(tuple(weights))


def at_start(count: Tensor, weights: Sequence[Tensor], held: Sequence[Tensor]) -> list[Tensor]:
    """The weights before the mini-batch of 16 tokens, as in the specs, after `count` tokens. Heads and batch entries
    may be at different places in theirs."""
    starts = count % 16 == 0
    return [torch.where(starts.reshape(*starts.shape, *[1] * (W.dim() - 2)), W, H) for W, H in zip(weights, held)]


@oracle("ttt_linear", "a loop over tokens, the gradient by autograd at the mini-batch's start")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    W, b, outputs = s["W"], s["b"], []
    held = [s["W[C]"], s["b[C]"]]

    def model(u: Tensor, W: Tensor, b: Tensor) -> Tensor:
        normed = F.layer_norm(apply(u, W) + b, u.shape[-1:], eps=1e-6)
        return u + p["scale"] * normed + p["shift"]

    for t in range(x["q"].shape[1]):
        q, k, v = (x[name][:, t] for name in "qkv")
        eta = x["eta"][:, t, :, None]
        held = at_start(s["t"] + t, (W, b), held)
        dW, db = slopes(lambda W, b, k=k, v=v: (model(k, W, b) - v).square().sum(-1) / 2, held)
        W, b = W - eta[..., None] * dW, b - eta * db
        outputs.append(model(q, W, b))
    final = {"W": W, "b": b, "W[C]": held[0], "b[C]": held[1], "t": s["t"] + x["q"].shape[1]}
    return {"o": torch.stack(outputs, 1)}, final


@oracle("titans_mlp", "a loop over tokens, the gradient by autograd at the chunk's start")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    weights, momenta, outputs = [s["M1"], s["M2"]], [s["G1"], s["G2"]], []
    held = [s["M1[C]"], s["M2[C]"]]

    def memory(u: Tensor, M1: Tensor, M2: Tensor) -> Tensor:
        return apply(F.gelu(apply(u, M1)), M2)

    for t in range(x["q"].shape[1]):
        q, k, v = (x[name][:, t] for name in "qkv")
        alpha, eta, theta = (x[name][:, t, :, None, None] for name in ("alpha", "eta", "theta"))
        held = at_start(s["t"] + t, weights, held)
        found = slopes(lambda *M, k=k, v=v: (memory(k, *M) - v).square().sum(-1), held)
        momenta = [eta * G - theta * slope for G, slope in zip(momenta, found, strict=True)]
        weights = [(1 - alpha) * M + G for M, G in zip(weights, momenta, strict=True)]
        outputs.append(memory(q, *weights))
    final = dict(zip(("M1", "M2", "G1", "G2", "M1[C]", "M2[C]"), weights + momenta + held, strict=True))
    return {"o": torch.stack(outputs, 1)}, {**final, "t": s["t"] + x["q"].shape[1]}


def moved(x: Tensors, A: Tensor, link: Callable[[Tensor], Tensor], slope: Callable[[Tensor, int], Tensor]) -> Result:
    """A[t] = alpha A[t-1] - eta times the slope at link(A[t-1]), and what is read of link(A[t])."""
    outputs = []
    for t in range(x["q"].shape[1]):
        alpha, eta = (x[name][:, t, :, None, None] for name in ("alpha", "eta"))
        A = alpha * A - eta * slope(link(A), t)
        outputs.append(apply(x["q"][:, t], link(A)))
    return {"o": torch.stack(outputs, 1)}, {"A": A}


@oracle("yaad", "torch's huber_loss of the error's norm, by autograd")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    def slope(W: Tensor, t: int) -> Tensor:
        delta = x["delta"][:, t]

        def loss(W: Tensor) -> Tensor:
            size = ((apply(x["k"][:, t], W) - x["v"][:, t]).square().sum(-1) + 1e-12).sqrt()
            return delta**2 * F.huber_loss(size / delta, torch.zeros_like(size), reduction="none")

        return slopes(loss, (W,))[0]

    outputs, final = moved(x, s["W"], lambda A: A, slope)
    return outputs, {"W": final["A"]}


@oracle("memora", "a loop over tokens, by hand")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    def slope(W: Tensor, t: int) -> Tensor:
        return torch.einsum("bhk,bhv->bhkv", x["k"][:, t], apply(x["k"][:, t], W) - x["v"][:, t])

    return moved(x, s["A"], lambda A: A.softmax(-2), slope)


@oracle("moneta", "a loop over tokens, by hand")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    def slope(W: Tensor, t: int) -> Tensor:
        error = apply(x["k"][:, t], W) - x["v"][:, t]
        return torch.einsum("bhk,bhv->bhkv", x["k"][:, t], 3 * error * (error.square() + 1e-6).sqrt())

    return moved(x, s["A"], lambda A: A / (A.pow(4).sum((-1, -2), keepdim=True) + 1e-6).sqrt(), slope)


@oracle("ttt_mlp", "a loop over tokens, the gradient by autograd at the mini-batch's start")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    names = ("A", "a", "B", "b")
    weights, held, outputs = [s[name] for name in names], [s[f"{name}[C]"] for name in names], []

    def model(u: Tensor, A: Tensor, a: Tensor, B: Tensor, b: Tensor) -> Tensor:
        hidden = F.gelu(apply(u, A) + a)
        return u + p["scale"] * F.layer_norm(apply(hidden, B) + b, u.shape[-1:], eps=1e-6) + p["shift"]

    for t in range(x["q"].shape[1]):
        q, k, v, eta = (x[name][:, t] for name in ("q", "k", "v", "eta"))
        held = at_start(s["t"] + t, weights, held)
        found = slopes(lambda *W, k=k, v=v: (model(k, *W) - v).square().sum(-1) / 2, held)
        scales = [eta.reshape(*eta.shape, *[1] * (W.dim() - 2)) for W in weights]
        weights = [W - scale * slope for W, scale, slope in zip(weights, scales, found, strict=True)]
        outputs.append(model(q, *weights))
    final = dict(zip((*names, *(f"{name}[C]" for name in names)), weights + held, strict=True))
    return {"o": torch.stack(outputs, 1)}, {**final, "t": s["t"] + x["q"].shape[1]}


@oracle("atlas", "a loop over tokens, the gradient by autograd at the chunk's start")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    S, M, held, outputs = s["S"], s["M"], s["M[C]"], []
    for t in range(x["q"].shape[1]):
        (held,) = at_start(s["t"] + t, (M,), (held,))

        def loss(M: Tensor, t: int = t) -> Tensor:
            window = range(max(0, t - 1), t + 1)
            errors = [x["eta"][:, i] * (apply(x["k"][:, i], M) - x["v"][:, i]).square().sum(-1) for i in window]
            return sum(errors) / 2

        alpha, theta = (x[name][:, t, :, None, None] for name in ("alpha", "theta"))
        S = theta * S - slopes(loss, (held,))[0]
        X = S / (S.square().sum((-1, -2), keepdim=True) + 1e-6).sqrt()
        gram = X @ X.transpose(-1, -2)
        M = alpha * M + 3.4445 * X - 4.775 * gram @ X + 2.0315 * gram @ gram @ X
        outputs.append(apply(x["q"][:, t], M))
    return {"o": torch.stack(outputs, 1)}, {"S": S, "M": M, "M[C]": held, "t": s["t"] + x["q"].shape[1]}


@oracle("titans", "a loop over tokens, the gradient by autograd at the chunk's start")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    M, S, held, outputs = s["M"], s["S"], s["M[C]"], []
    for t in range(x["q"].shape[1]):
        (held,) = at_start(s["t"] + t, (M,), (held,))
        q, k, v = (x[name][:, t] for name in "qkv")
        alpha, eta, theta = (x[name][:, t, :, None, None] for name in ("alpha", "eta", "theta"))
        (found,) = slopes(lambda M, k=k, v=v: (apply(k, M) - v).square().sum(-1) / 2, (held,))
        S = eta * S - theta * found
        M = (1 - alpha) * M + S
        outputs.append(apply(q, M))
    final = {"M": M, "S": S, "M[C]": held, "t": s["t"] + x["q"].shape[1]}
    return {"o": torch.stack(outputs, 1)}, final
