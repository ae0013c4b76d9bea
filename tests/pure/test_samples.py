"""Inputs that verification draws: inside their domains, the same in every dtype, hard where a corner says so."""

from __future__ import annotations

import pytest
import torch

from recc.ir.node import HEADS, Span
from recc.ir.program import Domain, Input, Recurrence
from recc.runtime.samples import CORNERS, STRONG, sample_inputs

HERE = Span(1, 1, 1, 2)


def recurrence() -> Recurrence:
    def given(name: str, *axes: str, dtype: str = "real", **bounds) -> Input:
        return Input(name, axes, dtype, Domain(**bounds), HERE)

    inputs = (
        given("free", HEADS, "K"),
        given("key", HEADS, "R", "K", unit=True),
        given("decay", HEADS, high=0.0),
        given("step", "K", low=0.0),
        given("gate", HEADS, low=-1.0, high=2.0),
        given("phase", HEADS, dtype="complex"),
    )
    return Recurrence("test", "", {"K": None, "R": 2}, inputs, (), (), (), {})


def sample(corner: str | None = None, dtype: torch.dtype = torch.float64, time: int = 50) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return sample_inputs(recurrence(), {"K": 4}, 2, time, 3, dtype, generator, corner)


def test_shapes_dtypes_and_domains():
    x = sample()
    assert {name: tuple(value.shape) for name, value in x.items()} == {
        "free": (2, 50, 3, 4),
        "key": (2, 50, 3, 2, 4),
        "decay": (2, 50, 3),
        "step": (2, 50, 4),
        "gate": (2, 50, 3),
        "phase": (2, 50, 3),
    }
    torch.testing.assert_close(x["key"].norm(dim=-1), torch.ones(2, 50, 3, 2, dtype=torch.float64))
    assert x["decay"].max() <= 0 <= x["step"].min() and -1 <= x["gate"].min() and x["gate"].max() <= 2
    assert x["decay"].median() > -0.3 and x["decay"].min() < -1  # mostly small, with a tail
    assert x["phase"].dtype == torch.complex128


def test_one_seed_means_the_same_numbers_in_every_dtype():
    for name, value in sample(dtype=torch.float32).items():
        assert torch.equal(value, sample()[name].to(value.dtype))


@pytest.mark.parametrize("corner", CORNERS)
def test_a_corner_changes_what_it_is_about_and_nothing_else(corner: str):
    usual, hard = sample(), sample(corner)
    about = {"large": {"free", "phase"}, "low": {"gate"}, "high": {"gate"}}.get(corner, {"decay", "step"})
    assert {name for name in usual if not torch.equal(usual[name], hard[name])} == about


def test_corners_stand_at_the_bounds():
    assert sample("decay_zero")["decay"].eq(0).all() and sample("decay_zero")["step"].eq(0).all()
    assert sample("decay_strong")["decay"].eq(-STRONG).all() and sample("decay_strong")["step"].eq(STRONG).all()
    assert set(sample("decay_mixed")["decay"].unique().tolist()) == {-STRONG, 0.0}
    assert sample("low")["gate"].eq(-1).all() and sample("high")["gate"].eq(2).all()
    assert torch.equal(sample("large")["free"], 3 * sample()["free"])


def test_no_tokens_and_unknown_names():
    assert sample(time=0)["key"].shape == (2, 0, 3, 2, 4)
    with pytest.raises(ValueError, match="no corner `hard`"):
        sample("hard")
    with pytest.raises(ValueError, match="no size for K"):
        sample_inputs(recurrence(), {}, 1, 1, 1)
