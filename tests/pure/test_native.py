"""Native code on its own hard ground: sizes beside a vector, lengths beside a chunk, strides, threads, bits."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from contracts import Call, gap, gradients, same_bits
from recc.backends.c import build, compiler, passes
from recc.backends.c.op import NativeOp

import recc
from recc import library
from recc.tile import pairs

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)

SPECS = ["gated_delta_net", "gla", "mamba", "lstm"]
# Tokens times matrices, by default on torch.
PROJECTS = {"plstm_2d_diffusive", "ssm_2d"}
every_spec = pytest.mark.parametrize("name", SPECS)


def forget(op):
    """Lets an op build its kernels anew."""
    op.native.natives.clear()
    op._decoders.clear()


@pytest.fixture
def built(monkeypatch):
    """Sets how the kernels of an op are built from now on, and builds them anew for others afterwards."""
    honest, changed = build.library, []

    def set_options(op, **options):
        changed.append(op)
        forget(op)
        monkeypatch.setattr(build, "library", functools.partial(honest, **options))

    yield set_options
    for op in changed:
        forget(op)


def check(call, **options):
    """Outputs, final states and all gradients are the float64 reference's."""
    wide = torch.float64
    start = options.get("initial_state")
    leaves = [*call.tensors, *(start.values() if start else ())]
    results, wants = call(**options), call.reference(wide, **options)
    assert all(gap(a, b) < 1e-9 for a, b in zip(results, wants, strict=True))
    for a, b in zip(gradients(results, leaves), gradients(wants, leaves), strict=True):
        assert gap(a, b) < 1e-9 or float((a - b).abs().max()) < 1e-11


@pytest.mark.parametrize("name", library.names())
def test_native_code_is_the_default_where_it_serves(name):
    assert isinstance(recc.load(name), NativeOp) == (name not in PROJECTS)
    assert isinstance(recc.load(name, backend="c"), NativeOp)
    assert not isinstance(recc.load(name, backend="torch"), NativeOp)
    assert not isinstance(recc.load(name, strategy="sequential"), NativeOp)


def test_what_it_does_not_serve_runs_on_torch(monkeypatch):
    text = "recurrence r\ndim D\ninput z : D complex\nstate h : D complex = 0\noutput h\nh[t] = sin(h[t-1]) + z\n"
    monkeypatch.delitem(pairs.FUNCTIONS, "sin")
    assert not isinstance(recc.loads(text), NativeOp)
    with pytest.raises(ValueError, match='native code does not serve: `sin` has no form.*backend="torch"'):
        recc.loads(text, backend="c")


# --- sizes and lengths --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [(1, 1), (3, 17), (33, 1), (17, 33)])
@every_spec
def test_odd_sizes(name, sizes):
    dims = {"mamba": ("D", "N"), "lstm": ("D",)}.get(name, ("K", "V"))
    call = Call(name, time=35, dtype=torch.float64, grad=True, **dict(zip(dims, sizes, strict=False)))
    held = {key: x.requires_grad_() for key, x in call.state(2, torch.float64).items()}
    check(call, initial_state=held, reverse=sizes[0] == 3)


@every_spec
def test_lengths_around_a_chunk(name):
    call = Call(name, dtype=torch.float64)
    chunk = call.op.chunk_of(torch.float64, **call.sizes)
    for time in (0, 1, chunk - 1, chunk, chunk + 1, 1000 if name == "gla" else 100):
        call = Call(name, time=time, batch=1, dtype=torch.float64, grad=True)
        check(call, initial_state={key: x.requires_grad_() for key, x in call.state(1, torch.float64).items()})


@pytest.mark.parametrize("reverse", [False, True])
@every_spec
def test_packed_sequences_are_bit_for_bit_the_sequences(name, reverse):
    chunk = Call(name).op.chunk_of(**Call(name).sizes)
    bounds = torch.tensor([0, 0, chunk, 0, 1, chunk + 1, 2 * chunk - 1, 0]).cumsum(0)
    call = Call(name, time=int(bounds[-1]), batch=1, grad=True)
    held = call.state(len(bounds) - 1)
    inputs = list(call.inputs.values())
    (output, *finals) = call(initial_state=held, cu_seqlens=bounds, reverse=reverse)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    grads = torch.autograd.grad((output * weight).sum(), inputs)
    for place, (first, last) in enumerate(zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True)):
        own = [x.detach()[:, first:last].requires_grad_() for x in inputs]
        start = {key: x[place : place + 1] for key, x in held.items()}
        alone, *ends = call(*own, *call.params.values(), initial_state=start, reverse=reverse)
        assert torch.equal(alone, output[:, first:last])
        assert all(torch.equal(a, b[place : place + 1]) for a, b in zip(ends, finals, strict=True))
        others = torch.autograd.grad((alone * weight[:, first:last]).sum(), own)
        assert all(torch.equal(a, b[:, first:last]) for a, b in zip(others, grads, strict=True))


