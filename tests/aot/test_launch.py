"""What a call of kernels does on the host: nothing waits for the device, and nothing is copied to it."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import torch
from kernels import recurrence
from recc.backends.torch import passes
from recc.backends.triton import aot, module
from recc.backends.triton.launch import Chunks
from torch.utils._python_dispatch import TorchDispatchMode

from recc.analysis import analyse

LENGTHS = ((5, 0, 33, 1, 16), (0, 0, 7), (64,), (0,))


class OnDevice(TorchDispatchMode):
    """Notes the tensors that are made on a CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.others: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = result if isinstance(result, (list, tuple)) else [result]
        self.others += [str(func) for x in made if torch.is_tensor(x) and x.device.type != "meta"]
        return result


@pytest.mark.parametrize("name", ["gla", "retnet", "gated_delta_net", "mamba"])
def test_a_batch_of_one_length_needs_nothing_from_the_host(name):
    """Both passes run on tensors without values: any that waits for one, or is filled from the CPU, fails or is noted.
    So they can be captured in a CUDA graph."""
    passes.keep_freed_memory()  # once in a process
    plan = analyse(recurrence(name))
    with OnDevice() as noted:
        assert aot.launches(module.generate(plan, module.chosen(plan)), {}, torch.bfloat16, time=100)
    assert noted.others == []


def test_tables_need_no_values_on_the_host():
    edges = torch.empty(4, dtype=torch.int32, device="meta")
    chunks = Chunks(1, 100, 2, 16, edges, False, torch.bfloat16, torch.device("meta"))
    assert chunks.count == 100 // 16 + 1 + 3 and chunks.table.shape == (4, 3) and chunks.owners.shape == (10,)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("every", [1, 4])
def test_tables(lengths, every):
    edges = torch.tensor([0, *lengths]).cumsum(0).int()
    chunks = Chunks(1, sum(lengths), 1, 16, edges, False, torch.float32, torch.device("cpu"), every)
    first, counts = edges.tolist(), [-(-n // 16) for n in lengths]
    owners = [sequence for sequence, count in enumerate(counts) for _ in range(count)]
    assert chunks.owners.tolist() == owners + [-1] * (chunks.count - len(owners))
    want = [[first[i], sum(counts[:i]), sum(-(-n // every) for n in counts[:i])] for i in range(len(first))]
    assert chunks.table.tolist() == want


def test_bounds_are_checked_once_for_each_version(monkeypatch):
    seen = []
    monkeypatch.setattr(passes, "check_bounds", lambda bounds, time: seen.append((bounds, time)))
    edges = torch.tensor([0, 3, 7])
    for given in (edges, edges.detach(), edges):
        passes.check_once(given, 7)
    assert seen == [([0, 3, 7], 7)]
    edges[1] = 5
    passes.check_once(edges, 7)
    passes.check_once(edges, 8)
    passes.check_once(edges[1:], 7)
    assert seen[1:] == [([0, 5, 7], 7), ([0, 5, 7], 8), ([5, 7], 7)]
    for last in range(20):  # new tensors, most of them at the same address
        passes.check_once(torch.tensor([0, last, 20]), 20)
    assert len(seen) == 24
    with torch.inference_mode():
        edges = torch.tensor([0, 3, 7])
        passes.check_once(edges, 7)
        passes.check_once(edges, 7)
    assert len(seen) == 26
