"""Layers whose projections torch multiplies, around the native code of their core: values, gradients and bits."""

from __future__ import annotations

import pytest
import torch
from contracts import Call, check_from_a_state, gradients, same_bits
from recc.backends.c import build, compiler

import recc
from recc import library
from recc.analysis.projections import apart
from recc.frontend import parse_text
from recc.ir.node import walk

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)

APART = {"gated_delta_net_layer", "gla_layer", "gss", "iclrnn", "linoss", "linoss_damped", "lru", "s4nd", "s5"}


def parts_of(text):
    return apart(parse_text(text, "spec.rec")[0])


@pytest.mark.parametrize("name", library.names())
def test_which_specs_have_projections_apart(name):
    assert (recc.load(name, backend="c").around is not None) == (name in APART)
    assert (parts_of(library.find(name)[0]) is not None) == (name in APART)


@pytest.mark.parametrize("name", sorted(APART))
def test_the_core_multiplies_no_tokens_with_matrices_off_its_path(name):
    parts = parts_of(library.find(name)[0])
    assert apart(parts.core) is None
    assert all(value.dtype == "real" for value in (*parts.before, *parts.core.inputs))
    path = set(walk(*parts.core.updates.values()))
    tokens = {"input", "state"}
    for node in walk(*(output.value for output in parts.core.outputs)):
        if node.op == "dot" and node not in path:
            fixed = [arg for arg in node.args if not any(below.op in tokens for below in walk(arg))]
            assert all(len(set(arg.axes) - {"heads"}) < 2 for arg in fixed)


HARD = {
    "a matrix that is an expression, the size of a dim that the core does not have, and a delay": """
dim D, N
input x : D shared
param A : N x D
param b : N
state h : N = 0
output y : D shared

p    = softplus(A) @ x / sqrt(D)
h[t] = 0.5 * h[t-1] + tanh(p + p[t-1]) + b
y    = sum(h[t] @ A, over=heads) + x
""",
    "complex inputs and params": """
dim D, N
input x : D complex
param A : N x D complex
param l : N = 0.3
state h : N complex = 0
output y : D complex
output z

h[t] = complex(exp(-l), 0) / 2 * h[t-1] + A @ x
y    = h[t] @ A
z    = real(sum(h[t] * (A @ x)))
""",
    "projections of projections, before and behind": """
dim D, N
input x : D
param A : D x N
param B : N x D
state h : N = 0.1
output y : N
output w : D

h[t] = tanh(h[t-1] * 0.3 + sigmoid(x @ A @ B) @ A)
y    = relu(h[t] @ B) @ A * (x @ A)
w    = (x @ A @ B) * x
""",
    "a result that follows from inputs alone": """
dim D, N
input x : D
param A : D x N
state h : N = 0
output y : N
output h

y    = tanh(x @ A)
h[t] = 0.9 * h[t-1] + y
""",
}


@pytest.mark.parametrize("how", HARD)
def test_values_and_gradients_are_the_references(how, monkeypatch):
    monkeypatch.setattr(Call, "backend", "c")
    text = f"recurrence hard{list(HARD).index(how)}{HARD[how]}"
    assert parts_of(text) is not None
    for time in (1, 35):
        check_from_a_state(text, time=time, heads=3, D=5, N=3)
    check_from_a_state(text, time=40, heads=2, offsets=[0, 0, 33, 34, 40], D=9, N=8)


@pytest.mark.parametrize("name", sorted(APART))
def test_bits_do_not_depend_on_threads_neighbours_or_what_follows(name):
    call = Call(name, time=600, batch=3, grad=True)

    def run():
        results = call()
        return [*results, *gradients(results, call.tensors)]

    alone = run()
    assert same_bits(alone, run())
    torch.set_num_threads(2)
    try:
        assert same_bits(alone, run())
    finally:
        torch.set_num_threads(1)
    count = len(call.op.outputs)
    outputs, finals = alone[:count], alone[count : count + len(call.op.states)]
    part = call(*(x.detach()[1:2] for x in call.inputs.values()), *call.params.values())
    assert same_bits(part, [x[1:2] for x in (*outputs, *finals)])
    for time in (1, 33):
        begun = call(*(x.detach()[1:2, :time] for x in call.inputs.values()), *call.params.values())
        assert same_bits(begun[:count], [x[1:2, :time] for x in outputs])


def test_nothing_of_a_sequence_that_is_not_finite_reaches_another():
    call = Call("gla_layer", time=20, batch=3, grad=True)
    good = call()
    slopes = gradients(good, list(call.inputs.values()))
    with torch.no_grad():
        next(iter(call.inputs.values()))[1, 3] = torch.nan
    bad = call()
    for got, want in zip((*bad, *gradients(bad, list(call.inputs.values()))), (*good, *slopes), strict=True):
        assert torch.equal(got[[0, 2]], want[[0, 2]]) and got[1].isnan().any()


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_no_tokens(shape):
    call = Call("gla_layer", batch=shape[0], time=shape[1], grad=True)
    results = call()
    assert results[0].shape[:2] == shape
    assert all(not x.any() for x in gradients(results, call.tensors))


def test_portable_code_multiplies_on_its_own():
    for backend in (None, "c"):
        assert recc.load("gla_layer", backend=backend, deterministic="portable").around is None
