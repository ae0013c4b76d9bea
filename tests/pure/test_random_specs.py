"""Whatever a spec says, and whatever the analysis makes of it, the compiled op computes what the reference computes."""

from __future__ import annotations

import random

import random_specs
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from problems import assert_same, call, gradients, parsed, problem

import recc
from recc.ir.interpreter import run


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6))
def test_a_random_spec_computes_what_it_says(seed: int):
    """Values, final state and all gradients, over several chunks; what grows without bounds is left out."""
    rng = random.Random(seed)
    text = random_specs.Drawer(rng).spec()
    rec, op = parsed(text), recc.loads(text, chunk=rng.choice([2, 4, 8]))
    tensors = problem(rec, 2, rng.choice([3, 9, 11]), seed=seed)
    leaves = {name: x.requires_grad_() for group in tensors for name, x in group.items()}
    inputs, params, start = tensors
    expected, end = run(rec, inputs, params, initial_state=start)
    assume(all(float(x.detach().abs().max()) < 1e4 for x in (*expected.values(), *end.values())))
    outputs, final = call(op, inputs, params, start)
    assert_same(outputs, expected)
    assert_same(final, end)
    assert_same(gradients(outputs, final, leaves), gradients(expected, end, leaves), least=1.0)
