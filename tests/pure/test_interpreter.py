"""The sequential reference on cases that can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from recc.backends.torch import primitives

from recc.ir import ops
from recc.ir.evaluate import ELEMENTWISE
from recc.ir.interpreter import init_params, initial_state, run
from recc.ir.node import HEADS, Node, Span
from recc.ir.ops import OPS, add, const, dot, exp, leaf, mul, rename
from recc.ir.program import Domain, Input, Output, Param, Recurrence, State

HERE = Span(1, 1, 1, 2)
FREE = Domain()


def given(name: str, *axes: str) -> Node:
    return leaf("input", (HEADS, *axes), name=name)


def old(name: str, *axes: str) -> Node:
    return leaf("state", (HEADS, *axes), name=name, when="old")


def new(name: str, *axes: str) -> Node:
    return leaf("state", (HEADS, *axes), name=name, when="new")


def recurrence(inputs: dict, states: dict, outputs: dict, updates: dict) -> Recurrence:
    """Axes by name for inputs and states, values by name for outputs and updates; every state starts at 0."""
    return Recurrence(
        name="test",
        doc="",
        dims={},
        inputs=tuple(Input(name, (HEADS, *axes), "real", FREE, HERE) for name, axes in inputs.items()),
        params=(),
        states=tuple(State(name, (HEADS, *axes), "real", const(0), HERE) for name, axes in states.items()),
        outputs=tuple(Output(name, value.axes, value.dtype, value, HERE) for name, value in outputs.items()),
        updates=updates,
    )


def decayed_sum() -> Recurrence:
    """S[t] = exp(g) * S[t-1] + outer(k, v), o = q @ S[t]."""
    S = add(mul(exp(given("g")), old("S", "K", "V")), mul(given("k", "K"), given("v", "V")))
    o = dot(given("q", "K"), new("S", "K", "V"), ("K",))
    return recurrence({"q": ("K",), "k": ("K",), "v": ("V",), "g": ()}, {"S": ("K", "V")}, {"o": o}, {"S": S})


def sequences(batch: int, time: int, heads: int, K: int = 3, V: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def normal(*dims: int) -> torch.Tensor:
        return torch.randn(batch, time, heads, *dims, generator=generator, dtype=torch.float64)

    return {"q": normal(K), "k": normal(K), "v": normal(V), "g": -normal().abs()}


def test_every_op_that_torch_has_a_text_for_has_a_meaning():
    assert {name for name, op in OPS.items() if op.torch} == set(ELEMENTWISE)


@pytest.mark.parametrize("op", sorted(ELEMENTWISE))
def test_ops_compute_what_the_registry_says_for_torch(op: str):
    """The two texts of an op are written apart; they must mean the same."""
    entry = OPS[op]
    low, high = entry.domain
    arguments = [torch.linspace(low, high, 9, dtype=torch.float64).roll(i) for i in range(entry.arity)]
    if op == "where":
        arguments[0] = arguments[0] > 0
    text = entry.torch.format(*(f"x{i}" for i in range(entry.arity)))
    if op in ("conj", "real", "imag"):
        arguments[0] = torch.complex(arguments[0], arguments[0] ** 2)
    theirs = eval(text, vars(primitives), {f"x{i}": x for i, x in enumerate(arguments)})
    torch.testing.assert_close(ELEMENTWISE[op](*arguments), theirs, rtol=1e-14, atol=1e-14)


def test_a_running_sum_by_hand():
    rec = recurrence({"x": ()}, {"s": ()}, {"y": new("s")}, {"s": add(mul(const(0.5), old("s")), given("x"))})
    x = torch.tensor([1.0, 2.0, 4.0]).reshape(1, 3, 1)
    out, final = run(rec, {"x": x})
    assert out["y"].flatten().tolist() == [1.0, 2.5, 5.25]
    assert final["s"].tolist() == [[5.25]]
    out, final = run(rec, {"x": x}, initial_state={"s": torch.tensor([[8.0]])}, reverse=True)
    assert out["y"].flatten().tolist() == [4.0, 6.0, 8.0]
    assert final["s"].tolist() == [[4.0]]


def test_a_matrix_state_equals_the_sum_it_stands_for():
    x = sequences(2, 5, 3)
    out, final = run(decayed_sum(), x)
    b = x["g"].cumsum(1)
    weight = torch.exp(b[:, :, None] - b[:, None]) * torch.tril(torch.ones(5, 5))[None, :, :, None]
    expected = torch.einsum("bthk,bihk,btih,bihv->bthv", x["q"], x["k"], weight, x["v"])
    torch.testing.assert_close(out["o"], expected, rtol=1e-12, atol=1e-12)
    last = torch.einsum("bihk,bih,bihv->bhkv", x["k"], weight[:, -1], x["v"])
    torch.testing.assert_close(final["S"], last, rtol=1e-12, atol=1e-12)
    assert out["o"].dtype == torch.float64 and final["S"].shape == (2, 3, 3, 2)


def test_packed_equals_separate():
    x = sequences(1, 9, 2)
    bounds = [0, 4, 4, 9]
    start = {"S": torch.randn(3, 2, 3, 2, dtype=torch.float64)}
    for reverse in (False, True):
        out, final = run(decayed_sum(), x, cu_seqlens=torch.tensor(bounds), initial_state=start, reverse=reverse)
        for i, (a, b) in enumerate(zip(bounds, bounds[1:], strict=False)):
            piece = {name: value[:, a:b] for name, value in x.items()}
            alone, end = run(decayed_sum(), piece, initial_state={"S": start["S"][i : i + 1]}, reverse=reverse)
            assert torch.equal(out["o"][:, a:b], alone["o"])
            assert torch.equal(final["S"][i : i + 1], end["S"])


def test_reverse_is_a_flip():
    x = sequences(2, 6, 2)
    out, final = run(decayed_sum(), x, reverse=True)
    other, end = run(decayed_sum(), {name: value.flip(1) for name, value in x.items()})
    assert torch.equal(out["o"], other["o"].flip(1)) and torch.equal(final["S"], end["S"])


def test_a_split_sequence_carries_its_state():
    x = sequences(2, 7, 2)
    whole, end = run(decayed_sum(), x)
    first, state = run(decayed_sum(), {name: value[:, :3] for name, value in x.items()})
    rest, final = run(decayed_sum(), {name: value[:, 3:] for name, value in x.items()}, initial_state=state)
    assert torch.equal(whole["o"], torch.cat([first["o"], rest["o"]], 1)) and torch.equal(end["S"], final["S"])


def test_grouped_heads():
    x = sequences(1, 5, 6)
    few = {**x, "q": x["q"][:, :, :2], "k": x["k"][:, :, :3]}
    out, _ = run(decayed_sum(), few)
    many = {**x, "q": few["q"][:, :, [0, 0, 0, 1, 1, 1]], "k": few["k"][:, :, [0, 0, 1, 1, 2, 2]]}
    assert torch.equal(out["o"], run(decayed_sum(), many)[0]["o"])


def test_no_tokens():
    x = sequences(2, 0, 2)
    start = {"S": torch.randn(2, 2, 3, 2, dtype=torch.float64)}
    out, final = run(decayed_sum(), x, initial_state=start)
    assert out["o"].shape == (2, 0, 2, 2) and out["o"].dtype == torch.float64
    assert torch.equal(final["S"], start["S"])
    assert run(decayed_sum(), x)[1]["S"].eq(0).all()


def test_delays_shift_by_one_each():
    line = recurrence(
        {"x": ()},
        {"x[t-1]": (), "x[t-2]": ()},
        {"y": old("x[t-1]"), "z": old("x[t-2]")},
        {"x[t-1]": given("x"), "x[t-2]": old("x[t-1]")},
    )
    x = torch.arange(1.0, 6.0).reshape(1, 5, 1)
    out, final = run(line, {"x": x})
    assert out["y"].flatten().tolist() == [0, 1, 2, 3, 4]
    assert out["z"].flatten().tolist() == [0, 0, 1, 2, 3]
    assert [float(value) for value in final.values()] == [5, 4]
    assert run(line, {"x": x}, reverse=True)[0]["y"].flatten().tolist() == [2, 3, 4, 5, 0]


def test_axes_keep_their_declared_order():
    """A state declared V x K stays so, though K sorts before V."""
    S = add(old("S", "V", "K"), given("M", "V", "K"))
    rec = recurrence({"M": ("V", "K")}, {"S": ("V", "K")}, {"y": new("S", "V", "K")}, {"S": S})
    rec = replace(rec, outputs=(replace(rec.outputs[0], axes=(HEADS, "V", "K")),))
    M = torch.arange(12.0).reshape(1, 2, 1, 3, 2)
    out, final = run(rec, {"M": M})
    assert torch.equal(out["y"], M.cumsum(1)) and torch.equal(final["S"], M.sum(1))


def test_two_axes_of_one_dim_and_their_transposition():
    A, h = given("A", "N", "N'"), rename(old("h", "N"), {"N": "N'"})
    product = dot(A, h, ("N'",))
    flipped = dot(rename(A, {"N": "N'", "N'": "N"}), h, ("N'",))
    rec = recurrence({"A": ("N", "N'")}, {"h": ("N",)}, {"y": product, "z": flipped}, {"h": product})
    A, h0 = torch.randn(1, 1, 1, 3, 3), torch.randn(1, 1, 3)
    out, _ = run(rec, {"A": A}, initial_state={"h": h0})
    torch.testing.assert_close(out["y"][0, 0, 0], A[0, 0, 0] @ h0[0, 0])
    torch.testing.assert_close(out["z"][0, 0, 0], A[0, 0, 0].T @ h0[0, 0])


def test_take_and_put_are_transposes():
    x = given("x", "R")
    back = ops.build("put", ops.build("take", x, axis="R", index=1), axis="R", index=1, size="R")
    rec = recurrence({"x": ("R",)}, {"s": ()}, {"y": back}, {"s": ops.build("take", x, axis="R", index=-1)})
    out, final = run(rec, {"x": torch.tensor([1.0, 2.0, 3.0]).reshape(1, 1, 1, 3)})
    assert out["y"].flatten().tolist() == [0, 2, 0] and float(final["s"]) == 3


def test_a_state_that_reads_another_after_its_update():
    """m[t] = max(m[t-1], x) first, then s[t] = s[t-1] * exp(m[t-1] - m[t]) + exp(x - m[t]): a running logsumexp."""
    m, x = ops.build("maximum", old("m"), given("x")), given("x")
    s = add(mul(old("s"), exp(ops.sub(old("m"), new("m")))), exp(ops.sub(x, new("m"))))
    y = add(new("m"), ops.build("log", new("s")))
    rec = recurrence({"x": ()}, {"s": (), "m": ()}, {"y": y}, {"s": s, "m": m})
    x = torch.randn(1, 8, 1, dtype=torch.float64).abs() * 30
    torch.testing.assert_close(run(rec, {"x": x})[0]["y"], x.logcumsumexp(1), rtol=1e-12, atol=1e-12)


def test_an_update_with_fewer_axes_is_broadcast():
    rec = recurrence({"x": ()}, {"h": ("N",)}, {"y": new("h", "N")}, {"h": given("x")})
    out, final = run(rec, {"x": torch.ones(2, 3, 4)}, sizes={"N": 5})
    assert out["y"].shape == (2, 3, 4, 5) and final["h"].shape == (2, 4, 5)
    with pytest.raises(ValueError, match="size of dim `N` is not known"):
        run(rec, {"x": torch.ones(2, 3, 4)})


def test_gradients_in_float64():
    x = {name: value.requires_grad_() for name, value in sequences(1, 4, 2).items()}
    start = torch.randn(1, 2, 3, 2, dtype=torch.float64, requires_grad=True)

    def function(q, k, v, g, s):
        out, final = run(decayed_sum(), {"q": q, "k": k, "v": v, "g": g}, initial_state={"S": s})
        return out["o"], final["S"]

    assert torch.autograd.gradcheck(function, (*x.values(), start))


def test_dtypes():
    x = {name: value.bfloat16() for name, value in sequences(1, 4, 2).items()}
    assert run(decayed_sum(), x)[0]["o"].dtype == torch.float32
    assert run(decayed_sum(), x, dtype=torch.float64)[1]["S"].dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 3, 4)}, r"`k` is \[2, 5, 3, 4\] but K = 3 from `q`"),
        ({"v": torch.zeros(2, 4, 3, 2)}, r"`v` is \[2, 4, 3, 2\] but time = 5 from `q`"),
        ({"g": torch.zeros(2, 5)}, r"`g` is \[2, 5\], expected \[batch, time, heads\]"),
        ({"g": torch.zeros(2, 5, 2)}, "`g` has 2 heads, which 3 heads cannot share"),
        ({"w": torch.zeros(2, 5, 2)}, "`test` has no input `w`"),
    ],
)
def test_wrong_tensors_are_refused_in_the_names_of_the_spec(change, message):
    with pytest.raises(ValueError, match=message):
        run(decayed_sum(), {**sequences(2, 5, 3), **change})


@pytest.mark.parametrize("bounds", [[0, 3], [1, 5], [0, 4, 3, 5], [5], []])
def test_bad_bounds_of_packed_sequences(bounds):
    with pytest.raises(ValueError, match="cu_seqlens"):
        run(decayed_sum(), sequences(1, 5, 2), cu_seqlens=bounds)
    with pytest.raises(ValueError, match="batch of one"):
        run(decayed_sum(), sequences(2, 5, 2), cu_seqlens=[0, 5])


def learned(init: Node | None, *axes: str) -> Recurrence:
    """h starts at the param p and decays by it."""
    p = leaf("param", (HEADS, *axes), name="p")
    update = add(mul(p, old("h", *axes)), given("x"))
    return replace(
        recurrence({"x": ()}, {}, {"y": new("h", *axes)}, {"h": update}),
        params=(Param("p", (HEADS, *axes), "real", init, FREE, HERE),),
        states=(State("h", (HEADS, *axes), "real", p, HERE),),
    )


def test_params_and_learned_starts():
    rec = learned(ops.build("log", add(const(1), leaf("iota", ("N",)))), "N")
    params = init_params(rec, {"N": 4}, heads=2, dtype=torch.float64)
    torch.testing.assert_close(params["p"], torch.arange(1.0, 5, dtype=torch.float64).log().expand(2, 4))
    start = initial_state(rec, {"N": 4}, batch=3, heads=2, params=params, dtype=torch.float64)
    assert torch.equal(start["h"], params["p"].expand(3, 2, 4))
    x = torch.zeros(3, 1, 2, dtype=torch.float64)
    out, _ = run(rec, {"x": x}, params)
    torch.testing.assert_close(out["y"][:, 0], (params["p"] ** 2).expand(3, 2, 4))
    with pytest.raises(ValueError, match="param `p` of `test` is missing"):
        run(rec, {"x": x})


def test_default_initialisers_repeat_with_their_seed():
    def draw(rec: Recurrence, dtype: torch.dtype) -> torch.Tensor:
        return init_params(rec, {"N": 64}, 32, dtype, generator=torch.Generator().manual_seed(1))["p"]

    rec = learned(None, "N")
    assert abs(draw(rec, torch.float64).std() * 8 - 1) < 0.1
    torch.testing.assert_close(draw(rec, torch.float32), draw(rec, torch.float64).float())
