"""A recurrence as a layer."""

from __future__ import annotations

import pickle

import pytest
import torch

import recc

NAMES = """recurrence clash
dim D
input x : D
param step : D = 0.5
param step_ : D = 2
param training : D >= 0 = 1
param op : D = 1
state h : D = 0
output h
h[t] = step * h[t-1] + step_ * training * op * x
"""


def test_a_param_with_the_name_of_an_attribute_has_a_line_behind():
    layer = recc.Module(NAMES, heads=1, D=3, backend="torch")
    assert dict(layer.named_parameters()).keys() == {"step__", "step_", "training_", "op_"}
    assert layer.training is True
    x = torch.ones(1, 2, 1, 3)
    torch.testing.assert_close(layer(x)[0, :, 0], torch.tensor([[2.0] * 3, [3.0] * 3]))
    h, state = layer.step(x[:, 0], state=layer.init_state(1))
    torch.testing.assert_close(h, torch.full((1, 1, 3), 2.0))
    with torch.no_grad():
        layer.training_.fill_(-1.0)
    layer.project()
    assert (layer.training_ == 0).all()
    torch.testing.assert_close(pickle.loads(pickle.dumps(layer))(x), layer(x))


def test_a_shipped_layer_whose_param_is_called_step():
    layer = recc.Module("linoss", heads=1, D=4, N=3, backend="torch")
    assert layer(torch.randn(2, 5, 1, 4)).shape == (2, 5, 1, 4) and "step_" in dict(layer.named_parameters())


def test_an_input_that_is_left_out_is_named():
    """Not a param, which would stand in its place."""
    layer = recc.Module("linoss", heads=1, D=4, N=3, backend="torch")
    with pytest.raises(ValueError, match="^linoss misses `u`; the layer takes u$"):
        layer()
    with pytest.raises(ValueError, match="misses `u`"):
        layer.step(state=layer.init_state(1))
