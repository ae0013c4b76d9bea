"""Coupled memories in chunks, against the loop: factors of any sign, starts that depend on data, earlier reads."""

from __future__ import annotations

import pytest
from problems import assert_same, call, gradients, parsed, problem

import recc
from recc.analysis import analyse
from recc.strategies import Refused, choose

HELD = """recurrence held
dim K, V
input q, k : K unit
input v : V
input start in [-1, 1]
input a in [-0.9, 0.9]
state M, S, H : K x V = 0
output o, p : V
H[t] = where(start > 0.7, M[t-1], H[t-1])
S[t] = a * S[t-1] + outer(k, v - k @ H[t])
M[t] = M[t-1] / 2 - S[t] / 4
o = q @ M[t]
p = k @ S[t-1] + q @ H[t]
example T = 33, heads = 2, K = 4, V = 3
"""


@pytest.mark.parametrize("chunk", [8, 32])
def test_a_memory_that_is_held_until_data_say_so(chunk):
    inputs, params, start = problem(parsed(HELD), 2, 37)
    leaves = {name: x.requires_grad_() for group in (inputs, start) for name, x in group.items()}
    op = recc.loads(HELD, strategy="coupled", chunk=chunk)
    found = call(op, inputs, params, start)
    wanted = call(recc.loads(HELD, strategy="sequential"), inputs, params, start)
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same(ours, theirs)
    assert_same(gradients(*found, leaves), gradients(*wanted, leaves))


def test_what_mixes_more_is_refused():
    text = HELD.replace("M[t-1] / 2", "a * k * M[t-1] / 2")
    with pytest.raises(Refused, match="more than one factor a head"):
        choose(analyse(parsed(text)), "coupled")
