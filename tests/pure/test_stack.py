"""Stacks of layers: the numbers of torch.nn.LSTM, GRU and RNN from their own weights, and any spec in their place."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import recc

CELLS = {
    "lstm": (torch.nn.LSTM, {}),
    "gru": (torch.nn.GRU, {}),
    "elman": (torch.nn.RNN, {}),
    "elman_relu": (torch.nn.RNN, {"nonlinearity": "relu"}),
}


def pair(name, features=5, hidden=8, layers=2, bidirectional=True, bias=True):
    """torch's module and ours with its weights, in float64."""
    torch.manual_seed(0)
    cell, options = CELLS[name]
    theirs = cell(features, hidden, layers, bias=bias, batch_first=True, bidirectional=bidirectional,
                  dtype=torch.float64, **options)  # fmt: skip
    ours = recc.Module(name, hidden=hidden, features=features, layers=layers, bidirectional=bidirectional, bias=bias,
                       dtype=torch.float64)  # fmt: skip
    result = ours.load_state_dict(theirs.state_dict())
    assert not result.missing_keys and not result.unexpected_keys
    return theirs, ours


def their_state(h, names):
    """torch's (h_n, c_n) or h_n as ours."""
    tensors = dict(zip(("h", "c"), h if isinstance(h, tuple) else (h,), strict=False))
    return [{name: tensors[name][i][:, None] for name in names} for i in range(tensors["h"].shape[0])]


@pytest.mark.parametrize("layers, bidirectional", [(1, False), (2, True), (3, False)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", CELLS)
def test_the_numbers_and_gradients_of_torch(name, layers, bidirectional, bias):
    theirs, ours = pair(name, layers=layers, bidirectional=bidirectional, bias=bias)
    x = torch.randn(3, 11, 5, dtype=torch.float64, requires_grad=True)
    want, want_state = theirs(x)
    y, state = ours(x, return_final_state=True)
    assert torch.allclose(y, want, rtol=0, atol=1e-13)
    for got, expected in zip(state, their_state(want_state, list(state[0])), strict=True):
        assert all(torch.allclose(got[key], expected[key], rtol=0, atol=1e-13) for key in got)
    weight = torch.randn_like(y)
    (slope,) = torch.autograd.grad((y * weight).sum(), x)
    (want_slope,) = torch.autograd.grad((want * weight).sum(), x)
    assert torch.allclose(slope, want_slope, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", CELLS)
def test_a_state_goes_in_as_torch_takes_it(name):
    theirs, ours = pair(name)
    x = torch.randn(3, 7, 5, dtype=torch.float64)
    h = torch.randn(2, 4, 3, 8, dtype=torch.float64).unbind(0)
    names = list(ours.init_state(1)[0])
    given = h if "c" in names else h[0]
    want, _ = theirs(x, given)
    y = ours(x, initial_state=their_state(given, names))
    assert torch.allclose(y, want, rtol=0, atol=1e-13)


def test_time_first_and_token_by_token():
    _, ours = pair("lstm", bidirectional=False)
    x = torch.randn(3, 6, 5, dtype=torch.float64)
    y, final = ours(x, return_final_state=True)
    ours.batch_first = False
    assert torch.equal(ours(x.transpose(0, 1)), y.transpose(0, 1))
    state = ours.init_state(3, dtype=torch.float64)
    for t in range(6):
        token, state = ours.step(x[:, t], state=state)
        assert torch.allclose(token, y[:, t], rtol=0, atol=1e-13)
    assert all(torch.allclose(a[key], b[key], atol=1e-13) for a, b in zip(state, final, strict=True) for key in a)


def test_packed_sequences_run_both_ways_each_for_itself():
    _, ours = pair("gru")
    x = torch.randn(1, 9, 5, dtype=torch.float64)
    y = ours(x, cu_seqlens=torch.tensor([0, 4, 4, 9]))
    apart = torch.cat([ours(x[:, :4]), ours(x[:, 4:])], 1)
    assert torch.allclose(y, apart, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["slstm", "para_lstm", "mgu", "rhn", "min_gru"])
def test_any_cell_with_heads_can_be_stacked(name):
    layer = recc.Module(name, hidden=12, features=5, layers=2, bidirectional=True, heads=3)
    y = layer(torch.randn(2, 7, 5))
    assert y.shape == (2, 7, 24)
    y.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies_and_pickles_compute_the_same(copied):
    layer = recc.Module("rhn", hidden=8, heads=2, L=3)
    x = torch.randn(2, 5, 8)
    twin = copied(layer)
    assert torch.equal(twin(x), layer(x))
    torch.nn.init.zeros_(twin.layers[0][0].projection.weight)
    assert not torch.equal(twin(x), layer(x))
    twin.load_state_dict(layer.state_dict())  # its own names
    assert torch.equal(twin(x), layer(x))


def test_dropout_acts_between_layers_while_training():
    layer = recc.Module("gru", hidden=8, layers=2, dropout=0.5)
    x = torch.randn(2, 5, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_what_does_not_fit_is_said():
    weights = torch.nn.LSTM(8, 8).state_dict()
    for name, options, words in (
        ("lstm", {"heads": 2}, "load them with heads=1, not 2"),
        ("peephole_lstm", {}, "peephole_lstm has not torch's weights"),
        ("para_gru", {}, "para_gru has not torch's weights"),
    ):
        with pytest.raises(ValueError, match=words):
            recc.Module(name, hidden=8, **options).load_state_dict(weights)
    with pytest.raises(ValueError, match="proj_size"):
        recc.Module("lstm", hidden=8).load_state_dict(torch.nn.LSTM(8, 8, proj_size=4).state_dict())
    with pytest.raises(RuntimeError, match="size mismatch"):
        recc.Module("gru", hidden=8).load_state_dict(weights)
    with pytest.raises(ValueError, match="no multiple of heads"):
        recc.Module("lstm", hidden=8, heads=3)
    with pytest.raises(ValueError, match="it has no step"):
        recc.Module("lstm", hidden=8, bidirectional=True).step(torch.zeros(1, 8), state=[])
    with pytest.raises(ValueError, match="need one output"):
        recc.Module(
            "recurrence two\ndim D\ninput x : D\nstate h : D = 0\noutput h, y\nh[t] = x\ny = sum(x)\n", hidden=8
        )


def test_params_go_back_to_their_domains():
    layer = recc.Module("iclrnn", hidden=6, features=4, layers=2, F=5, D=8)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=2.0)
    layer.project()
    for directions in layer.layers:
        cell = directions[0].cell
        for W in (cell.W, cell.U, cell.V):
            assert bool((W >= 0).all()) and torch.linalg.matrix_norm(W, 2).max() <= 1 + 1e-6
    text = "recurrence r\ndim D\nparam k : D unit\nparam tau : D >= 1 = 3\ninput x : D\nstate h : D = 0\noutput h\n"
    single = recc.Module(text + "h[t] = h[t-1] / tau + k * x\n", heads=2, D=4)
    with torch.no_grad():
        single.tau.fill_(0.5)
        single.k.mul_(3.0)
    single.project()
    assert torch.equal(single.tau, torch.ones(2, 4)) and torch.allclose(single.k.norm(dim=-1), torch.ones(2))
