"""What a spec's text means: small specs, run by the sequential reference, against values worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recc.frontend import parse_text
from recc.ir.interpreter import init_params, run
from recc.ir.program import Recurrence
from recc.runtime.samples import sample_inputs

F64 = torch.float64


def spec(body: str) -> Recurrence:
    (rec,) = parse_text("recurrence test\n" + body)
    return rec


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=F64, generator=torch.Generator().manual_seed(seed))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)


def column(values: list[float]) -> Tensor:
    """One batch row, one head: [1, time, 1]."""
    return torch.tensor(values, dtype=F64).reshape(1, -1, 1)


# --- time ---------------------------------------------------------------------------------------------------


def test_a_state_before_and_after_its_update():
    rec = spec("""input x
state s = 0
output before, after
s[t] = 0.5 * s[t-1] + x
before = s[t-1]
after = s[t]""")
    out, final = run(rec, {"x": column([1, 2, 4])})
    assert out["before"].flatten().tolist() == [0, 1, 2.5]
    assert out["after"].flatten().tolist() == [1, 2.5, 5.25] and final["s"].item() == 5.25


def test_the_past_of_inputs_and_of_locals():
    rec = spec("""input x
state s = 0
output y, z
u = x * x
s[t] = s[t-1] + x[t-2]
y = u[t-1] - x
z = s[t]""")
    x = column([1, 2, 3, 4])
    out, final = run(rec, {"x": x})
    assert out["y"].flatten().tolist() == [-1, -1, 1, 5] and out["z"].flatten().tolist() == [0, 0, 1, 3]
    first, state = run(rec, {"x": x[:, :1]})
    second, end = run(rec, {"x": x[:, 1:]}, initial_state=state)
    for name in out:
        assert torch.equal(out[name], torch.cat([first[name], second[name]], 1))
    assert {name: value.item() for name, value in end.items()} == {name: value.item() for name, value in final.items()}


def test_micro_steps():
    """Newton's iteration for a square root, three times a token, from one more than the last token left."""
    rec = spec("""dim R = 3
input x
input w : R
state s = 1
output s
steps r : R
s[t,0] = s[t-1] + 1
u[r] = w[r] * x
s[t,r] = (s[t,r-1] + u[r] / s[t,r-1]) / 2""")
    x, w = draw(1, 4, 1).abs() + 1, torch.ones(1, 4, 1, 3, dtype=F64)
    out, _ = run(rec, {"x": x, "w": w})
    value, expected = 1.0, []
    for number in x.flatten().tolist():
        value += 1
        for _ in range(3):
            value = (value + number / value) / 2
        expected.append(value)
    close(out["s"].flatten(), torch.tensor(expected, dtype=F64))


def test_states_that_read_each_other():
    """Two states are updated together from their old values; a third reads one of them anew."""
    rec = spec("""input x
state a = 1
state b = 1
state c = 0
output a, c
a[t] = b[t-1] + x
b[t] = a[t-1]
c[t] = c[t-1] + a[t]""")
    out, final = run(rec, {"x": column([0, 1, 2])})
    assert out["a"].flatten().tolist() == [1, 2, 3] and out["c"].flatten().tolist() == [1, 3, 6]
    assert final["b"].item() == 2


# --- axes ---------------------------------------------------------------------------------------------------


def test_operands_meet_by_the_names_of_their_dims():
    rec = spec("""dim K, V
input k : K
input v : V
input M : V x K
state S : K x V = 0
output o : V
output p : V x K
S[t] = S[t-1] + k * (v * M)
o = k @ S[t]
p = S[t].T""")
    k, v, M = draw(2, 3, 2, 4), draw(2, 3, 2, 5), draw(2, 3, 2, 5, 4)
    out, final = run(rec, {"k": k, "v": v, "M": M})
    S = (k[..., :, None] * v[..., None, :] * M.mT).cumsum(1)
    close(final["S"], S[:, -1])
    close(out["o"], torch.einsum("bthk,bthkv->bthv", k, S))
    close(out["p"], S.mT)


def test_products_of_two_axes_of_one_dim():
    rec = spec("""dim K
input a, x : K
param W : K x K
state h : K = 0
output y, z, d : K
output g : K x K
h[t] = W @ h[t-1] + x
y = (diag(a) @ W) @ x
z = x @ W.T
d = (W - 2 * eye(K)) @ x
g = outer(a, x) @ W""")
    a, x, W = draw(1, 2, 3, 4), draw(1, 2, 3, 4, seed=1), draw(3, 4, 4, seed=2)
    out, final = run(rec, {"a": a, "x": x}, {"W": W})
    Wx = torch.einsum("hij,bthj->bthi", W, x)
    close(out["y"], a * Wx)
    close(out["z"], Wx)
    close(out["d"], Wx - 2 * x)
    close(out["g"], a[..., None] * torch.einsum("bthi,hij->bthj", x, W)[..., None, :])
    close(final["h"], torch.einsum("hij,bhj->bhi", W, x[:, 0]) + x[:, 1])


# --- functions ----------------------------------------------------------------------------------------------

