"""Mixtures of memories: equal to the masked spec, to public code, and to each memory's tokens run by themselves."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from oracles import ORACLES

import recc
from recc.runtime.samples import sample_inputs

MEMORIES, TIME = 3, 19


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def problem(name, batch, time, seed=0):
    """A layer of a spec with two heads, and inputs from the domains that the spec declares, in float64."""
    generator = torch.Generator().manual_seed(seed)
    rec = recc.Module.recurrence_of(name, {})
    sizes = {dim: size for dim, size in rec.example.items() if dim not in ("T", "heads")}
    layer = recc.Module(name, heads=2, dtype=torch.float64, generator=generator, **sizes)
    inputs = sample_inputs(rec, sizes, batch, time, 2, torch.float64, generator)
    return layer, [inputs[item.name].requires_grad_() for item in rec.inputs]


def apart(layer, mixture, logits, inputs, state):
    """Each memory's tokens of each sequence as a sequence of their own, one after the other."""
    weights, chosen = mixture.route(logits)
    memories = mixture.memories + mixture.shared
    rows, finals = [], {name: [] for name in state}
    for b in range(logits.shape[0]):
        total = 0
        for m in range(memories):
            mine = chosen[b] == m  # [time, top_k]
            tokens = mine.any(-1).nonzero()[:, 0]
            start = {name: x[b, m][None] for name, x in state.items()}
            o, final = layer(*(x[b : b + 1, tokens] for x in inputs), initial_state=start, return_final_state=True)
            weight = (weights[b] * mine).sum(-1)[tokens]
            weighted = o[0] * weight.reshape(-1, *[1] * (o.dim() - 2))
            total = total + torch.zeros(logits.shape[1], *o.shape[2:], dtype=o.dtype).index_add(0, tokens, weighted)
            for name, x in final.items():
                finals[name].append(x[0])
        rows.append(total)
    return torch.stack(rows), {n: torch.stack(x).unflatten(0, (-1, memories)) for n, x in finals.items()}


