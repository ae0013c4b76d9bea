"""Published recurrences as other papers, or other people, would write them: the same plan, and the same numbers."""

from __future__ import annotations

import pytest
import torch
from contracts import Call, gap
from problems import SPECS, assert_same, call, facts, parsed, problem

import recc
from recc import library
from recc.analysis import analyse, poly
from recc.frontend import parse_text
from recc.ir.node import walk

# For each spec: lines that stand for its own, by the line that they stand for.
SPELLINGS: dict[str, list[dict[str, str]]] = {
    "hgrn": [
        {"h[t]": "h[t] = i + f * (h[t-1] - i)"},
        {"h[t]": "kept = f * (h[t-1] - i)\nh[t] = kept + i"},
        {"h[t]": "h[t] = -(1 - f) * (h[t-1] - i) + h[t-1]"},
    ],
    "min_gru": [
        {"h[t]": "h[t] = h[t-1] + z * (xh - h[t-1])"},
        {"z": "z = 1 / (1 + exp(-xz))"},
        {"z": "z = sigmoid(xz)\nkeep = sigmoid(-xz)", "h[t]": "h[t] = keep * h[t-1] + z * xh"},
    ],
    "ema": [
        {"h[t]": "h[t] = h[t-1] + a * (beta * x - d * h[t-1])"},
        {"h[t]": "drive = outer(x, iota(N) * 0 + 1) * beta\nh[t] = a * drive + (1 - a * d) * h[t-1]"},
    ],
    "mlstm": [
        {"m[t]": "m[t] = max(i, m[t-1] - softplus(-f))"},
        {"m[t]": "new = logsigmoid(f) + m[t-1]\nm[t] = max(new, i)", "f_hat": "f_hat = exp(new - m[t])"},
        {"C[t]": "C[t] = f_hat * C[t-1] + outer(i_hat * k, v)", "n[t]": "n[t] = i_hat * k + n[t-1] * f_hat"},
    ],
    "linear_attention": [
        {"o": "o = (q @ S[t]) * (1 / (z[t] @ q + 1e-10))"},
        {"o": "o = (q @ S[t-1] + (q @ k) * v) / (q @ z[t-1] + q @ k + 1e-10)"},
    ],
    "rwkv6": [
        {"o": "o = r @ S[t-1] + (r @ (u * k)) * v"},
        {"o": "kv = outer(k, v)\no = r @ (S[t-1] + diag(u) @ kv)", "S[t]": "S[t] = kv + diag(exp(w)) @ S[t-1]"},
    ],
    "hgrn2": [
        {"S[t]": "S[t] = f * (S[t-1] - outer(f / f, i)) + outer(f / f, i)"},
        {"S[t]": "S[t] = f * S[t-1] + (1 - f) * outer(f / f, i)"},
    ],
    "delta_net": [
        {"S[t]": "S[t] = S[t-1] - beta * outer(k, k @ S[t-1] - v)"},
        {"S[t]": "S[t] = (eye(K) - beta * outer(k, k)) @ S[t-1] + beta * outer(k, v)"},
        {"S[t]": "loss = sum((v - k @ S[t-1]) ** 2) / 2\nS[t] = S[t-1] - beta * grad(loss, S[t-1])"},
        {"S[t]": "error = k @ S[t-1] - v\nstep = beta * error\nS[t] = S[t-1] - outer(k, step)"},
        {"state": "state S : V x K = 0", "S[t]": "S[t] = S[t-1] @ (eye(K) - outer(k, beta * k)) + outer(v, beta * k)",
         "o": "o = S[t] @ q / sqrt(K)"},
    ],
    "gated_delta_net": [
        {"S[t]": "M = exp(g) * (eye(K) - beta * outer(k, k))\nS[t] = M @ S[t-1] + beta * outer(k, v)"},
        {"S[t]": "D = exp(g) * S[t-1]\nS[t] = D + outer(k, beta * (v - k @ D))"},
        {"o": "o = (q @ S[t-1] * exp(g) + (q @ k) * beta * (v - exp(g) * (k @ S[t-1]))) / sqrt(K)"},
    ],
    "kda": [
        {"S[t]": "S[t] = (eye(K) - beta * outer(k, k)) @ decayed + beta * outer(k, v)"},
        {"decayed": "A = (eye(K) - beta * outer(k, k)) @ diag(exp(g))",
         "S[t]": "S[t] = A @ S[t-1] + beta * outer(k, v)"},
    ],
    "delta_product": [
        {"S[t,r]": "S[t,r] = (eye(K) - beta[r] * outer(k[r], k[r])) @ S[t,r-1] + outer(beta[r] * k[r], v[r])"},
    ],
    "rwkv7": [
        {"S[t]": "S[t] = (diag(exp(w)) - outer(a * kappa, kappa)) @ S[t-1] + outer(k, v)"},
        {"state": "state S : V x K = 0", "o": "o = S[t] @ r",
         "S[t]": "S[t] = S[t-1] @ (diag(exp(w)) - outer(kappa, a * kappa)) + outer(v, k)"},
    ],
    "mamba": [
        {"h[t]": "h[t] = exp(-dt * exp(A_log)) * h[t-1] + dt * outer(x, B)"},
        {"h[t]": "dA = exp(A_log) * (-dt)\nh[t] = exp(dA) * h[t-1] + x * (dt * B)",
         "y": "y = sum(C * h[t], over=N) + x * skip"},
    ],
    "lru": [
        {"lambda": "r = exp(-exp(nu))\nlambda = complex(r * cos(exp(theta)), r * sin(exp(theta)))"},
        {"x[t]": "B = complex(B_re, B_im)\nx[t] = B @ (u * 1) * gamma + x[t-1] * lambda"},
    ],
    "lstm": [
        {"h[t]": "h[t] = o * tanh(f * c[t-1] + i * g)"},
        {"c[t]": "c[t] = c[t-1] + i * g - (1 - f) * c[t-1]"},
    ],
    "gru": [
        {"h[t]": "h[t] = n + z * (h[t-1] - n)"},
    ],
}  # fmt: skip
CASES = [(name, i) for name, spellings in SPELLINGS.items() for i in range(len(spellings))]


