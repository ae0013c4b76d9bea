"""One long sequence on several cores: blocks of a dim forward and backward, stretches of time backward."""

from __future__ import annotations

import pytest
import torch
from contracts import Call, gap, gradients, same_bits
from recc.backends.c import build, compiler
from recc.backends.c.blocks import Blocks
from recc.backends.c.stretches import Stretches

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)


@pytest.mark.parametrize("name, sizes", [
    ("gla", {"K": 16, "V": 128}), ("gated_delta_net", {"K": 16, "V": 128}), ("mamba", {"D": 128, "N": 16}),
])  # fmt: skip
@pytest.mark.parametrize("offsets", [None, [0, 0, 33, 34, 400]])
def test_one_head_of_one_sequence_is_computed_in_blocks_where_there_are_cores(name, sizes, offsets, monkeypatch):
    """With the bits of the whole, on any number of threads; but for gradients that blocks share, which they add up."""
    call = Call(name, time=400, batch=1, heads=1, grad=True, **sizes)
    held = {key: x.requires_grad_() for key, x in call.state(4 if offsets else 1).items()}
    options = {"initial_state": held, "cu_seqlens": torch.tensor(offsets) if offsets else None}
    counts, own = [], Blocks.count
    monkeypatch.setattr("recc.backends.c.blocks.WORTH", 0)
    monkeypatch.setattr(Blocks, "count", lambda self, call: counts.append(own(self, call)) or counts[-1])

    def both():
        results = call(**options, reverse=bool(offsets))
        return results, gradients(results, [*call.tensors, *held.values()])

    found = {}
    for machine, threads in ((1, 1), (8, 1), (8, 2)):
        monkeypatch.setattr("recc.backends.c.blocks.cores", lambda machine=machine: machine)
        torch.set_num_threads(threads)
        try:
            found[machine, threads] = both()
        finally:
            torch.set_num_threads(1)
    assert counts[:2] == [1, 1] and counts[2:] == counts[2:3] * 4 and counts[2] in (2, 4)  # by the machine's vectors
    (whole, slopes), (results, grads), again = found.values()
    assert same_bits(results, whole) and all(gap(a, b) < 1e-6 for a, b in zip(grads, slopes, strict=True))
    assert same_bits([*results, *grads], [*again[0], *again[1]])


@pytest.mark.parametrize("name, reverse", [("gla", False), ("gated_delta_net", True), ("mamba2", False)])
def test_a_long_backward_pass_is_computed_in_stretches_where_there_are_cores(name, reverse, monkeypatch):
    """With the bits of the whole, on any number of threads; but for gradients of params, which stretches add up."""
    sizes = {"P": 16, "N": 16} if name == "mamba2" else {"K": 16, "V": 16}
    call = Call(name, time=777, batch=1, heads=2, grad=True, **sizes)
    held = {key: x.requires_grad_() for key, x in call.state(1).items()}
    used, own = [], Stretches.edges
    monkeypatch.setattr("recc.backends.c.stretches.WORTH", 0)
    monkeypatch.setattr(Stretches, "edges", lambda self, call: used.append(own(self, call)) or used[-1])
    leaves = [*call.inputs.values(), *held.values(), *call.params.values()]
    found = {}
    for machine, threads in ((1, 2), (8, 2), (8, 3)):
        monkeypatch.setattr("recc.backends.c.blocks.cores", lambda machine=machine: machine)
        torch.set_num_threads(threads)
        try:
            found[machine, threads] = gradients(call(initial_state=held, reverse=reverse), leaves)
        finally:
            torch.set_num_threads(1)
    chunk = call.op.chunk_of(**call.sizes)
    assert used[0] == [] and used[1] == used[2] and len(used[1]) == 5  # four stretches
    lengths = [high - low for high, low in zip(used[1][:-1], used[1][1:], strict=True)]
    assert sum(lengths) == 777 and lengths == sorted(lengths, reverse=True)
    assert used[1][0] == 777 and not any(edge % chunk for edge in used[1][1:])
    whole, grads, again = found.values()
    same = len(call.inputs) + len(held)
    assert same_bits(grads[:same], whole[:same]) and same_bits(grads, again)
    assert all(gap(a, b) < 1e-6 for a, b in zip(grads, whole, strict=True))
