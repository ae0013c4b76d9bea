"""Convolutions: which transitions they serve, what they cost, and their values against closed forms and SciPy."""

import numpy as np
import pytest
import torch

import recc
from recc.analysis import analyse
from recc.analysis.filters import Filter, filter_of
from recc.frontend import parse_text
from recc.runtime import verify
from recc.strategies import choose

HEAD = "recurrence r\ndim D, N\n"
DENSE = """input u : D
param A : N x N = normal(0, 0.4 / sqrt(N))
param B : N
param C : D x N
state x : D x N = 0
output y : D
x[t] = x[t-1] @ A.T + outer(u, B)
y = sum(C * x[t], over=N) + u
"""
# Low-rank corrections, a read before the update, a transition with a sign.
LOW_RANK = """input u : D
param a, p, q, B : N = normal(0, 0.3)
param C : D x N
state x : D x N = 0
output y, z : D
x[t] = -sigmoid(a) * x[t-1] - outer(x[t-1] @ q, p) + outer(u, B)
y = sum(C * x[t-1], over=N)
z = sum(C * x[t], over=N) - u
"""
# Needed whole: under a function; with what is added to every element.
WHOLE = """input u : D
param A : N x N = normal(0, 0.4 / sqrt(N))
param B : N x D
state x : N = 0
output y : N
x[t] = A @ x[t-1] + B @ u
y = tanh(x[t]) + x[t-1]
"""
COMPLEX = """input u : D
param nu, th : N = normal(0, 0.5)
param B_re, B_im : D x N
state x : D x N complex = 0
output y : D
x[t] = exp(complex(-exp(nu), th)) * x[t-1] + complex(B_re, B_im) * u
y = real(sum(x[t], over=N))
"""
# A second filter behind a first one; a factor that is a number; one that is 0 for an element.
CASCADE = """input u : D
input g
param c : D
state h : D = 0
state f : D
output y : D
h[t] = 0.9 * h[t-1] + g * u
f[t] = (c - c) * f[t-1] - 0.5 * h[t]
y = f[t-1] + 2 * h[t]
"""
SPECS = {"dense": DENSE, "low_rank": LOW_RANK, "whole": WHOLE, "complex": COMPLEX, "cascade": CASCADE}


def recurrence(body: str):
    return parse_text(f"{HEAD}{body}example T = 33, heads = 2, D = 3, N = 4\n", "r.rec")[0]


@pytest.mark.parametrize("name", SPECS)
def test_it_equals_the_loop(name):
    """Every call and length that `recc verify` knows, with gradients."""
    report = verify.verify(recurrence(SPECS[name]), strategies=["convolution"])
    assert report.ok, [row for row in report.rows if not row.ok][:3]
    assert {row.case for row in report.rows} >= {"T=0 float64 plain", "T=1000 float32 plain", "T=105 float64 packed"}


@pytest.mark.parametrize("time", [2, 130])
@pytest.mark.parametrize("chunk", [16, 128])
def test_other_lengths_and_chunks(time, chunk):
    rec = recurrence(LOW_RANK)
    ops = {"convolution": recc.runtime.api.compile_recurrence(rec, strategy="convolution", chunk=chunk)}
    case = recc.runtime.cases.Case(time, "plain")
    rows = verify.compare(rec, case, ["float64", "float32"], ops, [])
    assert rows and all(row.ok for row in rows)


# --- what is served -----------------------------------------------------------------------------------------


def refusal(body: str) -> str:
    plan = analyse(recurrence(body))
    reasons = [filter_of(component, plan) for component in plan.components]
    return " ".join(reason.text for reason in reasons if not isinstance(reason, Filter))


def test_refusals_name_the_reason():
    moving = "input u, g : D\nstate x : D = 0\noutput x\nx[t] = exp(g) * x[t-1] + u\n"
    assert "changes over time" in refusal(moving)
    outer = (
        "input k : N\ninput v : D\nstate S : N x D = 0\noutput o : D\nS[t] = 0.5 * S[t-1] + outer(k, v)\no = k @ S[t]\n"
    )
    assert "outer product of values that change over time" in refusal(outer)
    past = "input u : D\noutput y : D\ny = u[t-1]\n"
    assert "only remembers" in refusal(past)
    curved = "input u : D\nstate x : D = 0\noutput x\nx[t] = tanh(x[t-1]) + u\n"
    assert "affine" in refusal(curved)
    both = "input u : D\nstate a, b : D = 0\noutput a : D\na[t] = 0.5 * b[t-1] + u\nb[t] = 0.5 * a[t-1] - u\n"
    assert "depend on each other" in refusal(both)


