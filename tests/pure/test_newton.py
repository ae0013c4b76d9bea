"""Newton's method gives what the loop over tokens gives, whatever the cell does, and says what it took."""

from __future__ import annotations

import pytest
import torch
from recc.backends.torch import solve
from torch.utils._python_dispatch import TorchDispatchMode

import recc
from recc import library
from recc.analysis import analyse
from recc.frontend import parse_text
from recc.ir.interpreter import init_params
from recc.ir.node import walk
from recc.runtime.api import compile_recurrence
from recc.runtime.samples import sample_inputs
from recc.runtime.verify import verify
from recc.strategies import Refused, choose
from recc.tile.solve import slopes_of
from recc.tile.step import step_program

EPS = torch.finfo(torch.float32).eps


def ops(name, text=None, **dims):
    """(Newton's op, the loop's), with statistics of their own."""
    make = recc.load if text is None else recc.loads
    found = [make(name if text is None else text, strategy=s, **dims) for s in ("newton", "sequential")]
    for step in found[0].meta["solvers"].values():
        vars(found[0].passes.functions[step]).clear()
    return found


def drawn(name, gain, T, D=8, B=2, seed=0, **dims):
    """float32 inputs that are normal, and params that are normal with deviation `gain` (a matrix: spectral radius)."""
    torch.manual_seed(seed)
    rec = parse_text(*library.find(name), dims=dims)[0]
    inputs = [torch.randn(B, T, 1, D) for _ in rec.inputs]
    params = [gain * torch.randn(1, *[D] * (len(p.axes) - 1)) for p in rec.params]
    return inputs, [p / D**0.5 if p.dim() == 3 else p for p in params]


def gaps(op, against, given):
    """Largest errors of the outputs and of all gradients, relative to the largest entry."""
    results = []
    for function, dtype in ((op, torch.float32), (against, torch.float64)):
        leaves = [x.to(dtype).requires_grad_() for x in given]
        y = function(*leaves)
        weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
        results.append([y, *torch.autograd.grad((y * weight).sum(), leaves)])
    largest = [x.detach().abs().max().clamp_min(1.0) for x in results[1]]
    return [float((a - b).detach().abs().max() / m) for a, b, m in zip(*results, largest, strict=True)]


def check(name, gain, T, most=4.0, **dims):
    """Errors against float64 are at most `most` times those of the float32 loop. Returns the statistics."""
    newton, loop = ops(name, **dims)
    inputs, params = drawn(name, gain, T, **dims)
    given = [*inputs, *params]
    ours, theirs = gaps(newton, loop, given), gaps(loop, loop, given)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine <= most * max(other, EPS), (ours, theirs)
    return next(iter(newton.statistics().values()))


@pytest.mark.parametrize("T", [1, 2, 511, 4096])
@pytest.mark.parametrize("name", ["para_gru", "para_lstm"])
def test_mild_cells_take_few_iterations(name, T):
    found = check(name, 0.5, T)
    assert found["most_iterations"] <= 6 and found["sequential"] == 0 and found["residual"] <= 8 * EPS


def test_a_hundred_thousand_tokens():
    """Several channels, values and gradients; native code is the loop, since torch's takes minutes."""
    newton, loop = ops("para_gru")[0], recc.load("para_gru")
    inputs, params = drawn("para_gru", 0.5, 100_000, D=3, B=1)
    given = [*inputs, *params]
    ours, theirs = gaps(newton, loop, given), gaps(loop, loop, given)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine <= 4 * max(other, EPS), (ours, theirs)
    assert newton.statistics()["h"]["most_iterations"] <= 6


@pytest.mark.parametrize("name", ["para_gru", "para_lstm"])
def test_iterations_adapt_to_the_cell(name):
    taken = [check(name, gain, 511)["iterations"] for gain in (0.05, 0.5, 1.0, 1.5, 2.0)]
    assert taken == sorted(set(taken)), taken


@pytest.mark.parametrize("name, gain", [("elman", 0.5), ("elman", 0.9), ("elman", 1.5), ("elman", 2.0), ("gru", 1.0)])
def test_dense_jacobians(name, gain):
    check(name, gain, 300, D=8)


