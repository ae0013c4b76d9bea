"""The step IR that comes out of the front end: labels, leaves, delays, micro-steps, names and places."""

from __future__ import annotations

from recc.frontend import parse_text
from recc.ir.node import HEADS, Node, walk
from recc.ir.ops import build, const, dot, leaf, mul, rename
from recc.ir.program import Domain, Recurrence


def spec(*lines: str, **dims: int) -> Recurrence:
    (rec,) = parse_text("\n".join(["recurrence r", *lines]), dims=dims)
    return rec


def value(rec: Recurrence, name: str) -> Node:
    return next(output.value for output in rec.outputs if output.name == name)


def test_heads_come_first_and_repeated_dims_have_primes():
    rec = spec(
        "dim K, V",
        "input k : K",
        "input s : V x K shared",
        "param W : K x V x K",
        "state h = 0",
        "output h",
        "h[t] = h[t-1]",
    )
    assert [x.axes for x in rec.inputs] == [(HEADS, "K"), ("V", "K")]
    assert rec.params[0].axes == (HEADS, "K", "V", "K'") and rec.states[0].axes == (HEADS,)


def test_products_meet_at_one_label_of_their_own():
    rec = spec(
        "dim K",
        "input x : K",
        "param W : K x K",
        "state h : K = 0",
        "output h, M, y",
        "M = W @ W.T",
        "y = x @ W",
        "h[t] = W @ h[t-1]",
    )
    W = leaf("param", (HEADS, "K", "K'"), name="W")
    x = leaf("input", (HEADS, "K"), name="x")
    assert value(rec, "M") is dot(rename(W, {"K'": "K''"}), rename(W, {"K": "K'", "K'": "K''"}), ("K''",))
    assert value(rec, "y") is dot(rename(x, {"K": "K'"}), rename(W, {"K": "K'", "K'": "K"}), ("K'",))
    assert value(rec, "M").axes == (HEADS, "K", "K'") and value(rec, "y").axes == (HEADS, "K")


def test_outer_products_and_diagonals():
    rec = spec(
        "dim K, V",
        "input k : K",
        "input v : V",
        "state S : K x V = 0",
        "output S, D, O",
        "D = diag(k)",
        "O = outer(k, k)",
        "S[t] = outer(k, v)",
    )
    k, v = leaf("input", (HEADS, "K"), name="k"), leaf("input", (HEADS, "V"), name="v")
    assert rec.updates["S"] is mul(k, v)
    assert value(rec, "D") is mul(k, leaf("eye", ("K", "K'")))
    assert value(rec, "O") is mul(k, rename(k, {"K": "K'"}))


def test_states_before_and_after():
    rec = spec(
        "input x", "state h = 0", "output h, before, after", "h[t] = h[t-1] + x", "before = h[t-1]", "after = h[t]"
    )
    old, new = (leaf("state", (HEADS,), name="h", when=when) for when in ("old", "new"))
    assert (value(rec, "h"), value(rec, "before"), value(rec, "after")) == (new, old, new)
    assert rec.updates["h"].args[0] is old


def test_the_past_is_kept_in_hidden_states():
    rec = spec("input x", "state h = 0", "output h", "u = 2 * x", "h[t] = h[t-1] + u[t-2] + x[t-1]")
    x = leaf("input", (HEADS,), name="x")
    assert [state.name for state in rec.states] == ["h", "u[t-1]", "u[t-2]", "x[t-1]"]
    assert [state.delay for state in rec.states] == [False, True, True, True]
    assert all(state.init is const(0) for state in rec.states)
    assert rec.updates["u[t-1]"] is mul(const(2), x) and rec.updates["x[t-1]"] is x
    assert rec.updates["u[t-2]"] is leaf("state", (HEADS,), name="u[t-1]", when="old")


