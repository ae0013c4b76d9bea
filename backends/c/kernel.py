"""A recurrence as one C file: forward, backward and the structures through which they are called."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any

from recc.backends.c.arrays import Array, Workspace, block, copied, scope
from recc.backends.c.joined import joined, shared_loops, tokens_held
from recc.backends.c.loops import Loops
from recc.backends.c.part import Part, ops_of
from recc.backends.c.pointers import point_fixed, point_tokens
from recc.backends.c.tasks import Tasks
from recc.backends.c.tidy import tidied
from recc.backends.c.totals import Totals, by_layout, zeroed
from recc.backends.c.turns import Turns, is_staggered
from recc.backends.c.vectors import Real, prelude

from recc.analysis.plan import Plan
from recc.ir.node import HEADS, SEQUENCES, Node, dim_of, walk
from recc.tile.alone import INNER, has_all_heads
from recc.tile.cores import Phases, dims
from recc.tile.pairs import names_of, whole_name
from recc.tile.program import TileProgram, seed_key, state_key
from recc.tile.step import step_programs
from recc.tile.together import shares_matrix, together

PAST = 1 << 22  # bytes that a task writes to a tensor, from which on its stores go past the caches

TYPES = "typedef struct { real *data; long batch, time, head; } tensor;  // strides in elements\n"


@dataclass(frozen=True)
class Kernel:
    """source: the C file. chunk: tokens between saved states. work: elements of workspace that a task needs.

    forward, backward: the tensors of each call in the order of its structure's fields, as (kind, name).
    all_heads: whether a task is a whole sequence; else it is one head, and leaves parts of what heads share.
    parts: each function in a file of its own, so that the backward pass is built when it is first asked for.
    shared: the loops of the backward pass, where the states are computed again tile by tile with the cotangents.
    sequences: how many a task computes side by side; None: it has one, and would gain nothing by more. grouped: whether
    its structures have what says which sequences are side by side. matrices: bytes of the params that they share.
    """

    source: str
    chunk: int
    work: int
    forward: tuple[tuple[str, str], ...]
    backward: tuple[tuple[str, str], ...]
    all_heads: bool
    parts: dict[str, str] = field(default_factory=dict)
    shared: Loops | None = None
    sequences: int | None = None
    grouped: bool = False
    matrices: int = 0


def generate(
    plan: Plan,
    sizes: dict[str, int],
    real: Real,
    registers: int,
    chunk: int | None = None,
    sequences: int | None = None,
) -> Kernel:
    """The kernel for these sizes of the dims. registers: vector registers of the machine. sequences: of a task, where
    they share a matrix; their number changes no bit. None: one, and the kernel serves alone, without one of groups."""
    return File(plan, sizes, real, registers, chunk, sequences).kernel()


def side_by_side(registers: int) -> int:
    """The most sequences that a task computes side by side: a product's tile has a row of registers for each."""
    return registers // 4


def identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