def same(ours, theirs, leaves):
    """Outputs, final states and gradients of (outputs, states)."""
    torch.manual_seed(1)
    pairs = [(ours[0], theirs[0]), *((ours[1][name], x) for name, x in theirs[1].items())]
    weights = [torch.randn_like(x) for x, _ in pairs]
    losses = [sum((pair[i] * w).sum() for pair, w in zip(pairs, weights, strict=True)) for i in range(2)]
    grads = [torch.autograd.grad(loss, leaves, retain_graph=True) for loss in losses]
    for got, want in [*pairs, *zip(*grads, strict=True)]:
        assert got.shape == want.shape
        assert torch.allclose(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("source", ["specs/mom.rec", *ORACLES["mom"]])
def test_gated_delta_rules_as_the_masked_spec_and_public_code_have_them(source):
    torch.manual_seed(0)
    q, k = (F.normalize(double(2, TIME, MEMORIES, 4), dim=-1) for _ in range(2))
    v, beta, g = double(2, TIME, MEMORIES, 3), double(2, TIME, MEMORIES).sigmoid(), -double(2, TIME, MEMORIES).exp()
    logits, S = double(2, TIME, MEMORIES), double(2, MEMORIES, 4, 3)
    mixture = recc.Mixture(recc.load("gated_delta_net"), memories=MEMORIES, top_k=2)
    own = [x.unsqueeze(3) for x in (q, k, v, g, beta)]
    o, final = mixture(logits, *own, initial_state={"S": S[:, :, None]}, return_final_state=True)
    weights, chosen = mixture.route(logits)
    x = {"q": q, "k": k, "v": v, "g": g, "beta": beta, "w": torch.zeros_like(logits).scatter(-1, chosen, weights)}
    if source.startswith("specs"):
        wanted, theirs = recc.load("mom")(**x, initial_state=S, return_final_state=True)
    else:
        scaled, theirs = ORACLES["mom"][source](x, {}, {"S": S})
        wanted, theirs = scaled["o"], theirs
    theirs = theirs if isinstance(theirs, dict) else {"S": theirs}
    same((o[:, :, 0], {"S": final["S"][:, :, 0]}), (wanted, theirs), [logits, q, k, v, g, beta, S])


ROUTES = {
    "mixed": lambda x: x,
    "one gets all, one none": lambda x: x * 0.1 + torch.tensor([9.0, 0.0, -9.0], dtype=x.dtype),
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("name", ["gated_delta_net", "hgrn", "lstm", "mamba2"])
def test_each_memory_is_the_recurrence_on_its_tokens(name, shared, route):
    layer, inputs = problem(name, 2, TIME)
    mixture = recc.Mixture(layer, memories=MEMORIES, top_k=1 if name == "hgrn" else 2, shared=shared, normalise=False)
    logits = double(2, TIME, MEMORIES)
    state = {key: torch.randn_like(x) for key, x in mixture.init_state(2, dtype=torch.float64).items()}
    leaves = [logits, *inputs, *layer.params]
    routed = ROUTES[route](logits)
    ours = mixture(routed, *inputs, initial_state=state, return_final_state=True)
    same(ours, apart(layer, mixture, routed, inputs, state), leaves)


@pytest.mark.parametrize("name", ["gated_delta_net", "lstm"])
def test_token_by_token_and_from_no_token(name):
    layer, inputs = problem(name, 2, 7)
    mixture = recc.Mixture(layer, memories=MEMORIES, shared=True)
    logits, state = double(2, 7, MEMORIES), mixture.init_state(2, dtype=torch.float64)
    o, final = mixture(logits, *inputs, return_final_state=True)
    none, held = mixture(logits[:, :0], *(x[:, :0] for x in inputs), initial_state=final, return_final_state=True)
    assert none.shape == (2, 0, *o.shape[2:]) and all(torch.equal(held[key], x) for key, x in final.items())
    for t in range(7):
        before = state
        token, state = mixture.step(logits[:, t], *(x[:, t] for x in inputs), state=state)
        assert torch.allclose(token, o[:, t], rtol=0, atol=1e-13)
        left = logits[:, t].argmin(-1)  # two of three are chosen
        assert all(torch.equal(state[key][b, m], before[key][b, m]) for key in state for b, m in enumerate(left))
    assert all(torch.allclose(state[key], x, rtol=0, atol=1e-13) for key, x in final.items())


@pytest.mark.parametrize("reverse", [False, True])
def test_packed_sequences_have_memories_of_their_own(reverse):
    layer, inputs = problem("gated_delta_net", 1, 9)
    mixture, logits = recc.Mixture(layer, memories=MEMORIES, top_k=2, shared=True), double(1, 9, MEMORIES)
    bounds = [0, 4, 4, 9]
    state = {key: torch.randn_like(x) for key, x in mixture.init_state(3, dtype=torch.float64).items()}
    packed, final = mixture(logits, *inputs, cu_seqlens=torch.tensor(bounds), initial_state=state, reverse=reverse,
                            return_final_state=True)  # fmt: skip
    for place, (lo, hi) in enumerate(zip(bounds, bounds[1:], strict=False)):
        start = {key: x[place : place + 1] for key, x in state.items()}
        o, S = mixture(logits[:, lo:hi], *(x[:, lo:hi] for x in inputs), initial_state=start, reverse=reverse,
                       return_final_state=True)  # fmt: skip
        assert torch.allclose(packed[:, lo:hi], o, rtol=0, atol=1e-13)
        assert all(torch.allclose(final[key][place], x[0], rtol=0, atol=1e-13) for key, x in S.items())
    with pytest.raises(ValueError, match="must run from 0 to the time 9"):
        mixture(logits, *inputs, cu_seqlens=torch.tensor([0, 4]))


def test_a_chosen_memory_alone_meets_a_bad_token():
    """A NaN reaches the memories of its token and nothing else."""
    layer, inputs = problem("gated_delta_net", 1, 9)
    mixture, logits = recc.Mixture(layer, memories=MEMORIES, top_k=1), double(1, 9, MEMORIES)
    broken = [inputs[0], inputs[1], inputs[2].clone(), *inputs[3:]]
    broken[2][0, 3] = float("nan")
    (o, final), (want, _) = (mixture(logits, *x, return_final_state=True) for x in (broken, inputs))
    mine = logits.argmax(-1)[0]
    touched = (mine == mine[3]) & (torch.arange(9) >= 3)
    assert torch.equal(o[0, ~touched], want[0, ~touched]) and not o[0, touched].isfinite().all()
    assert [bool(x.isnan().any()) for x in final["S"][0]] == [m == mine[3] for m in range(MEMORIES)]


def test_it_compiles_whole_and_takes_half_precision():
    layer, inputs = problem("gated_delta_net", 2, 9)
    mixture, logits = recc.Mixture(layer, memories=MEMORIES, shared=True), double(2, 9, MEMORIES)
    whole = torch.compile(mixture, fullgraph=True, backend="eager")
    assert torch.equal(whole(logits, *inputs), mixture(logits, *inputs))
    low = mixture(logits.bfloat16(), *(x.bfloat16() for x in inputs))
    assert low.dtype == torch.bfloat16
    exact = mixture(logits.bfloat16().double(), *(x.bfloat16().double() for x in inputs))
    assert (low - exact).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * exact.abs().max()


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(again):
    layer, inputs = problem("gated_delta_net", 2, 5)
    logits = double(2, 5, MEMORIES)
    for inner in (recc.load("gated_delta_net"), layer):
        mixture = recc.Mixture(inner, memories=MEMORIES)
        assert torch.equal(again(mixture)(logits, *inputs), mixture(logits, *inputs))


def test_what_does_not_fit_is_said():
    with pytest.raises(ValueError, match="`inner` is an op or a recc.Module"):
        recc.Mixture(recc.Module("lstm", hidden=4), memories=3)
    layer, inputs = problem("gated_delta_net", 2, 5)
    with pytest.raises(ValueError, match="top_k = 4 of 3 memories"):
        recc.Mixture(layer, memories=3, top_k=4)
    mixture = recc.Mixture(layer, memories=3)
    with pytest.raises(ValueError, match=r"`logits` is \[2, 5, 4\] but must be \[batch, time, memories = 3\]"):
        mixture(double(2, 5, 4), *inputs)
    with pytest.raises(ValueError, match=r"`q` is \[2, 5, 2, 8\], and the logits begin \[2, 6\]"):
        mixture(double(2, 6, 3), *inputs)
    with pytest.raises(ValueError, match="no axis of 3 memories"):
        mixture(double(2, 5, 3), inputs[0][:, :, None].expand(2, 5, 4, -1, -1), *inputs[1:])
