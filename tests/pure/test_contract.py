"""A compiled op among torch's systems: dispatcher, autograd, compile, export, autocast, function transforms."""

from __future__ import annotations

import contracts
import pytest
import torch
from contracts import Call, gap, gradients
from torch._dynamo.backends.debugging import aot_eager

pytestmark = pytest.mark.usefixtures("backend")
SPECS = ["gated_delta_net", "gla", "min_gru", "mlstm", "lstm", "lru"]
every_spec = pytest.mark.parametrize("name", SPECS)

NO_STATE = """recurrence double
dim    D
input  x : D
output o : D

o = 2 * x
"""
COPIES = """recurrence copies
dim    D
input  x : D
state  h : D = 0
output a : D
output b : D

h[t] = x + 0.5 * h[t-1]
a    = x[t-1]
b    = x
"""


def arguments(call, offsets=None, reverse=False):
    """The arguments of the dispatcher's op: the call's tensors, a state, offsets, direction."""
    rows = next(iter(call.inputs.values())).shape[0] if offsets is None else len(offsets) - 1
    held = call.state(rows, next(iter(call.inputs.values())).real.dtype)
    states = [held[item["name"]].requires_grad_() for item in call.op.states]
    return (*call.tensors, *states, None if offsets is None else torch.tensor(offsets), reverse)


@every_spec
def test_opcheck(name):
    call = Call(name, time=5, grad=True)
    torch.library.opcheck(call.op._forward, arguments(call))
    packed = Call(name, time=7, batch=1, grad=True)
    torch.library.opcheck(packed.op._forward, arguments(packed, [0, 3, 3, 7], reverse=True))


@pytest.mark.parametrize("spec, time", [(NO_STATE, 5), (COPIES, 0), (COPIES, 1), (COPIES, 64), ("gla", 0), ("gla", 64)])
def test_opcheck_where_results_could_be_arguments(spec, time):
    call = Call(spec, time=time, batch=1, heads=1, grad=True)
    torch.library.opcheck(call.op._forward, arguments(call))


def test_no_result_lies_in_the_memory_of_an_argument():
    for spec, time in ((COPIES, 0), (COPIES, 64), ("gla", 0), ("lstm", 0)):
        call = Call(spec, time=time, batch=1, heads=1)
        given = arguments(call)
        results = call.op._forward(*given)
        places = [x.untyped_storage().data_ptr() for x in results if x.numel()]
        taken = {x.untyped_storage().data_ptr() for x in given if torch.is_tensor(x) and x.numel()}
        assert not taken & set(places) and len(set(places)) == len(places)


@every_spec
def test_gradcheck(name):
    call = Call(name, time=5, batch=1, dtype=torch.float64, grad=True)
    held = {key: x.requires_grad_() for key, x in call.state(1, torch.float64).items()}

    def run(*given):
        count = len(call.tensors)
        return tuple(call.op_results(given[:count], initial_state=dict(zip(held, given[count:], strict=True))))

    assert torch.autograd.gradcheck(run, (*call.tensors, *held.values()), fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda *given: tuple(call.op_results(given, cu_seqlens=torch.tensor([0, 2, 2, 5]), reverse=True)),
        tuple(call.tensors),
        fast_mode=True,
    )


@every_spec
def test_a_second_derivative_is_refused(name):
    call = Call(name, time=5, grad=True)
    (first,) = torch.autograd.grad(call()[0].square().sum(), call.tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match=f"{name}: second derivatives are not supported"):
        first.sum().backward()


# --- compile and export -------------------------------------------------------------------------------------------


class Counting:
    """A backend of torch.compile that counts how often it is called."""

    def __init__(self):
        torch._dynamo.reset()
        self.graphs = 0

    def __call__(self, module, example):
        self.graphs += 1
        return aot_eager(module, example)


@every_spec
def test_compile_has_no_break_and_no_recompile_per_length(name):
    count = Counting()
    op = Call(name).op
    count_inputs = len(op.inputs)

    @torch.compile(fullgraph=True, backend=count)
    def layer(*tensors):
        output, final = op(*tensors, return_final_state=True)
        return [2 * output, *final.values()]

    for time in (37, 64, 100, 5):
        call = Call(name, time=time, grad=True)
        for x in call.tensors[:count_inputs]:
            torch._dynamo.mark_dynamic(x, 1)
        compiled = layer(*call.tensors)
        eager = [2 * x if place == 0 else x for place, x in enumerate(call())]
        assert all(torch.equal(a, b) for a, b in zip(compiled, eager, strict=True))
        for a, b in zip(gradients(compiled, call.tensors), gradients(eager, call.tensors), strict=True):
            assert gap(a, b) < 1e-6
        assert count.graphs == 1


