"""Every shipped spec as native code, and what heads may share, what joins them, and complex values of every kind."""

from __future__ import annotations

import pytest
import torch
from contracts import Call, check_from_a_state, gap
from recc.backends.c import build, compiler

from recc import library
from recc.analysis import analyse
from recc.frontend import parse_text
from recc.ir.node import walk
from recc.tile.alone import has_all_heads
from recc.tile.step import step_programs

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setattr(Call, "backend", "c")


@pytest.mark.parametrize("name", library.names())
def test_every_spec(name):
    check_from_a_state(name, heads=3)
    check_from_a_state(name, time=40, offsets=[0, 0, 33, 34, 40])


@pytest.mark.parametrize("name", library.names())
def test_every_spec_decodes(name):
    """A token at a time, with a call for each and over fixed memory, is the whole sequence."""
    call = Call(name, time=6, heads=3)
    held = call.state(2)
    wants = call(initial_state=held)
    count = len(call.op.outputs)
    tokens = [[x[:, t].contiguous() for x in call.inputs.values()] for t in range(6)]
    state, fixed = held, {name: x.clone() for name, x in held.items()}
    given = [x.clone() for x in tokens[0]]
    bound = call.op.bind(*given, *call.params.values(), state=fixed)
    for t, token in enumerate(tokens):
        outputs, state = call.op.step(*token, *call.params.values(), state=state)
        for x, new in zip(given, token, strict=True):
            x.copy_(new)
        again = bound()
        for one, other, whole in zip(*(x if count > 1 else (x,) for x in (outputs, again)), wants[:count], strict=True):
            assert gap(one, whole[:, t]) < 1e-5 and torch.equal(one, other)
    assert call.op._decoders and None not in call.op._decoders.values()
    assert all(torch.equal(state[name], fixed[name]) for name in held)
    assert all(gap(state[item["name"]], want) < 1e-5 for item, want in zip(call.op.states, wants[count:], strict=True))


HEAD = """dim D, K
input x : D shared
input g <= 0
param W : D x K
param U : K x D
"""
# What heads do with each other, and whether a task can then be one of them.
HEADS = {
    "a residual": (
        "h[t] = exp(g) * h[t-1] + x @ W",
        "output y : D shared\ny = x + sum(h[t] @ U, over=heads) / heads",
        True,
    ),
    "a difference": (
        "h[t] = x @ W - h[t-1] / 2",
        "output y : D shared\ny = 2 * -(x - sum(h[t] @ U, over=heads))",
        True,
    ),
    "a number of each head": ("h[t] = h[t-1] / (2 + iota(heads)) + x @ W", "output y : K\ny = h[t]", True),
    "nothing of any head": ("h[t] = h[t-1] / 2 + x @ W", "output y : D shared\ny = tanh(x)", True),
    "a norm of the sum": (
        "h[t] = h[t-1] / 2 + x @ W",
        "output y : D shared\ny = rmsnorm(sum(h[t] @ U, over=heads))",
        False,
    ),
    "two sums": (
        "h[t] = h[t-1] / 2 + x @ W",
        "output y\ny = sum(sum(h[t], over=heads) * sum(g * h[t], over=heads))",
        False,
    ),
    "a sum in the state": (
        "h[t] = tanh(h[t-1] - sum(g * h[t-1], over=heads)) + x @ W",
        "output y : K\ny = h[t]",
        False,
    ),
    "a sum that each head puts out beside its own": (
        "h[t] = h[t-1] / 2 + x @ W",
        "output y : K\ny = h[t] + sum(h[t], over=heads)",
        False,
    ),
    "the largest": ("h[t] = h[t-1] / 2 + x @ W", "output y : K shared\ny = max(h[t], over=heads)", False),
}


@pytest.mark.parametrize("how", HEADS)
def test_heads_that_share(how):
    update, output, apart = HEADS[how]
    kind, _, rest = output.partition("\n")
    text = f"recurrence heads\n{HEAD}state h : K = 0.5\n{kind}\n{update}\n{rest}\n"
    assert has_all_heads(step_programs(analyse(parse_text(text)[0]))[0]) != apart
    for heads in (1, 3):
        check_from_a_state(text, heads=heads, D=9, K=5)
    check_from_a_state(text, time=40, offsets=[0, 33, 33, 40], D=4, K=17)


SHARED_STATE = """recurrence shared_state
dim D
input x : D shared
input v : D
state m : D shared = 0.5
state h : D = 0
output y : D
output z : D shared
m[t] = 0.5 * m[t-1] + x
h[t] = 0.9 * h[t-1] + v * m[t]
y = h[t] * m[t-1]
z = m[t] * sum(x)
"""


