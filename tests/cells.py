"""Kernels of Newton's method on cells that it finds easy, hard and impossible, for the interpreting process."""

from __future__ import annotations

import torch
from kernels import op, recurrence

import recc

EPS = torch.finfo(torch.float32).eps

# One of each width of a block: an LSTM with exponential gates, and three states that read each other within a step.
FOUR = """recurrence four
dim D
input xi, xf, xz, xo : D
param ri, rf, rz, ro : D = normal(0, 0.5)
state c, n, m, h : D = 0
output h
i = xi + ri * h[t-1]
g = logsigmoid(xf + rf * h[t-1]) + m[t-1]
m[t] = max(i, g)
c[t] = exp(g - m[t]) * c[t-1] + exp(i - m[t]) * tanh(xz + rz * h[t-1])
n[t] = max(exp(g - m[t]) * n[t-1] + exp(i - m[t]), 1)
h[t] = sigmoid(xo + ro * h[t-1]) * c[t] / n[t]
example T = 9, heads = 2, D = 3
"""
THREE = """recurrence three
dim D
input x : D
param a : D = 0.5
state p, q, r : D = 0
output y : D
p[t] = tanh(a * q[t-1] + x)
q[t] = sin(r[t-1] - p[t])
r[t] = 0.5 * p[t-1] + q[t]
y = p[t] * q[t-1] + r[t]
example T = 9, heads = 2, D = 3
"""
# A state with more dims than what is read, of which not every value is saved, and a sum that programs share.
WIDE = """recurrence wide
dim D
input x
param a, b : D = normal(0, 0.7)
state s : D = 0.5
output y, z
s[t] = tanh(a * s[t-1] + b * x)
y = sum(s[t] * s[t-1])
z = x * x
example T = 9, heads = 2, D = 5
"""
SCALAR = """recurrence scalar
input x
param a = 0.7
state s = 0.5
output s
s[t] = tanh(a * s[t-1] + x)
example T = 9, heads = 2
"""
LAYER = """recurrence layer
dim M, D
input u : M shared
param W : D x M = normal(0, 0.3)
param a : D = normal(0, 0.5)
state s : D = 0
output y : M shared
s[t] = tanh(a * s[t-1] + W @ u)
y = sum(s[t] @ W, over=heads)
example T = 9, heads = 2, M = 3, D = 5
"""
OTHERS = {"four": FOUR, "three": THREE, "wide": WIDE, "scalar": SCALAR, "layer": LAYER}


def drawn(name: str, gain: float, T: int, D: int = 4, B: int = 1) -> list[torch.Tensor]:
    """float32 inputs, params and an initial state that are normal; the params' deviation is `gain`."""
    rec, generator = recurrence(name), torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = [draw(B, T, 1, D) for _ in rec.inputs]
    return [*inputs, *(gain * draw(1, D) for _ in rec.params), *(0.5 * draw(B, 1, D) for _ in rec.states)]


def run(call, name: str, given: list[torch.Tensor], dtype: torch.dtype, backward: bool = True) -> list[torch.Tensor]:
    """Output, final states and all gradients."""
    names = [state.name for state in recurrence(name).states]
    leaves = [x.to(dtype).requires_grad_(backward) for x in given]
    tensors, states = leaves[: -len(names)], leaves[-len(names) :]
    y, final = call(*tensors, initial_state=dict(zip(names, states)), return_final_state=True)
    results = [y, *final.values()]
    if backward:
        generator = torch.Generator().manual_seed(1)
        loss = sum((x * torch.randn(x.shape, generator=generator).to(dtype)).sum() for x in results)
        results += torch.autograd.grad(loss, leaves)
    return [x.detach() for x in results]


def fresh(name: str, window: int | None):
    """The op with Newton's kernel, its statistics at zero."""
    call = op(name, window, "newton")
    for function in call.meta["solvers"].values():
        vars(call.passes.functions[function]).clear()
    return call


def solved(name: str, gain: float, T: int, window: int | None = None, backward: bool = False) -> tuple[list[str], dict]:
    """Where the error is beyond 4 times that of float32 kernels that walk (forward alone: of torch), and statistics."""
    call, exactly = fresh(name, window), recc.load(name, backend="torch", strategy="sequential")
    loop, given = op(name, None, "sequential") if backward else exactly, drawn(name, gain, T)
    functions = (call, torch.float32), (loop, torch.float32), (exactly, torch.float64)
    ours, theirs, exact = (run(function, name, given, dtype, backward) for function, dtype in functions)
    wrong = []
    for place, (a, b, x) in enumerate(zip(ours, theirs, exact, strict=True)):
        limit = 4 * max(float((b - x).abs().max()), EPS * max(1.0, float(x.abs().max())))
        wrong += [] if float((a - x).abs().max()) <= limit else [f"{place}: {float((a - x).abs().max())} > {limit}"]
    return wrong, next(iter(call.statistics().values()))


def parity(flip: float) -> tuple[float, bool, dict]:
    """A cell whose sign flips with each 1: the gap to the loop, whether the signs are the parity, the statistics."""
    bits = torch.randint(0, 2, (1, 300, 1, 1), generator=torch.Generator().manual_seed(0)).float()
    inputs = [16.0 * bits - 8.0, torch.full_like(bits, 20.0), torch.zeros_like(bits)]
    params = [torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), flip)]
    start, call = torch.full((1, 1, 1), 0.9), fresh("para_gru", 128)
    y = call(*inputs, *params, initial_state=start)
    want = recc.load("para_gru", backend="torch", strategy="sequential")(*inputs, *params, initial_state=start)
    known = torch.equal(y.sign().flatten(), (1 - 2 * (bits.cumsum(1) % 2)).flatten())
    return float((y - want).abs().max()), known, call.statistics()["h"]


def chaotic(gain: float, T: int) -> tuple[float, dict]:
    """The largest gap between a trajectory and a step of the float64 loop from each of its states; the statistics."""
    call, loop = fresh("para_gru", 128), recc.load("para_gru", backend="torch", strategy="sequential")
    *tensors, start = drawn("para_gru", gain, T)
    y = call(*tensors, initial_state=start)
    before = torch.cat([start.unsqueeze(1), y[:, :-1]], 1).double().flatten(0, 1)
    inputs, params = tensors[:3], tensors[3:]
    after, _ = loop.step(*(x.double().flatten(0, 1) for x in inputs), *(p.double() for p in params), state=before)
    return float((after.view_as(y) - y.double()).abs().max()), call.statistics()["h"]
