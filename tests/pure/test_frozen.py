"""Memories whose gradients are taken at copies that are held for a number of tokens, in chunks: against the loop, from
any place in a chunk; what is found, however it is spelled; and what is nearly of this form, and why not."""

from __future__ import annotations

import pytest
import torch
from problems import assert_same, call, gradients, parsed, problem
from recc.backends.torch.module import programs

import recc
from recc.analysis import analyse
from recc.analysis.plan import Frozen, Reason
from recc.ir.node import HEADS, ROW, walk
from recc.runtime.samples import CORNERS
from recc.strategies import choose

NORMED = """recurrence normed
dim K, V, C = 4
input q, k : K unit
input v : V
input g <= 0
input eta in [0, 0.5]
state n = 0
state W, F : K x V = 0
state b, c : V = 0
output o : V
def model(x, W, b) = (x @ W + b) / sqrt(mean((x @ W + b) ** 2) + 0.1)
loss = sum((model(k, F[t], c[t]) - v) ** 2) / 2
start = n[t-1] == C * floor(n[t-1] / C)
n[t] = n[t-1] + 1
F[t] = where(start, W[t-1], F[t-1])
c[t] = where(start, b[t-1], c[t-1])
W[t] = exp(g) * W[t-1] - eta * grad(loss, F[t])
b[t] = b[t-1] - eta * grad(loss, c[t])
o = model(q, W[t], b[t])
example T = 11, heads = 2, K = 3, V = 2
"""
LAYERS = """recurrence layers
dim K, V, E = 4, C = 8
input q, k : K unit
input v : V
input alpha in [0, 1]
input eta in [-0.9, 0.9]
state n = 0
state A, F, S : K x E = 0
state B, H, R : E x V = 0
output o, p : V
def model(x, A, B) = tanh(x @ A + 1) @ B
loss = sum((model(k, F[t], H[t]) - v) ** 2) / 4
start = n[t-1] == C * floor(n[t-1] / C)
n[t] = n[t-1] + 1
F[t] = where(start, A[t-1], F[t-1])
H[t] = where(start, B[t-1], H[t-1])
S[t] = eta * S[t-1] - grad(loss, F[t])
R[t] = eta * R[t-1] - grad(loss, H[t])
A[t] = (1 - alpha) * A[t-1] + S[t]
B[t] = (1 - alpha) * B[t-1] + R[t]
o = model(q, A[t], B[t])
p = model(q, A[t-1], H[t])
example T = 19, heads = 2, K = 3, V = 2
"""
COUNTS = {"at a start": 0.0, "within a chunk": 5.0, "each head at another place": None, "never": 0.5}


def started(text, time, count, batch=2, corner=None):
    """A problem whose count of tokens is `count`; where that is None, another one for each sequence and head."""
    inputs, params, start = problem(parsed(text), batch, time, corner=corner)
    places = torch.arange(start["n"].numel(), dtype=torch.float64).view_as(start["n"])
    start["n"] = 3 * places if count is None else torch.full_like(start["n"], count)
    return inputs, params, start


def assert_equals_the_loop(text, tensors, chunk=None, **options):
    leaves = {name: x.requires_grad_() for group in tensors for name, x in group.items()}
    found = call(recc.loads(text, strategy="frozen", chunk=chunk), *tensors, **options)
    wanted = call(recc.loads(text, strategy="sequential"), *tensors, **options)
    for ours, theirs in zip(found, wanted, strict=True):
        assert_same(ours, theirs)
    assert_same(gradients(*found, leaves), gradients(*wanted, leaves))


@pytest.mark.parametrize("text", [NORMED, LAYERS], ids=["normed", "layers"])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("time", [1, 19])
def test_chunks_equal_the_loop_wherever_they_start(text, time, count):
    assert_equals_the_loop(text, started(text, time, COUNTS[count]))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("count", [0.0, None])
def test_packed_sequences_in_both_directions(count, reverse):
    inputs, params, _ = problem(parsed(LAYERS), 1, 23)
    start = started(LAYERS, 0, count, batch=4)[2]
    bounds = torch.tensor([0, 3, 3, 12, 23])
    assert_equals_the_loop(LAYERS, (inputs, params, start), cu_seqlens=bounds, reverse=reverse)


@pytest.mark.parametrize("corner", CORNERS)
def test_the_ends_of_domains(corner):
    assert_equals_the_loop(NORMED, started(NORMED, 19, 0.0, corner=corner))


def test_chunks_of_half_the_tokens_and_no_tokens():
    assert_equals_the_loop(LAYERS, started(LAYERS, 19, 0.0), chunk=4)
    assert_equals_the_loop(LAYERS, started(LAYERS, 0, 5.0))


