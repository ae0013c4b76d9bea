"""Two directions over one sequence, as vision models have them: ViG by two calls, against sums over all pairs."""

from __future__ import annotations

import torch
from oracles.base import fla

import recc


def pairs(q, k, v, g, h):
    """ViG in closed form: token t reads s <= t through the forward gates and s >= t through the backward ones."""
    total, back = g.cumsum(1), h.flip(1).cumsum(1).flip(1)
    later = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril()[None, :, :, None, None]
    forward = (total[:, :, None] - total[:, None]).masked_fill(~later, -torch.inf).exp()
    backward = (back[:, :, None] - back[:, None]).masked_fill(~later.transpose(1, 2), -torch.inf).exp()
    scores = torch.einsum("bthk,btshk,bshk->btsh", q, forward + backward, k)
    return torch.einsum("btsh,bshv->bthv", scores, v) / (2 * q.shape[-1] ** 0.5)


def loops(q, k, v, g, h):
    """The same from flash-linear-attention's loop, run twice."""
    naive = fla("gla/naive.py").naive_recurrent_gla
    ahead, behind = naive(q, k, v, g)[0], naive(*(x.flip(1) for x in (q, k, v, h)))[0].flip(1)
    return (ahead + behind) / 2


def test_vig_has_gates_of_its_own_for_each_direction():
    torch.manual_seed(0)
    q, k = (torch.randn(2, 19, 2, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    v = torch.randn(2, 19, 2, 3, dtype=torch.float64, requires_grad=True)
    gates = [(-torch.rand(2, 19, 2, 4, dtype=torch.float64)).requires_grad_() for _ in range(2)]
    gla, leaves = recc.load("gla"), [q, k, v, *gates]
    o = (gla(q, k, v, gates[0]) + gla(q, k, v, gates[1], reverse=True)) / 2
    weight = torch.randn_like(o)
    slopes = torch.autograd.grad((o * weight).sum(), leaves)
    for oracle in (pairs, loops):
        want = oracle(*leaves)
        assert torch.allclose(o, want, rtol=0, atol=1e-12)
        wanted = torch.autograd.grad((want * weight).sum(), leaves)
        assert all(torch.allclose(a, b, rtol=0, atol=1e-11) for a, b in zip(slopes, wanted, strict=True))
