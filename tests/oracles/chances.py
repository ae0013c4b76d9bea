"""Hidden Markov models: in probabilities instead of their logarithms, and their best paths."""

from __future__ import annotations

import torch

from oracles.base import Result, Tensors, oracle


@oracle("hmm_forward", "probabilities, rescaled at every step")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    """The scaled forward variables of Rabiner's section V.A, and the sum of the logarithms of their scales."""
    scale = s["a"].exp().sum(-1, keepdim=True)
    likelihood, now, found = scale.log(), s["a"].exp() / scale, []
    for t in range(x["b"].shape[1]):
        now = torch.einsum("bhi,hij->bhj", now, p["P"].exp()) * x["b"][:, t].exp()
        scale = now.sum(-1, keepdim=True)
        likelihood, now = likelihood + scale.log(), now / scale
        found.append((now.log() + likelihood, likelihood[..., 0]))
    a, L = (torch.stack(part, 1) for part in zip(*found, strict=True))
    return {"a": a, "L": L}, {"a": a[:, -1]}


@oracle("viterbi", "the largest over all pairs of states, at every step")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    now, found = s["d"], []
    for b in x["b"].unbind(1):
        paths = now[..., :, None] + p["P"]
        best = paths.amax(-2)  # which shares its gradient among equals
        back = (paths == best[..., None, :]).long().cumsum(-2).eq(0).sum(-2)  # how many come before the first of them
        now = best + b
        found.append((now, back.to(now.dtype)))
    d, back = (torch.stack(part, 1) for part in zip(*found, strict=True))
    return {"d": d, "back": back}, {"d": now}
