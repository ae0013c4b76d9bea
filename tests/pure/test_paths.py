"""Best paths: Viterbi's back-pointers against every path there is."""

import itertools

import torch

import recc


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
