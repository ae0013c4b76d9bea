"""Generated kernels against the float64 loop: outputs, final states and every gradient."""

from __future__ import annotations

import re

import pytest
from kernels import bits, has_complex_state, parallel, recurrence, too_large
from recc.backends.triton import module
from recc.backends.triton.config import Config
from recc.backends.triton.schedule import Unserved

from recc import library
from recc.analysis import analyse
from recc.runtime.cases import PACKED, Case

# Delays, a stabiliser, a window and a normaliser beside a memory.
APART = [("gated_delta_net_layer", "packed_reverse", "two_level apart"), ("mlstm", "decay_mixed", "handed"),
         ("swla", "plain", "handed apart"), ("linear_attention", "packed", "handed apart")]  # fmt: skip
TOKENS = 34  # two chunks of 16 and one of two rows
# One of each kind: a decay per channel, rank 1, a scan with a read-out, a cascade, a fixed decay.
KINDS = ("gla", "gated_delta_net", "mamba", "mlstm", "retnet")
ANOTHER = """recurrence another
dim K, V
input q, k : K
input v : V
input a : K in [0, 1]
input e : V
state S : K x V = 0
state z : K = 1
output o : V
S[t] = a * S[t-1] + outer(sigmoid(k), tanh(v) + e)
z[t] = a * z[t-1] + sigmoid(k)
o    = silu(e) * (q @ S[t]) / (1 + abs(q @ z[t]))
example T = 33, heads = 2, K = 5, V = 20
"""
# A key that is the same at every token and is not zero beyond K: neither the blocks' padding may enter sums over K, nor
# may products with a key that no chunk has of its own be taken for products with a param.
FIXED_KEY = """recurrence fixed_key
dim K, V
input q : K
input v : V
state S : K x V = 0
output o, p : V
S[t] = S[t-1] + outer(ones(K), v)
o    = softmax(q) @ S[t]
p    = ones(K) @ S[t]
example T = 33, heads = 2, K = 5, V = 4
"""


COMPLEX = """recurrence turning
dim D
input z : D complex
input a : D in [0, 1]
param w : D complex = normal(0, 1)
state h : D complex = 0
output y : D complex
output e : D
h[t] = a * exp(complex(0, 1) * abs(w)) * h[t-1] + z * w
y    = conj(h[t]) * z
e    = abs(h[t])
example T = 19, heads = 2, D = 3
"""


# The gradient of the query that heads share sums over heads and over the tokens of a chunk.
SHARED_QUERY = """recurrence shared_query
dim K, V
input q : K shared
input k : K
input v : V
input g <= 0
state S : K x V = 0
output o : V shared
S[t] = exp(g) * S[t-1] + outer(k, v)
o    = sum(q @ S[t], over=heads)
example T = 33, heads = 3, K = 5, V = 6
"""


# A memory whose columns decay, and a complex one whose keys do and that is solved for.
COLUMNS = """recurrence columns
dim K, V
input q, k, p : K
input v : V
input g : V <= 0
state S : K x V = 0
output o : V
S[t] = exp(g) * S[t-1] + outer(k, v) + outer(p, 1 - exp(g))
o    = q @ S[t] + p @ S[t-1]
example T = 33, heads = 1, K = 3, V = 5
"""
COMPLEX_RULE = """recurrence complex_rule
dim K, V
input q, k : K complex
input v : V complex
input g : K <= 0
state S : K x V complex = 0
output o : V complex
w    = k / sqrt(1 + sum(real(k * conj(k))))
S[t] = exp(g) * S[t-1] - outer(w, conj(w) @ S[t-1] - v)
o    = q @ S[t]
example T = 33, heads = 1, K = 3, V = 2
"""


# Two ranks, of which the second writes a trace that gates what is read.
TRACED = """recurrence traced
dim K, V
input q, k, p : K unit
input v : V
input f : K <= 0
input beta, mu in [0, 1]
input r : V <= 0
state S : K x V = 0
state z : V = 0
output o : V
z[t] = exp(r) * z[t-1] + (1 - exp(r)) * v
S[t] = exp(f) * S[t-1] + beta * outer(k, v - k @ S[t-1]) + mu * outer(p, z[t])
o    = (q @ S[t]) * sigmoid(z[t])
example T = 33, heads = 2, K = 5, V = 20
"""


@pytest.mark.parametrize("name", parallel())
def test_float32(name, interpreted):
    assert interpreted(too_large, name, Case(TOKENS, "plain")) == []


@pytest.mark.parametrize("name", [name for name in parallel() if not has_complex_state(name)])
def test_float16(name, interpreted):
    """Twice the error of the loop in float16, and the rounding of a result."""
    assert interpreted(too_large, name, Case(TOKENS, "plain"), 16, "split", "float16") == []


@pytest.mark.parametrize("name", ["mamba", "liquid_s4", "plstm_1d", "gss"])
def test_a_second_dim_of_a_scan_block_by_block(name, interpreted):
    """Sums over it add up from turn to turn, and what each turn computes again is computed again after the last."""
    assert interpreted(too_large, name, Case(TOKENS, "plain"), 16, "narrow") == []


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("variant", ["reverse", "packed"])
def test_calls(name, variant, interpreted):
    time = sum(PACKED) if "packed" in variant else TOKENS
    assert interpreted(too_large, name, Case(time, variant), 32) == []


@pytest.mark.parametrize("time", [0, 1, 16])
def test_lengths(time, interpreted):
    assert interpreted(too_large, "gated_delta_net", Case(time, "plain")) == []