def test_compile_without_marks_recompiles_once_for_all_lengths():
    """torch takes a size for fixed until it has seen another."""
    count = Counting()
    op = Call("gla").op
    layer = torch.compile(lambda *tensors: op(*tensors), fullgraph=True, backend=count)
    seen = []
    for time in (37, 64, 100, 5, 200):
        layer(*Call("gla", time=time).tensors)
        seen.append(count.graphs)
    assert seen == [1, 2, 2, 2, 2]


@pytest.mark.parametrize("name", ["gated_delta_net", "lstm"])
def test_compile_of_packed_sequences(name):
    count = Counting()
    op = Call(name).op

    @torch.compile(fullgraph=True, backend=count)
    def layer(offsets, *tensors):
        return op(*tensors, cu_seqlens=offsets)

    for offsets in ([0, 3, 3, 37], [0, 9, 40, 41], [0, 1, 2, 50, 64]):
        call = Call(name, time=offsets[-1], batch=1, grad=True)
        offsets = torch.tensor(offsets)
        torch._dynamo.mark_dynamic(offsets, 0)
        for x in call.inputs.values():
            torch._dynamo.mark_dynamic(x, 1)
        output, eager = layer(offsets, *call.tensors), call.op(*call.tensors, cu_seqlens=offsets)
        assert torch.equal(output, eager)
        for a, b in zip(gradients([output], call.tensors), gradients([eager], call.tensors), strict=True):
            assert gap(a, b) < 1e-6
    assert count.graphs == 1
    with pytest.raises(ValueError, match="must run from 0 to the time 64, not from 0 to 60"):
        layer(torch.tensor([0, 1, 2, 50, 60]), *call.tensors)


@every_spec
def test_compile_of_step(name):
    Counting()
    call = Call(name)
    token = {key: x[:, 0] for key, x in call.inputs.items()}
    held = call.state(2)
    compiled = torch.compile(call.op.step, fullgraph=True, backend="aot_eager")
    output, state = compiled(**token, **call.params, state=held)
    eager, after = call.op.step(**token, **call.params, state=held)
    assert gap(output, eager) < 1e-6 and all(gap(state[key], after[key]) < 1e-6 for key in after)


@every_spec
def test_export_with_a_dynamic_length(name):
    call = Call(name)

    class Layer(torch.nn.Module):
        def forward(self, *tensors):
            return call.op_results(tensors)

    time, count = torch.export.Dim("time", min=2, max=4096), len(call.inputs)
    shapes = tuple({1: time} if place < count else None for place in range(len(call.tensors)))
    program = torch.export.export(Layer(), tuple(call.tensors), dynamic_shapes=(shapes,))
    other = Call(name, time=90, seed=1)
    for a, b in zip(program.module()(*other.tensors), other(), strict=True):
        assert torch.equal(a, b)


# --- dtypes -------------------------------------------------------------------------------------------------------


