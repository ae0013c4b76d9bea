"""A recurrence as one C file: forward, backward and the structures through which they are called."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from recc.backends.c.arrays import Array, Workspace, copied
from recc.backends.c.joined import joined, shared_loops
from recc.backends.c.loops import Loops
from recc.backends.c.part import Part, ops_of
from recc.backends.c.tidy import tidied
from recc.backends.c.vectors import Real, prelude

from recc.analysis.plan import Plan
from recc.ir.node import Node, dim_of, walk
from recc.tile.cores import Phases, dims
from recc.tile.program import TileProgram, state_key
from recc.tile.step import step_programs

BUFFER = 1 << 19  # bytes of states that a backward pass holds for the tokens of a chunk: within the second-level cache
PAST = 1 << 22  # bytes that a task writes to a tensor, from which on its stores go past the caches


@dataclass(frozen=True)
class Kernel:
    """source: the C file. chunk: tokens between saved states. work: elements of workspace that a task needs.

    forward, backward: the tensors of each call in the order of its structure's fields, as (kind, name).
    """

    source: str
    chunk: int
    work: int
    forward: tuple[tuple[str, str], ...]
    backward: tuple[tuple[str, str], ...]


def generate(plan: Plan, sizes: dict[str, int], real: Real, registers: int, chunk: int | None = None) -> Kernel:
    """The kernel for these sizes of the dims. registers: vector registers of the machine."""
    return _File(plan, sizes, real, registers, chunk).kernel()


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


class _File:
    def __init__(self, plan: Plan, sizes: dict[str, int], real: Real, registers: int, chunk: int | None) -> None:
        self.plan, self.rec, self.real, self.registers = plan, plan.recurrence, real, registers
        self.step, self.again, self.back = step_programs(plan)
        labels = {axis for p in (self.step, self.again, self.back) for n in walk(*p.roots) for axis in _labels(n)}
        declared = (*self.rec.inputs, *self.rec.params, *self.rec.states, *self.rec.outputs)
        labels |= {axis for item in declared for axis in item.axes if axis != "heads"}  # that no node may have
        self.sizes = {axis: sizes[dim_of(axis)] for axis in labels | set(sizes)}
        self.name = identifier(self.rec.name)
        self.states = [self.rec.state(c.name) for c in self.step.carries]
        self.chunk = chunk or self._tokens()
        self.used = 0

    def _tokens(self) -> int:
        size = sum(self._elements(s.axes) for s in self.states) * self.real.bytes
        tokens = 32
        while tokens > 8 and tokens * size > BUFFER:
            tokens //= 2
        return tokens

    def _elements(self, axes: tuple) -> int:
        total = 1
        for axis in axes:
            total *= self.sizes[axis] if axis != "heads" else 1
        return total

    # --- the file ---------------------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        forward_fields, forward = self._forward()
        backward_fields, backward = self._backward()
        text = "\n".join(f"// {line}".rstrip() for line in self.rec.text.strip().splitlines())
        head = (
            f"// {self.rec.name}, compiled by recc from this spec:\n//\n{text}\n//\n"
            f"// for {', '.join(f'{dim} = {size}' for dim, size in sorted(self.sizes.items()) if dim_of(dim) == dim)}, "
            f"state in {self.real.name}, {self.chunk} tokens between saved states\n\n"
        )
        types = "typedef struct { real *data; long batch, time, head; } tensor;  // strides in elements\n"
        passes = [self._struct("forward", forward_fields), forward, self._struct("backward", backward_fields), backward]
        body = "\n".join([types, *passes])
        text = tidied(head, prelude(self.real, ops_of([self.step, self.again, self.back])), body)
        return Kernel(text, self.chunk, self.used, tuple(forward_fields), tuple(backward_fields))

    def _struct(self, direction: str, fields: list[tuple[str, str]]) -> str:
        names = ", ".join(f"{kind}_{identifier(name)}" for kind, name in fields)
        return (
            "typedef struct {\n    long heads, time, reverse;\n    const long *offsets, *chunks;"
            f"  // of packed sequences or null; of each sequence's first saved state\n    tensor {names};\n}} "
            f"{self.name}_{direction}_args;\n"
        )

    def _function(self, direction: str, work: Workspace, body: list[str]) -> str:
        lines = [
            f"void {self.name}_{direction}(const {self.name}_{direction}_args *a, long first, long last, "
            "real *work) {",
            *work.lines,
            "    for (long task = first; task < last; task++) {",
            "        long sequence = task / a->heads, head = task % a->heads;",
            "        long start = a->offsets ? a->offsets[sequence] : 0;",
            "        long length = a->offsets ? a->offsets[sequence + 1] - start : a->time;",
            "        long batch = a->offsets ? 0 : sequence;",
            *("        " + line for line in body),
            "    }",
            *(["    settle();"] if any("store_past" in line for line in body) else []),
            "}",
        ]
        self.used = max(self.used, work.used)
        return "\n".join(lines) + "\n"

    def _external(self, field: str, axes: tuple, token: bool, written: bool = False) -> Array:
        """A tensor of the caller: of tokens, or with one value a task."""
        strides, step = {}, 1
        own = tuple(axis for axis in axes if axis != "heads")
        for axis in reversed(own):
            strides[axis] = step
            step *= self.sizes[axis]
        past = None
        if token and written and step * self.real.bytes % 64 == 0:
            past = f"length >= {-(-PAST // (step * self.real.bytes))}"
        return Array(f"{field}_at", own, strides, f"{field}_time" if token else None, whole=False, past=past)

    @staticmethod
    def _point_tokens(field: str) -> list[str]:
        """The tokens of a chunk in a tensor [batch, time, ...]: backwards in time if the call is reversed."""
        return [
            f"long {field}_time = a->reverse ? -a->{field}.time : a->{field}.time;",
            f"real *restrict {field}_at = a->{field}.data + batch * a->{field}.batch + head * a->{field}.head"
            f" + token * a->{field}.time;",
        ]

    @staticmethod
    def _point_fixed(field: str, row: str) -> str:
        return f"real *restrict {field}_at = a->{field}.data + ({row}) * a->{field}.batch + head * a->{field}.head;"

    def _tensor_leaves(self, program: TileProgram, fields: list) -> tuple[dict[Node, Array], list[str], list[str]]:
        """Arrays of inputs and params, and the lines that point at them per task and per chunk."""
        leaves: dict[Node, Array] = {}
        task, chunk = [], []
        for item in self.rec.inputs:
            fields.append(("in", item.name))
            field = f"in_{identifier(item.name)}"
            leaves[program.loads[item.name]] = self._external(field, item.axes, True)
            chunk += self._point_tokens(field)
        for item in self.rec.params:
            fields.append(("param", item.name))
            field = f"param_{identifier(item.name)}"
            leaves[program.params[item.name]] = self._external(field, item.axes, False)
            task.append(self._point_fixed(field, "0"))
        return leaves, task, chunk

    def _layouts(self, program: TileProgram) -> dict[str, tuple]:
        """The order of each state's axes in memory: last the axis that the program's vectors run along."""
        phases, found = Phases(program), {}
        for core in phases.cores:
            lane = Loops.of_core(core, phases, self.sizes.__getitem__, self.real.lanes, self.registers).lane
            for carry in core.carries:
                axes = dims(carry.old)
                found[carry.name] = (*(a for a in axes if a != lane), lane) if lane in axes else axes
        return found

    # --- forward ----------------------------------------------------------------------------------------------

    def _forward(self) -> tuple[list[tuple[str, str]], str]:
        work, fields = Workspace(self.real.lanes, self.sizes, self.real.bytes), []
        program, layouts = self.step, self._layouts(self.step)
        leaves, task, chunk = self._tensor_leaves(program, fields)
        results = {}
        for item in self.rec.outputs:
            fields.append(("out", item.name))
            results[item.name] = self._external(f"out_{identifier(item.name)}", item.axes, True, written=True)
            chunk += self._point_tokens(f"out_{identifier(item.name)}")
        enter, save, leave = [], [], []
        for carry in program.carries:
            state, key = self.rec.state(carry.name), identifier(state_key(carry.name))
            for kind in ("first", "saved", "last"):
                fields.append((kind, carry.name))
            outside = {
                kind: self._external(f"{kind}_{identifier(carry.name)}", state.axes, False)
                for kind in ("first", "saved", "last")
            }
            first, last = (
                self._point_fixed(f"{kind}_{identifier(state.name)}", "sequence") for kind in ("first", "last")
            )
            in_place = self._in_place(state, layouts[carry.name])
            if in_place:  # the state lives where the caller wants it in the end: a step moves nothing
                array = replace(outside["last"], whole=True)
                task.append(last.replace("*restrict ", "*"))
                same = [f"if ({array.base} != {outside['first'].base}) {{"]
                inner = [f"    {line}" for line in copied(array, outside["first"], self._size)]
                enter += _scope([first.replace("*restrict ", "*"), *same, *inner, "}"])
            else:
                array = work.array(f"state_{key}", layouts[carry.name])
                enter += _scope([first, *copied(array, outside["first"], self._size)])
            leaves[carry.old] = array
            field = f"saved_{identifier(carry.name)}"
            inner = [self._point_fixed(field, "saved"), *copied(outside["saved"], array, self._size)]
            save += [f"if (a->{field}.data) {{", *("    " + line for line in inner), "}"]
            if not in_place:
                leave += _scope([last, *copied(outside["last"], array, self._size)])
        part = Part(program, work, leaves, results, self.chunk, self.registers)
        body = [
            *task, *enter, *part.once,
            "long saved = a->chunks ? a->chunks[sequence] : 0;",
            f"for (long begin = 0; begin < length; begin += {self.chunk}, saved++) {{",
            f"    long c = length - begin < {self.chunk} ? length - begin : {self.chunk};",
            "    long token = a->reverse ? start + length - 1 - begin : start + begin;",
            *("    " + line for line in [*chunk, *save, *part.lines]),
            "}", *leave,
        ]  # fmt: skip
        return fields, self._function("forward", work, body)

    def _in_place(self, state: Any, layout: tuple) -> bool:
        """Whether the caller's tensor of a state has the layout that the loops want."""
        own = tuple(axis for axis in state.axes if axis != "heads")
        return bool(own) and own == layout and self.sizes[own[-1]] % self.real.lanes == 0

    def _size(self, axis: str) -> int:
        return self.sizes[axis]

    # --- backward ---------------------------------------------------------------------------------------------

    def _backward(self) -> tuple[list[tuple[str, str]], str]:
        work, fields = Workspace(self.real.lanes, self.sizes, self.real.bytes), []
        leaves, task, chunk = self._tensor_leaves(self.step, fields)
        back, again = self.back, self.again
        layouts = self._layouts(back) or {}
        again_leaves = dict(leaves)
        kept: dict[str, Array] = {}
        tiles: dict[str, tuple[str, int]] = {}
        shared = shared_loops(again, back, layouts, self._size, self.real.lanes, self.registers)
        load, enter, leave, out = [], [], [], []
        for carry in again.carries:
            state, key = self.rec.state(carry.name), identifier(state_key(carry.name))
            array = work.array(f"state_{key}", layouts[carry.name])
            again_leaves[carry.old] = array
            axes, buffer = layouts[carry.name], f"states_{key}"
            if shared is None:
                kept[state_key(carry.name)] = work.array(buffer, axes, self.chunk)
            else:
                near = kept[state_key(carry.name)] = work.tile(buffer, axes, shared.rows, self.chunk)
                tiles[near.base] = buffer, near.strides[axes[0]]
            fields.append(("saved", carry.name))
            field = f"saved_{identifier(carry.name)}"
            outside = self._external(field, state.axes, False)
            load += _scope([self._point_fixed(field, "saved"), *copied(array, outside, self._size)])
        for name, node in again.stores.items():
            if name not in kept:
                kept[name] = work.array(name, dims(node), self.chunk)
        back_leaves = {**leaves}
        for item in self.rec.outputs:
            fields.append(("d_out", item.name))
            field = f"d_out_{identifier(item.name)}"
            if f"d_{item.name}" in back.loads:
                back_leaves[back.loads[f"d_{item.name}"]] = self._external(field, item.axes, True)
            chunk += self._point_tokens(field)
        for name, array in kept.items():
            if name in back.loads:
                back_leaves[back.loads[name]] = array
        results = {}
        for item in self.rec.inputs:
            if f"d_{item.name}" in back.stores:  # else nothing depends on it
                field = f"d_in_{identifier(item.name)}"
                fields.append(("d_in", item.name))
                results[f"d_{item.name}"] = self._external(field, item.axes, True, written=True)
                chunk += self._point_tokens(field)
        for item in self.rec.params:
            field = f"d_param_{identifier(item.name)}"
            if f"d_{item.name}" in back.sums:  # else nothing depends on it
                fields.append(("d_param", item.name))
                array = work.array(f"sum_{field}", _by_layout(dims(back.params[item.name]), layouts))
                results[f"d_{item.name}"] = array
                outside = self._external(field, item.axes, False)
                enter += _zeroed(array, self._size)
                out += _scope([self._point_fixed(field, "sequence"), *copied(outside, array, self._size)])
        for carry in back.carries:
            state = self.rec.state(carry.name)
            array = work.array(f"d_state_{identifier(state_key(carry.name))}", layouts[carry.name])
            back_leaves[carry.old] = array
            for kind, lines in (("d_last", enter), ("d_first", leave)):
                field = f"{kind}_{identifier(carry.name)}"
                fields.append((kind, carry.name))
                outside = self._external(field, state.axes, False)
                pair = (array, outside) if kind == "d_last" else (outside, array)
                lines += _scope([self._point_fixed(field, "sequence"), *copied(*pair, self._size)])
        lanes = {name: axes[-1] if axes else None for name, axes in layouts.items()}
        first = Part(
            again, work, again_leaves, kept, self.chunk, self.registers, prefix="f_", lanes=lanes, loops=shared
        )
        second = Part(
            back, work, back_leaves, results, self.chunk, self.registers, backwards=True, finished=first.stored,
            loops=shared,
        )  # fmt: skip
        lines = joined(first, second, tiles) if shared is not None else [
            "// the states that enter each token of the chunk",
            *first.lines,
            "// the cotangents, from the chunk's last token to its first",
            *second.lines,
        ]  # fmt: skip
        body = [
            *task, *enter, *first.once, *second.once,
            f"long saved = (a->chunks ? a->chunks[sequence] : 0) + (length + {self.chunk - 1}) / {self.chunk} - 1;",
            f"for (long begin = length ? (length - 1) / {self.chunk} * {self.chunk} : -1; begin >= 0;"
            f" begin -= {self.chunk}, saved--) {{",
            f"    long c = length - begin < {self.chunk} ? length - begin : {self.chunk};",
            "    long token = a->reverse ? start + length - 1 - begin : start + begin;",
            *("    " + line for line in [*chunk, *load, *lines]),
            "}", *leave, *out,
        ]  # fmt: skip
        return fields, self._function("backward", work, body)


def _by_layout(axes: tuple, layouts: dict[str, tuple]) -> tuple:
    """The axes of a sum in the order of a state that has them."""
    for layout in layouts.values():
        if set(axes) <= set(layout):
            return tuple(axis for axis in layout if axis in axes)
    return axes


def _scope(lines: list[str]) -> list[str]:
    return ["{", *("    " + line for line in lines), "}"]


def _zeroed(array: Array, sizes: Any) -> list[str]:
    zero = Array("(const real[]){0}", array.axes, dict.fromkeys(array.axes, 0))
    return copied(array, zero, sizes)


def _labels(node: Node) -> set[str]:
    labels = set(node.axes)
    for arg in node.args:
        labels |= set(arg.axes)
    return {axis for axis in labels if not axis.startswith("@") and axis != "heads"}