def test_micro_steps_are_unrolled():
    lines = [
        "dim R = 2",
        "input k : R",
        "state S = 0",
        "output S",
        "steps r : R",
        "u[r] = k[r] * r",
        "S[t,0] = 3 * S[t-1]",
        "S[t,r] = S[t,r-1] * u[r]",
    ]
    rec = spec(*lines)
    k, old = leaf("input", (HEADS, "R"), name="k"), leaf("state", (HEADS,), name="S", when="old")
    first, second = (mul(build("take", k, axis="R", index=index), const(index + 1)) for index in (0, 1))
    assert rec.updates["S"] is mul(mul(mul(const(3), old), first), second)
    assert {name for node, name in rec.names.items() if node.args} == {"u[1]", "u[2]"} - {
        "u[1]" if not first.args else ""
    }
    three = spec(*lines, R=3)
    assert three.dims == {"R": 3} and three.updates["S"].args[0] is rec.updates["S"]


def test_what_is_shared_has_no_heads():
    rec = spec(
        "dim D",
        "input x : D shared",
        "param w",
        "state h = 0",
        "output h",
        "output y, z : D shared",
        "y = 2 * x",
        "z = sum(w * x, over=heads)",
        "h[t] = 0",
    )
    y, z = rec.outputs[1:]
    assert (y.axes, z.axes) == (("D",), ("D",)) and z.value.op == "sum" and z.value["over"] == (HEADS,)


def test_initialisers():
    rec = spec(
        "dim K, V, L = 16",
        "param a : K x V",
        "param b : L",
        "param c : K complex",
        "param d >= 0 = log(uniform(1, 16))",
        "param e : K = 1 / sqrt(heads * K) + iota(K)",
        "state h : K = e",
        "state s : K",
        "output h, s",
        "h[t] = h[t-1]",
        "s[t] = s[t-1]",
    )
    a, b, c, d, e = rec.params
    root = build("div", const(1), build("sqrt", leaf("size", dim="K")))
    assert a.init.op == "normal" and a.init.args == (const(0), root) and a.init.axes == (HEADS, "K", "V")
    assert b.init.args[1] is build("div", const(1), build("sqrt", const(16)))
    assert c.init.op == "complex" and c.init.args[0] is not c.init.args[1]
    assert d.init.op == "log" and d.init.axes == (HEADS,) and d.domain == Domain(low=0.0)
    assert leaf("iota", ("K",), dim="K") in set(walk(e.init)) and leaf("size", dim=HEADS) in set(walk(e.init))
    assert rec.states[0].init is leaf("param", (HEADS, "K"), name="e") and rec.states[1].init is None


def test_names_and_places():
    rec = spec("input x", "state h = 0", "output h", "u = tanh(x)", "h[t] = h[t-1] + u * 2")
    (named,) = rec.names
    assert rec.names[named] == "u" and named.op == "tanh"
    place = rec.spans[named]
    assert (place.line, place.col, place.end_col) == (5, 5, 12)
    assert rec.place("h").line == 6 and rec.inputs[0].span.line == 2


def test_an_update_that_is_a_number_has_the_place_of_its_state():
    rec = spec("input x", "state h = 0", "output h, y", "y = x + 7", "h[t] = 7")
    assert rec.place("h").line == 3


def test_each_spec_has_its_own_places():
    lines = ["input x", "state h = 0", "output h", "h[t] = h[t-1] + tanh(x)"]
    first, second = spec(*lines), spec("# a comment", *lines)
    assert first.updates == second.updates  # the same nodes
    for rec, line in ((first, 5), (second, 6)):
        assert {rec.spans[node].line for node in walk(rec.updates["h"])} == {line}


def test_several_recurrences_of_a_file():
    text = """recurrence a
input x
state h = 0
output h
h[t] = x

recurrence b
dim R = 2
state s = 1
output s
s[t] = R * s[t-1]
"""
    first, second = parse_text(text, "two.rec", dims={"R": 3})
    assert (first.name, second.name, second.dims, second.path, second.text) == ("a", "b", {"R": 3}, "two.rec", text)
