"""Kernels on a GPU against the float64 loop: outputs, final states and every gradient, in three dtypes."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("no GPU is at hand", allow_module_level=True)

from kernels import parallel, recurrence

import recc
from recc.runtime import verify
from recc.runtime.api import compile_recurrence
from recc.runtime.cases import PACKED, Case
from recc.runtime.samples import sample_inputs
from recc.tuning.tune import OnDevice

KINDS = ("gla", "gated_delta_net", "mamba", "mlstm", "retnet")
CALLS = (Case(1, "plain"), Case(0, "plain"), Case(70, "reverse"), Case(70, "split"), Case(sum(PACKED), "packed"),
         Case(19, "grouped"), Case(17, "step"), Case(80, "decay_mixed"))  # fmt: skip


def too_large(name: str, case: Case, dtypes: list[str], **config) -> list[str]:
    op = OnDevice(compile_recurrence(recurrence(name), backend="triton", **config), "cuda")
    rows = verify.compare(recurrence(name), case, dtypes, {"kernels": op}, [])
    assert rows
    return [f"{row.what}, {row.case}: {row.error:.2g} > {row.limit:.2g} {row.note}" for row in rows if not row.ok]


@pytest.mark.parametrize("name", parallel())
def test_every_spec_in_bfloat16(name):
    assert too_large(name, Case(150, "plain"), ["bfloat16"]) == []


@pytest.mark.parametrize("name", parallel())
def test_every_spec_in_float32(name):
    """In short chunks: products in full precision take long to compile."""
    assert too_large(name, Case(70, "plain"), ["float32"], chunk=16) == []


@pytest.mark.parametrize("name", KINDS)
def test_float16(name):
    assert too_large(name, Case(150, "plain"), ["float16"]) == []


@pytest.mark.parametrize("case", CALLS, ids=lambda case: f"{case.time} {case.variant}")
@pytest.mark.parametrize("name", KINDS)
def test_calls(name, case):
    assert too_large(name, case, ["float32"], chunk=16) == []


@pytest.mark.parametrize("name", ["gla", "gated_delta_net"])
@pytest.mark.parametrize("config", [{"forward": "fused"}, {"backward": "fused"}, {"chunk": 32}], ids=str)
def test_schedules(name, config):
    assert too_large(name, Case(150, "plain"), ["bfloat16"], **config) == []


@pytest.mark.parametrize("name", ["gla", "gated_delta_net"])
def test_wide_heads(name):
    """K = V = 128, the size of most models, over several chunks."""
    op = recc.load(name, backend="triton")
    plain = recc.load(name, backend="torch")
    random = torch.Generator("cuda").manual_seed(0)
    x = sample_inputs(recurrence(name), {"K": 128, "V": 128}, 2, 300, 3, torch.bfloat16, random)
    x = [value.requires_grad_() for value in x.values()]
    y = op(*x)
    dy = torch.randn_like(y)
    wide = [value.detach().float().requires_grad_() for value in x]
    want = plain(*wide)
    pairs = [(y, want), *zip(torch.autograd.grad(y, x, dy), torch.autograd.grad(want, wide, dy.float()), strict=True)]
    for got, truth in pairs:
        assert (got.float() - truth).norm() < 0.02 * truth.norm()


def test_same_bits():
    op = recc.load("gated_delta_net", backend="triton")
    random = torch.Generator("cuda").manual_seed(0)
    x = sample_inputs(recurrence("gated_delta_net"), {"K": 64, "V": 64}, 2, 500, 4, torch.bfloat16, random)
    x = [value.requires_grad_() for value in x.values()]
    runs = [torch.autograd.grad(op(*x).sum(), x) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_offsets_beyond_32_bits():
    """More than 2^31 elements in each input: the last sequence equals the same one alone."""
    op = recc.load("simple_gla", backend="triton")
    batch, time, heads, size = 65, 4096, 64, 128
    assert batch * time * heads * size > 2**31
    if torch.cuda.mem_get_info()[0] < 40 << 30:
        pytest.skip("needs 40 GiB of free memory")
    q, k, v = (torch.randn(batch, time, heads, size, dtype=torch.bfloat16, device="cuda") for _ in range(3))
    g = -torch.rand(batch, time, heads, device="cuda")
    with torch.no_grad():
        whole = op(q, k, v, g)[-1:]
        assert torch.equal(whole, op(q[-1:], k[-1:], v[-1:], g[-1:]))


def test_compiled_in_one_graph():
    op = recc.load("gla", backend="triton")
    run = torch.compile(lambda *x: op(*x), fullgraph=True)
    random = torch.Generator("cuda").manual_seed(0)
    for time in (64, 100):
        x = sample_inputs(recurrence("gla"), {"K": 32, "V": 32}, 1, time, 2, torch.bfloat16, random)
        assert torch.equal(run(*x.values()), op(*x.values()))


@pytest.mark.parametrize("name", ["gla", "gated_delta_net"])
def test_captured_in_a_graph(name):
    """Both passes of a batch of sequences of one length, replayed on other numbers in the same memory."""
    op = recc.load(name, backend="triton")
    random = torch.Generator("cuda").manual_seed(0)
    first, second = (
        [*sample_inputs(recurrence(name), {"K": 32, "V": 32}, 2, 100, 2, torch.bfloat16, random).values()]
        for _ in range(2)
    )
    x = [value.clone().requires_grad_() for value in first]

    def run():
        return [y := op(*x), *torch.autograd.grad(y.sum(), x)]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    with torch.no_grad():
        for value, new in zip(x, second, strict=True):
            value.copy_(new)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, run(), strict=True))
