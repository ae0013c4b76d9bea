"""States that grow exponentially: a scale is derived where it is needed, and changes no value."""

from __future__ import annotations

import pytest
import torch
from problems import SPECS, TOLERANCE, error, parsed

import recc
from recc.analysis import analyse
from recc.ir.interpreter import run

# The mLSTM as one would write it if numbers had no largest: h = C q / max(|n q|, 1).
MLSTM = """recurrence mlstm
dim    K, V
input  q, k : K
input  v    : V
input  i, f
state  C    : K x V = 0
state  n    : K = 0
output h    : V

C[t]  = sigmoid(f) * C[t-1] + exp(i) * outer(k, v)
n[t]  = sigmoid(f) * n[t-1] + exp(i) * k
q_hat = q / sqrt(K)
h     = q_hat @ C[t] / max(abs(q_hat @ n[t]), 1)
"""


def inputs(gate: float, dtype: torch.dtype, time: int = 70) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    drawn = {name: torch.randn(2, time, 2, size, generator=generator) for name, size in (("q", 8), ("k", 8), ("v", 4))}
    drawn |= {name: torch.randn(2, time, 2, generator=generator) for name in ("i", "f")}
    drawn["i"] = gate * (2 * torch.rand(2, time, 2, generator=generator) - 1)
    return {name: x.to(dtype).requires_grad_() for name, x in drawn.items()}


@pytest.mark.parametrize("backend", ["torch", None])
def test_the_derived_mlstm_equals_the_printed_one(backend):
    found = []
    for text in (MLSTM, SPECS["mlstm"]):
        given = inputs(3.0, torch.float64)
        h = recc.loads(text, backend=backend)(**given)
        found.append((h, *torch.autograd.grad(h.sin().sum(), list(given.values()))))
    for derived, printed in zip(*found, strict=True):
        assert error(derived, printed) <= TOLERANCE


@pytest.mark.parametrize("backend", ["torch", None])
@pytest.mark.parametrize("spec", ["mlstm", "rwkv4", "aaren", "lightnet"])
def test_exponents_up_to_eighty_in_float32(spec, backend):
    text = MLSTM if spec == "mlstm" else SPECS[spec]
    rec = parsed(text)
    generator, sizes = torch.Generator().manual_seed(0), {"K": 8, "V": 4, "D": 6}
    given = {x.name: torch.randn(1, 70, 2, *(sizes[a] for a in x.axes[1:]), generator=generator) for x in rec.inputs}
    params = {p.name: torch.rand(2, *(sizes[a] for a in p.axes[1:]), generator=generator) for p in rec.params}
    gate = "i" if spec == "mlstm" else "k"
    given[gate] = given[gate] * 80 / given[gate].abs().max()
    leaves = {name: x.requires_grad_() for name, x in (given | params).items()}
    out = recc.loads(text, backend=backend)(**leaves)
    slopes = torch.autograd.grad(out.sum(), list(leaves.values()))
    written, _ = run(rec.origin, {n: x.detach().double() for n, x in given.items()},
                     {n: x.detach().double() for n, x in params.items()}, dtype=torch.float64)  # fmt: skip
    assert all(bool(x.isfinite().all()) for x in (out, *slopes))
    torch.testing.assert_close(out.detach().double(), next(iter(written.values())), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spec", ["mlstm", "mlstm_sig", "gla", "mamba", "rwkv6", "gated_delta_net_layer"])
def test_no_scale_where_none_is_needed(spec):
    """A stabiliser that is printed stands as it is; a gate that cannot exceed 1 needs none."""
    assert parsed(SPECS[spec]).origin is None


def test_states_that_grow_alike_share_a_scale():
    rec = parsed(MLSTM)
    assert rec.scales == {"C": "log_scale_C", "n": "log_scale_C"}
    assert "carried as C exp(log_scale_C)" in " ".join(r.text for c in analyse(rec).components for r in c.reasons)


def test_a_scale_takes_no_name_that_is_taken():
    text = MLSTM.replace("state  n ", "state  log_scale_C ").replace("n[t", "log_scale_C[t")
    assert parsed(text).scales["C"] == "log_scale_C_"
