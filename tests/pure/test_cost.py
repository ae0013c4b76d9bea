"""The cost model between Newton's method and the fused loop: what it reads off a step, and what it chooses."""

from __future__ import annotations

import json

import pytest

from recc import library
from recc.analysis import analyse
from recc.cli import main
from recc.frontend import parse_text
from recc.strategies import choose
from recc.strategies.cost import CHANNELS, DEVICES, Shape, cell_of, crossover, prefers, seconds


def plan_of(name, **dims):
    return analyse(parse_text(*library.find(name), dims=dims)[0])


def cell(name, **dims):
    plan = plan_of(name, **dims)
    return cell_of(plan.components[0], plan)


def test_the_path_of_a_step_is_read_off_its_graph():
    # r = sigmoid(xr + ar h): mul, add, sigmoid; r h, ac *, + xc, tanh; z c, + : seven operations, two functions
    assert cell("para_gru").path == (7, 2, 0)
    assert cell("indrnn").path == (3, 0, 0)
    assert cell("elman").path == (1, 1, 1)  # R @ h, + x, tanh
    assert cell("rhn").path[2] == 2  # a product in each of the two layers, one after the other
    assert cell("gru").path[2] == 1  # three products, side by side


def test_what_does_not_read_the_state_costs_nothing():
    text = "recurrence r\ndim D\ninput x : D\nparam W : D x D\nstate h : D = 0\noutput h\nh[t] = tanh(h[t-1] + {})\n"
    cells = []
    for drive in ("x", "tanh(W @ x)"):
        plan = analyse(parse_text(text.format(drive))[0])
        cells.append(cell_of(plan.components[0], plan))
    assert cells[0] == cells[1]


@pytest.mark.parametrize("name", ["para_gru", "para_lstm", "lif"])
def test_newton_is_for_few_channels_and_many_tokens(name):
    known = cell(name)
    limit = crossover(known, "h100")
    assert 100 < limit < 100_000
    assert prefers(known, Shape(65536, limit // 2, "h100")) == "newton"
    assert prefers(known, Shape(65536, 2 * limit, "h100")) == "sequential"
    assert prefers(known, Shape(8, 1, "h100")) == "sequential"
    assert crossover(known, "cpu") < 10
    assert crossover(cell("gru"), "h100") == 1  # its Jacobian is dense


def test_both_are_bound_by_memory_in_the_end():
    shape = Shape(4096, 1 << 22, "h100")
    found = seconds(cell("indrnn"), shape)
    assert found["sequential"] == 4096 * (1 << 22) * 8 / DEVICES["h100"].bandwidth <= found["newton"]


def test_the_choice_follows_the_shape():
    plan = plan_of("para_gru")
    (part,) = plan.components
    assert choose(plan).name(part) == "sequential"
    assert choose(plan, shape=Shape(65536, 64, "h100")).name(part) == "newton"
    assert choose(plan, shape=Shape(65536, 64, "h100")).parallel
    assert choose(plan_of("gla"), shape=Shape(65536, 64, "h100")).name(plan_of("gla").components[0]) == "chunk"


def test_explain_tells_times_and_the_crossover(capsys):
    assert main(["explain", "para_gru"]) == 0
    out = capsys.readouterr().out
    assert "newton is preferred: one CPU core: below" in out and "not measured" in out
    assert main(["explain", "para_gru", "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["components"]
    assert part["predicted"]["cpu"]["seconds"][str(CHANNELS[1])]["sequential"] > 0
    assert part["predicted"]["h100"]["newton_below"] == crossover(cell("para_gru"), "h100")
    assert main(["explain", "gla", "--json"]) == 0
    assert "predicted" not in json.loads(capsys.readouterr().out)["components"][0]
