"""The derivation as `recc explain` tells it: the same facts for people and machines, counted on what really runs."""

from __future__ import annotations

import io
import re
import time

import pytest
from rich.console import Console

from recc.analysis import analyse, work
from recc.analysis.explain import class_of, explain, explain_json
from recc.frontend import parse_text
from recc.library import find, names
from recc.runtime.api import source
from recc.strategies import choose

KEYS = {"states", "class", "transition", "rank", "mixing_axis", "strategy", "reasons"}


def derive(spec: str, strategy: str | None = None):
    text, path = find(spec) if "\n" not in spec else (spec, "<test>")
    rec = parse_text(text, path)[0]
    plan = analyse(rec)
    return rec, plan, choose(plan, strategy)


def page(spec: str, strategy: str | None = None, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(explain(*derive(spec, strategy)))
    return console.file.getvalue()


@pytest.mark.parametrize("spec", names())
def test_every_spec_is_explained_to_people_and_machines(spec: str):
    rec, plan, choice = derive(spec)
    view = explain_json(rec, plan, choice)
    assert view["recurrence"] == rec.name
    assert {"components", "hoisted", "sunk"} <= set(view)
    for part, component in zip(view["components"], plan.components, strict=True):
        assert set(part) >= KEYS
        assert part["strategy"] == choice.name(component)
        assert part["reasons"] and all(reason["text"] for reason in part["reasons"])
    text = page(spec)
    assert all(line == line.rstrip() and len(line) <= 120 for line in text.splitlines())
    for state in rec.states:
        assert state.name in text


@pytest.mark.parametrize("width", [20, 60, 250])
def test_any_width_will_do(width: int):
    assert page("gated_delta_net", width=width)


def test_the_theorem_stands_there_in_the_specs_own_names():
    text = page("gated_delta_net")
    for line in (
        "S[t] = exp(g) * S[t-1] + k (x) (beta * v - beta * exp(g) * y)",
        "y    = k . S[t-1]",
        "b                = cumsum(g)",
        "score(x, y)[t,i] = (x[t] . y[i]) exp(b[t] - b[i])",
        "L                = -tril(score-(k, k), -1) diag(beta * exp(g))",
        "(I - L) Y        = (k exp(b-)) S_start + tril(score-(k, k), -1) (beta * v)",
        "U                = beta * v - beta * exp(g) * Y",
        "q . S[t]         = (q exp(b)) S_start + tril(score(q, k)) U",
        "S_end            = exp(b_end) S_start + (k exp(b_end - b))^T U",
    ):
        assert line in text, line
    assert "scan refused: `scan` needs a transition that acts elementwise" in text


def test_a_read_before_the_write_uses_the_decay_before_the_token():
    assert "r . S[t-1]       = (r exp(b-)) S_start + tril(score-(r, k), -1) U" in page("rwkv6")


def test_a_scan_shows_its_combine():
    text = page("mlstm")
    assert "(a2, x2) after (a1, x1) = (a2 + a1, max(a2 + x1, x2))" in text
    assert "(after m)" in text
    assert "(a2, x2) after (a1, x1) = (a2 * a1, a2 * x1 + x2)" in page("gla", "scan")


def test_what_is_nonlinear_says_where():
    text = page("gru")
    assert "`sigmoid` is not affine in its argument" in text
    assert "r    = sigmoid(xr + Rr @ h[t-1])" in text or "z    = sigmoid(xz + Rz @ h[t-1])" in text
    assert "solved by sequential" in text


def test_places_are_those_of_the_spec_itself():
    # The update of h is not affine where that of c has been put in: its nodes are rebuilt, and shared by both specs.
    lines = ["input x", "state h, c = 0", "output h", "u = tanh(x)", "c[t] = h[t-1] + u", "h[t] = sigmoid(c[t])"]
    first, second = (derive("\n".join(["recurrence r", *more, *lines])) for more in ([], ["# one", "# two"]))
    for (rec, plan, choice), more in ((first, 0), (second, 2)):
        view = explain_json(rec, plan, choice)
        assert [item["line"] for item in view["hoisted"]] == [5 + more]
        reason, refused = view["components"][0]["reasons"][0], view["components"][0]["refused"][0]
        assert reason["line"] == refused["line"] == 7 + more
        quoted = set(re.findall(r"# <test>:(\d+)  (.*)", source(rec)))
        assert quoted == {(str(5 + more + place), line) for place, line in enumerate(lines[3:])}


def test_a_layers_projections_are_hoisted_and_its_norm_is_sunk():
    view = explain_json(*derive("gated_delta_net_layer"))
    hoisted = {item["name"] or item["value"] for item in view["hoisted"]}
    assert {"xq", "xk", "xv", "q", "k", "v", "g", "beta", "silu(x @ Wr)"} <= hoisted
    assert [item["name"] for item in view["sunk"]] == ["o", "y"]
    # Hoisted locals stand in formulas by name, whatever is behind them.
    assert "S[t] = exp(g) * S[t-1] + k (x) (beta * v - beta * exp(g) * y)" in page("gated_delta_net_layer")


def test_what_reads_past_inputs_alone_is_hoisted_with_them():
    lines = ["input x", "state h = 0", "output o", "u = tanh(x[t-1])", "h[t] = 0.5 * h[t-1] + x", "o = u * h[t]"]
    rec, plan, choice = derive("\n".join(["recurrence r", *lines]))
    assert ([name for name, _ in plan.hoisted], [name for name, _ in plan.sunk]) == (["u"], ["o"])
    view = explain_json(rec, plan, choice)
    assert [[item["name"] for item in view[key]] for key in ("hoisted", "sunk")] == [["u"], ["o"]]


@pytest.mark.parametrize(
    ("update", "found"),
    [
        ("max(S[t,r-1] + k[r], S[t,r-1] - k[r])", "nonlinear, diagonal Jacobian"),
        ("max(max(S[t,r-1] + k[r], S[t,r-1]), 2 * k[r])", "semiring (max, +), scalar"),
        ("tanh(S[t,r-1]) * S[t,r-1]", "nonlinear, diagonal Jacobian"),
    ],
)
def test_an_update_may_read_what_it_computes_again_and_again(update: str, found: str):
    # Twice in each micro-step: written out it would have 2^18 parts.
    head = ["recurrence r", "dim R = 18", "input k : R", "state S = 0", "output S", "steps r : R"]
    start = time.process_time()
    rec, plan, choice = derive("\n".join([*head, f"S[t,r] = {update}"]))
    assert class_of(plan.components[0]) == found
    assert len(explain_json(rec, plan, choice)["components"][0]["normal_form"][0]) < 300
    assert time.process_time() - start < 5


def test_classes_in_a_phrase():
    def of(spec: str) -> str:
        return class_of(derive(spec)[1].components[0])

    assert of("gated_delta_net") == "affine, scalar + rank 1 over K"
    assert of("kda") == "affine, diagonal + rank 1 over K"
    assert of("delta_product") == "affine, scalar + rank 2 over K"
    assert of("mlstm") == "semiring (max, +), scalar"
    assert of("gru") == "nonlinear, head-block-dense Jacobian"


def test_work_is_counted_on_the_program():
    rec, plan, choice = derive("gla")
    cost = work.work(plan, choice)
    assert str(cost.products) == "C K + C V + 2 K V"  # scores, their product with v, the read and the update of S
    assert cost.depth == "T / 64"
    assert cost.products.at(cost.sizes(rec.dims)) == 2 * 64 * 64 + 2 * 64 * 64
    assert str(cost.moved) == "12 K + 8 V"  # q, k, g and v, o
    assert str(cost.kept) == "4 K V / C"
    sequential = work.work(plan, choose(plan, "sequential"))
    assert (str(sequential.products), sequential.depth) == ("K V", "T")


def test_work_of_what_heads_share_is_spread_over_them():
    _, plan, choice = derive("gla_layer")
    assert "D L / heads" in str(work.work(plan, choice).products)
