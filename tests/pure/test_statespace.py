"""Matrices that state spaces start from, and their discretisation, against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.signal
import torch

import recc
from recc import statespace

SCIPY = {"bilinear": "bilinear", "euler": "euler", "backward": "backward_diff", "zoh": "zoh"}


@pytest.mark.parametrize("rule", statespace.RULES)
def test_discretised_systems_are_scipys(rule):
    A, B = statespace.legs(5)
    system = (A.numpy(), B.numpy()[:, None], np.eye(5), np.zeros((5, 1)))
    wanted = scipy.signal.cont2discrete(system, 0.1, SCIPY[rule])[:2]
    found = statespace.discretise(A, B, 0.1, rule)
    assert np.allclose(found[0], wanted[0], rtol=1e-12, atol=1e-13)
    assert np.allclose(found[1], wanted[1][:, 0], rtol=1e-12, atol=1e-13)
    many = statespace.discretise(A.expand(2, 5, 5), B.expand(2, 5), torch.tensor([0.1, 0.1], dtype=A.dtype), rule)
    assert torch.allclose(many[0][1], found[0]) and torch.allclose(many[1][1], found[1])


def test_no_other_rule():
    with pytest.raises(ValueError, match="no rule `tustin`; there are bilinear"):
        statespace.discretise(*statespace.legs(2), 0.1, "tustin")


def test_legs_is_normal_plus_rank_one():
    A, _ = statespace.legs(8)
    L, P, V = statespace.legs_normal(8)
    assert torch.allclose(V @ (torch.diag(L) - torch.outer(P, P.conj())) @ V.mH, A.to(V.dtype), atol=1e-12)
    assert torch.allclose(V @ V.mH, torch.eye(8, dtype=V.dtype), atol=1e-12)


def test_lssl_is_scipys_dlsim():
    A, B = statespace.discretise(*statespace.legs(4), 0.05)
    u, C = torch.randn(2, 30, 1, 3, dtype=torch.float64), torch.randn(1, 3, 4, dtype=torch.float64)
    y = recc.load("lssl")(u, A[None], B[None], C, torch.ones(1, 3, dtype=torch.float64))
    for d in range(3):
        # x before the step in dlsim, after it here: y[t] = C (A x[t] + B u[t]) + u[t].
        system = (A.numpy(), B.numpy()[:, None], (C[0, d] @ A).numpy()[None], np.array([[1 + float(C[0, d] @ B)]]), 1)
        for b in range(2):
            wanted = scipy.signal.dlsim(system, u[b, :, 0, d].numpy())[1][:, 0]
            assert np.allclose(y[b, :, 0, d], wanted, rtol=1e-9, atol=1e-12)


def test_starts_are_those_of_their_papers():
    assert torch.equal(statespace.s4d_lin(3).imag, torch.pi * torch.arange(3, dtype=torch.float64))
    # S4D-Inv follows the law of the large eigenvalues of LegS' normal part.
    spectrum = statespace.legs_normal(64)[0].imag.sort(descending=True).values[:3]
    assert torch.allclose(statespace.s4d_inv(32).imag[:3], spectrum, rtol=0.08)
    generator = torch.Generator().manual_seed(0)
    found = statespace.ring(500, 0.4, 0.9, 0.5, generator)
    assert 0.4 <= found.abs().min() < 0.45 and 0.85 < found.abs().max() <= 0.9 and 0 <= found.angle().max() <= 0.5
    gates = statespace.chrono(500, 100, generator).exp()
    assert 1 <= gates.min() < 3 and 95 < gates.max() <= 99
