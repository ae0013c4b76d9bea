"""Kernels that walk outer chunks side by side, against the float64 loop: outputs, final states and every gradient."""

from __future__ import annotations

import re

import pytest
from kernels import recurrence, too_large
from recc.backends.triton import module
from recc.backends.triton.config import Config

from recc.analysis import analyse
from recc.runtime.cases import PACKED, Case

TOKENS = 70  # outer chunks of 32, 32 and 6 tokens
# A scalar decay, one per channel, none that changes, rank 1 with either decay, two levels of states, a scan.
KINDS = ("simple_gla", "gla", "retnet", "gated_delta_net", "kda", "mlstm", "hgrn")


@pytest.mark.parametrize("name", KINDS)
def test_float32(name, interpreted):
    assert interpreted(too_large, name, Case(TOKENS, "plain"), 16, "two_level") == []


@pytest.mark.parametrize("name", ["simple_gla", "gated_delta_net"])
def test_float16(name, interpreted):
    assert interpreted(too_large, name, Case(TOKENS, "plain"), 16, "two_level", "float16") == []


@pytest.mark.parametrize("name", ["simple_gla", "gated_delta_net", "hgrn"])
@pytest.mark.parametrize("variant", ["packed_reverse", "split"])
def test_calls(name, variant, interpreted):
    """`split` hands the state of one call to the next."""
    time = sum(PACKED) if "packed" in variant else 37
    assert interpreted(too_large, name, Case(time, variant), 16, "two_level") == []


@pytest.mark.parametrize("time", [0, 1, 64])
def test_lengths(time, interpreted):
    assert interpreted(too_large, "simple_gla", Case(time, "plain"), 16, "two_level") == []


@pytest.mark.parametrize("corner", ["decay_strong", "decay_mixed"])
@pytest.mark.parametrize("name", ["gla", "simple_gla"])
def test_corners_of_decays(name, corner, interpreted):
    assert interpreted(too_large, name, Case(40, corner), 16, "two_level") == []


@pytest.mark.parametrize(("name", "schedule"), [("gated_delta_net", "split"), ("gated_delta_net", "fused"),
                                                ("mlstm", "fused")])  # fmt: skip
def test_schedules(name, schedule, interpreted):
    assert interpreted(too_large, name, Case(40, "plain"), 16, f"two_level {schedule}") == []


def test_states_are_kept_at_longer_chunks(interpreted):
    """Chunks of 32 tokens in the forward pass, of 64 in the backward pass, outer chunks of 128."""
    assert interpreted(too_large, "simple_gla", Case(200, "plain"), 64, "two_level") == []


@pytest.mark.parametrize("name", KINDS)
def test_launches(name):
    """Both passes can choose; with outer chunks, the forward pass of a memory walks them from nothing, crosses them and
    walks them once more."""
    plan = analyse(recurrence(name))
    text = module.generate(plan, module.chosen(plan)).functions
    assert text.count("if outer.several:") >= 2
    dense = name in ("gated_delta_net", "kda")
    names = re.findall(r"^def forward_(\w+)\(", text, re.MULTILINE)
    assert ("transition" in names) == dense and {"own", "cross"} <= set(names)
    assert "outer.several" not in module.generate(plan, module.chosen(plan), Config(outer=0)).functions
