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
SLOW = """recurrence slow
dim K, V
input q, k : K unit
input v : V
input a, beta, share in [0, 1]
state L, F : K x V = 0
output o : V
F[t] = a * (F[t-1] - beta * outer(k, k @ F[t-1])) + beta * outer(k, v)
L[t] = (1 - share) * L[t-1] + share * F[t]
o = q @ (F[t] + L[t])
example T = 33, heads = 2, K = 4, V = 3
"""


@pytest.mark.parametrize("text, chunk", [(HELD, 8), (HELD, 32), (SLOW, 8)], ids=["held-8", "held-32", "slow-8"])
def test_memories_that_read_each_other(text, chunk):
    """One that is held until data say so; one that a slow one reads whole, which has ranks and so no scan alone."""
    inputs, params, start = problem(parsed(text), 2, 37)
    leaves = {name: x.requires_grad_() for group in (inputs, start) for name, x in group.items()}
    op = recc.loads(text, strategy="coupled", chunk=chunk)
    found = call(op, inputs, params, start)
    wanted = call(recc.loads(text, strategy="sequential"), inputs, params, start)
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same(ours, theirs)
    assert_same(gradients(*found, leaves), gradients(*wanted, leaves))


def test_a_memory_is_joined_to_one_that_it_reads_only_where_that_gives_it_a_parallel_form():
    """Without ranks each has a form of its own. A state between the two that reads the first keeps them apart."""
    assert [component.states for component in analyse(parsed(SLOW)).components] == [("L", "F")]
    alone = SLOW.replace(" - beta * outer(k, k @ F[t-1])", "")
    assert [component.states for component in analyse(parsed(alone)).components] == [("F",), ("L",)]
    between = SLOW.replace("state L", "state z : V = 0\nstate L").replace("L[t] =", "z[t] = z[t-1] + q @ F[t]\nL[t] =")
    between = between.replace("share * F[t]", "share * F[t] + outer(k, z[t])")
    assert [component.states for component in analyse(parsed(between)).components] == [("F",), ("z",), ("L",)]


def test_what_mixes_more_is_refused():
    text = HELD.replace("M[t-1] / 2", "a * k * M[t-1] / 2")
    with pytest.raises(Refused, match="more than one factor a head"):
        choose(analyse(parsed(text)), "coupled")
