"""The sequential reference: a recurrence, interpreted token by token in plain torch. The oracle of everything else.

It reads the step IR and nothing else of recc: no analysis, no strategy, no generated code. What it computes
is what the spec says, in the order in which a person would compute it by hand; autograd differentiates it.

What no token changes (parameters, constants and functions of these) is evaluated once and everything else once a
token: nothing that depends on an input is moved out of the loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recc.ir.evaluate import Shapes, Sizes, broadcast, canonical, cast, declared, fixed_sizes, function_of
from recc.ir.node import HEADS, Axis, Node, dim_of, sort_axes
from recc.ir.program import Output, Recurrence, State
from recc.ir.starts import init_params, initial_state, starting_state

__all__ = ["init_params", "initial_state", "run"]


def run(
    rec: Recurrence,
    inputs: Mapping[str, Tensor],
    params: Mapping[str, Tensor] | None = None,
    *,
    initial_state: Mapping[str, Tensor] | None = None,
    sizes: Sizes | None = None,
    reverse: bool = False,
    cu_seqlens: Tensor | Sequence[int] | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Runs `rec` over its inputs; returns its outputs and its final state, each by name.

    inputs:  ``[batch, time, heads, *dims]``, ``[batch, time, *dims]`` when shared, dims as declared. One with fewer
        heads serves several: of H heads, head h reads head ``h // (H // Hx)`` of an input with Hx heads.
    params:  ``[heads, *dims]``, ``[*dims]`` when shared.
    initial_state: ``[batch, heads, *dims]`` for some or all states; the others start as the spec says.
    sizes:   sizes of dims, and of `heads`, that no tensor shows.
    reverse: every sequence runs from its last token to its first; outputs stand at their own positions.
    cu_seqlens: bounds of sequences packed into a batch of one; states then have a row for each sequence.
    dtype:   what is computed in, and the dtype of all results; by default that of the inputs, at least float32.
    """
    dtype = _working_dtype(dtype, inputs, params or {}, initial_state or {})
    device = next((x.device for x in [*inputs.values(), *(params or {}).values()]), torch.device("cpu"))
    _complain_about_names(rec, inputs, params or {}, initial_state or {})

    sequences = {x.name: cast(inputs[x.name], x.dtype, dtype) for x in rec.inputs}
    weights = {p.name: cast((params or {})[p.name], p.dtype, dtype) for p in rec.params}
    given = {s.name: cast(initial_state[s.name], s.dtype, dtype) for s in rec.states if s.name in (initial_state or {})}
    sizes, batch, time = _bind(rec, sequences, weights, given, sizes or {}, cu_seqlens is not None)
    sequences = {x.name: _share_heads(sequences[x.name], x.axes, sizes, 2) for x in rec.inputs}
    schedule = _Schedule(rec, Shapes(sizes, dtype, device), weights)

    bounds = [0, time] if cu_seqlens is None else _segments(cu_seqlens, batch, time)
    rows = batch if cu_seqlens is None else len(bounds) - 1
    states = starting_state(rec, schedule.shapes, rows, weights, given)
    pieces = []
    for i, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
        part = {name: x[:, first:last] for name, x in sequences.items()}
        begin = states if cu_seqlens is None else {name: x[i : i + 1] for name, x in states.items()}
        pieces.append(schedule.run(part, begin, batch, last - first, reverse))
    outputs = {y.name: torch.cat([piece[0][y.name] for piece in pieces], dim=1) for y in rec.outputs}
    final = {s.name: torch.cat([piece[1][s.name] for piece in pieces], dim=0) for s in rec.states}
    return outputs, final


# --- the loop -----------------------------------------------------------------------------------------------


