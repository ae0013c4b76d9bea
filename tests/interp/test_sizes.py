"""Ops whose configuration is chosen by the sizes of a call."""

from __future__ import annotations

import pytest
from kernels import recurrence
from recc.backends.triton import config, module

from recc.analysis import analyse
from recc.runtime import verify
from recc.runtime.cases import PACKED, Case


def wrong(name: str, variant: str) -> tuple[list[str], bool]:
    """What is beyond the budget, computed by the op that is for these sizes; whether other sizes take the default."""
    import torch

    rec, walk = recurrence(name), config.Tile(warps=2, stages=1, crowded=True)
    plan, other = analyse(rec), config.Config(chunk=16, apart=True)
    op = module.op(plan)
    own, op.few = (op._forward, getattr(op, "decoder", None)), False
    if not module.chosen(plan).parallel:
        other = config.DEFAULT.with_tile("forward_walk", walk).with_tile("decode_walk", walk)
    sizes = {dim: size or rec.example[dim] for dim, size in rec.dims.items()}
    made = module.load(module.generate(plan, module.chosen(plan, None, other.chunk), other))
    op.fitted = ((sizes, torch.float32, made),)
    op._forward = op.decoder = None  # what calls them fails
    time = sum(PACKED) if "packed" in variant else 3 if variant == "step" else 34
    rows = verify.compare(rec, Case(time, variant), ["float32"], {"kernels": op}, [])
    op.fitted, (op._forward, op.decoder) = (({**sizes, next(iter(sizes)): 3}, torch.float32, made),), own
    usual = verify.compare(rec, Case(9, "plain"), ["float32"], {"kernels": op}, [])
    return [row.what for row in (*rows, *usual) if not row.ok], len(rows) > 0


@pytest.mark.parametrize("name", ["retnet", "gated_delta_net", "gru"])
@pytest.mark.parametrize("variant", ["plain", "packed_reverse"])
def test_a_call_takes_the_form_for_its_sizes(name, variant, interpreted):
    assert interpreted(wrong, name, variant) == ([], True)


def test_a_token_takes_the_form_for_its_sizes(interpreted):
    assert interpreted(wrong, "gru", "step") == ([], True)