@pytest.mark.parametrize("name", ["lstm", "mgu", "rhn", "plrnn", "al_rnn"])
def test_all_kinds_of_dense_cells_in_float64(name):
    rec = parse_text(*library.find(name))[0]
    dims = {dim: size or 6 for dim, size in rec.dims.items()}
    newton, loop = ops(name, **dims)
    generator = torch.Generator().manual_seed(0)
    inputs = sample_inputs(rec, dims, 2, 70, 2, torch.float64, generator)
    params = init_params(rec, dims, 2, torch.float64, generator=generator)
    leaves = [x.requires_grad_() for x in (*inputs.values(), *params.values())]
    results = []
    for op in (newton, loop):
        y, state = op(*leaves, return_final_state=True)
        weight = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view_as(y)
        results.append([y, *state.values(), *torch.autograd.grad((y * weight).sum(), leaves)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-11)


def trajectory_gap(y, given):
    """How far each step of a trajectory is from the step itself, in float64, relative to the state."""
    step = recc.load("para_gru", strategy="sequential")
    before = torch.cat([torch.zeros_like(y[:, :1]), y[:, :-1]], 1).double().flatten(0, 1)
    inputs, params = given[:3], given[3:]
    after, _ = step.step(*(x.double().flatten(0, 1) for x in inputs), *(p.double() for p in params), state=before)
    return float((after.view_as(y) - y.double()).abs().max())


def test_statistics_are_of_the_passes_that_run():
    """Those of an equal text that was compiled before, by another `load` or by `verify`."""
    rec = parse_text(*library.find("para_gru"))[0]
    ops("para_gru")
    second = compile_recurrence(rec, strategy="newton")
    before = second.statistics()["h"]["channels"]
    inputs, params = drawn("para_gru", 0.5, 40)
    second(*inputs, *params)
    assert second.statistics()["h"]["channels"] > before


def test_a_chaotic_cell_comes_out_as_the_loop_gives_it_and_says_so():
    newton, _ = ops("para_gru")
    inputs, params = drawn("para_gru", 4.0, 600)
    y = newton(*inputs, *params)
    assert trajectory_gap(y, [*inputs, *params]) <= 16 * EPS  # each step is right, wherever they lead
    found = newton.statistics()["h"]
    assert found["sequential"] > 0.3 and found["most_iterations"] >= 13
    double = [x.double() for x in (*inputs, *params)]
    exact, loop = newton(*double), recc.load("para_gru", strategy="sequential")(*double)
    assert (exact - loop)[:, :60].abs().max() < 1e-10  # before chaos has its way with roundings


def parity(T, flip=-4.0):
    """A cell whose state changes its sign with every 1 of a bit sequence: its Jacobian is far above 1 at the guess."""
    bits = torch.randint(0, 2, (2, T, 1, 1), generator=torch.Generator().manual_seed(0)).float()
    inputs = [16.0 * bits - 8.0, torch.full_like(bits, 20.0), torch.zeros_like(bits)]
    return bits, inputs, [torch.zeros(1, 1), torch.zeros(1, 1), torch.full((1, 1), flip)]


@pytest.mark.parametrize("flip", [-1.5, -2.0, -4.0])
def test_parity(flip):
    newton, loop = ops("para_gru")
    bits, inputs, params = parity(1024, flip)
    start = torch.full((2, 1, 1), 0.9)
    y, want = (op(*inputs, *params, initial_state=start) for op in (newton, loop))
    assert (y - want).abs().max() < 1e-5
    assert torch.equal(y.sign().flatten(), (1 - 2 * (bits.cumsum(1) % 2)).flatten())  # it knows the parity
    assert newton.statistics()["h"]["residual"] <= 8 * EPS


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["para_gru", "para_lstm", "indrnn"])
def test_what_is_not_finite_stays_in_its_sequence(name, value):
    newton, loop = ops(name)
    inputs, params = drawn(name, 0.5, 300, B=3)
    clean = newton(*inputs, *params)
    inputs[0][1, 100, 0, 3] = value
    y, want = newton(*inputs, *params), loop(*inputs, *params)
    assert torch.equal(y[[0, 2]], clean[[0, 2]])
    assert torch.equal(y.isnan(), want.isnan()) and torch.equal(y.isinf(), want.isinf())
    assert torch.allclose(y[:, :100], want[:, :100], atol=1e-5)
    finite = want.isfinite()
    assert torch.allclose(y[finite], want[finite], atol=1e-4, rtol=1e-4)