def respelled(text: str, lines: dict[str, str]) -> str:
    """The spec with the lines that begin with these words, up to the sign of equality, replaced."""
    left, result = dict(lines), []
    for line in text.splitlines():
        head = line.partition("=")[0].strip()
        head = "state" if line.startswith("state") and "state" in left else head
        result.append(left.pop(head, line))
    assert not left, f"no line begins with {', '.join(left)}"
    return "\n".join(result) + "\n"


@pytest.mark.parametrize(("name", "which"), CASES)
def test_another_spelling_is_the_same_recurrence(name: str, which: int):
    text = respelled(SPECS[name], SPELLINGS[name][which])
    assert facts(text) == facts(SPECS[name])
    inputs, params, start = problem(parsed(SPECS[name]), 2, 19)
    expected, end = call(recc.loads(SPECS[name], chunk=8), inputs, params, start)
    flipped = parsed(text).states[0].axes != parsed(SPECS[name]).states[0].axes
    start = {key: x.mT if flipped else x for key, x in start.items()}
    outputs, final = call(recc.loads(text, chunk=8), inputs, params, start)
    assert_same(outputs, expected)
    assert_same({key: x.mT if flipped else x for key, x in final.items()}, end)


@pytest.mark.parametrize("factors", [4, 8, 16])
def test_a_product_of_many_factors_does_not_distribute(factors):
    """R factors of rank one hold 2^R products; what is kept of them grows with R."""
    (rec,) = parse_text(library.find("delta_product")[0].replace("R = 2", f"R = {factors}"), "product.rec")
    plan = analyse(rec)
    (component,) = plan.components
    assert len(component.kind.ranks) == factors and component.kind.not_matrix is None
    old = next(node for node in walk(plan.updates["S"]) if node.op == "state")
    assert len(poly.Algebra([old]).expand(plan.updates["S"])) <= 2 * poly.MANY + 3 * factors


def test_a_product_of_many_factors_is_the_loop():
    call = Call(library.find("delta_product")[0].replace("R = 2", "R = 6"), dtype=torch.float64, strategy="chunk")
    for got, want in zip(call(), call.reference(), strict=True):
        assert gap(got, want) < 50 * torch.finfo(torch.float64).eps
