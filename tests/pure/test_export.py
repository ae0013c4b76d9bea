"""What a spec computes on the way, put out beside its outputs."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

import recc


def layer_of(backend=None):
    generator = torch.Generator().manual_seed(0)
    return recc.Module("gated_delta_net_layer", heads=2, D=6, K=4, V=3, export=["o"], backend=backend,
                       dtype=torch.float64, generator=generator)  # fmt: skip


@pytest.mark.parametrize("backend", ["torch", None])
def test_a_read_out_before_its_gate(backend):
    layer = layer_of(backend)
    x = torch.randn(2, 21, 6, dtype=torch.float64, requires_grad=True)
    y, o = layer(x)
    gate = F.silu(torch.einsum("btd,hdv->bthv", x, layer.Wr))
    want = torch.einsum("bthv,hvd->btd", gate * o, layer.Wo)
    assert o.shape == (2, 21, 2, 3) and torch.allclose(y, want, rtol=0, atol=1e-13)
    weight = torch.randn_like(y)
    leaves = [x, *layer.parameters()]
    slopes, wanted = (torch.autograd.grad((z * weight).sum(), leaves, retain_graph=True) for z in (y, want))
    assert all(torch.allclose(a, b, rtol=0, atol=1e-12) for a, b in zip(slopes, wanted, strict=True))


def test_token_by_token_and_copies():
    layer = layer_of()
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    y, o = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert all(torch.equal(a, b) for a, b in zip(other(x), (y, o), strict=True))
    state = layer.init_state(2, dtype=torch.float64)
    for t in range(5):
        (token, read), state = layer.step(x[:, t], state=state)
        assert torch.allclose(token, y[:, t], rtol=0, atol=1e-13)
        assert torch.allclose(read, o[:, t], rtol=0, atol=1e-13)


def test_a_state_of_every_token():
    x = [torch.randn(1, 9, 2, 3, dtype=torch.float64) for _ in range(2)]
    gate = torch.rand(1, 9, 2, 3, dtype=torch.float64)
    text = """recurrence memory
dim   D
input x, y, a : D
state h : D = 0
output o : D
h[t] = a * h[t-1] + x
o = h[t] * y"""
    o, h = recc.loads(text, export=("h",))(*x, gate)
    assert torch.allclose(o, h * x[1], rtol=0, atol=1e-14)
    assert torch.allclose(h[:, 1:], gate[:, 1:] * h[:, :-1] + x[0][:, 1:], rtol=0, atol=1e-14)


def test_what_cannot_be_put_out_is_said():
    with pytest.raises(recc.SpecError, match="`z` cannot be exported(.|\\n)*what can be exported: `S`"):
        recc.load("gla", export=["z"])
    with pytest.raises(recc.SpecError, match="`o` cannot be exported"):
        recc.load("gla", export=["o"])
