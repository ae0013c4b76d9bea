"""Stretches of a sequence as tasks of their own in the backward pass, where a call has fewer sequences and heads than
the machine has cores, and none of its dims is long enough to be cut into blocks.

What takes the cotangent of an affine memory's state from token to token is a small part of the pass: the rest is in the
states, which are computed again, and in the gradients. So every stretch of tokens first has the cotangents alone come
to its end, by the recurrence itself and no product of transitions, and then runs as a whole from the states that the
forward pass has saved. Nobody waits for another: the last tokens' stretch is the longest, and earlier ones, to whose
ends it is further, are shorter. The bits are those of one run, but for the gradients of params, which are sums over
the stretches; how many there are follows from the sizes and the machine, not from the number of threads.

A forward pass is not cut: two thirds of its work lead from state to state, which leaves two cores a third to gain.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from recc.backends.c import blocks
from recc.backends.c.call import Call
from recc.backends.c.threads import in_threads

if TYPE_CHECKING:
    from recc.backends.c.passes import NativePasses

WORTH = 9  # doublings of the work that is worth a second thread
# The length of a stretch over that of the one before it in the pass, so that all end at once: of nine multiply-adds an
# element two lead from one cotangent to the next.
SHORTER = 1 - 2 / 9
LEAST = 4  # chunks of a stretch


class Stretches:
    """The backward pass of a recurrence stretch by stretch."""

    def __init__(self, passes: NativePasses) -> None:
        self.passes = passes

    def edges(self, call: Call) -> list[int]:
        """The tokens at which stretches end and begin, from the last one to the first; none: the pass is run whole."""
        native, tasks = call.native, call.tasks
        small = tasks * call.time * native.elements < native.alone << WORTH
        if call.offsets is not None or not tasks or small:
            return []
        if torch.get_num_threads() < 2 and not self.passes.params:  # the same bits with less work
            return []
        chunks, count = -(-call.time // native.chunk), blocks.cores() // tasks
        shares = [SHORTER**place for place in range(count)]
        while len(shares) > 1 and shares[-1] * chunks < LEAST * sum(shares):
            shares.pop()
        if len(shares) < 2:
            return []
        ends = [round(chunks * sum(shares[:place]) / sum(shares)) for place in range(len(shares) + 1)]
        return [min((chunks - end) * native.chunk, call.time) for end in ends]

    def backward(self, call: Call, edges: list[int], arguments: tuple) -> list:
        """The cotangents of inputs, params and states. arguments: those of the pass. edges: from the last token on."""
        passes, (*tensors, _, reverse) = self.passes, arguments
        count, carried = len(passes.outputs), len(passes.states)
        grads, leaving, tensors = tensors[:count], tensors[count : count + carried], tensors[count + carried :]
        saved, rest = tensors[:carried], tensors[carried:]
        inputs, params, states = passes._split(rest)
        inner, time, rows = self.passes.of_part(call.native.chunk), call.time, call.native.chunk
        whole = [self._place(call, item) for item in passes.inputs]

        def stretch(place: int) -> tuple:
            high, low = edges[place : place + 2]
            ending = leaving
            if place:
                after = _tokens(inputs, high, time, reverse), params, states
                ending = self._before(inner, after, reverse, _tokens(grads, high, time, reverse), leaving)
            kept = [_rows(x, low // rows, -(-high // rows), call.sequences) for x in saved]
            own, seeds = (_tokens(group, low, high, reverse) for group in (inputs, grads))
            into = _tokens(whole, low, high, reverse)
            with torch.no_grad():
                return inner.backward(*seeds, *ending, *kept, *own, *params, *states, None, reverse, into=into)

        inner.native(call.sizes, call.dtype).ends()  # built by one thread
        made = [_listed(each) for each in in_threads(stretch, len(edges) - 1)]
        found = []
        for place, x in enumerate([*whole, *[None] * (len(params) + len(states))]):
            parts = [each[place] for each in made]
            if place < len(whole):
                found.append(torch.cat(parts if reverse else parts[::-1], 1) if x is None else x)
            elif place < len(whole) + len(params):
                found.append(sum(parts[1:], parts[0]))
            else:
                found.append(parts[-1])
        return found

    def _place(self, call: Call, item: dict) -> torch.Tensor | None:
        """Where all stretches write a gradient of tokens, if each task's is written to a place of its own."""
        written = ("d_in", item["name"]) in call.native.kernel.backward and item["dtype"] != "complex"
        return call.tokens(item, call.time) if written and "heads" in item["axes"] else None

    def _before(self, inner: NativePasses, tensors: tuple, reverse: bool, grads: list, leaving: Sequence) -> list:
        """The states' cotangents before some tokens. tensors: inputs of those tokens, params and states. grads,
        leaving: the cotangents of the tokens' outputs and of the states after them."""
        passes, call = self.passes, Call(inner, *tensors, None, reverse)
        ends, function = call.native.ends()
        made = [call.fixed(item, call.sequences) for item in passes.states]
        views, seeds = call.given(*tensors[:2]), zip(passes.outputs, grads)
        views |= {("d_out", i["name"]): call.view(call.real(x, i, 2), i, 2) for i, x in seeds}
        for kind, group in (("d_last", leaving), ("d_first", made)):
            views |= {(kind, i["name"]): call.view(call.real(x, i, 1), i, 1) for i, x in zip(passes.states, group)}
        words = [call.heads, call.time, int(reverse), 0, 0, *(word for field in ends.fields for word in views[field])]
        arguments = (ctypes.c_int64 * len(words))(*words)
        work = torch.zeros(ends.work + 64, dtype=call.dtype)
        function(arguments, ctypes.c_long(0), ctypes.c_long(call.tasks), ctypes.c_void_p(work.data_ptr()))
        return made


def _tokens(tensors: Sequence, low: int, high: int, reverse: bool) -> list:
    """Tokens from `low` to before `high` in the order of the recurrence."""
    return [None if x is None else x.narrow(1, x.shape[1] - high if reverse else low, high - low) for x in tensors]


def _rows(saved: torch.Tensor, low: int, high: int, sequences: int) -> torch.Tensor:
    """The states saved at some chunks of each sequence."""
    return saved.unflatten(0, (sequences, -1))[:, low:high].flatten(0, 1)


def _listed(results: Any) -> tuple:
    return (results,) if torch.is_tensor(results) else tuple(results)