SHAPES = {
    "scalar": ["input x", "param a = 0.7", "state s = 0.5", "output s", "s[t] = tanh(a * s[t-1] + x)"],
    "matrix": ["dim K, V", "input x : K x V", "param a : V = 0.7", "state s : K x V = 0", "output s",
               "s[t] = tanh(a * s[t-1] + x)"],
    "shared": ["dim D", "input x : D shared", "param a : D shared = 0.7", "state s : D shared = 0", "output s",
               "s[t] = sin(a * s[t-1] + x)"],
    "three": ["dim D", "input x : D", "param a : D = 0.5", "state p, q, r : D = 0", "output y : D",
              "p[t] = tanh(a * q[t-1] + x)", "q[t] = sin(r[t-1] - p[t])", "r[t] = 0.5 * p[t-1] + q[t]",
              "y = p[t] * q[t-1] + r[t]"],
    "cascade": ["dim K, V", "input k : K", "input v : V", "param a : K = 0.6", "state g : K = 0",
                "state S : K x V = 0", "output y : V", "g[t] = tanh(a * g[t-1] + k)",
                "S[t] = sigmoid(g[t]) * S[t-1] + outer(k, v)", "y = k @ S[t] + sum(g[t-1])"],
    "constant": ["dim D", "input x : D", "param a, b : D = 0.6", "state s : D = 0", "output y : D",
                 "s[t] = tanh(a * s[t-1] + b)", "y = s[t] * x"],
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_states_of_every_shape(kind):
    text = "\n".join([f"recurrence {kind}", *SHAPES[kind], "example T = 20, heads = 2"]) + "\n"
    report = verify(parse_text(text)[0], strategies=["newton"], quick=True)
    assert report.ok, [str(row) for row in report.failures][:5]


def test_what_newton_does_not_serve():
    for name, dims, words in (
        ("gla", {}, "linearises what is not linear"),
        ("gru", {}, "the size of D is not known"),
        ("lstm", {"D": 9}, "18 x 18; `newton` serves up to 16 x 16"),
    ):
        plan = analyse(parse_text(*library.find(name), dims=dims)[0])
        with pytest.raises(Refused, match=words):
            choose(plan, "newton")
    lines = "\n".join(f"s{i}[t] = tanh(s{(i + 1) % 5}[t-1] + x)" for i in range(5))
    text = f"recurrence five\ninput x\nstate s0, s1, s2, s3, s4 = 0\noutput s0\n{lines}\n"
    with pytest.raises(Refused, match="couples 5 states"):
        choose(analyse(parse_text(text)[0]), "newton")


def test_the_choice_never_falls_on_newton_by_itself_on_a_cpu():
    for name in ("para_gru", "para_lstm", "lif"):
        assert "newton" not in recc.load(name).meta["strategy"]
    assert recc.load("para_gru", strategy="newton").statistics().keys() == {"h"}
    assert recc.load("gla", backend="torch").statistics() == {}


class Looks(TorchDispatchMode):
    """Counts how often a value is taken off its device."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.is_nonzero.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name, gain", [("para_gru", 0.5), ("para_gru", 4.0), ("para_lstm", 1.0)])
def test_on_a_device_nothing_depends_on_values(monkeypatch, name, gain):
    newton, _ = ops(name)
    inputs, params = drawn(name, gain, 300)
    want = newton(*inputs, *params)
    monkeypatch.setattr(solve, "_waits", lambda x: False)
    state = newton.initial_state(2, heads=1, sizes={"D": 8}, params=params)
    with Looks() as looks:
        y, *_ = newton.passes.forward(*inputs, *params, *state.values(), None, False)
    assert looks.count == 0 and torch.equal(y, want)


@pytest.mark.parametrize("name", ["para_gru", "para_lstm"])
def test_the_op_keeps_the_contract(name):
    newton, _ = ops(name)
    inputs, params = drawn(name, 0.5, 40, D=3)
    leaves = [x.double().requires_grad_() for x in (*inputs, *params)]
    states = [x.double() for x in newton.initial_state(2, heads=1, sizes={"D": 3}, params=params).values()]
    torch.library.opcheck(newton._forward, (*leaves, *states, None, False))
    assert torch.autograd.gradcheck(newton, [x.detach()[:, :5].requires_grad_() if x.dim() == 4 else x for x in leaves])
    compiled = torch.compile(newton, fullgraph=True, backend="eager")
    assert torch.equal(compiled(*leaves), newton(*leaves))


def test_slopes_of_a_state_go_through_those_that_it_reads():
    program = step_program(analyse(parse_text(*library.find("para_lstm"))[0]))
    news, olds = [c.new for c in program.carries], [c.old for c in program.carries]
    assert [c.name for c in program.carries] == ["c", "h"]
    c_by_c, c_by_h, h_by_c, h_by_h = slopes_of(tuple(news), tuple(olds), None)
    assert c_by_c in set(walk(h_by_c)) and c_by_h in set(walk(h_by_h))
