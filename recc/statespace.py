"""State spaces before they are recurrences: matrices to start from, and discretised systems.

Specs take discretised systems (`lssl`) or discretise diagonal ones themselves (`s4d`, `s5`, `mamba`); what is dense or
random is made here, once, and handed to a module's params. Everything is in float64 and differentiable where that means
something.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

RULES = ("bilinear", "euler", "backward", "zoh")


def legs(N: int) -> tuple[Tensor, Tensor]:
    """(A, B) of HiPPO-LegS, ``[N, N]`` and ``[N]``: x' = A x + B u.

    Gu, Dao, Ermon, Rudra, Re, 2020. arXiv:2008.07669."""
    n = torch.arange(N, dtype=torch.float64)
    scale = (2 * n + 1).sqrt()
    return -(torch.outer(scale, scale).tril(-1) + torch.diag(n + 1)), scale


def legs_normal(N: int) -> tuple[Tensor, Tensor, Tensor]:
    """(L, P, V) with legs' A = V (diag(L) - P P*) V*, complex ``[N]``, ``[N]``, ``[N, N]`` and V unitary: the diagonal
    plus rank-one form that S4 and S5 start from. Gu, Goel, Re, 2022. arXiv:2111.00396, theorem 1."""
    A, B = legs(N)
    P = (B / math.sqrt(2)).to(torch.complex128)
    # A + P P^T is -1/2 plus a skew-symmetric matrix, whose eigenvalues are imaginary.
    imaginary, V = torch.linalg.eigh(-1j * (A + torch.outer(P, P).real + torch.eye(N) / 2).to(torch.complex128))
    return torch.complex(torch.full_like(imaginary, -0.5), imaginary), V.mH @ P, V


def discretise(A: Tensor, B: Tensor, step: Tensor | float, rule: str = "bilinear") -> tuple[Tensor, Tensor]:
    """(A, B) of x[t] = A x[t-1] + B u[t], from x' = A x + B u with a step size.

    A: ``[..., N, N]``, B: ``[..., N]``, step: a number or ``[...]``. rule: one of `RULES`; zoh is a zero-order hold.
    Raises ValueError for another one.
    """
    step = torch.as_tensor(step, dtype=A.real.dtype)[..., None, None]
    eye, column = torch.eye(A.shape[-1], dtype=A.dtype), B[..., None]
    if rule == "zoh":
        both = torch.cat([torch.cat([A, column], -1) * step, torch.zeros_like(A[..., :1, :1]).expand(
            *A.shape[:-2], 1, A.shape[-1] + 1)], -2)  # fmt: skip
        power = torch.linalg.matrix_exp(both)
        return power[..., :-1, :-1], power[..., :-1, -1]
    if rule not in RULES:
        raise ValueError(f"no rule `{rule}`; there are {', '.join(RULES)}")
    implicit = {"bilinear": 0.5, "euler": 0.0, "backward": 1.0}[rule]
    left, right = eye - implicit * step * A, eye + (1 - implicit) * step * A
    return torch.linalg.solve(left, right), torch.linalg.solve(left, step * column)[..., 0]


def s4d_lin(N: int) -> Tensor:
    """The N eigenvalues -1/2 + i pi n that S4D-Lin starts from. Gu, Gupta, Goel, Re, 2022. arXiv:2206.11893."""
    n = torch.arange(N, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def s4d_inv(N: int) -> Tensor:
    """The N eigenvalues -1/2 + i (2N / pi) (2N / (2n + 1) - 1) that S4D-Inv starts from, its 2N being one of each
    conjugate pair. Gu, Gupta, Goel, Re, 2022. arXiv:2206.11893."""
    n = torch.arange(N, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), 2 * N / math.pi * (2 * N / (2 * n + 1) - 1))


def ring(
    N: int, low: float = 0.0, high: float = 1.0, phase: float = 2 * math.pi, generator: torch.Generator | None = None
) -> Tensor:
    """N transitions, uniform on the ring between the radii `low` and `high`, of a phase up to `phase`, as LRU starts.
    Orvieto et al., 2023. arXiv:2303.06349, section 3.2."""
    square, angle = torch.rand([2, N], dtype=torch.float64, generator=generator)
    return torch.polar((low**2 + square * (high**2 - low**2)).sqrt(), phase * angle)


def chrono(D: int, longest: float, generator: torch.Generator | None = None) -> Tensor:
    """D biases log(uniform(1, longest - 1)) of forget gates that remember up to `longest` tokens; input gates take the
    negative. Tallec, Ollivier, 2018. arXiv:1804.11188."""
    return (1 + (longest - 2) * torch.rand(D, dtype=torch.float64, generator=generator)).log()
