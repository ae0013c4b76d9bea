"""States that are affine in each other, element by element, are scanned with small matrices."""

from __future__ import annotations

import functools

import pytest
from contracts import check_from_a_state

from recc.analysis import analyse
from recc.cli import main
from recc.frontend import parse_text
from recc.strategies import Refused, choose

# Entries of every kind: zero, numbers, signed, of inputs, of params; a state that reads another's new value.
THREE = """recurrence three
dim D, N
input u : D
input a : D in [-1, 1]
param w : D x N = normal(0, 0.3)
state p, s, m : D x N = 0.5
output y, z : D
p[t] = 0.9 * p[t-1] - w * s[t-1] + u
s[t] = s[t-1] / 2 + a * p[t] - 0.1 * m[t-1]
m[t] = a * m[t-1] - w * p[t-1]
y    = sum(s[t] * p[t-1], over=N)
z    = sum(m[t], over=N)
"""


check = functools.partial(check_from_a_state, strategy="block_scan")


@pytest.mark.parametrize("time", [0, 1, 63, 130])
def test_lengths(time):
    check(THREE, time=time, D=3, N=2)


def test_packed_and_reversed():
    check(THREE, time=140, offsets=[0, 0, 70, 71, 140], D=3, N=2)


def test_growing_states_beyond_the_end_of_a_sequence_stay_out_of_gradients():
    text = THREE.replace("0.9 * p[t-1]", "9 * p[t-1]")
    check(text, time=70, D=2, N=2)


def test_it_is_chosen_and_the_plan_is_said(capsys, tmp_path):
    plan = analyse(parse_text(THREE)[0])
    (component,) = plan.components
    assert component.structure == "block-3" and choose(plan).name(component) == "block_scan" and choose(plan).parallel
    path = tmp_path / "three.rec"
    path.write_text(THREE)
    assert main(["explain", str(path)]) == 0
    said = capsys.readouterr().out
    assert "solved by block_scan" in said and "A[s, p]" in said and "a * 0.9" in said


@pytest.mark.parametrize("edit, why", [
    (("p[t] = 0.9", "p[t] = sigmoid(p[t-1]) * 0.9"), "p, s, m: nonlinear"),
    (("- w * s[t-1]", "- w * sum(s[t-1], over=D)"), "for states that are affine in each other, element by element"),
    (("state p, s, m : D x N = 0.5", "state p, s, m : D x N complex = 0.5"), "complex"),
])  # fmt: skip
def test_refusals(edit, why):
    text = THREE.replace(*edit).replace("y    = sum(s[t] * p[t-1], over=N)", "y = real(sum(s[t], over=N))")
    text = text.replace("z    = sum(m[t], over=N)", "z = real(sum(m[t], over=N))") if "complex" in text else text
    text = text if "complex" in text else text.replace("real(", "(")
    with pytest.raises(Refused, match=why):
        choose(analyse(parse_text(text)[0]), "block_scan")
