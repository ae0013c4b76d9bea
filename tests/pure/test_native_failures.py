"""Where native code cannot be made or built: a warning says why, and torch computes the same."""

from __future__ import annotations

import warnings

import pytest
import torch
from contracts import Call, gap, gradients
from recc.backends.c import build, cache, compiler, passes
from recc.backends.c.op import NativeOp

import recc
from recc import library

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)


def unbuilt(source, **options):
    raise build.BuildError("cc 1.0 could not build kernel.c (exit status 1):\n  kernel.c:7: error: no such vector")


def unwritten(*given, **options):
    raise AssertionError("<dot : K> is no value of this loop")


FAULTS = {
    "the build": ((build, "library", unbuilt), "kernel.c:7: error: no such vector"),
    "the generator": ((passes, "generate", unwritten), "a fault of recc .AssertionError: <dot : K> is no value"),
}


@pytest.fixture
def text(request):
    """A spec of its own for each test: a process registers equal passes once."""
    name = f"failing_{abs(hash(request.node.name)) % 10**8}"
    return library.find("gla")[0].replace("recurrence gla", f"recurrence {name}")


@pytest.mark.parametrize("where", FAULTS)
def test_torch_serves_and_a_warning_says_why(where, text, monkeypatch):
    fault, words = FAULTS[where]
    cache.warn_once.cache_clear()
    monkeypatch.setattr(*fault)
    call = Call(text, time=40, grad=True)
    assert isinstance(call.op, NativeOp)
    with pytest.warns(RuntimeWarning, match=f"no native code for `failing_(.|\n)*{words}(.|\n)*torch backend serves"):
        results = call(reverse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # says it once
        wants = call.reference(reverse=True)
        assert all(gap(a, b) < 1e-5 for a, b in zip(results, wants, strict=True))
        for a, b in zip(gradients(results, call.tensors), gradients(wants, call.tensors), strict=True):
            assert gap(a, b) < 1e-4
        packed = Call(text, time=40, batch=1, grad=True)
        bounds = torch.tensor([0, 0, 33, 40])
        results, wants = (f(cu_seqlens=bounds) for f in (packed, packed.reference))
        for a, b in zip(gradients(results, packed.tensors), gradients(wants, packed.tensors), strict=True):
            assert gap(a, b) < 1e-4
        with torch.no_grad():
            outputs, state = call.op.step(*(x[:, 0] for x in call.inputs.values()), state=call.state(2))
        assert outputs.isfinite().all() and state.keys() == {"S"}


@pytest.mark.parametrize("where", FAULTS)
def test_native_code_that_was_asked_for_is_an_error(where, text, monkeypatch):
    fault, words = FAULTS[where]
    monkeypatch.setattr(*fault)
    op = recc.loads(text, backend="c")
    call = Call(text, time=40)
    with pytest.raises(build.BuildError, match=words):
        op(*call.tensors)
