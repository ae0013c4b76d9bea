"""Newton's method in one kernel: what the loop over tokens gives, whatever the cell does, and what it took."""

from __future__ import annotations

import pytest
import torch
from cells import EPS, OTHERS, chaotic, parity, solved
from kernels import alone, apart, taken_unasked, too_large
from recc.backends.triton import watch

from recc.runtime.cases import PACKED, Case

SHIPPED = ("para_gru", "para_lstm", "indrnn", "lif", "lif_hard")


@pytest.mark.parametrize("T", [1, 2, 511])
@pytest.mark.parametrize("name", ["para_gru", "para_lstm"])
def test_mild_cells(name, T, interpreted):
    wrong, found = interpreted(solved, name, 0.5, T, 128)
    assert wrong == []
    assert found["most_iterations"] <= 6 and found["sequential"] == 0 and found["residual"] <= 8 * EPS
    assert found["channels"] == 4 * -(-T // 128)


@pytest.mark.parametrize("name, gain", [("para_gru", 0.5), ("para_gru", 2.0), ("para_lstm", 2.0), ("indrnn", 0.95)])
def test_gradients_of_cells_mild_and_hard(name, gain, interpreted):
    wrong, found = interpreted(solved, name, gain, 20, None, True)
    assert wrong == [] and found["channels"] == 4


@pytest.mark.parametrize("flip", [-1.5, -4.0])
def test_parity(flip, interpreted):
    gap, known, found = interpreted(parity, flip)
    assert gap < 1e-5 and known and found["residual"] <= 8 * EPS
    assert found["sequential"] == 0  # clipped slopes solve it


def test_a_chaotic_cell_comes_out_as_the_loop_gives_it_and_says_so(interpreted):
    gap, found = interpreted(chaotic, 4.0, 128)
    assert gap <= 16 * EPS  # each step is right, wherever they lead
    assert found["sequential"] > 0.3 and found["most_iterations"] == 13


@pytest.mark.parametrize("name", [*SHIPPED, *OTHERS])
def test_states_and_inputs_of_every_shape(name, interpreted):
    assert interpreted(too_large, OTHERS.get(name, name), Case(9, "plain"), 4, "newton") == []


@pytest.mark.parametrize("name, variant", [("para_lstm", "fresh"), ("para_lstm", "packed_reverse"),
                                           ("wide", "packed_reverse")])  # fmt: skip
def test_calls(name, variant, interpreted):
    time = sum(PACKED) if "packed" in variant else 9
    assert interpreted(too_large, OTHERS.get(name, name), Case(time, variant), 4, "newton") == []


def test_packed_sequences_as_each_alone(interpreted):
    assert interpreted(apart, OTHERS["four"], False, "newton") == []


@pytest.mark.parametrize("time, dtype", [(0, "float32"), (1, "bfloat16"), (9, "float16")])
def test_lengths_and_dtypes(time, dtype, interpreted):
    assert interpreted(too_large, "para_lstm", Case(time, "plain"), 4, "newton", dtype) == []


@pytest.mark.parametrize("name, bad", [("para_gru", float("nan")), ("para_lstm", float("inf"))])
def test_a_bad_number_stays_in_its_sequence(name, bad, interpreted):
    assert interpreted(alone, name, bad, "newton") == []


def test_what_does_not_converge_is_walked_until_it_is_tried_again():
    watched, counts = watch.Watch(), torch.zeros(5, dtype=torch.float64)

    def solved(share, calls):
        """How many of so many calls are solved, of which each finishes a share of its 100 channels token by token."""
        allowed = 0
        for _ in range(calls):
            if watched.allows(counts):
                allowed += 1
                counts.add_(torch.tensor([100.0, 300.0, 100 * share, 0.0, 0.0]))
        return allowed

    assert solved(0.01, 5 * watch.CALLS) == 5 * watch.CALLS
    tried = solved(0.5, 2 * watch.CALLS)
    assert tried <= watch.CALLS + 1 and watched.rest == watch.REST - (2 * watch.CALLS - 1 - tried)
    assert solved(0.0, watched.rest) == 0
    assert solved(0.0, 5 * watch.CALLS) == 5 * watch.CALLS


def test_a_watch_allows_all_calls_that_are_not_counted():
    watched = watch.Watch()
    assert all(watched.allows(None) for _ in range(3 * watch.CALLS))


def test_taken_unasked_where_it_pays(interpreted):
    assert interpreted(taken_unasked, "para_gru") == []
