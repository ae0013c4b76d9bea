"""The passes of a recurrence in native code: tensors in, pointers to the kernel, tasks spread over threads."""

from __future__ import annotations

import copy
import ctypes
from dataclasses import dataclass, replace
from typing import Any

import torch
from recc.backends.c import build, cache
from recc.backends.c.blocks import Blocks, free_dim
from recc.backends.c.call import Call
from recc.backends.c.ends import Ends, EndsFile, worth_it
from recc.backends.c.kernel import Kernel, generate, identifier
from recc.backends.c.options import Options
from recc.backends.c.pages import keep_freed_memory
from recc.backends.c.stretches import Stretches
from recc.backends.c.threads import in_threads
from recc.backends.c.vectors import Real
from recc.backends.torch.layout import dim_of, dtype_of

from recc.analysis.plan import Plan
from recc.tile.alone import has_all_heads
from recc.tile.step import step_programs

DEFAULT = Options()


class Native:
    """A kernel built for some sizes of the dims and a working precision."""

    def __init__(
        self, plan: Plan, sizes: dict[str, int], dtype: torch.dtype, options: Options = DEFAULT, sequences: int = 1
    ) -> None:
        """sequences: that a task computes side by side."""
        machine, self.alone = build.target(), options.alone
        self.how = {"mode": options.deterministic} if options.deterministic else {}
        name = "float" if dtype == torch.float32 else "double"
        lanes = max(4, (options.vector or machine.vector_bytes) // (4 if name == "float" else 8))
        self.dtype = dtype
        self.lanes, self.registers = lanes, 32 if machine.vector_bytes == 64 else 16
        self.made_for = (plan, sizes, Real(name, lanes), self.registers, options.chunk, sequences)
        self.kernel: Kernel = generate(*self.made_for)
        self._functions: dict[str, Any] = {}
        self._ends: tuple[Ends, Any] | None = None
        self.name = plan.recurrence.name
        self.spare: list[torch.Tensor] = []
        self.elements = max([1, *(_product(s.axes, sizes) for s in plan.recurrence.states)])

    @property
    def chunk(self) -> int:
        return self.kernel.chunk

    @property
    def problem(self) -> str | None:
        """Why it cannot be built, in the compiler's words, or None once it is."""
        try:
            self.function("forward")
        except build.BuildError as error:
            return str(error)
        return None

    def function(self, direction: str) -> Any:
        """The kernel's `forward` or `backward`, built the first time that it is asked for."""
        if direction not in self._functions:
            library = build.library(self.kernel.parts[direction], **self.how)
            self._functions[direction] = getattr(library, f"{identifier(self.name)}_{direction}")
            self._functions[direction].restype = None
        return self._functions[direction]

    def ends(self) -> tuple[Ends, Any]:
        """What takes cotangents of states back through some tokens, and its function."""
        if self._ends is None:
            ends = EndsFile(*self.made_for).ends()
            library = build.library(ends.source, **self.how)
            self._ends = ends, getattr(library, f"{identifier(self.name)}_backward")
        return self._ends

    def run(self, direction: str, words: list[int], tasks: range, tokens: int) -> None:
        """Calls the kernel for these tasks. words: its structure of arguments. tokens: of a task."""
        function = self.function(direction)
        arguments = (ctypes.c_int64 * len(words))(*words)
        threads = min(torch.get_num_threads(), len(tasks))
        if threads <= 1 or len(tasks) * tokens * self.elements < self.alone:
            self.call(function, arguments, ctypes.c_long(tasks.start), ctypes.c_long(tasks.stop))
            return
        edges = [tasks.start + len(tasks) * place // threads for place in range(threads + 1)]
        spans = [(ctypes.c_long(low), ctypes.c_long(high)) for low, high in zip(edges[:-1], edges[1:])]
        in_threads(lambda place: self.call(function, arguments, *spans[place]), threads)

    def call(self, function: Any, arguments: Any, first: ctypes.c_long, last: ctypes.c_long) -> None:
        """The tasks from `first` to before `last`, in this thread and in a workspace that no other call uses."""
        try:
            work = self.spare.pop()
        except IndexError:
            work = torch.zeros(self.kernel.work + 64, dtype=self.dtype)
        function(arguments, first, last, ctypes.c_void_p(work.data_ptr()))
        self.spare.append(work)


def _product(axes: tuple, sizes: dict[str, int]) -> int:
    total = 1
    for axis in axes:
        total *= sizes[dim_of(axis)] if axis != "heads" else 1
    return total


@dataclass(frozen=True)
class Missing:
    """What stands for a kernel of which there is no C text, and why."""

    problem: str
    chunk: int = 32
    kernel: None = None


class NativePasses:
    """Forward and backward pass with the signature of `recc.backends.torch.passes.Passes`, on CPU tensors.

    Loops over the tokens of each (sequence, head) with the state in registers or the first-level cache. States in
    float32, or float64 where an input is; bfloat16 and float16 are converted on the way in and out.
    """

    def __init__(
        self, plan: Plan, meta: dict[str, Any], instead: Any, options: Options = DEFAULT, asked: bool = False
    ) -> None:
        """instead: the torch backend's passes, which serve where there is no library, unless `asked` for this one."""
        self.plan, self.name, self.options, self.instead, self.asked = plan, meta["name"], options, instead, asked
        self.inputs, self.params = meta["inputs"], meta["params"]
        self.states, self.outputs = meta["states"], meta["outputs"]
        self.saved = self.states
        form = "".join(f"_{name}{value}" for name, value in options.view().items())
        self.meta = {**meta, "digest": f"{meta['digest']}_c{form}{'_asked' * asked}"}
        self.natives: dict[tuple, Native | Missing] = {}
        self.parts: dict[int, NativePasses] = {}  # by the tokens of a chunk
        step, again, back = step_programs(plan)
        self.all_heads = has_all_heads(step)
        dim = free_dim(plan, step)
        self.blocks = None if dim is None else Blocks(self, step, dim)
        own = not self.all_heads and all("heads" in item["axes"] for item in self.states)
        self.stretches = Stretches(self) if own and worth_it(again, back) else None
        keep_freed_memory()

    def of_part(self, chunk: int) -> NativePasses:
        """The passes of a block or a stretch: in one thread, not cut any further, with states saved every `chunk`
        tokens."""
        if chunk not in self.parts:
            part = self.parts[chunk] = copy.copy(self)
            part.options = replace(self.options, chunk=chunk, alone=Options.NEVER)
            part.natives, part.blocks, part.stretches, part.parts = {}, None, None, {}
        return self.parts[chunk]

    def native(self, sizes: dict[str, int], dtype: torch.dtype, sequences: int = 1) -> Native | Missing:
        """The kernel for these sizes: of any number of heads, unless its tasks have all. sequences: of a task."""
        dims = {dim: int(size) for dim, size in sizes.items() if dim != "heads" or self.all_heads}
        key = (tuple(sorted(dims.items())), dtype, sequences)
        if key not in self.natives:
            try:
                self.natives[key] = Native(self.plan, dims, dtype, self.options, sequences)
            except Exception as error:  # of the generator, whatever it is: a user has no use for its traceback
                text = f"recc made no C text of it, which is a fault of recc ({type(error).__name__}: {error})"
                self.natives[key] = Missing(f"{text}; please report the spec and {dims}")
        return self.natives[key]

    def failed(self, native: Native | Missing) -> bool:
        """Whether torch must serve, which a warning says once. Raises BuildError if native code was asked for."""
        if native.problem is None:
            return False
        if self.asked:
            raise build.BuildError(native.problem)
        advice = "Until that is solved the torch backend serves, which is slower"
        cache.warn_once(f"there is no native code for `{self.name}`: {native.problem}\n{advice}.")
        return True

    def _torch_forward(self, call: Call, keep: bool, arguments: tuple) -> Any:
        """The results of the torch backend. It keeps other things, so its backward pass starts anew."""
        results = _listed(self.instead.forward(*arguments))[: len(self.outputs) + len(self.states)]
        kept = [call.fixed(item, call.bound, zero=True) for item in self.states] if keep else []
        return _returned((*results, *kept))

    def _torch_backward(self, grads: Any, arguments: tuple) -> Any:
        kept = _listed(self.instead.forward(*arguments))[len(self.outputs) + len(self.states) :]
        return self.instead.backward(*grads, *kept, *arguments)

    # --- passes --------------------------------------------------------------------------------------------------

    def forward(self, *arguments: Any) -> Any:
        return self._forward(True, *arguments)

    def infer(self, *arguments: Any) -> Any:
        """Outputs and final states alone: no state is written for a backward pass."""
        return self._forward(False, *arguments)

    def _forward(self, keep: bool, *arguments: Any, into: Any = None) -> Any:
        """into: where the outputs go."""
        *tensors, cu_seqlens, reverse = arguments
        inputs, params, states = self._split(tensors)
        call = Call(self, inputs, params, states, cu_seqlens, reverse)
        if self.failed(call.needed):
            return self._torch_forward(call, keep, arguments)
        outputs = into or [call.tokens(item, inputs[0].shape[1]) for item in self.outputs]
        finals = [call.fixed(item, call.sequences) for item in self.states]
        # of packed sequences there may be fewer chunks than there is room for
        packed, states_kept = cu_seqlens is not None, self.states if keep else ()
        saved = [call.fixed(item, call.bound, zero=packed) for item in states_kept]
        views = call.given(inputs, params) | {("saved", item["name"]): [0, 0, 0, 0] for item in self.states}
        views |= {("out", i["name"]): call.part_view(x, i, 2) for i, x in zip(self.outputs, outputs)}
        for kind, group in (("first", states), ("saved", saved), ("last", finals)):
            views |= {(kind, i["name"]): call.view(call.real(x, i, 1), i, 1) for i, x in zip(self.states, group)}
        if self.blocks and (count := self.blocks.count(call)) > 1:
            finals, saved = self.blocks.forward(keep, call, count, arguments, outputs)
        else:
            call.run("forward", views)
        outputs = [call.whole(x, i, 2) for x, i in zip(outputs, self.outputs)]
        kept = [x.to(dtype_of(inputs[0].dtype, item)) for x, item in zip(outputs, self.outputs)]
        return _returned((*kept, *finals, *saved))

    def backward(self, *arguments: Any, into: Any = None) -> Any:
        """into: where the cotangents of inputs go, None for those that have no place."""
        *tensors, cu_seqlens, reverse = arguments
        carried, count = len(self.states), len(self.outputs)
        grads, tensors = tensors[: count + carried], tensors[count + carried :]
        saved, tensors = tensors[:carried], tensors[carried:]
        inputs, params, states = self._split(tensors)
        call = Call(self, inputs, params, states, cu_seqlens, reverse)
        if self.failed(call.needed):
            return self._torch_backward(grads, (*tensors, cu_seqlens, reverse))
        if self.blocks and (blocks := self.blocks.count(call)) > 1:
            found = self.blocks.backward(call, blocks, arguments)
            return _returned(_like(x, given) for x, given in zip(found, (*inputs, *params, *states)))
        if self.stretches and (edges := self.stretches.edges(call)):
            found = self.stretches.backward(call, edges, arguments)
            return _returned(_like(x, given) for x, given in zip(found, (*inputs, *params, *states)))
        time = inputs[0].shape[1]
        written = call.native.kernel.backward
        d_inputs = [
            call.tokens(i, time, parts=True, zero=_bare(i, "d_in", written)) if there is None else there
            for i, there in zip(self.inputs, into or [None] * len(self.inputs))
        ]
        d_params = [call.fixed(i, call.parts, parts=True, zero=True) for i in self.params]
        d_first = [call.fixed(i, call.sequences, parts=True) for i in self.states]
        views = call.given(inputs, params)
        views |= {("d_in", i["name"]): call.part_view(x, i, 2) for i, x in zip(self.inputs, d_inputs)}
        views |= {("d_param", i["name"]): call.part_view(x, i, 1) for i, x in zip(self.params, d_params)}
        views |= {("d_first", i["name"]): call.part_view(x, i, 1) for i, x in zip(self.states, d_first)}
        views |= {("d_out", i["name"]): call.view(call.real(x, i, 2), i, 2) for i, x in zip(self.outputs, grads)}
        for kind, group in (("saved", saved), ("d_last", grads[count:])):
            views |= {(kind, i["name"]): call.view(call.real(x, i, 1), i, 1) for i, x in zip(self.states, group)}
        call.run("backward", views)
        found = [call.whole(x, i, 2) for x, i in zip(d_inputs, self.inputs)]
        found += [call.whole(x, i, 1).sum(0) for x, i in zip(d_params, self.params)]
        found += [call.whole(x, i, 1) for x, i in zip(d_first, self.states)]
        return _returned(_like(x, given) for x, given in zip(found, (*inputs, *params, *states)))

    def fake_forward(self, *arguments: Any) -> Any:
        *tensors, cu_seqlens, _ = arguments
        inputs, params, states = self._split(tensors)
        call = Call(self, inputs, params, states, cu_seqlens, False, build=False)
        first = inputs[0]
        outputs = [
            first.new_empty(
                *first.shape[:2], *(call.sizes[dim_of(a)] for a in item["axes"]), dtype=dtype_of(first.dtype, item)
            )
            for item in self.outputs
        ]
        finals = [x.new_empty(x.shape) for x in states]
        kept = [x.new_empty(call.bound, *x.shape[1:]) for x in states]
        return _returned((*outputs, *finals, *kept))

    def fake_infer(self, *arguments: Any) -> Any:
        results = self.fake_forward(*arguments)
        return _returned(results[: -len(self.states)])

    def _split(self, tensors: Any) -> tuple:
        a, b = len(self.inputs), len(self.inputs) + len(self.params)
        return tensors[:a], tensors[a:b], tensors[b:]


def _bare(item: dict, kind: str, written: tuple) -> bool:
    """Whether the kernel may leave some of a result as it is."""
    return (kind, item["name"]) not in written or item["dtype"] == "complex"


def _like(x: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """A gradient in the dtype of what it belongs to."""
    return (x if given.is_complex() or not x.is_complex() else x.real).to(given.dtype)


def _listed(results: Any) -> tuple:
    return (results,) if torch.is_tensor(results) else tuple(results)


def _returned(results: Any) -> Any:
    results = tuple(results)
    return results[0] if len(results) == 1 else results