@pytest.mark.parametrize("name", ["gla", "gated_delta_net"])
@pytest.mark.parametrize("variant", ["fresh", "grouped", "split", "step", "packed_reverse"])
def test_other_calls(name, variant, interpreted):
    time = sum(PACKED) if "packed" in variant else 19
    assert interpreted(too_large, name, Case(time, variant), 32) == []


@pytest.mark.parametrize("corner", ["decay_zero", "decay_strong", "decay_mixed"])
@pytest.mark.parametrize("name", ["gla", "simple_gla", "kda"])
def test_corners_of_decays(name, corner, interpreted):
    assert interpreted(too_large, name, Case(34, corner)) == []


@pytest.mark.parametrize("name", ["gla", "delta_net", "mamba"])
def test_default_chunk(name, interpreted):
    assert interpreted(too_large, name, Case(70, "plain"), None) == []


@pytest.mark.parametrize("variant", ["decay_strong", "decay_mixed", "packed_reverse"])
def test_sums_that_wait_for_a_second_loop(variant, interpreted):
    """In chunks of 128 tokens the last launch has two loops over keys, and the gate's gradient from sums of rows."""
    time = sum(PACKED) if "packed" in variant else 150
    assert interpreted(too_large, "simple_gla", Case(time, variant), None) == []


@pytest.mark.parametrize(
    "variant, dtype", [("plain", "float16"), ("decay_strong", "float32"), ("packed_reverse", "float32")]
)
def test_gradients_by_blocks_of_channels(variant, dtype, interpreted):
    """Two blocks of 16 channels, of which the second has 5: what follows the loop of the last launch."""
    time = sum(PACKED) if "packed" in variant else TOKENS
    text = library.find("rwkv7")[0].replace("K = 8", "K = 21")
    assert interpreted(too_large, text, Case(time, variant), 16, "split", dtype) == []


@pytest.mark.parametrize("name", ["simple_gla", "kda"])
@pytest.mark.parametrize("variant", ["plain", "packed_reverse"])
def test_states_are_kept_at_longer_chunks(name, variant, interpreted):
    """Chunks of 16 or 32 tokens in the forward pass, of 64 in the backward pass."""
    time = sum(PACKED) if "packed" in variant else 130
    assert interpreted(too_large, name, Case(time, variant), 64) == []


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("schedule", ["split", "fused"])
def test_schedules(name, schedule, interpreted):
    assert interpreted(too_large, name, Case(TOKENS, "plain"), 16, schedule) == []


@pytest.mark.parametrize("name, variant, schedule", APART)
def test_launches_of_fewer_tiles(name, variant, schedule, interpreted):
    """Vectors are walked before the memory, their cotangents after it; tiles pass from launch to launch."""
    time = sum(PACKED) if "packed" in variant else TOKENS
    assert interpreted(too_large, name, Case(time, variant), 16, schedule) == []


@pytest.mark.parametrize("name, schedule", [(TRACED, "handed apart looped"), ("lightnet", "looped")])
def test_launches_that_take_a_dim_block_by_block(name, schedule, interpreted):
    """Where `backends/triton/fit.py` asks for it; what was handed on is read, and not computed from what it is of."""
    assert interpreted(too_large, name, Case(TOKENS, "plain"), 16, schedule) == []


@pytest.mark.parametrize("name", KINDS)
def test_fused_schedule(name):
    """The forward pass is one launch that walks, after at most one for what depends on no state."""
    plan = analyse(recurrence(name))
    text = module.generate(plan, module.chosen(plan), Config(forward="fused")).functions
    names = re.findall(r"^def (forward_\w+)\(", text, re.MULTILINE)
    outer = ("forward_own", "forward_cross", "forward_transition")  # where few programs would run
    names = [name for name in names if name != "forward_prepare" and not name.startswith(outer)]
    assert names == ["forward_fused", "forward_tiles"]


def test_a_spec_that_nobody_has_seen(interpreted):
    """Two states, two kinds of reads, functions before and after, dims that fill no block."""
    assert interpreted(too_large, ANOTHER, Case(TOKENS, "plain")) == []


@pytest.mark.parametrize("schedule", ["split", "fused"])
def test_a_key_that_no_token_changes(schedule, interpreted):
    assert interpreted(too_large, FIXED_KEY, Case(TOKENS, "plain"), 16, schedule) == []


def test_heads_that_share_a_query_and_an_output(interpreted):
    assert interpreted(too_large, SHARED_QUERY, Case(20, "plain")) == []


def test_same_bits(interpreted):
    assert all(interpreted(bits, "gla", Case(TOKENS, "plain")))


@pytest.mark.parametrize("variant", ["packed_reverse", "split"])
def test_complex_states(variant, interpreted):
    """Over several chunks; `test_float32` has every spec."""
    time = sum(PACKED) if "packed" in variant else 19
    assert interpreted(too_large, "lru", Case(time, variant)) == []


@pytest.mark.parametrize("schedule", [None, "sequential"])
def test_complex_values(schedule, interpreted):
    """An input, a param and an output that are complex, too."""
    assert interpreted(too_large, COMPLEX, Case(19, "plain"), 16, schedule) == []


@pytest.mark.parametrize("case, schedule", [("plain", "fused"), ("decay_strong", "split")])
def test_columns_that_decay(case, schedule, interpreted):
    assert interpreted(too_large, COLUMNS, Case(TOKENS, case), 16, schedule) == []


def test_a_complex_memory_that_is_solved_for(interpreted):
    assert interpreted(too_large, COMPLEX_RULE, Case(20, "plain")) == []


def test_refusals():
    with pytest.raises(Unserved, match="convolution, which has no Triton kernels") as refused:
        plan = analyse(recurrence("s4d"))
        module.generate(plan, module.chosen(plan, "convolution"))
    assert "torch backend" in refused.value.help
