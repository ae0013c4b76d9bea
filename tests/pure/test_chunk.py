"""Chunk forms that no shipped spec has: columns that decay, and complex memories with a decay of each channel; and a
complex gate, which has no logarithm of its own."""

from __future__ import annotations

import pytest

from recc.analysis import analyse
from recc.frontend import parse_text
from recc.runtime.verify import verify
from recc.strategies import Chunk

MEMORY = """recurrence memory
dim K, V
input q, k, p : K {dtype}
input v : V {values}
input g{g} <= 0
input beta in [0, 1]
state S : K x V {dtype} = 0
output o : V {dtype}
w = k / sqrt(1 + sum(real(k * conj(k))))
S[t] = {update}
o = q @ S[t] + p @ S[t-1]
"""
WRITTEN = "exp(g) * S[t-1] + outer(k, v) + outer(p, beta * v)"
DELTA = "exp(g) * S[t-1] - beta * outer(w, conj(w) @ S[t-1]) + beta * outer(w, v)"
CASES = {
    "columns": (" : V", "", WRITTEN),
    "columns, a constant write": (" : V", "", "exp(g) * S[t-1] + outer(k, beta * ones(V))"),
    "complex keys": (" : K", "complex", WRITTEN),
    "complex columns": (" : V", "complex", WRITTEN),
    "complex keys, real values": (" : V", "complex", WRITTEN, ""),
    "complex keys, real reads": (" : K", "complex", "exp(g) * S[t-1] + outer(real(k), v)"),
    "complex delta rule": (" : K", "complex", DELTA),
}
GATED = """recurrence gated
dim D
input x, z : D complex
state h : D complex = 0
output y : D complex
h[t] = sigmoid(z) * h[t-1] + (1 - sigmoid(z)) * x
y = h[t]
"""


def memory(g: str, dtype: str, update: str, values: str | None = None):
    values = dtype if values is None else values
    return parse_text(MEMORY.format(g=g, dtype=dtype, values=values, update=update))[0]


@pytest.mark.parametrize("case", ["plain T=33", "packed_reverse", "decay_strong", "decay_zero"])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name, case):
    report = verify(memory(*CASES[name]), strategies=["chunk", "chunk/16"], case=case)
    assert {row.strategy for row in report.rows} == {"chunk", "chunk/16"}
    assert [row for row in report.rows if not row.ok] == []


def test_a_complex_gate():
    report = verify(parse_text(GATED)[0], strategies=["scan", "standalone"], case="plain T=33")
    assert report.rows and [row for row in report.rows if not row.ok] == []


@pytest.mark.parametrize(
    "g, update, why",
    [
        (" : V", DELTA.replace("conj(w)", "w"), "`chunk` with rank terms needs a decay that depends on K at most"),
        (" : K x V", WRITTEN, "`chunk` needs a decay along one axis at most; that of S has the axes K x V"),
    ],
)
def test_what_the_chunk_form_does_not_serve(g, update, why):
    plan = analyse(memory(g, "", update))
    assert Chunk.refuses(plan.components[0], plan).text.startswith(why)
