"""Calls of a compiled op: what tensors it takes, what it says about others, and what it makes of hard numbers."""

from __future__ import annotations

import pytest
import torch
from contracts import Call, gap, gradients

pytestmark = pytest.mark.usefixtures("backend")
SPECS = ["gated_delta_net", "gla", "min_gru", "mlstm", "lstm", "lru"]
every_spec = pytest.mark.parametrize("name", SPECS)


def sliced(call, part):
    """The call's tensors with a part of the batch."""
    return [*(x[part] for x in call.inputs.values()), *call.params.values()]


# --- layouts ------------------------------------------------------------------------------------------------------


@every_spec
def test_strides_do_not_matter(name):
    call = Call(name, grad=True)
    spread = [x.detach().transpose(0, 1).contiguous().transpose(0, 1) for x in call.tensors[: len(call.inputs)]]
    spread = [torch.stack([x, x], -1)[..., 0] for x in spread]  # two numbers apart
    spread = [x.requires_grad_() for x in spread]
    params = [x.detach().T.contiguous().T if x.dim() == 2 else x.detach() for x in call.params.values()]
    given = [*spread, *(x.requires_grad_() for x in params)]
    results, plain = call(*given), call()
    assert all(gap(a, b) < 1e-6 for a, b in zip(results, plain, strict=True))
    for a, b in zip(gradients(results, given), gradients(plain, call.tensors), strict=True):
        assert gap(a, b) < 1e-6
    assert all(x.is_contiguous() for x in results)


def test_an_expanded_input_is_taken_and_its_gradient_summed():
    call = Call("gla", grad=True)
    q, *others = call.tensors
    row = q.detach()[:, :1].clone().requires_grad_()
    (grad,) = gradients(call(row.expand_as(q), *others), [row])
    whole = row.detach().expand_as(q).contiguous().requires_grad_()
    (want,) = gradients(call(whole, *others), [whole])
    assert gap(grad, want.sum(1, keepdim=True)) < 1e-6


@pytest.mark.parametrize(
    "name, few", [("gated_delta_net", ["q", "k"]), ("gla", ["v"]), ("mamba2", ["B", "C"]), ("lstm", ["xo"])]
)
def test_grouped_heads_are_shared(name, few):
    """Of 4 heads, head h reads head h // 2 of an input with 2 heads."""
    call = Call(name, heads=4, grad=True)
    given = {key: x.detach()[:, :, :2].clone() if key in few else x.detach() for key, x in call.inputs.items()}
    given = {key: x.requires_grad_() for key, x in given.items()}
    full = {key: x.detach().repeat_interleave(2, 2) if key in few else x.detach() for key, x in given.items()}
    full = {key: x.requires_grad_() for key, x in full.items()}
    shared, repeated = call.op(**given, **call.params), call.op(**full, **call.params)
    assert torch.equal(shared, repeated)
    want = gradients([repeated], list(full.values()))
    for (key, x), got, other in zip(given.items(), gradients([shared], list(given.values())), want, strict=True):
        assert gap(got, other.unflatten(2, (2, 2)).sum(3) if key in few else other) < 1e-6
        assert got.shape == x.shape


def test_inputs_that_are_shared_have_no_heads_axis():
    call = Call("gla_layer")
    assert call.inputs["x"].dim() == 3
    output, *_ = call()
    assert output.shape == call.inputs["x"].shape


def test_one_tensor_may_serve_as_several():
    call = Call("gla", grad=True)
    q, _, v, g = call.tensors
    (got,) = gradients(call(q, q, v, g), [q])
    other = q.detach().clone().requires_grad_()
    first, second = gradients(call(q, other, v, g), [q, other])
    assert gap(got, first + second) < 1e-6


@every_spec
def test_nothing_is_something(name):
    for time, batch, offsets in ((0, 2, None), (9, 0, None), (0, 1, [0, 0, 0]), (4, 1, [0, 0, 4, 4])):
        call = Call(name, time=time, batch=batch, grad=True)
        rows = batch if offsets is None else len(offsets) - 1
        held = {key: x.requires_grad_() for key, x in call.state(rows).items()}
        given = {"initial_state": held, "cu_seqlens": None if offsets is None else torch.tensor(offsets)}
        output, *finals = results = call(**given)
        assert output.shape[:2] == (batch, time) and all(x.shape[0] == rows for x in finals)
        grads = gradients(results, [*call.tensors, *held.values()])
        assert all(torch.isfinite(x).all() for x in grads)
        if time == 0:
            for item, final in zip(call.op.states, finals, strict=True):
                assert torch.equal(final, held[item["name"]])