def test_a_state_that_heads_share():
    """Every head computes it, and one says what it is, also where it is updated in place."""
    check_from_a_state(SHARED_STATE, heads=3, D=16)
    call = Call(SHARED_STATE, time=1, heads=3, D=16)
    held = {name: x.clone() for name, x in call.state(2).items()}
    tokens = [x[:, 0] for x in call.tensors]
    _, want = call.op.step(*tokens, state=held)
    call.op.bind(*tokens, state=held)()
    assert all(torch.equal(held[name], x) for name, x in want.items())


COMPLEX = """recurrence complexes
dim D, N
input z : N complex
input g <= 0
param w : N complex
param A : N x D complex
state h : N complex = 0
output y : D complex
output m : N
lam = exp(complex(g, 1)) * w / (1 + abs(w))
h[t] = lam * h[t-1] + conj(z) * z
y = (h[t] * z) @ A
m = abs(h[t]) + real(h[t]) * imag(h[t-1])
"""


@pytest.mark.parametrize("numbers", [1, 8, 11])
def test_complex_tensors(numbers):
    check_from_a_state(COMPLEX, heads=3, D=5, N=numbers)
    check_from_a_state(COMPLEX, time=40, offsets=[0, 33, 33, 40], D=5, N=numbers)


def test_complex_tensors_of_other_layouts_and_dtypes():
    call = Call(COMPLEX, time=9, D=3, N=4)
    z, g, w, a = call.tensors
    want = call(z, g, w, a)
    odd = torch.stack([z, z], -1)[..., 0]
    assert not odd.is_contiguous()
    for given in (odd, z.conj().resolve_conj().conj(), z.transpose(1, 2).contiguous().transpose(1, 2)):
        assert all(torch.equal(x, y) for x, y in zip(call(given, g, w, a), want, strict=True))
    plain = z.real.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(call(plain, g, w, a)[1].sum(), plain)
    (wide,) = torch.autograd.grad(call(whole := plain.detach().to(z.dtype).requires_grad_(), g, w, a)[1].sum(), whole)
    assert gradient.dtype == torch.float32 and torch.equal(gradient, wide.real)


FUNCTIONS = ["exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sin", "cos", "tanh", "sigmoid", "abs", "sign", "conj"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_complex_functions(function):
    text = f"""recurrence functions
dim N
input z : N complex
state h : N complex = 0
output y : N complex
h[t] = 0.5 * h[t-1] + z
y = {function}(h[t]) * complex(1, 2) / h[t] + z ** 3 + where(abs(z) > 1, z ** 0.5, z - 1)
"""
    check_from_a_state(text, N=9)


NAMES = """recurrence names
dim D
input x, x_re, d_y, S_h, d_S_x_1, kept_0, saved, task, head : D
param real, vec, load, c, i, l, a, work, begin : D
state h : D complex = 0
state h_re, h_im, x_1 : D = 0
output y : D
h[t] = exp(complex(-0.1, 0.3 * i)) * h[t-1] + x + h_re[t-1] * 0.1 * S_h * kept_0
h_re[t] = 0.5 * h_re[t-1] + x_re * saved * task * head
h_im[t] = 0.4 * h_im[t-1] + x_re * x[t-1] * real * vec * load
x_1[t] = 0.3 * x_1[t-1] + d_S_x_1 * c * i * l * a * work * begin
y = real_part + imag(h[t]) + h_re[t] + h_im[t] + x_1[t] * d_y
real_part = sin(h_re[t-1])
"""


@pytest.mark.parametrize("backend", ["c", "torch"])
def test_names_that_a_program_might_take_for_its_own(backend, monkeypatch):
    """Of cotangents, states, delayed values, parts of complex ones, and what the C text declares."""
    monkeypatch.setattr(Call, "backend", backend)
    check_from_a_state(NAMES, D=5)


CASCADE = """recurrence cascade
dim K, V
input q, k : K
input v, r : V
input a : K in [0, 1]
state S : K x V = 0
state n : V = 0
output o
S[t] = a * (S[t-1] - outer(k, k @ S[t-1]) / K) + outer(k, v)
n[t] = sigmoid(r) * n[t-1] + q @ S[t]
o    = silu(n[t])
"""


def test_what_a_later_state_reads_of_a_matrix_is_kept():
    """Else the backward pass computes it again from the states of every token."""
    again, back = step_programs(analyse(parse_text(CASCADE)[0]))[1:]
    assert [node.op for name, node in again.stores.items() if name.startswith("kept")] == ["dot", "dot"]
    states = {node for node in walk(*back.roots) if node.op == "tile" and node["name"] == "S.S"}
    read = [node for node in walk(*back.roots) if node.op == "dot" and states & set(walk(*node.args))]
    assert all("K" not in node["over"] for node in read)  # what is left are the gradients' own sums, over V
    check_from_a_state(CASCADE, K=17, V=5)
