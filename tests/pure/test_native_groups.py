"""Sequences that a task of native code computes side by side: the bits of each are those that it has alone."""

from __future__ import annotations

import pytest
import torch
from contracts import Call, gap, gradients, same_bits
from recc.backends.c import build, compiler
from recc.backends.c.grouping import of_packed

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)

BESIDE = """recurrence beside
dim    D, E
input  x : D
input  w in [0, 1]
param  A : D x E
param  b : D
state  h : D = 0
state  s = 0.5
state  n : D = 0
output o : E
output q

h[t] = tanh(x + b + A @ (h[t-1] @ A) / 4 + s[t-1])
s[t] = w * s[t-1] + sum(h[t-1] * b)
n[t] = 0.5 * n[t-1] + h[t]
o    = n[t] @ A
q    = s[t] * w
"""


@pytest.mark.parametrize("name, sizes, dtype", [
    ("lstm", {"D": 48}, torch.float32), ("lstm", {"D": 5}, torch.float64), ("gru", {"D": 33}, torch.float32),
    ("rhn", {}, torch.float32), (BESIDE, {"D": 17, "E": 40}, torch.float32),
])  # fmt: skip
def test_sequences_side_by_side_have_the_bits_of_each_alone(name, sizes, dtype, monkeypatch):
    """Groups of sequences that share what they read of a matrix, and those that are left: results and the gradients of
    inputs and states bit for bit, those of params but for the order in which sequences are added up."""
    monkeypatch.setattr("recc.backends.c.call.cores", lambda: 1)
    call = Call(name, time=37, batch=9, dtype=dtype, grad=True, **sizes)
    call.op.around = None  # projections, too, in native code
    held = {key: x.requires_grad_() for key, x in call.state(9, dtype).items()}

    def both():
        results = call(initial_state=held)
        grads = gradients(results, [*call.inputs.values(), *held.values(), *call.params.values()])
        return results, grads[: -len(call.params)], grads[-len(call.params) :]

    results, own, slopes = both()
    core = call.op.around.core if call.op.around else call.op
    assert {1} < {sequences for *_, sequences in core.native.natives}
    monkeypatch.setattr("recc.backends.c.call.side_by_side", lambda registers: 1)
    alone, others, wants = both()
    assert same_bits(results, alone) and same_bits(own, others)
    assert all(gap(a, b) < 1e-5 for a, b in zip(slopes, wants, strict=True))
    wide = call.reference(initial_state=held)
    assert all(gap(a, b) < 50 * torch.finfo(dtype).eps for a, b in zip(results, wide, strict=True))


@pytest.fixture
def grouped(monkeypatch):
    """Packed sequences are grouped, however small their matrices and however many cores there are."""
    monkeypatch.setattr("recc.backends.c.call.cores", lambda: 1)
    monkeypatch.setattr("recc.backends.c.call.LARGE", 0)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name, sizes, dtype", [
    ("lstm", {"D": 20}, torch.float32), ("gru", {"D": 5}, torch.float64), (BESIDE, {"D": 17, "E": 40}, torch.float32),
])  # fmt: skip
def test_packed_sequences_side_by_side_have_the_bits_of_each_alone(name, sizes, dtype, reverse, grouped, monkeypatch):
    """Each group takes the chunks that all of its sequences have, and each sequence goes on alone from there."""
    lengths = torch.tensor([33, 0, 70, 32, 95, 1, 64, 40, 31, 45, 100, 36])
    bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    call = Call(name, time=int(bounds[-1]), batch=1, dtype=dtype, grad=True, **sizes)
    call.op.around = None  # projections, too, in native code
    held = {key: x.requires_grad_() for key, x in call.state(len(lengths), dtype).items()}

    def both():
        results = call(initial_state=held, cu_seqlens=bounds, reverse=reverse)
        grads = gradients(results, [*call.inputs.values(), *held.values(), *call.params.values()])
        return results, grads[: -len(call.params)], grads[-len(call.params) :]

    results, own, slopes = both()
    assert {1} < {sequences for *_, sequences in call.op.native.natives}
    monkeypatch.setattr("recc.backends.c.call.side_by_side", lambda registers: 1)
    alone, others, wants = both()
    assert same_bits(results, alone) and same_bits(own, others)
    assert all(gap(a, b) < 1e-5 for a, b in zip(slopes, wants, strict=True))


@pytest.mark.parametrize("together", [2, 8])
def test_groups_of_packed_sequences(together):
    lengths = [33, 0, 70, 32, 95, 1, 64, 40, 31, 45, 100, 36, 500, 96, 97, 130, 63, 65]
    groups = of_packed(lengths, 32, together)
    order, common = groups.order.tolist(), groups.common.tolist()
    assert sorted(order) == list(range(len(lengths)))  # each has one task of its own
    taken = [order[n * together : (n + 1) * together] for n in range(groups.count)]
    for group in taken:
        (own,) = {common[place] for place in group}
        assert own > 0 and own % 32 == 0 and own == min(lengths[place] // 32 for place in group) * 32
    assert not any(common[place] for place in order[groups.members :])
    # whoever is left has fewer chunks than any that is not, or is one too few for a group
    left = [lengths[place] // 32 for place in order[groups.members :]]
    assert sum(chunks > 0 for chunks in left) < together


def test_a_packed_sequence_that_is_not_finite_leaves_its_neighbours_alone(grouped):
    bounds = torch.arange(9) * 40
    call = Call("lstm", time=int(bounds[-1]), batch=1, D=16, grad=True)
    found = []
    for value in (0.0, torch.nan):
        with torch.no_grad():
            next(iter(call.inputs.values()))[0, 3 * 40 + 5] = value
        results = call(cu_seqlens=bounds)
        slopes = gradients(results, list(call.inputs.values()))
        found.append([x.unflatten(1, (8, 40)) for x in (results[0], *slopes)] + [x[None] for x in results[1:]])
    rest = [n for n in range(8) if n != 3]
    for good, bad in zip(*found, strict=True):
        assert torch.equal(bad[:, rest], good[:, rest]) and bad[:, 3].isnan().any()


def test_a_sequence_that_is_not_finite_leaves_its_neighbours_alone(monkeypatch):
    monkeypatch.setattr("recc.backends.c.call.cores", lambda: 1)
    call = Call("lstm", batch=8, D=16)
    good = call()
    with torch.no_grad():
        next(iter(call.inputs.values()))[3, 5] = torch.nan
    for got, want in zip(call(), good, strict=True):
        rest = [n for n in range(8) if n != 3]
        assert torch.equal(got[rest], want[rest]) and got[3].isnan().any()