# --- independence and determinism ---------------------------------------------------------------------------------


@every_spec
def test_the_same_call_gives_the_same_bits(name):
    call = Call(name, time=150, grad=True)
    first, second = call(), call()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    pairs = zip(gradients(first, call.tensors), gradients(second, call.tensors), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@every_spec
def test_a_slice_of_the_batch_is_the_batch_of_a_slice(name):
    call = Call(name, time=100, batch=3)
    for whole, part in zip(call(), call(*sliced(call, slice(1, 2))), strict=True):
        assert gap(whole[1:2], part) < 1e-6


@every_spec
@pytest.mark.parametrize("packed", [False, True])
def test_a_nan_stays_in_its_sequence(name, packed):
    """The other sequences' outputs, states and gradients keep every bit."""
    clean = Call(name, time=100, batch=1 if packed else 3, grad=True)
    dirty = Call(name, time=100, batch=1 if packed else 3)
    offsets = torch.tensor([0, 33, 61, 100]) if packed else None
    for x in dirty.inputs.values():
        x[(0, 33) if packed else (1, 0)] = torch.nan
        x.requires_grad_()
    mine = torch.ones(100 if packed else 3, dtype=torch.bool)
    mine[slice(33, 61) if packed else slice(1, 2)] = False
    rows = torch.tensor([True, False, True])
    inputs = [list(call.inputs.values()) for call in (clean, dirty)]
    results = [call(cu_seqlens=offsets) for call in (clean, dirty)]
    grads = [gradients(*both) for both in zip(results, inputs, strict=True)]
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a[0][mine], b[0][mine]) if packed else torch.equal(a[mine], b[mine])
    (good, *finals), (bad, *others) = results
    assert torch.equal(good[0][mine], bad[0][mine]) if packed else torch.equal(good[mine], bad[mine])
    assert not torch.isfinite(bad[:, 33] if packed else bad[1]).all()
    assert all(torch.equal(a[rows], b[rows]) for a, b in zip(finals, others, strict=True))


def test_memory_that_was_not_written_shows():
    """Every entry of a result is computed: fresh memory is full of NaN here."""
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    try:
        for name in SPECS:
            for offsets in (None, [0, 0, 40, 70]):
                call = Call(name, time=70, batch=1, grad=True)
                results = call(cu_seqlens=None if offsets is None else torch.tensor(offsets))
                assert all(torch.isfinite(x).all() for x in [*results, *gradients(results, call.tensors)])
    finally:
        torch.use_deterministic_algorithms(False)


# --- hard numbers -------------------------------------------------------------------------------------------------


def check(name, settings, dtype, limit, time=150, as_loop=False):
    """Finite, and near the float64 reference, with every tenth entry of some inputs set to a hard value each. as_loop:
    where the loop in `dtype` is off by more than `limit`, up to four times its error."""
    call = Call(name, time=time, dtype=dtype)
    generator = torch.Generator().manual_seed(3)
    for key, values in settings.items():
        x = call.inputs[key]
        place = torch.rand(x.shape, generator=generator)
        for number, value in enumerate(values):
            x[(place >= 0.1 * number) & (place < 0.1 * number + 0.1)] = value
    for x in call.tensors:
        x.requires_grad_()
    results, wants = call(), call.reference()
    loop = call.reference(dtype) if as_loop else wants
    for got, want, own in zip(results, wants, loop, strict=True):
        assert torch.isfinite(got).all() and gap(got, want) < max(limit, 4 * gap(own, want))
    wide = gradients(wants, call.tensors)
    own = gradients(loop, call.tensors) if as_loop else wide
    for x, got, want, near in zip(call.tensors, gradients(results, call.tensors), wide, own, strict=True):
        assert torch.isfinite(got).all() and got.shape == x.shape
        assert gap(got, want) < max(limit, 4 * gap(near, want))


