"""The cost model between Newton's method and the fused loop: what it reads off a step, and what it chooses."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from recc import library
from recc.analysis import analyse
from recc.cli import main
from recc.frontend import parse_text
from recc.strategies import choose, devices
from recc.strategies.cost import CHANNELS, Shape, cell_of, crossover, prefers, seconds
from recc.strategies.devices import DEVICES
from recc.tuning import calibrate


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


def test_explain_predicts_scans(capsys):
    assert main(["explain", "hgrn", "--json"]) == 0
    (part,) = json.loads(capsys.readouterr().out)["components"]
    assert set(part["predicted"]["h100"]["seconds"]["1"]) == {"sequential", "scan"}
    assert part["predicted"]["h100"]["scan_below"] > 1000
    assert main(["explain", "hgrn"]) == 0
    assert "scan is preferred: one CPU core: " in capsys.readouterr().out


def test_a_calibrated_device_takes_the_place_of_the_estimate(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RECC_CACHE_DIR", str(tmp_path))
    slow = replace(DEVICES["cpu"], step=1.0, source=devices.CALIBRATED)
    path = devices.record("cpu", slow)
    assert devices.is_calibrated("cpu") and not devices.is_calibrated("sm_90")
    assert seconds(cell("indrnn"), Shape(8, 1))["sequential"] > 8
    devices.record("sm_90", replace(DEVICES["h100"], name="some GPU", source=devices.CALIBRATED))
    assert main(["explain", "para_gru"]) == 0
    out = capsys.readouterr().out
    assert devices.CALIBRATED in out and "some GPU" in out and DEVICES["h100"].source in out
    for damaged in ("{", '{"device": {}}', path.read_text().replace("13000000000.0", "NaN")):
        path.write_text(damaged)
        with pytest.warns(RuntimeWarning, match="damaged"):
            assert devices.devices()["cpu"] == DEVICES["cpu"]
    elsewhere = path.read_text().replace("NaN", "13000000000.0").replace('"machine": "', '"machine": "another')
    path.write_text(elsewhere)
    assert devices.devices()["cpu"] == DEVICES["cpu"]  # a cache that machines share


def test_constants_follow_from_cells():
    rows = [[1.0, 3.0, 0.0, 0.0], [1.0, 12.0, 0.0, 0.0], [1.0, 7.0, 2.0, 0.0], [1.0, 1.0, 1.0, 1.0]]
    truth = [50.0, 1.5, 35.0, 80.0]
    values = [sum(a * b for a, b in zip(row, truth)) for row in rows]
    assert calibrate._solved(rows, values) == pytest.approx(truth)
    values[1] = values[0] - 1  # a longer path that took less time
    found = calibrate._solved(rows, values)
    assert found[1] == 0 and min(found) >= 0


def test_tune_calibrates_a_device_once(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("RECC_CACHE_DIR", str(tmp_path))
    times = {"indrnn": 0.3, "chain": 0.35, "para_gru": 0.6, "elman": 1.0}
    monkeypatch.setattr(calibrate, "_seconds", lambda kind, name, channels, strategy="sequential": times[name])
    monkeypatch.setattr(calibrate, "possible", lambda kind: True)
    from recc.tuning import tune

    monkeypatch.setattr(tune, "search", lambda *args, **options: (_nothing(), None))
    for wanted in (1, 0):
        main(["tune", "para_gru", "--passes", "forward", "--dim", "D=4"])
        assert capsys.readouterr().out.count("calibrated one CPU core") == wanted
    assert devices.devices()["cpu"].source == devices.CALIBRATED


def _nothing():
    from recc.tuning.search import Outcome

    return Outcome()
