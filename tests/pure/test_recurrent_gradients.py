"""Options of the backward pass through time: gradients clipped at every token, and cut off after some tokens."""

from __future__ import annotations

import pytest
import torch

import recc
from recc import library
from recc.frontend import parse_text
from recc.ir.clip import clipped
from recc.ir.interpreter import run
from recc.strategies import Refused


def drawn(name, time=23, D=6):
    rec = parse_text(*library.find(name))[0]
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)

    inputs = {x.name: draw(2, time, 2, *[D] * (len(x.axes) - 1)) for x in rec.inputs}
    params = {p.name: draw(2, *[D] * (len(p.axes) - 1)) for p in rec.params}
    state = {s.name: draw(2, 2, *[D] * (len(s.axes) - 1)) for s in rec.states}
    return rec, inputs, params, state


def gradients(y, final, leaves):
    loss = sum((x * torch.linspace(-1, 1, x.numel(), dtype=x.dtype).view_as(x)).sum() for x in (y, *final.values()))
    return torch.autograd.grad(loss, leaves)


def close(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a, b, rtol=1e-10, atol=1e-10 * float(b.abs().max()))


@pytest.mark.parametrize("backend", ["torch", None])
@pytest.mark.parametrize("name", ["lstm", "para_gru", "lif"])
def test_clipped_gradients_are_those_of_a_loop_with_a_hook(name, backend):
    """The loop: one token of the op's own step at a time, the state's gradient clamped on its way back."""
    _, inputs, params, state = drawn(name)
    leaves = [*inputs.values(), *params.values(), *state.values()]
    plain = recc.load(name, backend="torch")

    def loop(limit):
        held, outputs = state, []
        for t in range(next(iter(inputs.values())).shape[1]):
            passed = {key: x * 1.0 for key, x in held.items()}
            for x in passed.values():
                x.register_hook(lambda grad: grad.clamp(-limit, limit))
            y, held = plain.step(**{key: x[:, t] for key, x in inputs.items()}, **params, state=passed)
            outputs.append(y)
        return torch.stack(outputs, 1), held

    op = recc.load(name, backend=backend, clip_gradient=0.05)
    y, final = op(**inputs, **params, initial_state=state, return_final_state=True)
    want, last = loop(0.05)
    assert torch.allclose(y, want) and y.shape == want.shape
    found = gradients(y, final, leaves)
    close(found, gradients(want, last, leaves))
    y, final = recc.load(name, backend=backend)(**inputs, **params, initial_state=state, return_final_state=True,
                                                clip_gradient=0.05)  # fmt: skip
    assert all(map(torch.equal, gradients(y, final, leaves), found))  # as an option of the call
    free, end = loop(1e30)
    assert not torch.allclose(found[0], gradients(free, end, leaves)[0])  # it does something


@pytest.mark.parametrize("name", ["lstm", "gated_delta_net", "gla"])
def test_the_reference_clips_too(name):
    rec, inputs, params, state = drawn(name)
    rec = clipped(rec, 0.1)
    outputs, final = run(rec, inputs, params, initial_state=state)
    op = recc.load(name, clip_gradient=0.1)
    y, last = op(**inputs, **params, initial_state=state, return_final_state=True)
    leaves = [*inputs.values(), *params.values(), *state.values()]
    close(gradients(y, last, leaves), gradients(next(iter(outputs.values())), final, leaves))


def test_what_cannot_be_clipped():
    with pytest.raises(Refused, match="gradients of h are clipped"):
        recc.load("para_gru", strategy="newton", clip_gradient=1.0)
    with pytest.raises(Refused, match="`clip_gradient` is not affine"):
        recc.load("gla", strategy="chunk", clip_gradient=1.0)
    with pytest.raises(ValueError, match="must be positive"):
        recc.load("lstm", clip_gradient=0.0)
    _, inputs, params, _ = drawn("para_gru", time=2)
    with pytest.raises(Refused, match="gradients of h are clipped"):
        recc.load("para_gru", strategy="newton")(**inputs, **params, clip_gradient=1.0)
    with pytest.raises(ValueError, match="state `x` is complex"):
        recc.load("lru", clip_gradient=1.0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["torch", None])
@pytest.mark.parametrize("name", ["gru", "gla"])
def test_truncated_gradients_are_those_of_segments(name, backend, reverse):
    _, inputs, params, state = drawn(name)
    op = recc.load(name, backend=backend)
    leaves = [*inputs.values(), *params.values(), *state.values()]
    options = {"initial_state": state, "return_final_state": True, "reverse": reverse}
    y, final = op(**inputs, **params, truncate=7, **options)
    whole, last = op(**inputs, **params, **options)
    assert torch.allclose(y, whole, rtol=1e-12, atol=1e-12)
    assert all(torch.allclose(final[key], last[key], rtol=1e-12, atol=1e-12) for key in final)
    flipped = {key: x.flip(1) for key, x in inputs.items()} if reverse else inputs
    held, parts = state, []
    for start in range(0, 23, 7):
        held = held if start == 0 else {key: x.detach() for key, x in held.items()}
        part = {key: x[:, start : start + 7] for key, x in flipped.items()}
        out, held = op(**part, **params, initial_state=held, return_final_state=True)
        parts.append(out)
    want = torch.cat(parts, 1)
    found, free = gradients(y, final, leaves), gradients(whole, last, leaves)
    close(found, gradients(want.flip(1) if reverse else want, held, leaves))
    assert not all(torch.allclose(a, b) for a, b in zip(found, free, strict=True))  # it does something


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", ["torch", None])
@pytest.mark.parametrize("name", ["gru", "gla"])
def test_truncated_packed_sequences_are_as_each_alone(name, backend, reverse):
    lengths = (9, 0, 1, 7, 6)  # with segments of 3 tokens, some sequences end where a segment does
    _, inputs, params, state = drawn(name)
    op, edges = recc.load(name, backend=backend), torch.tensor([0, *lengths]).cumsum(0)
    inputs = {key: x[:1].detach().requires_grad_() for key, x in inputs.items()}
    state = {key: x[[0, 1, 0, 1, 1]].detach().requires_grad_() for key, x in state.items()}
    leaves, options = [*inputs.values(), *params.values(), *state.values()], {"truncate": 3, "reverse": reverse}
    y, final = op(**inputs, **params, initial_state=state, return_final_state=True, cu_seqlens=edges, **options)
    parts = [
        op(**{key: x[:, lo:hi] for key, x in inputs.items()}, **params, return_final_state=True,
           initial_state={key: x[at : at + 1] for key, x in state.items()}, **options)
        for at, (lo, hi) in enumerate(zip(edges[:-1], edges[1:]))
    ]  # fmt: skip
    want = torch.cat([part for part, _ in parts], 1)
    ends = {key: torch.cat([end[key] for _, end in parts]) for key in final}
    assert torch.allclose(y, want, rtol=1e-12, atol=1e-12)
    close(gradients(y, final, leaves), gradients(want, ends, leaves))


def test_truncation_of_short_sequences_and_what_it_refuses():
    _, inputs, params, _ = drawn("gru", time=5)
    op = recc.load("gru")
    assert torch.equal(op(**inputs, **params, truncate=64), op(**inputs, **params))
    assert torch.equal(op(**inputs, **params, truncate=1), op(**inputs, **params))
    empty = {key: x[:, :0] for key, x in inputs.items()}
    assert op(**empty, **params, truncate=4).shape == (2, 0, 2, 6)
    for wrong in (0, -1, 2.5):
        with pytest.raises(ValueError, match="a number of tokens"):
            op(**inputs, **params, truncate=wrong)
