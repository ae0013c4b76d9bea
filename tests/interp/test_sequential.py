"""Kernels that walk over tokens against the float64 loop: every spec, forward and backward, and the decode step."""

from __future__ import annotations

import pytest
from kernels import alone, apart, clipped_and_truncated, lost, paired, steps, too_large

from recc import library
from recc.runtime.cases import PACKED, Case

CHUNK = 4  # tokens between saved states
# One of each kind: a matrix memory, rank 1, sums that several programs share, cores one after the other, projections
# around a recurrence, a matrix on the way of the state, two states with such matrices.
KINDS = ("gla", "gated_delta_net", "mamba", "mlstm", "gla_layer", "gru", "lstm")
CELL = """recurrence cell
dim D, M
input x : D
input a : M in [0, 1]
param W : D x D = normal(0, 0.3)
param u : D = 1
state h : D = 0
state S : D x M = 0
output y : M
p    = relu(x + W @ h[t-1])
S[t] = a * S[t-1] + outer(tanh(p), 1 - a)
h[t] = sigmoid(u * h[t-1] + sum(S[t], over=M))
y    = h[t] @ S[t] / (1 + max(abs(p), over=D))
example T = 17, heads = 2, D = 5, M = 3
"""

SUMS = """recurrence cell
dim D
input x : D
param w : D = 0
state h : D = 0
output h
h[t] = relu(w * h[t-1] + x)
example T = 5, heads = 1, D = 1
"""


@pytest.mark.parametrize("name", library.names())
def test_float32(name, interpreted):
    assert interpreted(too_large, name, Case(6, "plain"), CHUNK, "sequential") == []


@pytest.mark.parametrize("name", ["plstm_2d", "plstm_2d_diffusive"])
def test_programs_that_share_two_dims(name, interpreted):
    """Two blocks of K and three of V: what each has of a sum is added up, what all have is written once."""
    text = library.find(name)[0].partition("example ")[0]
    text += "example T = 3, heads = 2, K = 20, V = 5, Y = 33\n"
    assert interpreted(too_large, text, Case(3, "plain"), CHUNK, "sequential") == []


@pytest.mark.parametrize("name", [*KINDS, "slstm", "elman_relu"])
def test_float16(name, interpreted):
    assert interpreted(too_large, name, Case(6, "plain"), CHUNK, "sequential", "float16") == []


def test_gradients_of_params_add_up_in_blocks(interpreted):
    """What is small is not lost beside what is large, but within the block of 64 tokens that the large one is in."""
    assert interpreted(lost, SUMS, 256) < 64


@pytest.mark.parametrize("name", ["gla", "hgrn"])
def test_beside_kernels_of_chunks(name, interpreted):
    """Single tokens, and calls of few: the walk serves them."""
    assert interpreted(paired, name) == []


@pytest.mark.parametrize("time", [0, 1, 2, 17])
@pytest.mark.parametrize("name", ["gated_delta_net", "gru", "hgrn"])
def test_lengths(name, time, interpreted):
    assert interpreted(too_large, name, Case(time, "plain"), CHUNK, "sequential") == []


@pytest.mark.parametrize("name", [*KINDS, "ttt_linear"])
@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_as_each_alone(name, reverse, interpreted):
    assert interpreted(apart, name, reverse) == []


@pytest.mark.parametrize("name", ["gla", "gru"])
@pytest.mark.parametrize("variant", ["fresh", "grouped", "split", "reverse", "packed_reverse"])
def test_calls(name, variant, interpreted):
    time = sum(PACKED) if "packed" in variant else 7
    assert interpreted(too_large, name, Case(time, variant), 32, "sequential") == []


@pytest.mark.parametrize("name", library.names())
def test_step(name, interpreted):
    """One launch a token: against the reference, and in place with the same bits."""
    assert interpreted(too_large, name, Case(2, "step"), CHUNK, "sequential") == []
    assert interpreted(steps, name) == []


@pytest.mark.parametrize("variant", ["plain", "reverse", "step"])
def test_a_cell_that_nobody_has_seen(variant, interpreted):
    """A matrix on the way of a vector that drives a memory, whose own sum drives the vector."""
    assert interpreted(too_large, CELL, Case(9, variant), CHUNK, "sequential") == []


@pytest.mark.parametrize("name", ["gla", "gru", "mlstm"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_number_stays_in_its_sequence(name, bad, interpreted):
    assert interpreted(alone, name, bad) == []


@pytest.mark.parametrize("name", ["lstm", "para_gru"])
def test_gradients_clipped_and_cut_off_by_options_of_a_call(name, interpreted):
    assert interpreted(clipped_and_truncated, name) == []
