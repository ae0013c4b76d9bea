"""Kernels of Newton's method, compiled for GPUs that need not be there."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import torch
from cells import OTHERS
from kernels import recurrence
from recc.backends.triton import aot, module

from recc.analysis import analyse


def compiled(name: str, target: str, **sizes: int) -> tuple[dict[str, int], dict[str, int]]:
    """The facts of the forward launch in bfloat16, and its sizes."""
    plan = analyse(recurrence(OTHERS.get(name, name)))
    launches = aot.launches(module.generate(plan, module.chosen(plan, "newton")), {}, torch.bfloat16, **sizes)
    (launch,) = (found for found in launches if found.name.startswith("forward"))
    return aot.facts(aot.compile_launch(launch, target)), launch.arguments


@pytest.mark.parametrize("name, target", [*(("para_gru", target) for target in sorted(aot.TARGETS)),
                                          ("para_lstm", "sm_90"), ("four", "sm_90")])  # fmt: skip
def test_without_spills(name, target):
    found, sizes = compiled(name, target)
    assert found["spills"] == 0 and sizes["BLOCK_D"] == 4


@pytest.mark.parametrize("name", ["para_gru", "para_lstm"])
def test_few_channels_get_long_windows(name):
    """With one sequence and head, a program solves one channel: there are as many programs as can be."""
    found, sizes = compiled(name, "sm_90", batch=1, heads=1)
    assert found["spills"] == 0 and (sizes["BLOCK_D"], sizes["ROWS"]) == (1, 2048)