def test_a_sequence_that_is_not_a_number_spoils_no_other():
    tensors = started(LAYERS, 19, 0.0)
    tensors[0]["v"][0, 13] = torch.nan
    op, loop = recc.loads(LAYERS, strategy="frozen"), recc.loads(LAYERS, strategy="sequential")
    found, wanted = call(op, *tensors)[0]["o"], call(loop, *tensors)[0]["o"]
    assert found[0, 13:].isnan().all() and wanted[0, 13:].isnan().all()
    assert_same({"o": found[0, :8]}, {"o": wanted[0, :8]})  # the chunks before
    assert_same({"o": found[1]}, {"o": wanted[1]})


COUNT = "n[t-1] == C * floor(n[t-1] / C)"
SPELLINGS = {
    "swapped": ("where(start, W[t-1], F[t-1])", f"where({COUNT.replace('==', '!=')}, F[t-1], W[t-1])", 4, 0),
    "the new count": (f"start = {COUNT}", "start = n[t] - C * floor((n[t] - 1) / C) == 1", 4, 0),
    "the last token": (f"start = {COUNT}", "start = C * floor(n[t] / C) == n[t]", 4, 3),
    "twelve tokens": ("C = 4", "C = 12", 12, 0),
    "seven tokens": ("C = 4", "C = 7", 7, 0),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_counts_of_tokens_in_other_words(spelling):
    old, new, period, offset = SPELLINGS[spelling]
    text = NORMED.replace(old, new)
    kind = analyse(parsed(text)).components[-1].kind.frozen
    assert isinstance(kind, Frozen) and (kind.counter, kind.period, kind.offset) == ("n", period, offset)
    assert_equals_the_loop(text, started(text, 27, 3.0))


NEARLY = {
    "an input decides": (COUNT, "eta > 0.3", "no count of tokens"),
    "it counts otherwise": ("n[t] = n[t-1] + 1", "n[t] = n[t-1] + 2", "no count of tokens"),
    "another time": (
        "where(start, b[t-1], c[t-1])",
        "where(n[t-1] == 8 * floor(n[t-1] / 8), b[t-1], c[t-1])",
        "different",
    ),
    "a copy is forgotten": ("c[t] = where(start, b[t-1], c[t-1])", "c[t] = b[t-1]", "also with F given, "),
    "read too early": ("o = model(q,", "o = q @ F[t-1] + model(q,", "before it may be renewed"),
    "read whole": ("o = model(q,", "o = sum(F[t] ** 2, over=K) + model(q,", "read whole"),
    "no copy": ("grad(loss, F[t])", "grad(sum((model(k, W[t-1], b[t-1]) - v) ** 2), W[t-1])", "also with"),
}


@pytest.mark.parametrize("case", NEARLY)
def test_what_is_nearly_of_this_form_says_why_not(case):
    old, new, why = NEARLY[case]
    plan = analyse(parsed(NORMED.replace(old, new)))
    reasons = [part.kind.frozen for part in plan.components if hasattr(part.kind, "frozen")]
    assert any(isinstance(reason, Reason) and why in reason.text for reason in reasons), reasons
    assert not choose(plan).parallel


def test_the_word_for_it_is_the_copy_written_out():
    lines = NORMED.replace("F[t], c[t]", "W[chunk(C)], b[chunk(C)]").replace("F[t])", "W[chunk(C)])")
    lines = lines.replace("c[t])", "b[chunk(C)])").replace("W, F", "W").replace("b, c", "b").splitlines()
    text = "\n".join(line for line in lines if not line.startswith(("state n", "start", "n[t]", "F[t]", "c[t]")))
    inputs, params, _ = problem(parsed(text), 2, 11)
    found, left = call(recc.loads(text, strategy="frozen"), inputs, params, None)
    wanted, kept = call(recc.loads(NORMED, strategy="frozen"), inputs, params, None)
    assert_same(found, wanted)
    assert_same({name.replace("[C]", "'"): x for name, x in left.items()}, {
        "W": kept["W"], "b": kept["b"], "W'": kept["F"], "b'": kept["c"], "t": kept["n"]
    })  # fmt: skip


def test_one_token_is_no_chunk():
    with pytest.raises(recc.strategies.Refused, match="renewed at every token"):
        choose(analyse(parsed(NORMED.replace("C = 4", "C = 1"))), "frozen")


@pytest.mark.parametrize("aligned", [False, True])
def test_no_memory_of_a_token_is_formed(aligned):
    plan = analyse(parsed(LAYERS))
    for program in programs(plan, choose(plan), aligned=aligned)[:2]:
        for node in walk(*program.roots):
            dims = [axis for axis in node.axes if axis != HEADS and not axis.startswith("@")]
            assert ROW not in node.axes or len(dims) < 2 or node.op == "mul", node
