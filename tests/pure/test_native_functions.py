"""Functions of native code over their domains, and values that move between axes, against torch and the reference."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from contracts import Call, gap, gradients
from recc.backends.c import build, compiler
from torch import Tensor

import recc
from recc.frontend import prelude
from recc.ir.ops import OPS, Op, const
from recc.ir.ops import build as build_node

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)

SOME = [0.0, 1e-40, 1e-38, 1e-20, 1e-8, 1e-3, 0.1, 0.5, 0.6931, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 80.0, 100.0]
EDGES = [86.5, 86.7, 87.0, 87.4, 88.0, 88.7, 88.73, 89.0, 700.0, 707.0, 708.4, 709.7, 709.79, 710.0, 1e3, 1e4, 1e30]
WIDE = [*SOME, *EDGES, math.inf, *(-x for x in (*SOME, *EDGES, math.inf)), math.nan]
PLAIN = [*SOME, *(-x for x in SOME)]
POSITIVE = [0.0, 1e-45, 1e-40, 1.17e-38, 1e-30, 1e-8, 0.5, 0.7071, 0.7072, 0.9999999, 1.0, 1.0000001, 1.01, 1.414,
            1.4143, 2.0, 3.0, 10.0, 1e4, 1e30, 3e38, math.inf]  # fmt: skip
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], list[float]]] = {
    "exp(x)": (torch.exp, WIDE),
    "expm1(x)": (torch.expm1, WIDE),
    "log(x)": (torch.log, POSITIVE),
    "log1p(x)": (torch.log1p, [*POSITIVE, -0.5, -0.999, -1e-8]),
    "sqrt(x)": (torch.sqrt, POSITIVE),
    "rsqrt(x)": (torch.rsqrt, POSITIVE),
    "sin(x)": (torch.sin, PLAIN),
    "cos(x)": (torch.cos, PLAIN),
    "erf(x)": (torch.erf, WIDE),
    "tanh(x)": (torch.tanh, WIDE),
    "sigmoid(x)": (torch.sigmoid, WIDE),
    "logsigmoid(x)": (F.logsigmoid, WIDE),
    "softplus(x)": (lambda x: -F.logsigmoid(-x), WIDE),
    "silu(x)": (F.silu, WIDE),
    "gelu(x)": (F.gelu, WIDE),
    "relu(x)": (F.relu, WIDE[:-1]),
    "abs(x)": (torch.abs, WIDE[:-1]),
    "sign(x)": (torch.sign, WIDE[:-1]),
    "floor(x)": (torch.floor, [0.0, 0.5, -0.5, 1.0, -1.0, 1e9, -1e9, 1.5e7]),
    "x ** 3": (lambda x: x**3, PLAIN),
    "2 ** x": (lambda x: 2.0**x, PLAIN),
    "max(x, 0.5)": (lambda x: torch.maximum(x, torch.full_like(x, 0.5)), [*PLAIN, 0.5]),
    "min(x, 0.5)": (lambda x: torch.minimum(x, torch.full_like(x, 0.5)), [*PLAIN, 0.5]),
    "where(x >= 1, x, 2 * x)": (lambda x: torch.where(x >= 1, x, 2 * x), PLAIN),
    "where(x < 1, 3 * x, x)": (lambda x: torch.where(x < 1, 3 * x, x), PLAIN),
}


def flushed(dtype: torch.dtype) -> float:
    """Below it exp, and what is made of it, may be 0."""
    return 3e-38 if dtype == torch.float32 else 1e-307


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("text", FUNCTIONS)
def test_functions_are_right_to_a_few_units_in_the_last_place(text: str, dtype: torch.dtype):
    """Against torch in float64, at the numbers as `dtype` has them. What is infinite or no number is the same.

    A derivative such as x s (1 - s) has the rounding of 1 - s, times x; so has gelu's 1 + erf.
    """
    function, numbers = FUNCTIONS[text]
    source = f"recurrence f\ndim D\ninput x : D\nstate s : D = 0\noutput y : D\ns[t] = s[t-1]\ny = {text}\n"
    x = torch.tensor(numbers, dtype=dtype).reshape(1, 1, 1, -1).requires_grad_()
    wide = x.detach().double().requires_grad_()
    got, want = recc.loads(source, backend="c")(x), function(wide)
    (grad,), (slope,) = torch.autograd.grad(got.sum(), x), torch.autograd.grad(want.sum(), wide)
    ulp = torch.finfo(dtype).eps
    factor = 4 + wide.detach().abs().clamp(max=100)
    for name, a, b in (("value", got, want), ("gradient", grad, slope)):
        rounded = b.detach().to(dtype)
        finite = torch.isfinite(rounded)
        assert torch.equal(a[~finite].nan_to_num(7), rounded[~finite].nan_to_num(7)), name
        scale = b.abs().clamp(min=1) * factor if name == "gradient" else 4 * b.abs()
        scale = scale + factor if text == "gelu(x)" else scale
        excess = ((a.double() - b).abs() - ulp * scale - flushed(dtype) * factor)[finite]
        assert float(excess.detach().max()) <= 0, (name, x[finite][excess.argmax()].item())


MOVES = """recurrence moves
dim    K, V, R = 3
input  k, p : K
input  v : V
input  z : R
input  A : K x K
input  a
param  W : K x K
"""
SHAPES = {
    "the transpose of a square state": """state S : K x K = 0