@pytest.mark.parametrize("name", ["para_gru", "elman"])
def test_gradients_of_params_are_as_exact_over_many_tokens(name):
    """One sum over 100,000 tokens in float32 would be off by a hundred roundings."""
    op = recc.load(name, D=4)
    torch.manual_seed(0)
    tensors = [torch.randn(1, 100_000, 1, 4) for _ in op.inputs]
    tensors += [torch.randn(1, *[4] * (len(item["axes"]) - 1)) / 4 for item in op.params]
    weight = torch.randn(1, 100_000, 1, 4)
    found = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.to(dtype).requires_grad_() for x in tensors]
        found.append(torch.autograd.grad((op(*leaves) * weight).sum(), leaves[len(op.inputs) :]))
    for mine, exact in zip(*found, strict=True):
        assert (mine - exact).abs().max() <= 8 * torch.finfo(torch.float32).eps * exact.abs().max()


@every_spec
def test_strides_change_no_bit(name):
    """Time innermost, every second number, one row for all tokens, sequences and heads (stride 0)."""
    call = Call(name)
    plain = list(call.inputs.values())
    layouts = [
        lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
        lambda x: torch.stack([x, x], -1)[..., 0],
        lambda x: x[:, :1].expand_as(x),
        lambda x: x[:1].expand_as(x),
        lambda x: x[:, :, :1].expand_as(x),
    ]
    for layout in layouts:
        given = [layout(x) for x in plain]
        assert any(not x.is_contiguous() for x in given)
        leaves = [x.requires_grad_() for x in given], [x.contiguous().detach().requires_grad_() for x in given]
        results = [call(*each, *call.params.values()) for each in leaves]
        assert same_bits(*results)
        assert same_bits(*(gradients(*each) for each in zip(results, leaves, strict=True)))


SHARED = """recurrence shared_input
dim    K, V
input  k : K shared
input  v : V
input  f in [0, 1]
input  unused : K
param  W : K x K
state  S : K x V = 0
output o : V

S[t] = f * S[t-1] + outer(k, v)
o    = k @ S[t]
"""


def test_an_input_without_heads_is_shared_and_an_unused_one_has_no_gradient():
    """The gradient of the first is summed over heads; memory that nothing writes is not handed out."""
    for heads in (1, 3):
        call = Call(SHARED, time=35, heads=heads, dtype=torch.float64, grad=True, K=9, V=5)
        assert call.inputs["k"].dim() == 3
        check(call)
        found = torch.autograd.grad(call()[0].sum(), [call.inputs["unused"], call.params["W"]], allow_unused=True)
        assert not any(x is not None and x.any() for x in found)


READS = {
    "a sum that another sum of the same loop reads": "o = S[t] @ (k @ M)",
    "a sum that is a result and is read": "o = n[t]\nq = k @ (S[t] * n[t]) @ n[t]",
    "a decay by an outer product of params": "o = S[t] @ n[t]",
}


@pytest.mark.parametrize("numbers", [(4, 3), (9, 8), (1, 17)])
@pytest.mark.parametrize("how", READS)
def test_sums_of_one_loop(how, numbers):
    """Which sums a loop over the state can take along, where each is known, and all the places it goes to."""
    outer = "product" in how
    text = f"""recurrence reads
dim    K, V
input  k : K
input  v : V
input  M : K x V
input  a
param  u : K
param  y : V
state  S : K x V = 0
state  n : V = 0.5
output o : {"V" if "result" in how else "K"}
{"output q" if "result" in how else ""}

S[t] = {"exp(-exp(outer(u, y)) * softplus(a))" if outer else "0.9"} * S[t-1] + outer(k, v) + M
n[t] = 0.5 * n[t-1] + tanh(k @ S[t])
{READS[how]}
"""
    check(Call(text, time=35, dtype=torch.float64, grad=True, K=numbers[0], V=numbers[1]))


# --- bits ---------------------------------------------------------------------------------------------------------


def run(call):
    results = call()
    return [*results, *gradients(results, call.tensors)]


