"""What the tests of an op's contract share: calls with sampled tensors, and how much memory one takes."""

from __future__ import annotations

import torch

import recc
from recc import library
from recc.frontend import parse_text
from recc.ir import interpreter
from recc.runtime import cases
from recc.runtime.samples import sample_inputs


class Call:
    """An op with tensors to call it with. `inputs` and `params` by name; `tensors` in the order of its arguments."""

    backend = None  # None: native code where it serves; the fixture `backend` sets it for a test

    def __init__(
        self, spec, time=37, batch=2, heads=2, dtype=torch.float32, grad=False, seed=0, strategy=None, **sizes
    ):
        text = spec if "\n" in spec else library.find(spec)[0]
        self.rec = parse_text(text, "spec.rec")[0]
        self.op = recc.loads(text, strategy=strategy, backend=self.backend if strategy is None else None)
        self.heads, self.sizes = heads, {**cases.sizes_of(self.rec), **sizes}
        generator = torch.Generator().manual_seed(seed)
        self.inputs = sample_inputs(self.rec, self.sizes, batch, time, heads, dtype, generator)
        self.params = interpreter.init_params(self.rec, self.sizes, heads, dtype, generator=generator)
        if grad:
            for x in self.tensors:
                x.requires_grad_()

    @property
    def tensors(self):
        return [*self.inputs.values(), *self.params.values()]

    def __call__(self, *tensors, **options):
        """(outputs and final states in one list), for these tensors or the call's own."""
        return self.op_results(tensors or self.tensors, **options)

    def op_results(self, tensors, **options):
        output, final = self.op(*tensors, return_final_state=True, **options)
        return [*(output if isinstance(output, tuple) else (output,)), *final.values()]

    def state(self, batch, dtype=torch.float32):
        """A state that is not zero, by the names of the spec's states."""
        generator = torch.Generator().manual_seed(5)
        inputs = sample_inputs(self.rec, self.sizes, batch, 3, self.heads, dtype, generator)
        params = {name: x.detach() if x.is_complex() else x.detach().to(dtype) for name, x in self.params.items()}
        _, final = interpreter.run(self.rec, inputs, params, sizes={**self.sizes, "heads": self.heads})
        return {name: x.contiguous() for name, x in final.items()}

    def reference(self, dtype=torch.float64, **options):
        """The same list by the sequential reference."""
        outputs, final = interpreter.run(
            self.rec, self.inputs, self.params, sizes={**self.sizes, "heads": self.heads}, dtype=dtype, **options
        )
        return [*outputs.values(), *(final[item["name"]] for item in self.op.states)]


def weigh(results, seed=7):
    """A sum of all results with random weights: its gradients are sensitive to every entry."""
    generator = torch.Generator().manual_seed(seed)
    loss = 0.0
    for x in results:
        weight = torch.randn(x.shape, generator=generator).to(x.real.dtype)
        loss = loss + (x.real * weight).sum() + ((x.imag * weight).sum() if x.is_complex() else 0.0)
    return loss


def gradients(results, tensors):
    found = torch.autograd.grad(weigh(results), tensors, allow_unused=True)
    return [torch.zeros_like(x) if grad is None else grad for x, grad in zip(tensors, found, strict=True)]


def gap(got, want):
    """The largest difference, relative to the largest magnitude."""
    if not want.numel():
        return 0.0
    wide = torch.complex128 if want.is_complex() else torch.float64
    got, want = got.detach().to(wide), want.detach().to(wide)
    return float((got - want).abs().max() / want.abs().max().clamp(min=1e-30))


def saved_bytes(function, given):
    """What `function` saves for its backward pass, beyond the tensors in `given`."""
    found = {}

    def pack(x):
        found[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        kept = function()
    own = {x.untyped_storage().data_ptr() for x in given}
    del kept
    return sum(size for place, size in found.items() if place not in own)


def peak_bytes(function):
    """The most memory that `function` holds at a time."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def check_from_a_state(spec, offsets=None, **options):
    """Outputs, final states and all gradients are the float64 reference's, from a state that is not zero. offsets: of
    packed sequences, which then run in reverse."""
    call = Call(spec, batch=1 if offsets else 2, dtype=torch.float64, grad=True, **options)
    sequences = len(offsets) - 1 if offsets else 2
    held = {name: x.requires_grad_() for name, x in call.state(sequences, torch.float64).items()}
    how = {"initial_state": held, "cu_seqlens": torch.tensor(offsets) if offsets else None}
    how["reverse"] = offsets is not None
    leaves = [*call.tensors, *held.values()]
    results, wants = call(**how), call.reference(**how)
    assert all(gap(a, b) < 1e-9 for a, b in zip(results, wants, strict=True))
    for a, b in zip(gradients(results, leaves), gradients(wants, leaves), strict=True):
        assert a.dtype == b.dtype
        assert gap(a, b) < 1e-9 or float((a - b).abs().max()) < 1e-11


def same_bits(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