LOGITS = draw(2, 3, 2, 4, 5)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax(x, over=K)": lambda x: x.softmax(-2),
    "logsumexp(x, over=V)": lambda x: x.logsumexp(-1),
    "logsumexp(1000 * x, over=V)": lambda x: (1000 * x).logsumexp(-1),
    "max(x, over=K)": lambda x: x.amax(-2),
    "min(x, over=V)": lambda x: x.amin(-1),
    "max(x, 0.5)": lambda x: x.clamp(min=0.5),
    "min(x, -x)": lambda x: -x.abs(),
    "mean(x, over=V)": lambda x: x.mean(-1),
    "sum(x)": lambda x: x.sum((-1, -2)),
    "norm(x, over=K)": lambda x: x.norm(dim=-2),
    "l2norm(x, over=V)": lambda x: x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt(),
    "rmsnorm(x, over=V)": lambda x: F.rms_norm(x, x.shape[-1:], eps=1e-5),
    "clamp(x, -0.5, 1)": lambda x: x.clamp(-0.5, 1),
    "where(x >= 0, x, 0.1 * x)": lambda x: F.leaky_relu(x, 0.1),
    "abs(complex(x, 2 * x))": lambda x: 5**0.5 * x.abs(),
    "real(exp(complex(0, pi * x)))": lambda x: (torch.pi * x).cos(),
    "square(x) - x ** 2 + 2 ** x": lambda x: 2**x,
    "gelu(x) + silu(x) + softplus(x)": lambda x: F.gelu(x) + F.silu(x) + F.softplus(x),
    "-x ** 2 / 2 / K": lambda x: -(x * x) / 8,
}


@pytest.mark.parametrize("text", FUNCTIONS)
def test_functions(text: str):
    over = "" if "sum(x)" in text else "V" if "over=K" in text else "K" if "over=V" in text else "K x V"
    over = "K x V" if text.startswith(("softmax", "l2norm", "rmsnorm")) else over
    helper = "def square(a) = a * a\n" if "square" in text else ""
    rec = spec(f"dim K, V\ninput x : K x V\nstate s = 0\noutput y{' : ' + over if over else ''}\n{helper}"
               f"s[t] = s[t-1]\ny = {text}")  # fmt: skip
    close(run(rec, {"x": LOGITS})[0]["y"], FUNCTIONS[text](LOGITS))


def test_a_surrogate_has_one_value_and_the_gradient_of_another():
    rec = spec("input x\nstate s = 0\noutput y\ns[t] = s[t-1]\ny = surrogate(where(x >= 1, 1, 0), x / (1 + abs(x)))")
    x = torch.tensor([-2.0, 0.5, 1.0, 3.0, float("inf")], dtype=torch.float64).reshape(1, -1, 1).requires_grad_()
    y = run(rec, {"x": x})[0]["y"]
    assert y.flatten().tolist() == [0, 0, 1, 1, 1]
    (slope,) = torch.autograd.grad(y[:, :4].sum(), x)
    assert torch.allclose(slope[:, :4], (1 + x[:, :4].abs()) ** -2)


def test_stopgrad_keeps_the_value_and_drops_the_gradient():
    rec = spec("input x\nstate s = 0\noutput y\ns[t] = s[t-1]\ny = x * stopgrad(x)")
    x = draw(1, 3, 1).requires_grad_()
    y = run(rec, {"x": x})[0]["y"]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, x * x) and torch.equal(gradient, x)


# --- everything together ------------------------------------------------------------------------------------

CELL = """dim K, V, R = 2
input q : K
input k : R x K unit
input v : V
input g : K <= 0
param u : K
param h0 : K x V
state S : K x V = h0
state n : K = 0
state m = 0
output o : V
steps r : R
w = sum(k, over=R) + u * (v[t-1] @ v)
m[t] = max(m[t-1] - 0.1, sum(q))
n[t] = n[t-1] * exp(m[t-1] - m[t]) + w[t-1]
S[t,0] = exp(g) * S[t-1]
S[t,r] = S[t,r-1] - 0.5 * outer(k[r], k[r] @ S[t,r-1]) + outer(k[r], v) / R
o = tanh(q @ S[t]) / (1 + abs(q @ n[t]))"""


@pytest.fixture
def cell() -> tuple[Recurrence, dict[str, Tensor], dict[str, Tensor]]:
    rec, generator = spec(CELL), torch.Generator().manual_seed(3)
    sizes = {"K": 3, "V": 2}
    return rec, sample_inputs(rec, sizes, 1, 9, 2, F64, generator), init_params(rec, sizes, 2, F64, generator=generator)


def test_splitting_packing_and_reversing(cell):
    rec, x, params = cell
    whole, end = run(rec, x, params)
    first, state = run(rec, {name: value[:, :4] for name, value in x.items()}, params)
    last, final = run(rec, {name: value[:, 4:] for name, value in x.items()}, params, initial_state=state)
    close(torch.cat([first["o"], last["o"]], 1), whole["o"])
    alone, _ = run(rec, {name: value[:, 4:] for name, value in x.items()}, params)
    packed, states = run(rec, x, params, cu_seqlens=[0, 4, 9])
    close(packed["o"], torch.cat([first["o"], alone["o"]], 1))
    flipped, back = run(rec, {name: value.flip(1) for name, value in x.items()}, params, reverse=True)
    close(flipped["o"].flip(1), whole["o"])
    for name in end:
        close(final[name], end[name])
        close(back[name], end[name])
        close(states[name][:1], state[name])


def test_gradients_of_everything(cell):
    rec, x, params = cell
    x = {name: value[:, :4].clone() for name, value in x.items()}
    start = run(rec, {name: value[:, :0] for name, value in x.items()}, params)[1]
    groups = [x, params, {name: value.clone() for name, value in start.items()}]
    leaves = [value.requires_grad_() for group in groups for value in group.values()]

    def function(*values: Tensor) -> tuple[Tensor, ...]:
        rest = iter(values)
        inputs, weights, states = ({name: next(rest) for name in group} for group in groups)
        out, final = run(rec, inputs, weights, initial_state=states)
        return out["o"], *final.values()

    assert torch.autograd.gradcheck(function, leaves)
