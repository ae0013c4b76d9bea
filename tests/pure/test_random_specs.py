"""Whatever a spec says, and whatever the analysis makes of it, the compiled op computes what the reference computes."""

from __future__ import annotations

import random

import pytest
import random_specs
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from problems import assert_same, call, gradients, parsed, problem

import recc
from recc.ir.interpreter import run

# Of these, native code once got states of unequal axes wrong, sums of a strip's rows, and next states of other loops.
FOUND = (427, 1046, 1504, 1634, 3057, 3536, 5074)


@pytest.mark.parametrize("seed", FOUND)
def test_specs_that_were_once_wrong(seed: int):
    check(seed, "c")


@pytest.mark.parametrize("backend, count", [("torch", 150), ("c", 40)])
def test_a_random_spec_computes_what_it_says(backend: str, count: int):
    options = {
        "phases": [Phase.generate],
        "deadline": None,
        "derandomize": True,
        "database": None,
        "suppress_health_check": list(HealthCheck),
    }
    settings(max_examples=count, **options)(given(st.integers(0, 10**6), st.just(backend))(check))()


def check(seed: int, backend: str) -> None:
    """Values, final state and all gradients, over several chunks; what grows without bounds is left out."""
    rng = random.Random(seed)
    text = random_specs.Drawer(rng).spec()
    rec, chunk = parsed(text), rng.choice([2, 4, 8])
    op = recc.loads(text, **({"chunk": chunk} if backend == "torch" else {"backend": "c"}))
    tensors = problem(rec, 2, rng.choice([3, 9, 11] if backend == "torch" else [3, 35]), seed=seed)
    leaves = {name: x.requires_grad_() for group in tensors for name, x in group.items()}
    inputs, params, start = tensors
    expected, end = run(rec, inputs, params, initial_state=start)
    assume(all(float(x.detach().abs().max()) < 1e4 for x in (*expected.values(), *end.values())))
    outputs, final = call(op, inputs, params, start)
    assert_same(outputs, expected)
    assert_same(final, end)
    assert_same(gradients(outputs, final, leaves), gradients(expected, end, leaves), least=1.0)
