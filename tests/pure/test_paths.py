"""Best paths: matrices over (max, +) and (logsumexp, +), and Viterbi's back-pointers against every path there is."""

import itertools

import pytest
import torch

import recc
from recc.analysis import analyse
from recc.frontend import parse_text
from recc.runtime import probe
from recc.strategies import Scan


def best_path(op, b, P, p0):
    """The states of the best path, of log probabilities b [time, N], P [N, N] and p0 [N], and its log probability."""
    d, back = op(b[None, :, None], P[None], p0[None])
    path = [int(d[0, -1, 0].argmax())]
    for t in range(len(b) - 1, -1, -1):
        path.append(int(back[0, t, 0, path[-1]]))
    return path[::-1], float(d[0, -1, 0].max())


def test_viterbi_finds_the_best_of_all_paths():
    generator = torch.Generator().manual_seed(0)
    b, P, p0 = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((6, 3), (3, 3), (3,)))
    b, P, p0 = (-x.abs() for x in (b, P, p0))

    def score(path):
        return p0[path[0]] + sum(P[i, j] + b[t, j] for t, (i, j) in enumerate(itertools.pairwise(path)))

    want = max(itertools.product(range(3), repeat=7), key=score)
    for backend in ("torch", None):
        path, value = best_path(recc.load("viterbi", backend=backend), b, P, p0)
        assert path == list(want) and abs(value - float(score(want))) < 1e-12


def test_the_first_of_equals_is_taken():
    op = recc.loads("recurrence r\ndim N\ninput a : N\nparam P : N x N\noutput o : N\no = argmaxplus(a, P)\n")
    assert op(torch.zeros(1, 1, 1, 3), torch.zeros(1, 3, 3)).tolist() == [[[[0.0, 0.0, 0.0]]]]


MATRIX = "recurrence r\ndim N\ninput b : N\nparam P, Q : N x N\nstate a : N = 0\noutput a : N\na[t] = {}\n"


@pytest.mark.parametrize(
    "update, kind",
    [("maxplus(a[t-1], P) + b", "max"), ("b - 2 + maxplus(P, a[t-1])", "max"),
     ("maxplus(a[t-1] + b, P + Q)", "max"), ("logmatmulexp(a[t-1], P) + b", "logsumexp"),
     ("logmatmulexp(P.T, a[t-1] - b)", "logsumexp"), ("maxplus(a[t-1], P) + a[t-1]", None),
     ("maxplus(a[t-1], P) * b", None), ("maxplus(2 * a[t-1], P)", None),
     ("logmatmulexp(a[t-1], P) + maxplus(a[t-1], Q)", None)],
)  # fmt: skip
def test_a_matrix_over_a_semiring_is_seen_as_one(update, kind):
    """Whatever its spelling; and its claims hold for random states."""
    plan = analyse(parse_text(MATRIX.format(update))[0])
    (component,) = plan.components
    assert getattr(component.kind, "kind", None) == kind
    if kind is not None:
        assert component.structure == "dense" and "times the work" in Scan.refuses(component, plan).text
        assert all(error <= limit for *_, error, limit, _ in probe.findings(plan))
