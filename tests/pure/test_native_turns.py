"""Backward passes over two chunks at a time: the cotangents of one beside the states of the chunk before it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from contracts import Call, check_from_a_state, gradients, same_bits
from recc.backends.c import build, compiler
from recc.backends.c.passes import DEFAULT

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)

ROW = "recc.backends.c.turns.ROW"
WIDE = 1 << 20
# Complex states, and an input that is the same for all elements, which is computed with before the loop.
OWN = """recurrence turning
dim D
input x : D complex
input g <= 0
param a : D = normal(0, 1)
state s : D complex = 0
output s
s[t] = exp(complex(stopgrad(g), a)) * s[t-1] + x
"""


def native(call):
    (kernel,) = call.op.native.natives.values()
    return kernel.kernel.parts["backward"]


@pytest.mark.parametrize("spec", ["hgrn", "para_gru", "para_lstm", "lif"])
@pytest.mark.parametrize("offsets", [None, [0, 0, 1, 17, 49, 49, 100]])
def test_two_chunks_at_a_time_have_the_bits_of_one_after_the_other(spec, offsets, monkeypatch):
    """D fills no vector; sequences of no, one and 16 tokens, and of whole and broken chunks."""
    found = []
    for row in (0, WIDE):
        monkeypatch.setattr(ROW, row)
        call = Call(spec, time=100, batch=1 if offsets else 2, grad=True, D=70)
        held = {name: x.requires_grad_() for name, x in call.state(6 if offsets else 2).items()}
        call.op.native.natives.clear()
        monkeypatch.setattr(call.op.native, "options", replace(DEFAULT, chunk=16))
        packed = torch.tensor(offsets) if offsets else None
        results = call(initial_state=held, cu_seqlens=packed, reverse=offsets is not None)
        found.append([*results, *gradients(results, [*call.tensors, *held.values()])])
        assert ("turn < before" in native(call)) == (row == 0)
        call.op.native.natives.clear()
    assert same_bits(*found)
    assert all(torch.isfinite(x).all() and x.any() for x in found[0])


@pytest.mark.parametrize("offsets", [None, [0, 0, 1, 17, 37]])
def test_two_chunks_at_a_time_with_what_is_computed_before_the_loop(offsets, monkeypatch):
    monkeypatch.setattr(ROW, 0)
    check_from_a_state(OWN, offsets, D=70)
    assert "const long c = before" in native(Call(OWN))


def test_a_nan_stays_in_its_sequence():
    """A row is long enough as it is."""
    call = Call("hgrn", time=40, batch=2, heads=1, grad=True, D=512)
    with torch.no_grad():
        call.inputs["i"][0, 20] = float("nan")
    results = call()
    slopes = gradients(results, call.tensors)
    assert "turn < before" in native(call)
    assert all(torch.isfinite(x[1]).all() for x in (*results, *slopes))
    assert slopes[0][0, :20].isfinite().all() and slopes[0][0, 20:].isnan().all()