output o : K
S[t] = 0.5 * S[t-1].T + outer(k, p)
o = S[t].T @ k + S[t] @ p""",
    "a state between two matrices": """state S : K x K = 0.1
output o : K x K
S[t] = 0.1 * W @ S[t-1] @ A + outer(k, k)
o = S[t] @ W.T - 2 * eye(K)""",
    "a dense recurrent matrix": """state h : K = 0
output o : K
h[t] = tanh(0.3 * W @ h[t-1] + diag(p) @ k)
o = h[t] + W.T @ h[t-1]""",
    "a state with three axes": """state S : R x K x V = 0
output o : R x V
output q : K
S[t] = sigmoid(z) * S[t-1] + z * outer(k, v)
o = sum(k * S[t], over=K)
q = sum(sum(S[t] * v, over=V) * z, over=R)""",
    "three axes, coupled": """state S : R x K x V = 0.2
output o : V
S[t] = 0.7 * S[t-1] - 0.2 * l2norm(k) * sum(l2norm(k) * S[t-1], over=K) + z * outer(k, v)
o = tanh(z @ sum(k * S[t], over=K))""",
    "greatest entries, with ties": """state h : K = 0
state m = 0
output o : K
output q
h[t] = 0.5 * h[t-1] + max(k, 0) + max(k, p)
m[t] = max(m[t-1] - 0.1, max(h[t], over=K))
o = softmax(h[t]) + where(k > p, k, min(p, k))
q = max(max(k, 0), over=K) + m[t] - logsumexp(k)""",
    "micro steps": """state S : K x V = 0
output o : V
steps r : R
S[t,0] = exp(-softplus(a)) * S[t-1]
S[t,r] = S[t,r-1] - 0.3 * z[r] * outer(l2norm(k), l2norm(k) @ S[t,r-1]) + z[r] * outer(k, v)
o = p @ S[t]""",
    "an outer product of a state with itself": """state n : K = 0.1
state S : K x K = 0
output o : K
n[t] = 0.5 * n[t-1] + k
S[t] = 0.9 * S[t-1] + 0.1 * outer(n[t], n[t-1])
o = S[t] @ n[t-1]""",
    "the past of inputs": """state S : K x V = 0
output o : V
S[t] = 0.9 * S[t-1] + outer(k[t-1], v[t-2])
o = k[t-2] @ S[t-1]""",
}


@pytest.mark.parametrize("sizes", [{"K": 4, "V": 3}, {"K": 17, "V": 9}, {"K": 1, "V": 8}])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_that_move_between_axes(shape: str, sizes: dict[str, int]):
    """Values and gradients, over two chunks."""
    body = SHAPES[shape]
    call = Call(MOVES + body + "\n", time=35, dtype=torch.float64, grad=True, **sizes)
    results, wants = call(), call.reference()
    assert all(gap(a, b) < 1e-12 for a, b in zip(results, wants, strict=True))
    pairs = zip(gradients(results, call.tensors), gradients(wants, call.tensors), strict=True)
    assert all(gap(a, b) < 1e-11 or float(b.abs().max()) < 1e-12 for a, b in pairs)


def test_an_op_that_is_added_to_the_registry_works_in_c_by_its_text_for_one_number(monkeypatch):
    """Its entry says all that native code needs: inside and outside of the loop, forward and backward."""

    def slope(node, cotangent):
        (x,) = node.args
        return (build_node("div", cotangent, build_node("add", const(1), build_node("mul", x, x))),)

    for name, text in (("arcus", "atan({0})"), ("unknown_in_c", "")):
        monkeypatch.setitem(OPS, name, Op(name, 1, vjp=slope, torch="torch.atan({0})", c=text, user=True))
        function = prelude.Function(name, f"{name}(x)", 1, 1, prelude._elementwise(name))
        monkeypatch.setitem(prelude.FUNCTIONS, name, function)
    source = "recurrence r\ndim D\ninput x : D\nstate h : D = 0\noutput y : D\n"
    source += "h[t] = arcus(h[t-1] + x)\ny = 2 * arcus(h[t])\n"
    x = torch.randn(2, 40, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    h, wants = torch.zeros(2, 3, 5, dtype=torch.float64), []
    for token in x.unbind(1):
        h = torch.atan(h + token)
        wants.append(2 * torch.atan(h))
    want = torch.stack(wants, 1)
    got = recc.loads(source, backend="c")(x)
    assert (got - want).abs().max() < 1e-14
    (grad,), (slopes,) = torch.autograd.grad(got.sum(), x), torch.autograd.grad(want.sum(), x)
    assert (grad - slopes).abs().max() < 1e-13
    with pytest.raises(ValueError, match="`unknown_in_c` has no form in C"):
        recc.loads(source.replace("arcus", "unknown_in_c"), backend="c")