HARD = {
    "decays that forget almost all": ("gated_delta_net", {"g": [-30.0, -1e4]}),
    "decays that forget all": ("gated_delta_net", {"g": [-1e9, -1e30, -torch.inf]}),
    "decays that forget all, by channel": ("gla", {"g": [-1e9, -1e30, -torch.inf]}),
    "decays that forget all, delta rule by channel": ("kda", {"g": [-1e9, -1e30, -torch.inf]}),
    "decays that forget all, normalised": ("simple_gla", {"g": [-1e9, -1e30, -torch.inf]}),
    "long steps": ("mamba2", {"dt": [1e4]}),
    "long steps, by channel": ("mamba", {"dt": [1e4]}),
    "writes at full strength": ("gated_delta_net", {"beta": [1.0, 1.0, 1.0], "g": [0.0, 0.0, 0.0, 0.0]}),
    "reflections": ("delta_product", {"beta": [2.0] * 8}),
    "gates at their ends": ("hgrn", {"f": [0.0, 1.0]}),
    "huge gates": ("min_gru", {"xz": [1e4, -1e4, 1e30, -1e30]}),
    "huge gates of a nonlinear cell": ("lstm", {"xf": [1e4, -1e30], "xi": [-1e4, 1e30], "xo": [-1e30]}),
    "closed and open forget gates": ("mlstm", {"f": [1e4, -1e4, 1e30, -1e30, torch.inf, -torch.inf]}),
    "closed input gates": ("mlstm", {"i": [-1e4, -1e30, -torch.inf]}),
}


@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-9), (torch.float32, 3e-6)])
@pytest.mark.parametrize("numbers", HARD)
def test_hard_numbers(numbers, dtype, limit):
    check(*HARD[numbers], dtype, limit)


def test_exponential_input_gates_do_not_overflow():
    """i = 100 makes a memory of e^100; only its ratio to the normaliser is read."""
    check("mlstm", {"i": [100.0, -100.0]}, torch.float64, 1e-9)
    check("mlstm", {"i": [80.0, -80.0]}, torch.float32, 1e-4, as_loop=True)  # an ulp of 80 is 8e-6


def test_a_reflection_with_beta_2_keeps_its_length():
    call = Call("delta_product", time=200, dtype=torch.float64)
    call.inputs["beta"].fill_(2.0)
    call.inputs["g"].fill_(0.0)
    call.inputs["v"].fill_(0.0)
    held = call.state(2, torch.float64)
    _, final = call(initial_state=held)
    assert gap(final.norm(dim=-2), held["S"].norm(dim=-2)) < 1e-12


# --- messages -----------------------------------------------------------------------------------------------------


def delta(**changes):
    call = Call("gated_delta_net", time=7, batch=changes.pop("batch", 2), heads=4, K=64, V=32)
    return call.op, {**call.inputs, **changes}


def message(function):
    with pytest.raises(ValueError) as caught:
        function()
    return str(caught.value)


def wrong(**changes):
    op, given = delta()
    given |= {key: change(given[key]) for key, change in changes.items()}
    return message(lambda: op(**given))


def test_a_wrong_shape_is_told_in_the_names_of_the_spec():
    assert wrong(k=lambda x: x[..., :63]) == "`k` is [2, 7, 4, 63] but K = 64 from `q`"
    assert wrong(v=lambda x: x[:, :6]) == "`v` is [2, 6, 4, 32] but time = 7 from `q`"
    assert wrong(k=lambda x: x[:1]) == "`k` is [1, 7, 4, 64] but batch = 2 from `q`"
    assert wrong(g=lambda x: x[..., None]) == "`g` is [2, 7, 4, 1] but must be [batch, time, heads]"
    assert wrong(q=lambda x: x[:, 0]) == "`q` is [2, 4, 64] but must be [batch, time, heads, K]"
    assert wrong(v=lambda x: x[:, :, :3]) == "`v` has 3 heads, which do not divide the 4 of `q`"


def test_sizes_that_the_spec_or_a_param_fixes():
    call = Call("delta_product", time=5)
    given = {**call.inputs, "k": call.inputs["k"][..., :1, :]}
    assert message(lambda: call.op(**given)) == "`k` is [2, 5, 2, 1, 8] but R = 2 from the spec"
    call = Call("lstm", time=5)
    given = {**call.inputs, **call.params, "Rf": call.params["Rf"][..., :5]}
    assert message(lambda: call.op(**given)) == "`Rf` is [2, 6, 5] but D = 6 from `xi`"
    given = {**call.inputs, **call.params, "Rf": call.params["Rf"][:1]}
    assert message(lambda: call.op(**given)) == "`Rf` has 1 heads, but there must be the 2 of `xi`"


def test_a_wrong_dtype_or_device():
    assert wrong(q=lambda x: x.long()) == "`q` is torch.int64, which is no floating-point dtype"
    assert wrong(q=lambda x: x.cfloat()) == "`q` is torch.complex64 but the spec declares it real"
    assert wrong(k=lambda x: x.to("meta")) == "`k` is on meta but `q` is on cpu"
    assert wrong(beta=lambda x: 0.5) == "gated_delta_net: `beta` must be a tensor, not float"


