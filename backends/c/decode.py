"""One token at a time without the dispatcher: a prepared call, whose arguments differ only in addresses.

A decode step computes for a few microseconds; looking at tensors, registering with autograd and choosing a kernel would
cost many times that. So all of it is done once for tensors of given shapes, dtypes and strides.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from recc.backends.c.call import Call, added
from recc.backends.c.passes import NativePasses
from recc.backends.torch.layout import dtype_of, working_dtype

Tensors = Sequence[torch.Tensor]


class Decoder:
    """The step for tensors like these: inputs [batch, (heads,) dims], params, states. `fits` tells if there is one."""

    def __init__(self, passes: NativePasses, inputs: Tensors, params: Tensors, states: Tensors) -> None:
        tokens = [x.unsqueeze(1) for x in inputs]
        call = Call(passes, tokens, params, states, None, False)
        made = [call.tokens(item, 1).squeeze(1) for item in passes.outputs]
        self.outputs = [(x.shape, x.dtype) for x in made]
        self.in_parts = [call.in_parts(item) for item in passes.outputs]
        self.states = [(x.shape, x.dtype) for x in states]
        self.read_by_all = [call.in_parts(item) and call.heads > 1 for item in passes.states]
        views = call.given(tokens, params)
        names = {kind: [(kind, item["name"]) for item in group] for kind, group in (
            ("in", passes.inputs), ("param", passes.params), ("first", passes.states), ("out", passes.outputs),
            ("last", passes.states))}  # fmt: skip
        for item, (shape, dtype) in zip(passes.outputs, self.outputs):
            views["out", item["name"]] = call.part_view(torch.empty(shape, dtype=dtype).unsqueeze(1), item, 2)
        for item, x in zip(passes.states, states):
            views["first", item["name"]] = views["last", item["name"]] = call.view(x, item, 1)
            views["saved", item["name"]] = [0, 0, 0, 0]  # nothing is kept for a backward pass
        fields = call.native.kernel.forward
        head = [call.heads, 1, *[0] * (5 if call.native.kernel.grouped else 3)]  # no tables: one token of each sequence
        self.places = [len(head) + 4 * fields.index(name) for kind in names for name in names[kind]]
        words = [*head, *(word for field in fields for word in views[field])]
        self.array = ctypes.c_int64 * len(words)
        self.words = self.array(*words)
        self.function = call.native.function("forward")
        self.last = ctypes.c_long(0), ctypes.c_long(call.sequences * call.heads)
        self.native = call.native

    @staticmethod
    def fits(passes: NativePasses, inputs: Tensors, params: Tensors, states: Tensors) -> bool:
        """Whether the kernel can read these tensors as they are: of the working precision, dims contiguous."""
        working = working_dtype(inputs)

        def plain(x: torch.Tensor, item: dict, lead: int) -> bool:
            first, want = lead + ("heads" in item["axes"]), 1
            for size, stride in zip(reversed(x.shape[first:]), reversed(x.stride()[first:])):
                if size != 1 and stride != want:
                    return False
                want *= size
            return x.dtype == dtype_of(working, item) and not x.is_conj()

        groups = ((inputs, passes.inputs, 1), (params, passes.params, 0), (states, passes.states, 1))
        return (
            bool(inputs)
            and inputs[0].shape[0] > 0
            and all(plain(x, item, lead) for tensors, items, lead in groups for x, item in zip(tensors, items))
        )

    def __call__(self, given: list[torch.Tensor], entering: list[torch.Tensor]) -> tuple[list, list]:
        """Outputs and new states. given: inputs and params."""
        outputs = [torch.empty(shape, dtype=dtype) for shape, dtype in self.outputs]
        leaving = [torch.empty(shape, dtype=dtype) for shape, dtype in self.states]
        words = self.array.from_buffer_copy(self.words)  # calls from several threads do not share it
        for place, x in zip(self.places, (*given, *entering, *outputs, *leaving)):
            words[place] = x.data_ptr()
        self.native.call(self.function, words, *self.last)
        return self.whole(outputs), leaving

    def whole(self, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """The outputs, the parts of heads added up."""
        return [added(x, 1) if apart else x for x, apart in zip(outputs, self.in_parts)]

    def bound(self, given: list[torch.Tensor], states: list[torch.Tensor]) -> Callable[[], Any]:
        """A call without arguments that reads `given` as they are by then, updates `states` in place, and returns the
        outputs: the same tensors each time."""
        outputs = [torch.empty(shape, dtype=dtype) for shape, dtype in self.outputs]
        leaving = [torch.empty_like(x) if apart else x for x, apart in zip(states, self.read_by_all)]
        words = self.array.from_buffer_copy(self.words)
        for place, x in zip(self.places, (*given, *states, *outputs, *leaving)):
            words[place] = x.data_ptr()
        work = torch.zeros(self.native.kernel.work + 64, dtype=self.native.dtype)
        function, (first, last), address = self.function, self.last, ctypes.c_void_p(work.data_ptr())
        results = self.whole(outputs)
        after = [(x, part) for x, part in zip(results, outputs) if x is not part]
        moves = [(x, new) for x, new in zip(states, leaving) if x is not new]
        alive = (given, states, leaving, words, work)
        result = results[0] if len(results) == 1 else tuple(results)

        def step(alive: Any = alive) -> Any:
            function(words, first, last, address)
            for x, part in after:
                x.copy_(added(part, 1))
            for x, new in moves:
                x.copy_(new)
            return result

        return step