class _Schedule:
    """The instructions of one step in order: each a slot to write, a function, and the slots that it reads."""

    def __init__(self, rec: Recurrence, shapes: Shapes, weights: Mapping[str, Tensor]) -> None:
        self.rec, self.shapes = rec, shapes
        self.slots: dict[Node, int] = {}
        self.values: list[Any] = []  # by slot; what no token changes is filled in here, once
        self.steps: list[tuple[int, Callable[..., Tensor], tuple[int, ...]]] = []
        self.reads: list[tuple[int, str]] = []  # slots of inputs
        self.old = {s.name: self._slot() for s in rec.states}
        self.new: dict[str, int] = {}
        self.shown: list[int] = []  # slots of outputs
        self.varying: set[int] = set(self.old.values())
        self.weights = {p.name: canonical(weights[p.name], p.axes, 0)[None] for p in rec.params}
        for state in rec.states:
            self._plan(rec.updates[state.name])
            self._update(state)
        for output in rec.outputs:
            self._plan(output.value)
            self.shown.append(self._shaped(output.value, output))

    def run(
        self, inputs: Mapping[str, Tensor], start: Mapping[str, Tensor], batch: int, time: int, reverse: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One batch of sequences of equal length."""
        rec, shapes, values = self.rec, self.shapes, list(self.values)
        tokens = []
        for slot, name in self.reads:
            axes = next(x.axes for x in rec.inputs if x.name == name)
            tokens.append((slot, canonical(inputs[name], axes, 2).unbind(1)))
        for state in rec.states:
            values[self.old[state.name]] = canonical(start[state.name], state.axes, 1)
        trajectories: list[list[Tensor]] = [[] for _ in rec.outputs]
        for t in reversed(range(time)) if reverse else range(time):
            for slot, sequence in tokens:
                values[slot] = sequence[t]
            for slot, function, arguments in self.steps:
                values[slot] = function(*[values[i] for i in arguments])
            for slot, trajectory in zip(self.shown, trajectories, strict=True):
                trajectory.append(values[slot])
            # All at once: a new value may be another state's old one, as in a line of delays.
            for name, value in [(s.name, values[self.new[s.name]]) for s in rec.states]:
                values[self.old[name]] = value

        outputs, final = {}, {}
        for output, trajectory in zip(rec.outputs, trajectories, strict=True):
            shape = shapes.shape(output.axes)
            if trajectory:
                steps = torch.stack(trajectory[::-1] if reverse else trajectory, dim=1)
                outputs[output.name] = declared(steps, output.axes, 2).expand(batch, time, *shape)
            else:
                empty = torch.empty(batch, 0, *shape, dtype=shapes.dtype_of(output.dtype), device=shapes.device)
                outputs[output.name] = empty
        for state in rec.states:
            value = declared(values[self.old[state.name]], state.axes, 1)
            final[state.name] = value.expand(batch, *shapes.shape(state.axes))
        return outputs, final

    def _slot(self) -> int:
        self.values.append(None)
        return len(self.values) - 1

    def _plan(self, root: Node) -> None:
        """Instructions for `root` and all that it needs; what is planned already is not planned again."""
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if node in self.slots:
                continue
            read = self.rec.updates[node["name"]] if node.op == "state" and node["when"] == "new" else None
            if not ready:
                stack.append((node, True))
                needs = node.args if read is None else (read,)
                stack.extend((need, False) for need in needs if need not in self.slots)
            elif read is not None:
                self.slots[node] = self._update(self.rec.state(node["name"]))
            elif node.op == "state":
                self.slots[node] = self.old[node["name"]]
            elif node.op == "input":
                self.slots[node] = self._slot()
                self.varying.add(self.slots[node])
                self.reads.append((self.slots[node], node["name"]))
            elif node.op == "param":
                self.slots[node] = self._slot()
                self.values[self.slots[node]] = self.weights[node["name"]]
            else:
                self.slots[node] = self._emit(function_of(node, self.shapes), [self.slots[a] for a in node.args])

    def _update(self, state: State) -> int:
        """The slot of the state after the step."""
        if state.name not in self.new:
            self.new[state.name] = self._shaped(self.rec.updates[state.name], state)
        return self.new[state.name]

    def _shaped(self, node: Node, thing: State | Output) -> int:
        """The slot of `node` with the axes and the dtype that `thing` declares: an update may depend on fewer axes."""
        axes = sort_axes(thing.axes)
        if node.axes == axes and node.dtype == thing.dtype:
            return self.slots[node]
        return self._emit(broadcast(node.axes, axes, self.shapes, thing.dtype), [self.slots[node]])

    def _emit(self, function: Callable[..., Tensor], arguments: Sequence[int]) -> int:
        slot = self._slot()
        if any(i in self.varying for i in arguments):
            self.varying.add(slot)
            self.steps.append((slot, function, tuple(arguments)))
        else:
            self.values[slot] = function(*[self.values[i] for i in arguments])
        return slot


# --- checks and conversions ---------------------------------------------------------------------------------


def _working_dtype(dtype: torch.dtype | None, *tensors: Mapping[str, Tensor]) -> torch.dtype:
    if dtype is not None:
        return dtype
    wide = (torch.float64, torch.complex128)
    return torch.float64 if any(x.dtype in wide for group in tensors for x in group.values()) else torch.float32


def _complain_about_names(rec: Recurrence, *groups: Mapping[str, Tensor]) -> None:
    declared = (("input", rec.inputs), ("param", rec.params), ("state", rec.states))
    for (word, things), group in zip(declared, groups, strict=True):
        names = [thing.name for thing in things]
        for name in group:
            if name not in names:
                raise ValueError(f"`{rec.name}` has no {word} `{name}`; it has {', '.join(names) or 'none'}")
        for name in names:
            if word != "state" and name not in group:
                raise ValueError(f"{word} `{name}` of `{rec.name}` is missing")


def _bind(
    rec: Recurrence, inputs: Mapping, params: Mapping, states: Mapping, sizes: Sizes, packed: bool
) -> tuple[dict[str, int], int, int]:
    """Sizes of all dims, of batch and of time, from the tensors; complains in the spec's names where they disagree."""
    known = {**fixed_sizes(rec), **sizes}
    source = {name: "the spec" if name not in sizes else "`sizes`" for name in known}
    heads = [known[HEADS]] if HEADS in known else []
    things = [(x, inputs[x.name], ["@batch", "@time"]) for x in rec.inputs]
    things += [(p, params[p.name], []) for p in rec.params]
    things += [(s, states[s.name], ["@sequences" if packed else "@batch"]) for s in rec.states if s.name in states]
    for thing, tensor, leading in things:
        axes = [*leading, *thing.axes]
        if tensor.dim() != len(axes):
            expected = ", ".join(axis.strip("@") for axis in axes)
            raise ValueError(f"`{thing.name}` is {list(tensor.shape)}, expected [{expected}]")
        for axis, size in zip(axes, tensor.shape, strict=True):
            name = dim_of(axis)
            if axis == HEADS:
                heads.append(size)
            elif known.setdefault(name, size) != size:
                where = source.get(name, "an earlier tensor")
                raise ValueError(
                    f"`{thing.name}` is {list(tensor.shape)} but {name.strip('@')} = {known[name]} from {where}"
                )
            else:
                source.setdefault(name, f"`{thing.name}`")
    if "@time" not in known:
        raise ValueError(f"`{rec.name}` has no inputs, so nothing says how long it runs")
    known[HEADS] = max(heads, default=1)
    for thing, tensor, leading in things:
        here = tensor.shape[len(leading) + thing.axes.index(HEADS)] if HEADS in thing.axes else known[HEADS]
        if here != known[HEADS] and (here == 0 or known[HEADS] % here or leading[-1:] != ["@time"]):
            raise ValueError(f"`{thing.name}` has {here} heads, which {known[HEADS]} heads cannot share")
    return known, known.pop("@batch"), known.pop("@time")


def _share_heads(x: Tensor, axes: Sequence[Axis], sizes: Sizes, leading: int) -> Tensor:
    """Repeats the heads of an input that has fewer of them."""
    if HEADS not in axes:
        return x
    place = leading + list(axes).index(HEADS)
    if sizes[HEADS] == x.shape[place]:
        return x
    return x.repeat_interleave(sizes[HEADS] // x.shape[place], dim=place)


def _segments(cu_seqlens: Tensor | Sequence[int], batch: int, time: int) -> list[int]:
    bounds = [int(x) for x in cu_seqlens]
    if batch != 1:
        raise ValueError(f"packed sequences need a batch of one, not {batch}")
    if len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != time or bounds != sorted(bounds):
        raise ValueError(f"cu_seqlens must rise from 0 to the length {time}, got {bounds}")
    return bounds
