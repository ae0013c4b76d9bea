"""A compiled recurrence whose passes run as native code on CPU tensors, and as torch code elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from recc.backends.c.around import Around
from recc.backends.c.decode import Decoder
from recc.backends.c.options import Options
from recc.backends.c.passes import DEFAULT, NativePasses
from recc.backends.torch.layout import working_dtype
from recc.backends.torch.op import Op
from recc.backends.torch.passes import in_full_precision, register

from recc.analysis.plan import Plan


class NativeOp(Op):
    """An Op with the same contract; see there. Kernels are built at first use of each size of the dims."""

    around: Around | None = None  # the passes where torch multiplies the projections

    def __init__(
        self, plan: Plan, meta: dict[str, Any], *tiles: Any, options: Options = DEFAULT, asked: bool = False
    ) -> None:
        super().__init__(meta, *tiles)
        self._native, self.native = register(NativePasses(plan, meta, self.passes, options, asked))
        self._infer = _register_inference(self.native)
        self._decoders: dict[tuple, Decoder | None] = {}

    def chunk_of(self, dtype: torch.dtype = torch.float32, **sizes: int) -> int:
        return (
            self.native.native(sizes, dtype).chunk if self.around is None else self.around.core.chunk_of(dtype, **sizes)
        )

    def __repr__(self) -> str:
        arguments = ", ".join(item["name"] for item in (*self.inputs, *self.params))
        return f"<recurrence {self.name}({arguments}), native code on a CPU, else {self.meta['strategy']}>"

    def step(self, *tensors: Any, state: Any = None, **named: Any) -> Any:
        """One token; see Op.step. Where no gradient is asked for, by a call prepared once for tensors like these."""
        ready = self._ready(tensors, state, named)
        if ready is None:
            return super().step(*tensors, state=state, **named)
        decoder, given, held = ready
        outputs, states = decoder(given, held)
        names = (item["name"] for item in self.states)
        return (outputs[0] if len(outputs) == 1 else tuple(outputs)), dict(zip(names, states))

    def bind(self, *tensors: Any, state: Any, **named: Any) -> Callable[[], Any]:
        """A decode step over fixed memory, for the least latency: a function without arguments.

        Each call reads the inputs and params as they are by then, updates the tensors of `state` in place and returns
        the outputs, in the same memory each time. Arguments as for `step`: CPU tensors of one dtype, float32 or
        float64, with contiguous dims, that need no gradient. Raises ValueError for others.
        """
        with torch.no_grad():
            ready = self._ready(tensors, state, named)
        if ready is None:
            raise ValueError(
                f"{self.name}.bind takes every input, param and state as a CPU tensor of one dtype (float32 or "
                "float64) with contiguous dims; `step` takes all others"
            )
        decoder, given, held = ready
        return decoder.bound(given, held)

    def _ready(self, tensors: tuple, state: Any, named: dict) -> tuple[Decoder, list, list] | None:
        """The prepared call for these tensors, the inputs and params, and the states; None if there is none."""
        given = list(tensors)
        count = len(self.inputs) + len(self.params)
        if state is None and len(given) + len(named) == count + 1 and given:
            state = given.pop()
        given += [named.get(item["name"]) for item in (*self.inputs, *self.params)[len(given) :]] if named else []
        if len(given) != count or len(tensors) + len(named) not in (count, count + 1):
            return None
        if isinstance(state, dict) and len(state) == len(self.states):
            held = [state.get(item["name"]) for item in self.states]
        elif len(self.states) == 1:
            held = [state]
        else:
            return None
        every = [*given, *held]
        if not all(type(x) in (torch.Tensor, torch.nn.Parameter) for x in every) or torch.compiler.is_compiling():
            return None
        if torch.is_grad_enabled() and any(x.requires_grad for x in every):
            return None
        if torch._C._functorch.peek_interpreter_stack() is not None:
            return None
        key = tuple((x.shape, x.stride(), x.dtype, x.is_cpu) for x in every)
        if key not in self._decoders:
            self._decoders[key] = self._prepared(given, held)
        decoder = self._decoders[key]
        return None if decoder is None else (decoder, given, held)

    def _prepared(self, given: list, held: list) -> Decoder | None:
        if len(given) != len(self.inputs) + len(self.params) or not all(x.is_cpu for x in (*given, *held)):
            return None
        inputs, params = self._arguments(given, {}, time=False)
        sizes = self._check(inputs, params, time=False)
        state = {item["name"]: x for item, x in zip(self.states, held)}
        self._enter(state, sizes["batch"], sizes, inputs, params)
        shared = any("heads" in item["axes"] and x.shape[1] != sizes["heads"] for x, item in zip(inputs, self.inputs))
        if shared or not Decoder.fits(self.native, inputs, params, held):
            return None
        known = {dim: size for dim, size in sizes.items() if dim != "batch"}
        if self.native.failed(self.native.native(known | {"heads": sizes["heads"] or 1}, working_dtype(inputs))):
            return None
        return Decoder(self.native, inputs, params, held)

    def _forward_for(self, *tensors: torch.Tensor) -> Any:
        if tensors[0].device.type != "cpu":
            return self._forward
        if self.around is not None:
            return self.around
        if torch._C._are_functorch_transforms_active():  # they do not say whose derivative they want
            return self._native
        return self._native if torch.is_grad_enabled() and any(x.requires_grad for x in tensors) else self._infer


def _register_inference(passes: NativePasses) -> Any:
    """The forward pass as an op of torch.library that has no derivative and keeps nothing for one."""
    name = f"{passes.name}_{passes.meta['digest']}_infer"
    if not hasattr(torch.ops.recc, name):
        library = torch.library.Library("recc", "FRAGMENT")
        count = len(passes.inputs) + len(passes.params) + len(passes.states)
        listed = ", ".join(f"Tensor x{i}" for i in range(count))
        results = ", ".join(["Tensor"] * (len(passes.outputs) + len(passes.states)))
        library.define(f"{name}({listed}, Tensor? cu_seqlens, bool reverse) -> ({results})")
        library.impl(name, lambda *x: in_full_precision(passes.infer, *x), "CompositeExplicitAutograd")
        torch.library.register_fake(f"recc::{name}", passes.fake_infer, lib=library)
        passes.inference = library  # the op lives as long as it does
    return getattr(torch.ops.recc, name)
