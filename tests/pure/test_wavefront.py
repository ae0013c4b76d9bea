"""Grids: the analysis finds the cell however columns are selected, and all cells of a diagonal are computed at once."""

from __future__ import annotations

import functools

import pytest
import torch
from contracts import check_from_a_state
from recc.backends.c import build
from recc.backends.c.op import NativeOp
from recc.backends.torch.wavefront import wavefront

import recc
from recc import library
from recc.analysis import analyse
from recc.analysis.columns import Grid, grid_of
from recc.cli import main
from recc.frontend import parse_text
from recc.strategies import Refused, choose

MDLSTM = library.find("mdlstm")[0]

# Graves' hidden units without memory cells; a gate that all columns share, a gain for each column, an earlier state.
CELLS = """recurrence cells
dim D, Y = 3
input x : Y x D
input f
param U, W : D x D = normal(0, 0.4)
param b : Y = 0.5
state m = 0
state h : Y x D = 0
output o : D
output h
steps y : Y

m[t] = 0.5 * m[t-1] + f
at[y] = where(iota(Y) == y - 1, 1, 0)
prev[y] = where(iota(Y) == y - 2, 1, 0)
new[y] = tanh(x[y] + m[t] + b[y] * (U @ (at[y] @ h[t,y-1])) + W @ (prev[y] @ h[t,y-1]))
h[t,y] = (1 - at[y]) * h[t,y-1] + outer(at[y], new[y])
o = sum(h[t] * h[t-1], over=Y)
"""

check = functools.partial(check_from_a_state, strategy="wavefront")


@pytest.mark.parametrize("time", [0, 1, 2, 63, 64, 131])
def test_lengths(time):
    check(CELLS, time=time, D=2)


@pytest.mark.parametrize("columns", [1, 2, 5])
def test_columns(columns):
    check(CELLS.replace("Y = 3", f"Y = {columns}"), time=7, D=3)


def test_packed_and_reversed():
    check(CELLS, time=140, offsets=[0, 0, 70, 71, 140], D=2)
    check(MDLSTM, time=9, offsets=[0, 4, 4, 9], D=2)


# The same cell in other words: columns chosen by `where`, by a matrix that moves them, and read back from the state.
SPELLINGS = {
    "where": ("h[t,y] = (1 - at[y]) * h[t,y-1] + outer(at[y], new[y])",
              "h[t,y] = where(iota(Y) == y - 1, outer(ones(Y), new[y]), h[t,y-1])"),
    "a shifted state": (
        "(prev[y] @ h[t,y-1])",
        "(at[y] @ apply(where(outer(iota(Y), ones(Y)) - outer(ones(Y), iota(Y)) == 1, 1, 0), h[t,y-1]))",
    ),
    "a distance": ("prev[y] = where(iota(Y) == y - 2, 1, 0)", "prev[y] = max(1 - abs(iota(Y) - y + 2), 0)"),
    "a sum": ("(at[y] @ h[t,y-1])", "sum(at[y] * h[t,y-1], over=Y)"),
}  # fmt: skip


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_the_cell_is_found_however_columns_are_selected(spelling):
    old, new = SPELLINGS[spelling]
    text = CELLS.replace(old, new)
    assert text != CELLS
    grids = [grid_of(plan.components[-1], plan) for plan in (analyse(parse_text(t)[0]) for t in (CELLS, text))]
    assert all(isinstance(grid, Grid) for grid in grids) and grids[0] == grids[1]


def test_a_linear_cell_is_a_grid_too():
    text = CELLS.replace("tanh(", "(")
    plan = analyse(parse_text(text)[0])
    assert plan.components[-1].class_name == "affine"
    assert choose(plan).name(plan.components[-1]) == "wavefront"
    check(text, time=9, D=2)


def test_clipped_gradients():
    text = CELLS.replace("tanh(x[y]", "tanh(clip_gradient(x[y], 0.01)").replace("@ h[t,y-1]))", "@ h[t,y-1]))", 1)
    check(text, time=9, D=2)
    check(CELLS.replace("(at[y] @ h[t,y-1])", "(at[y] @ clip_gradient(h[t,y-1], 0.1))"), time=9, D=2)


@pytest.mark.parametrize("edit, why", [
    (("U @ (at[y] @ h[t,y-1])", "U @ (prev[y] @ h[t-1])"), "column 2 along Y reads h at another one"),
    (("tanh(x[y]", "tanh(y * x[y]"), "columns have different formulas"),
    (("W @ (prev[y] @ h[t,y-1])", "W @ (at[y] @ h[t-1])"), "no column reads the one beside it"),
    (("prev[y] = where(iota(Y) == y - 2, 1, 0)", "prev[y] = where(iota(Y) == max(y - 2, 0), 1, 0)"),
     "the first column is not what the others are"),
    (("dim D, Y = 3", "dim D, Y, R = 3"), "no dim of h has a fixed size"),
])  # fmt: skip
def test_refusals(edit, why):
    text = CELLS.replace(*edit)
    if "R = 3" in text:
        text = text.replace("steps y : Y", "steps y : R").replace("x[y]", "sum(x, over=Y)").replace("b[y]", "mean(b)")
    with pytest.raises(Refused, match=why):
        choose(analyse(parse_text(text)[0]), "wavefront")


@pytest.mark.parametrize("rows, columns", [(7, 4), (1, 3), (5, 1)])
def test_a_diagonal_is_one_step(rows, columns):
    steps = []

    def cell(h, before, x):
        steps.append(h)
        return (h + before + x,)

    x, ones = torch.randn(1, rows, columns), torch.zeros(1, columns)
    found = wavefront(cell, (ones,), (x,), (-2,), (-1,), (-2, -1), rows, None)
    assert len(steps) == rows + columns - 1
    h = torch.zeros(rows + 1, columns + 1)
    for t in range(rows):
        for y in range(columns):
            h[t + 1, y + 1] = h[t, y + 1] + h[t + 1, y] + x[0, t, y]
    assert torch.allclose(found[0], h[1:, 1:], atol=1e-4)


def test_the_plan_is_said(capsys):
    assert main(["explain", "mdlstm"]) == 0
    said = capsys.readouterr().out
    assert "solved by wavefront" in said and "U @ h[t-1] + W @ h_beside" in said and "T + T (Y - 1) / 64" in said


def test_steps_that_take_a_c_compiler_minutes_are_left_to_torch():
    native = [isinstance(recc.load("mdlstm", Y=columns), NativeOp) for columns in (2, 8)]
    assert native == [build.usable(), False]
