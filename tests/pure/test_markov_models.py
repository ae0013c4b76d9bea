"""Hidden Markov models against an enumeration of all N^(T + 1) paths of states."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from problems import SPECS, parsed, problem

from recc.ir.interpreter import run

TIME = 4


@pytest.mark.parametrize("name, joined", [("hmm_forward", torch.logsumexp), ("viterbi", torch.amax)])
def test_all_paths_are_added_up_or_the_best_is_taken(name, joined):
    rec = parsed(SPECS[name])
    (state,) = (state.name for state in rec.states)
    inputs, params, start = problem(rec, 2, TIME)
    _, final = run(rec, inputs, params, initial_state=start)
    for batch, head in np.ndindex(start[state].shape[:2]):
        P, first, b = params["P"][head], start[state][batch, head], inputs["b"][batch, :, head]
        ends: list[list[torch.Tensor]] = [[] for _ in first]
        for path in itertools.product(range(len(first)), repeat=TIME + 1):
            steps = sum(P[i, j] + b[t, j] for t, (i, j) in enumerate(itertools.pairwise(path)))
            ends[path[-1]].append(first[path[0]] + steps)
        wanted = torch.stack([joined(torch.stack(each), 0) for each in ends])
        assert torch.allclose(final[state][batch, head], wanted, rtol=1e-12, atol=1e-12)