@every_spec
def test_autocast_changes_nothing(name):
    """An op has no casting rule: its dtypes follow from its inputs, and its sums stay in float32."""
    call = Call(name, grad=True)
    token = {key: x[:, 0] for key, x in call.inputs.items()}
    held = call.state(2)
    plain, plain_step = call(), call.op.step(**token, **call.params, state=held)
    plain_grads = gradients(plain, call.tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
        results, step = call(), call.op.step(**token, **call.params, state=held)
        grads = gradients(results, call.tensors)
    assert all(torch.equal(a, b) for a, b in zip(results, plain, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(grads, plain_grads, strict=True))
    assert torch.equal(step[0], plain_step[0])


@every_spec
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_goes_in_and_out_and_is_not_worked_in(name, dtype):
    call = Call(name, dtype=dtype, grad=True)
    output, *finals = call()
    wide = [x.detach().float().requires_grad_() for x in call.tensors]
    want, *final_wants = call(*wide)
    assert output.dtype == dtype and torch.equal(output, want.to(dtype))
    for final, other in zip(finals, final_wants, strict=True):
        assert final.real.dtype == torch.float32 and torch.equal(final, other)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    grads = torch.autograd.grad((output * weight).sum(), call.tensors)
    wide_grads = torch.autograd.grad((want * weight).sum(), wide)
    for x, grad, other in zip(call.tensors, grads, wide_grads, strict=True):
        assert grad.dtype == x.dtype and torch.equal(grad, other.to(dtype))


def test_a_mixture_of_dtypes_follows_the_first_input():
    call = Call("gated_delta_net")
    given = dict(call.inputs)
    given["q"], given["k"], given["v"] = (given[name].bfloat16() for name in "qkv")
    output, state = call.op(**given, return_final_state=True)
    assert output.dtype == torch.bfloat16 and state["S"].dtype == torch.float32
    given["g"] = given["g"].double()
    output, state = call.op(**given, return_final_state=True)
    assert output.dtype == torch.bfloat16 and state["S"].dtype == torch.float64


# --- function transforms --------------------------------------------------------------------------------------------


@every_spec
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_is_right(name):
    call = Call(name)
    count = len(call.inputs)
    pairs = [torch.stack([x, 0.5 * x]) for x in call.inputs.values()]
    params = call.tensors[count:]
    outputs = torch.vmap(lambda *inputs: call.op(*inputs, *params))(*pairs)
    for place in range(2):
        assert gap(outputs[place], call.op(*(x[place] for x in pairs), *params)) < 1e-6


def test_vmap_over_the_first_argument_alone_with_gradients():
    call = Call("gla")
    q, *others = call.tensors
    pair = torch.stack([q, 0.5 * q]).requires_grad_()
    output = torch.vmap(lambda q: call.op(q, *others))(pair)
    (grad,) = gradients([output], [pair])
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(7))
    for place in range(2):
        one = pair[place].detach().requires_grad_()
        (want,) = torch.autograd.grad((call.op(one, *others) * weight[place]).sum(), one)
        assert gap(grad[place], want) < 1e-6


def test_torch_func():
    call = Call("gla", time=5, grad=True)
    loss = lambda *given: call.op(*given).square().sum()  # noqa: E731
    want = torch.autograd.grad(loss(*call.tensors), call.tensors)
    given = [x.detach() for x in call.tensors]
    every = tuple(range(len(given)))
    for transform in (torch.func.grad, torch.func.jacrev):
        assert all(gap(a, b) < 1e-6 for a, b in zip(transform(loss, every)(*given), want, strict=True))
    twice = torch.func.vmap(torch.func.grad(loss, every))(*(torch.stack([x, x]) for x in given))
    assert all(gap(a[1], b) < 1e-6 for a, b in zip(twice, want, strict=True))
    assert gap(torch.func.functionalize(loss)(*given), loss(*given)) == 0
    inner = torch.func.grad(loss)
    with pytest.raises(RuntimeError, match="gla: second derivatives are not supported"):
        torch.func.grad(lambda q: inner(q, *given[1:]).sum())(given[0])


def test_transforms_that_are_not_supported_say_so():
    call = Call("gla")
    q, *others = call.tensors
    with pytest.raises(RuntimeError, match="gla: forward-mode derivatives are not supported"):
        torch.func.jvp(lambda q: call.op(q, *others), (q,), (torch.ones_like(q),))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode"):
        call.op(torch.autograd.forward_ad.make_dual(q, torch.ones_like(q)), *others)


def test_other_modes():
    call = Call("gla", grad=True)
    want = call()
    with torch.inference_mode():
        assert all(torch.equal(a, b) for a, b in zip(call(), want, strict=True))
    with torch.no_grad():
        assert not call()[0].requires_grad
    assert call(*(x.to("meta") for x in call.tensors))[0].shape == want[0].shape
    output = call.op(*call.tensors)
    with torch.no_grad():
        call.tensors[0].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


# --- memory -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, strategy", [("gated_delta_net", None), ("gla", None), ("gla", "sequential"), ("mamba", None)]
)
def test_what_is_stored_is_one_state_a_chunk_and_dear_scores(name, strategy, backend):
    sizes = {"K": 64, "V": 64} if name != "mamba" else {"D": 64, "N": 16}
    state = 2 * 64 * (64 if name != "mamba" else 16) * 4  # bytes, of two heads
    tokens = 0 if strategy is None else 32
    for time in (1024, 2048):
        call = Call(name, time=time, batch=1, grad=True, strategy=strategy, **sizes)
        rows = tokens or call.op.chunk_of(**sizes)
        assert rows >= 8
        saved = contracts.saved_bytes(call, call.tensors)
        dear = name == "gla" and strategy is None and backend == "torch"  # with a decay per channel
        scores = 2 * rows * rows * 4 if dear else 0
        assert saved <= 1.1 * (time // rows + 1) * (state + scores)


@pytest.mark.parametrize("strategy", [None, "sequential"])
def test_the_peak_is_that_of_tokens_and_of_one_state_a_chunk(strategy):
    def peak(time):
        call = Call("gated_delta_net", time=time, batch=1, grad=True, strategy=strategy, K=64, V=64)

        def both():
            torch.autograd.grad(call()[0].sum(), call.tensors)

        both()
        return contracts.peak_bytes(both)

    token, state = 2 * (4 * 64 + 2) * 4, 2 * 64 * 64 * 4  # bytes of a token's inputs and outputs, and of a state
    short, long = (512, 1024) if strategy else (2048, 4096)
    each = (peak(long) - peak(short)) / (long - short)
    assert each <= 4 * token + 3 * state / 32  # tiles, gradients and segments; a state a token would be 32 KiB
    assert each <= state / 2