def test_a_wrong_number_of_tensors_or_a_wrong_name():
    op, given = delta()
    tensors = list(given.values())
    takes = "it takes q, k, v, g, beta"
    assert message(lambda: op(*tensors[:3])) == f"gated_delta_net misses `g`, `beta`; {takes}"
    assert message(lambda: op(*tensors, tensors[0])) == "gated_delta_net takes 5 tensors (q, k, v, g, beta), not 6"
    assert message(lambda: op(*tensors, gamma=1)) == f"gated_delta_net has no input or param `gamma`; {takes}"
    assert message(lambda: op(*tensors, q=tensors[0])) == "gated_delta_net: `q` is given twice, by place and by name"


NOT_OFFSETS = "`cu_seqlens` must be a one-dimensional int32 or int64 tensor of offsets, [0, ..., time]"


@pytest.mark.parametrize(
    "offsets, said",
    [
        (torch.tensor([1, 7]), "`cu_seqlens` must run from 0 to the time 7, not from 1 to 7"),
        (torch.tensor([0, 6]), "`cu_seqlens` must run from 0 to the time 7, not from 0 to 6"),
        (torch.tensor([0, 5, 3, 7]), "`cu_seqlens` must not decrease"),
        (torch.tensor([0]), "`cu_seqlens` needs at least two offsets: the first is 0, the last is the time"),
        (torch.tensor([0.0, 7.0]), NOT_OFFSETS),
        (torch.tensor([[0, 7]]), NOT_OFFSETS),
        ([0, 7], NOT_OFFSETS),
    ],
)
def test_bad_offsets(offsets, said):
    op, given = delta(batch=1)
    assert message(lambda: op(**given, cu_seqlens=offsets)) == said


def test_offsets_need_a_batch_of_one():
    op, given = delta()
    said = "with `cu_seqlens` the batch must be 1 (sequences lie one after the other), not 2"
    assert message(lambda: op(**given, cu_seqlens=torch.tensor([0, 7]))) == said


def test_offsets_of_both_integer_dtypes():
    call = Call("gla", time=7, batch=1)
    offsets = torch.tensor([0, 3, 7])
    pairs = zip(call(cu_seqlens=offsets), call(cu_seqlens=offsets.int()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_wrong_state():
    op, given = delta()
    good = torch.zeros(2, 4, 64, 32)

    def said(state):
        return message(lambda: op(**given, initial_state=state))

    assert said(good[..., :31]) == "state `S` is [2, 4, 64, 31] but must be [2, 4, 64, 32] [batch, heads, K, V]"
    assert said({"R": good}) == "the state of gated_delta_net is a dict of S, not of R"
    assert said({"S": 3.0}) == "state `S` must be a tensor, not float"
    assert said(3.0) == "the state of gated_delta_net is a dict of S, not of float"
    assert said(good.to("meta")) == "state `S` is on meta but the inputs are on cpu"
    assert said(good.cfloat()) == "state `S` is torch.complex64 but the spec declares it real"
    token = {key: x[:, 0] for key, x in given.items()}
    assert message(lambda: op.step(**token, state=good[:1])).startswith("state `S` is [1, 4, 64, 32] but must be [2,")
    assert message(lambda: op.step(**given)) == "`q` is [2, 7, 4, 64] but must be [batch, heads, K]"
    two = Call("lstm", time=3)
    assert message(lambda: two.op(*two.tensors, initial_state=torch.zeros(2, 2, 6))) == (
        "lstm has the states c, h: pass a dict of them, not one tensor"
    )


def test_values_outside_of_their_domains_are_said_on_request():
    op, given = delta()
    given["g"] = given["g"] + 5
    op(**given)
    assert message(lambda: op(**given, validate=True)).startswith("`g` must be <= 0, and its largest value is 4.9")
    op, given = delta()
    given["q"] = 2 * given["q"]
    assert message(lambda: op(**given, validate=True)) == "`q` must have L2 norm 1 along its last axis"


def test_a_state_is_taken_as_a_dict_or_alone():
    call = Call("gla", time=7)
    held = call.state(2)
    alone, named = call(initial_state=held["S"]), call(initial_state=held)
    assert all(torch.equal(a, b) for a, b in zip(alone, named, strict=True))
    token = {key: x[:, 0] for key, x in call.inputs.items()}
    first, after = call.op.step(**token, state=held)
    second, _ = call.op.step(*token.values(), held["S"])
    assert torch.equal(first, second) and gap(first, call(initial_state=held)[0][:, 0]) < 1e-6
    assert list(after) == ["S"]