def test_a_refusal_has_a_place():
    spec = recurrence("input u, g : D\nstate x : D = 0\noutput x\nx[t] = exp(g) * x[t-1] + u\n")
    plan = analyse(spec)
    reason = filter_of(plan.components[0], plan)
    line = spec.text.splitlines()[reason.span.line - 1]
    assert line[reason.span.col - 1 : reason.span.end_col - 1] == "exp(g)"


def test_what_reads_the_state_decides_whether_it_is_formed():
    def contracted(body: str):
        plan = analyse(recurrence(body))
        return filter_of(plan.components[0], plan).contracted

    assert contracted(DENSE) == contracted(LOW_RANK) == contracted(COMPLEX) == "N"
    assert contracted(WHOLE) is None
    scaled = DENSE.replace("C * x[t]", "C * outer(u, B) * x[t]")  # u comes out of the sum
    assert contracted(scaled) == "N"
    varying = DENSE.replace("input u : D", "input u : D\ninput c : N").replace("C * x[t]", "c * x[t]")
    assert contracted(varying) is None


@pytest.mark.parametrize(
    "body, strategy",
    [(DENSE, "convolution"), (LOW_RANK, "convolution"), (WHOLE, "convolution"), (COMPLEX, "convolution"),
     (COMPLEX.replace("y = real(sum(x[t], over=N))", "y = sum(abs(x[t]), over=N)"), "scan")],
)  # fmt: skip
def test_the_cheapest_is_chosen(body, strategy):
    """Where a kernel spares the state, or nothing else is parallel; a state that is needed whole is scanned."""
    plan = analyse(recurrence(body))
    assert [choose(plan).name(component) for component in plan.components] == [strategy]


# --- independent oracles --------------------------------------------------------------------------------------


def test_a_dense_system_as_scipy_has_it():
    """scipy.signal.dlsim steps x' = A x + B u and reads before it: so C is A's, D is C B."""
    signal = pytest.importorskip("scipy.signal")
    generator = np.random.default_rng(0)
    time, size = 300, 5
    a = generator.normal(size=(size, size)) * 0.4 / np.sqrt(size)
    b, c, u = generator.normal(size=(size, 1)), generator.normal(size=(1, size)), generator.normal(size=(time, 1))
    *_, want, _ = signal.dlsim((a, b, c @ a, c @ b, 1), u)
    op = recc.loads(HEAD + DENSE, strategy="convolution")
    a, b, c = (torch.from_numpy(x) for x in (a, b, c))
    got = op(torch.from_numpy(u).view(1, time, 1, 1), A=a[None], B=b.T, C=c[None])
    np.testing.assert_allclose(got.view(time, 1).numpy() - u, want[:time], rtol=1e-12, atol=1e-12)


def test_a_diagonal_system_as_scipy_filters():
    """N first-order filters of their own pole each, lfilter([b], [1, -a], u), summed."""
    signal = pytest.importorskip("scipy.signal")
    generator = np.random.default_rng(1)
    time, size = 1000, 6
    nu, th = generator.normal(size=size) - 2, generator.normal(size=size)
    b, u = generator.normal(size=size) + 1j * generator.normal(size=size), generator.normal(size=time)
    poles = np.exp(-np.exp(nu) + 1j * th)
    want = sum(signal.lfilter([gain], [1, -pole], u.astype(complex)).real for gain, pole in zip(b, poles, strict=True))
    op = recc.loads(HEAD + COMPLEX, strategy="convolution")
    nu, th, re, im = (torch.from_numpy(x)[None] for x in (nu, th, b.real.copy(), b.imag.copy()))
    got = op(torch.from_numpy(u).view(1, time, 1, 1), nu=nu, th=th, B_re=re[:, None], B_im=im[:, None])
    np.testing.assert_allclose(got.flatten().numpy(), want, rtol=1e-11, atol=1e-11)


def test_packed_sequences_do_not_meet():
    """NaN in one sequence stays there."""
    op = recc.loads(HEAD + COMPLEX, strategy="convolution")
    u = torch.randn(1, 90, 1, 2)
    u[:, 40] = torch.nan
    params = {name: torch.randn(1, 3) for name in ("nu", "th")}
    params |= {name: torch.randn(1, 2, 3) for name in ("B_re", "B_im")}
    y = op(u, **params, cu_seqlens=torch.tensor([0, 30, 50, 90]))
    assert y[:, :30].isfinite().all() and y[:, 50:].isfinite().all() and y[:, 40:50].isnan().all()
