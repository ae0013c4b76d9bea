"""What the sequential reference promises for any spec: packing, splitting, direction, no tokens, and the language's
delays, micro-steps, shared values and complex states.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from recc.frontend import parse_text
from recc.ir.interpreter import init_params, initial_state, run
from recc.ir.program import Recurrence
from recc.runtime.samples import sample_inputs

SPECS = sorted((Path(__file__).parents[2] / "specs").glob("*.rec"))
HEADS = 2


def of_text(*lines: str, **dims: int) -> Recurrence:
    (rec,) = parse_text("\n".join(("recurrence test", '"""A test."""', *lines)), dims=dims or None)
    return rec


@pytest.fixture(params=SPECS, ids=lambda path: path.stem)
def problem(request) -> tuple[Recurrence, dict[str, Tensor], dict[str, Tensor]]:
    """A spec with nine tokens of one sequence, and params."""
    (rec,) = parse_text(request.param.read_text(), str(request.param))
    sizes = {name: size for name, size in rec.example.items() if name not in ("T", "heads")}
    generator = torch.Generator().manual_seed(0)
    inputs = sample_inputs(rec, sizes, 1, 9, HEADS, torch.float64, generator)
    return rec, inputs, init_params(rec, sizes, HEADS, torch.float64, generator=generator)


def part(inputs: dict[str, Tensor], first: int, last: int) -> dict[str, Tensor]:
    return {name: x[:, first:last] for name, x in inputs.items()}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_equals_separate(problem, reverse: bool):
    rec, inputs, params = problem
    bounds = [0, 2, 2, 9]
    outputs, final = run(rec, inputs, params, cu_seqlens=bounds, reverse=reverse)
    for i, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
        alone, end = run(rec, part(inputs, first, last), params, reverse=reverse)
        assert_same(part(outputs, first, last), alone)
        assert_same({name: x[i : i + 1] for name, x in final.items()}, end)


def test_a_split_sequence_carries_its_state(problem):
    rec, inputs, params = problem
    whole, end = run(rec, inputs, params)
    outputs, state = [], None
    for first, last in ((0, 1), (1, 1), (1, 6), (6, 9)):
        piece, state = run(rec, part(inputs, first, last), params, initial_state=state)
        outputs.append(piece)
    assert_same(whole, {name: torch.cat([piece[name] for piece in outputs], 1) for name in whole})
    assert_same(end, state)


def test_reverse_is_a_flip(problem):
    rec, inputs, params = problem
    outputs, final = run(rec, inputs, params, reverse=True)
    flipped, end = run(rec, {name: x.flip(1) for name, x in inputs.items()}, params)
    assert_same(outputs, {name: x.flip(1) for name, x in flipped.items()})
    assert_same(final, end)


def test_no_tokens_leave_the_state_as_it_was(problem):
    rec, inputs, params = problem
    sizes = {name: size for name, size in rec.example.items() if name not in ("T", "heads")}
    start = initial_state(rec, sizes, 1, HEADS, params, torch.float64)
    outputs, final = run(rec, part(inputs, 0, 0), params)
    assert_same(final, start)
    full, _ = run(rec, inputs, params)
    for name, x in outputs.items():
        assert x.shape == (1, 0, *full[name].shape[2:]) and x.dtype == full[name].dtype


# Scales of rounding come from calibration: their specs give them no gradient.
CALIBRATED = {"quamba": ("sx", "sdt", "sB", "sC", "sA"), "quamba_decode": ("scale",)}


def test_every_input_and_param_has_a_gradient(problem):
    rec, inputs, params = problem
    named = {**inputs, **params}
    leaves = [x.requires_grad_() for name, x in named.items() if name not in CALIBRATED.get(rec.name, ())]
    outputs, _ = run(rec, inputs, params)
    loss = sum(x.square().sum() + x.real.sum() for x in outputs.values())  # spikes may be 0 throughout
    gradients = torch.autograd.grad(loss, leaves)
    assert all(g.isfinite().all() and g.abs().max() > 0 for g in gradients)


def test_float32_is_near_float64(problem):
    rec, inputs, params = problem
    exact, _ = run(rec, inputs, params)
    outputs, _ = run(rec, {n: x.float() for n, x in inputs.items()}, {n: x.float() for n, x in params.items()})
    for name, x in outputs.items():
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, exact[name].float(), rtol=1e-4, atol=1e-4 * float(exact[name].abs().max()))


# --- the language -------------------------------------------------------------------------------------------


def test_delays_of_inputs_and_locals_stop_at_the_bounds_of_a_sequence():
    rec = of_text(
        "dim D", "input x : D", "state h : D = 0", "output y, z : D",
        "u = 2 * x", "y = x[t-1] + 0 * h[t-1]", "z = u[t-2]", "h[t] = h[t-1] + x",
    )  # fmt: skip
    x = torch.arange(1.0, 7).reshape(1, 6, 1, 1)
    outputs, final = run(rec, {"x": x}, cu_seqlens=[0, 4, 6])
    assert outputs["y"].flatten().tolist() == [0, 1, 2, 3, 0, 5]
    assert outputs["z"].flatten().tolist() == [0, 0, 2, 4, 0, 0]
    delays = {s.name for s in rec.states if s.delay}
    assert len(delays) == 3 and final.keys() == {"h"} | delays


def test_micro_steps_are_small_tokens():
    """Two delta steps a token are one delta step a token on a sequence twice as long."""
    K, V, time = 4, 3, 5
    double = of_text(
        "dim K, V, R = 2", "input k : R x K unit", "input v : R x V", "state S : K x V = 0", "output S",
        "steps r : R", "S[t,r] = S[t,r-1] + outer(k[r], v[r] - k[r] @ S[t,r-1])",
    )  # fmt: skip
    single = of_text(
        "dim K, V", "input k : K unit", "input v : V", "state S : K x V = 0", "output S",
        "S[t] = S[t-1] + outer(k, v - k @ S[t-1])",
    )  # fmt: skip
    x = sample_inputs(double, {"K": K, "V": V}, 2, time, HEADS, torch.float64, torch.Generator().manual_seed(0))
    long = {name: value.movedim(3, 2).flatten(1, 2) for name, value in x.items()}
    outputs, final = run(double, x)
    each, end = run(single, long)
    assert_same(outputs, {"S": each["S"][:, 1::2]})
    assert_same(final, end)


def test_shared_values_and_a_sum_over_heads():
    rec = of_text(
        "dim D, N", "input x : D shared", "param W : D x N", "param U : N x D", "state h : N = 0",
        "output y : D shared", "h[t] = 0.5 * h[t-1] + x @ W", "y = sum(h[t] @ U, over=heads)",
    )  # fmt: skip
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    params = init_params(rec, {"D": 3, "N": 5}, 6, torch.float64, generator=torch.Generator().manual_seed(0))
    outputs, final = run(rec, {"x": x}, params)
    h = torch.zeros(2, 6, 5, dtype=torch.float64)
    for t in range(4):
        h = 0.5 * h + torch.einsum("bd,hdn->bhn", x[:, t], params["W"])
    torch.testing.assert_close(outputs["y"][:, -1], torch.einsum("bhn,hnd->bd", h, params["U"]))
    assert_same(final, {"h": h})


def test_a_complex_state_turns():
    rec = of_text(
        "input x", "param w = pi / 2", "state z complex = 0", "output re, im",
        "z[t] = exp(complex(0, w)) * z[t-1] + x", "re = real(z[t])", "im = imag(z[t])",
    )  # fmt: skip
    x = torch.tensor([1.0, 0, 0, 0, 1]).double().reshape(1, 5, 1)
    outputs, final = run(rec, {"x": x}, init_params(rec, {}, 1, torch.float64))
    torch.testing.assert_close(outputs["re"].flatten(), torch.tensor([1.0, 0, -1, 0, 2]).double())
    torch.testing.assert_close(outputs["im"].flatten(), torch.tensor([0.0, 1, 0, -1, 0]).double())
    assert final["z"].dtype == torch.complex128


def test_initialisers_count_dims_and_heads():
    rec = of_text(
        "dim N", "input x", "param a : N = iota(N) / N", "param b = 2 ** (-iota(heads) / heads)",
        "param c : N = uniform(1, 2) * uniform(1, 2)", "param d : N x N = eye(N)", "param e : N complex",
        "state h : N = 0", "output h", "h[t] = a * h[t-1] + b * x + d @ c + real(e)",
    )  # fmt: skip
    params = init_params(rec, {"N": 50}, 3, torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(params["a"], (torch.arange(50).double() / 50).expand(3, 50))
    torch.testing.assert_close(params["b"], 2 ** (-torch.arange(3).double() / 3))
    assert params["c"].min() >= 1 and params["c"].max() <= 4 and params["c"].unique().numel() == 150
    assert abs(params["c"].mean() - 2.25) < 0.15  # two draws, not one squared
    assert torch.equal(params["d"], torch.eye(50).double().expand(3, 50, 50))
    parts = torch.view_as_real(params["e"])
    assert params["e"].dtype == torch.complex128 and abs(parts.std() * 50**0.5 - 1) < 0.2


def test_a_state_may_be_passed_in_or_learned():
    rec = of_text(
        "dim N", "input x", "param h0 : N = 3", "state h : N = h0", "state g : N", "output y : N",
        "h[t] = h[t-1] + x", "g[t] = g[t-1] * x", "y = h[t] + g[t]",
    )  # fmt: skip
    x, params = torch.ones(1, 2, 1), init_params(rec, {"N": 2}, 1)
    outputs, final = run(rec, {"x": x}, params, initial_state={"g": torch.full((1, 1, 2), 7.0)})
    assert final["h"].eq(5).all() and final["g"].eq(7).all() and outputs["y"][0, :, 0, 0].tolist() == [11, 12]
    with pytest.raises(ValueError, match="`g` has no declared start"):
        run(rec, {"x": x}, params)