@every_spec
def test_bits_do_not_depend_on_threads_neighbours_or_what_follows(name, monkeypatch):
    sizes = {"mamba": {"D": 64, "N": 16}, "lstm": {"D": 48}}.get(name, {"K": 64, "V": 48})
    call = Call(name, time=100, batch=3, grad=True, **sizes)
    alone = run(call)
    assert same_bits(alone, run(call))
    spans = []
    for native in call.op.native.natives.values():
        monkeypatch.setattr(native, "alone", 0)  # even a small call is shared out
    monkeypatch.setattr(passes.Native, "call", lambda *given, own=passes.Native.call: (spans.append(1), own(*given)))
    torch.set_num_threads(2)
    try:
        assert same_bits(alone, run(call))
        assert len(spans) in (4, 8)  # two threads, forward and backward, of groups of sequences and of what is left
    finally:
        torch.set_num_threads(1)
    output, *finals = call()
    part = [x.detach()[1:2] for x in call.inputs.values()]
    one, *ends = call(*[x.requires_grad_() for x in part], *call.params.values())
    assert torch.equal(one, output[1:2]) and same_bits(ends, [x[1:2] for x in finals])
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    slopes = torch.autograd.grad((output * weight).sum(), list(call.inputs.values()))
    assert same_bits(torch.autograd.grad((one * weight[1:2]).sum(), part), [x[1:2] for x in slopes])
    for time in (1, 31, 33, 77):
        begun, *_ = call(*(x.detach()[:, :time] for x in call.inputs.values()), *call.params.values())
        assert torch.equal(begun, output[:, :time])


@pytest.mark.parametrize("name", ["gated_delta_net", "gru"])
def test_portable_code_has_equal_bits_at_every_level(name, built):
    call = Call(name, time=40, grad=True)
    usual, call.op = call.op, recc.load(name, deterministic="portable")
    found = []
    for level in ("-O0", "-O1", "-O2", "-O3", "-Os"):
        built(call.op, extra_flags=(level,))
        found.append(run(call))
    assert all(same_bits(found[0], other) for other in found[1:])
    for built_for, flag in ((call.op, ["-ffp-contract=off"]), (usual, [])):
        for native in built_for.native.natives.values() or [built_for.native.native(call.sizes, torch.float32)]:
            assert [f for f in build.flags(**native.how) if f.endswith("contract=off")] == flag
    output, *_ = run(call)
    layer = recc.Module(name, heads=2, deterministic="portable", **call.sizes)
    assert layer.op is call.op and torch.isfinite(output).all()
    with pytest.raises(ValueError, match='"portable"'):
        recc.load(name, deterministic="yes")
    with pytest.raises(ValueError, match="torch has no option deterministic"):
        recc.load(name, backend="torch", deterministic="portable")


def test_calls_from_several_threads_at_once():
    calls = [Call("gated_delta_net", time=200, grad=True, seed=seed, K=32, V=32) for seed in range(8)]
    alone = [run(call) for call in calls]
    forget(calls[0].op)  # the threads find no kernel either
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            assert all(same_bits(a, b) for a, b in zip(pool.map(run, calls), alone, strict=True))


SANITIZED = """
import functools, sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from contracts import Call, gradients
from recc.backends.c import build, call as calls
build.library = functools.partial(build.library, mode="sanitize", extra_flags=("-O0",))
calls.cores, calls.LARGE = lambda: 1, 0  # sequences go side by side, few and small as they are
packed = [0, 0, 33, 34, 40, 75, 108, 140]
for name, sizes in (("gated_delta_net", {"K": 9, "V": 33}), ("gla", {"K": 33, "V": 9}), ("mamba", {"D": 5, "N": 3}),
                    ("para_lstm", {"D": 515}), ("lstm", {"D": 5})):
    for time, batch, offsets in ((35, 1, None), (33, 3, None), (140, 1, packed)):
        call = Call(name, time=time, batch=batch, grad=True, **sizes)
        results = call(cu_seqlens=None if offsets is None else torch.tensor(offsets), reverse=offsets is not None)
        assert all(torch.isfinite(x).all() for x in gradients(results, call.tensors))
    token = [x.detach()[:, 0] for x in call.inputs.values()] + [x.detach() for x in call.params.values()]
    state = {key: x.detach() for key, x in call.state(1).items()}
    call.op.step(*token, state=state)
    call.op.bind(*token, state=state)()
wide = {sequences for *_, sequences in call.op.native.natives}
print("clean", len(wide) > 1)
"""


def test_sanitizers_find_nothing():
    """Addresses and undefined behaviour, at sizes that fill no vector; a finding ends the process."""
    environment = build.sanitizer_environment()
    if not environment:
        pytest.skip("this compiler has no address sanitizer")
    arguments = [sys.executable, "-c", SANITIZED, os.path.dirname(sys.modules["contracts"].__file__)]
    done = subprocess.run(arguments, capture_output=True, text=True, env=os.environ | environment)
    assert done.stdout == "clean True\n", done.stderr[-3000:]