class File:
    def __init__(
        self, plan: Plan, sizes: dict[str, int], real: Real, registers: int, chunk: int | None, sequences: int | None
    ) -> None:
        self.plan, self.rec, self.real, self.registers = plan, plan.recurrence, real, registers
        programs = step_programs(plan)
        self.shares = shares_matrix(programs[0])
        self.sequences = sequences if self.shares and sequences else 1
        self.step, self.again, self.back = map(together, programs) if self.shares else programs
        self.all_heads = has_all_heads(self.step)
        sizes = {dim: size for dim, size in sizes.items() if dim != HEADS or self.all_heads}
        labels = {axis for p in (self.step, self.again, self.back) for n in walk(*p.roots) for axis in _labels(n)}
        declared = (*self.rec.inputs, *self.rec.params, *self.rec.states, *self.rec.outputs)
        labels |= {axis for item in declared for axis in self._axes(item)}  # that no node may have
        sizes = {**sizes, SEQUENCES: self.sequences} if self.shares else sizes
        self.sizes = {axis: sizes[dim_of(axis)] for axis in labels | set(sizes)}
        self.name = identifier(self.rec.name)
        self.states = list({whole_name(c.name): self.rec.state(whole_name(c.name)) for c in self.step.carries}.values())
        self.staggered = not self.shares and is_staggered(self.again, self.back, self._size, real, registers)
        held = self._shared(32)[0], real, self.sequences, 1 + self.staggered
        self.chunk = chunk or tokens_held(self.again, self._elements, *held)
        self.tasks = Tasks(self.chunk, self.sequences, self.shares and sequences is not None, self.all_heads)
        self.used = 0

    def _shared(self, tokens: int) -> tuple[Loops | None, frozenset[Node]]:
        layouts = self._layouts(self.back) or {}
        return shared_loops(self.again, self.back, layouts, self._size, self.real, self.registers, tokens)

    def _elements(self, axes: tuple) -> int:
        return math.prod(self.sizes[axis] for axis in axes)

    def _axes(self, item: Any) -> tuple:
        """The axes of a declared tensor within a task."""
        own = tuple(axis for axis in item.axes if axis != HEADS)
        own = (INNER, *own) if self.all_heads and HEADS in item.axes else own
        return (SEQUENCES, *own) if self.shares and item not in self.rec.params else own

    # --- the file ---------------------------------------------------------------------------------------------

    def kernel(self) -> Kernel:
        forward_fields, forward = self._forward()
        backward_fields, backward = self._backward()
        text = "\n".join(f"// {line}".rstrip() for line in self.rec.text.strip().splitlines())
        sizes = ", ".join(f"{d} = {size}" for d, size in sorted(self.sizes.items()) if dim_of(d) == d != SEQUENCES)
        head = (
            f"// {self.rec.name}, compiled by recc from this spec:\n//\n{text}\n//\n"
            f"// for {sizes}, state in {self.real.name}, {self.chunk} tokens between saved states"
            f"{f', {self.sequences} sequences a task' * (self.sequences > 1)}\n\n"
        )
        passes = {
            "forward": [self._struct("forward", forward_fields), forward],
            "backward": [self._struct("backward", backward_fields), backward],
        }
        given = prelude(self.real, ops_of([self.step, self.again, self.back]))
        text = tidied(head, given, "\n".join([TYPES, *passes["forward"], *passes["backward"]]))
        parts = {name: tidied(head, given, "\n".join([TYPES, *lines])) for name, lines in passes.items()}
        fields = tuple(forward_fields), tuple(backward_fields)
        side = self.sequences if self.shares else None
        kernel = Kernel(text, self.chunk, self.used, *fields, self.all_heads, parts, self.shared, side)
        shared = [self._axes(item) for item in self.rec.params]
        matrices = sum(self._elements(axes) for axes in shared if len(axes) > 1) * self.real.bytes
        return replace(kernel, grouped=self.tasks.grouped, matrices=matrices)

    def _struct(self, direction: str, fields: list[tuple[str, str]]) -> str:
        names = ", ".join(f"{kind}_{identifier(name)}" for kind, name in fields)
        return (
            f"typedef struct {{\n    long heads, time, reverse;\n    {self.tasks.tables}    tensor {names};\n}} "
            f"{self.name}_{direction}_args;\n"
        )

    def _function(self, direction: str, work: Workspace, body: list[str]) -> str:
        lines = [
            f"void {self.name}_{direction}(const {self.name}_{direction}_args *a, long first, long last, "
            "real *work) {",
            *work.lines,
            "    for (long task = first; task < last; task++) {",
            *("        " + line for line in self.tasks.lines()),
            *("        " + line for line in body),
            "    }",
            *(["    settle();"] if any("store_past" in line for line in body) else []),
            "}",
        ]
        self.used = max(self.used, work.used)
        return "\n".join(lines) + "\n"

    def _external(self, field: str, item: Any, token: bool, written: bool = False) -> dict[str, Array]:
        """A tensor of the caller, of tokens or with one value a task: its arrays by their names in the programs."""
        names = names_of(item.name, item.dtype)
        strides: dict[str, Any] = {INNER: f"a->{field}.head", SEQUENCES: self.tasks.stride(field, token)}
        step, own = len(names), self._axes(item)  # the parts of complex numbers alternate
        for axis in reversed(own):
            strides.setdefault(axis, step)
            step *= self.sizes[axis] if axis != SEQUENCES else 1
        past = None
        if token and written and len(names) == 1 and step * self.real.bytes % 64 == 0:
            past = f"length >= {-(-PAST // (step * self.real.bytes))}"
        time = f"{field}_time" if token else None
        bases = [f"{field}_at", f"{field}_at + 1"]
        return {name: Array(base, own, strides, time, whole=False, past=past) for name, base in zip(names, bases)}

    def _tensor_leaves(self, program: TileProgram, fields: list) -> tuple[dict[Node, Array], list[str], list[str]]:
        """Arrays of inputs and params, and the lines that point at them per task and per chunk."""
        leaves: dict[Node, Array] = {}
        task, chunk = [], []
        for item in self.rec.inputs:
            fields.append(("in", item.name))
            field = f"in_{identifier(item.name)}"
            leaves |= {program.loads[name]: array for name, array in self._external(field, item, True).items()}
            chunk += self._point_tokens(field)
        for item in self.rec.params:
            fields.append(("param", item.name))
            field = f"param_{identifier(item.name)}"
            leaves |= {program.params[name]: array for name, array in self._external(field, item, False).items()}
            task.append(point_fixed(field, "0"))
        return leaves, task, chunk

    def _point_tokens(self, field: str) -> list[str]:
        return [*point_tokens(field), *self.tasks.step(field)]

    def _first_head(self, item: Any, lines: list[str], others: list[str] | None = None) -> list[str]:
        """What only the first of several heads does, for what they share; and what the others do instead."""
        if self.all_heads or HEADS in item.axes:
            return lines
        rest = ["} else {", *("    " + line for line in others)] if others else []
        return ["if (head == 0) {", *("    " + line for line in lines), *rest, "}"]

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
            results |= self._external(f"out_{identifier(item.name)}", item, True, written=True)
            chunk += self._point_tokens(f"out_{identifier(item.name)}")
        enter, save, leave = [], [], []
        olds = {carry.name: carry.old for carry in program.carries}
        for state in self.states:
            kinds = {kind: f"{kind}_{identifier(state.name)}" for kind in ("first", "saved", "last")}
            fields += [(kind, state.name) for kind in kinds]
            outside = {kind: self._external(field, state, False) for kind, field in kinds.items()}
            first, last = (point_fixed(kinds[kind], "sequence") for kind in ("first", "last"))
            in_place = self._in_place(state, layouts)
            into, out, back = [], [], []
            for name in names_of(state.name, state.dtype):
                if in_place:  # the state lives where the caller wants it in the end: a step moves nothing
                    array = replace(outside["last"][name], whole=True)
                else:
                    array = work.array(f"state_{identifier(state_key(name))}", layouts[name])
                leaves[olds[name]] = array
                into += copied(array, outside["first"][name], self._size, self.real.lanes)
                out += copied(outside["saved"][name], array, self._size, self.real.lanes)
                back += copied(outside["last"][name], array, self._size, self.real.lanes)
            if in_place:
                task.append(last.replace("*restrict ", "*"))
                same = f"if ({array.base} != {outside['first'][state.name].base}) {{"
                enter += scope([first.replace("*restrict ", "*"), same, *("    " + line for line in into), "}"])
            else:
                enter += scope([first, *into])
                leave += self._first_head(state, scope([last, *back]))
            kept = [point_fixed(kinds["saved"], "saved"), *out]
            save += self._first_head(state, [f"if (a->{kinds['saved']}.data) {{", *("    " + x for x in kept), "}"])
        part = Part(program, work, leaves, results, self.chunk, self.registers)
        body = [
            *task, *enter, *self._once(part.once),
            *self.tasks.forwards([*chunk, *save, *part.lines]), *leave,
        ]  # fmt: skip
        return fields, self._function("forward", work, body)

    def _once(self, lines: list[str]) -> list[str]:
        """What depends on params alone, which tasks of the same head share."""
        return block(f"if (task == first{' || a->heads > 1' * (not self.all_heads)})", lines) if lines else []

    def _in_place(self, state: Any, layouts: dict[str, tuple]) -> bool:
        """Whether the caller's tensor of a state, which no other task has, is laid out as the loops want."""
        own = self._axes(state)
        fits = bool(own) and layouts.get(state.name) == own and self.sizes[own[-1]] % self.real.lanes == 0
        fits = fits and self.sequences == 1
        return fits and HEADS in state.axes and not self.all_heads

    def _size(self, axis: str) -> int:
        return self.sizes[axis]

    # --- backward ---------------------------------------------------------------------------------------------

    def _backward(self) -> tuple[list[tuple[str, str]], str]:
        work, fields = Workspace(self.real.lanes, self.sizes, self.real.bytes), []
        leaves, task, chunk = self._tensor_leaves(self.step, fields)
        back, again = self.back, self.again
        layouts = self._layouts(back) or {}
        turns = Turns(self.chunk, self.staggered)
        again_leaves = turns.of_inputs(leaves)
        kept: dict[str, Array] = {}
        tiles: dict[str, tuple[str, int]] = {}
        self.shared, late = self._shared(self.chunk)
        shared, load, enter, leave, out, ahead = self.shared, [], [], [], [], {}
        for carry in again.carries:
            key = identifier(state_key(carry.name))
            again_leaves[carry.old] = work.array(f"state_{key}", layouts[carry.name])
            axes, buffer = layouts[carry.name], f"states_{key}"
            if shared is None:
                kept[state_key(carry.name)] = work.array(buffer, axes, turns.tokens)
            else:
                width = shared.vectors * shared.lanes
                near = kept[state_key(carry.name)] = work.tile(buffer, axes, shared.rows, width, self.chunk)
                tiles[near.base] = near.base.removeprefix("near_"), near.strides[axes[0]]
        entered = {carry.name: again_leaves[carry.old] for carry in again.carries}
        for state in self.states:
            fields.append(("saved", state.name))
            field = f"saved_{identifier(state.name)}"
            outside = self._external(field, state, False)
            load += block("if (before)" * self.staggered, [point_fixed(field, "saved"), *self._moved(outside, entered)])
            if not self.all_heads and not self.shares:
                place = f"a->{field}.data + (saved ? saved - 1 : 0) * a->{field}.batch + head * a->{field}.head"
                ahead[f"entering_{identifier(state.name)}"] = place, len(outside) * self._elements(self._axes(state))
        for name, node in again.stores.items():
            if name not in kept:
                kept[name] = work.array(identifier(name), dims(node), turns.tokens)
        made, kept = turns.of_kept(kept)
        chunk += turns.lines
        back_leaves = {**leaves}
        self._seeds(back_leaves, fields, chunk)
        back_leaves |= {back.loads[name]: array for name, array in kept.items() if name in back.loads}
        results, totals = {}, Totals(work, self.chunk, self.sequences, self.tasks.first)
        for item in self.rec.inputs:
            field = f"d_in_{identifier(item.name)}"
            outside = self._external(field, item, True, written=True)
            found = {f"d_{name}": array for name, array in outside.items() if f"d_{name}" in back.stores}
            if found:  # else nothing depends on it
                fields.append(("d_in", item.name))
                results |= found
                chunk += self._point_tokens(field)
        for item in self.rec.params:
            field = f"d_param_{identifier(item.name)}"
            outside = self._external(field, item, False)
            moves = []
            for place, name in enumerate(outside):
                if f"d_{name}" in back.sums:
                    own = by_layout(dims(back.params[name]), layouts)
                    results[f"d_{name}"], total = totals.add(f"{field}{'_im' * place}", own)
                    moves += copied(outside[name], total, self._size, self.real.lanes)
            if moves:  # else nothing depends on it
                fields.append(("d_param", item.name))
                out += scope([point_fixed(field, self.tasks.part), *moves])
        entering, leaving = self._through(work, layouts, back_leaves, fields)
        enter, leave = [*enter, *entering], [*leave, *leaving]
        lanes = {name: axes[-1] if axes else None for name, axes in layouts.items()}
        first = Part(
            again, work, again_leaves, made, self.chunk, self.registers, prefix="f_", lanes=lanes, loops=shared,
            staggered=self.staggered,
        )  # fmt: skip
        second = Part(
            back, work, back_leaves, results, self.chunk, self.registers, backwards=True, loops=shared, late=late,
            saved=ahead, finished=turns.finished(first), near=turns.near(first), staggered=self.staggered,
        )  # fmt: skip
        lines = joined(first, second, tiles) if shared is not None else turns.text(first, second)
        body = [
            *task, *totals.start, *enter, *self._once([*first.once, *second.once]),
            *self.tasks.backwards([*chunk, *load, *lines, *totals.end], staggered=self.staggered), *leave, *out,
        ]  # fmt: skip
        return fields, self._function("backward", work, body)

    def _moved(self, source: dict[str, Array], to: dict[str, Array]) -> list[str]:
        return [x for name in source for x in copied(to[name], source[name], self._size, self.real.lanes)]

    def _seeds(self, leaves: dict[Node, Array], fields: list, chunk: list[str]) -> None:
        """The cotangents of outputs."""
        for item in self.rec.outputs:
            fields.append(("d_out", item.name))
            field = f"d_out_{identifier(item.name)}"
            for name, array in self._external(field, item, True).items():
                if seed_key(name) in self.back.loads:
                    leaves[self.back.loads[seed_key(name)]] = array
            chunk += self._point_tokens(field)

    def _through(self, work: Workspace, layouts: dict, leaves: dict[Node, Array], fields: list) -> tuple[list, list]:
        """The cotangents of states: the lines that bring them in at a task's start, and out at its end."""
        enter, leave = [], []
        carries = {carry.name: carry for carry in self.back.carries}
        for state in self.states:
            for kind in ("d_last", "d_first"):
                field = f"{kind}_{identifier(state.name)}"
                fields.append((kind, state.name))
                outside = self._external(field, state, False)
                moves, zeros = [], []
                for name in outside:
                    if kind == "d_last":
                        array = work.array(f"d_state_{identifier(state_key(name))}", layouts[name])
                        leaves[carries[name].old] = array
                        moves += copied(array, outside[name], self._size, self.real.lanes)
                        zeros += zeroed(array, self._size)
                    else:
                        moves += copied(outside[name], leaves[carries[name].old], self._size, self.real.lanes)
                lines = scope([point_fixed(field, "sequence"), *moves])
                if kind == "d_last":
                    enter += self._first_head(state, lines, zeros)
                else:
                    leave += lines
        return enter, leave


def _labels(node: Node) -> set[str]:
    labels = set(node.axes)
    for arg in node.args:
        labels |= set(arg.axes)
    return {axis for axis in labels if not axis.startswith("@") and axis != "heads"}
