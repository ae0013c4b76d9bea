"""A program of one token as Triton kernels that walk over tokens, and the function of torch that launches them.

Each walk has torch's part before, between and after it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import replace
from math import prod

from recc.backends.torch.emit import identifier
from recc.backends.torch.text import Text
from recc.backends.triton.config import DEFAULT, Config
from recc.backends.triton.division import HOST, Division, Launch, divide, in_rows
from recc.backends.triton.lines import folded, wrapped
from recc.backends.triton.memory import CHUNKS, FIXED, SCRATCH, STATES, SUMS, TOKENS, WAITING, Memory
from recc.backends.triton.nodes import dims, inner, ordered, sides
from recc.backends.triton.room import TYPICAL
from recc.backends.triton.rows import Rows
from recc.backends.triton.scarce import may_share, sizes_in_one
from recc.backends.triton.statements import Loop, Walk
from recc.backends.triton.tokens import MOST, ROWS, TILE, WARPS, Tokens
from recc.backends.triton.walk import TAKEN, Kernel

from recc.ir.names import free_name
from recc.ir.node import GRID, HEADS, ROW, Axis, Node, dim_of
from recc.tile.program import TileProgram
from recc.tile.words import Words


class Function:
    """The kernels of a program of one token, and `name(call, loads, params, carries, results)`, which launches them.

    results are the tensors that it writes: stores, leaving states, and states saved for each chunk if `saved`. It
    returns the sums. again: for a backward pass that runs chunks again, the program of that. single: one token.
    alone: a program takes one sequence, whatever its products are; shared: programs share a dim also where torch has to
    add up what each has of an output; twice: they share two, if they can. config: has the tiles of walks, by their
    names. text: all of it; kernels: one a launch, in order.
    """

    def __init__(self, program: TileProgram, name: str, doc: str, *, again: TileProgram | None = None,
                 saved: bool = False, single: bool = False, alone: bool = False,
                 shared: bool = False, twice: bool = False, config: Config = DEFAULT) -> None:  # fmt: skip
        news = {c.new: f"{c.old['name']}_next" for c in program.carries if c.new.args}
        program = replace(program, names={**news, **program.names})
        self.program, self.name, self.doc, self.again = program, name, doc, again
        self.saved, self.single, self.alone, self.shared, self.twice = saved, single, alone, shared, twice
        self.config = config
        self.division, self.rows = self._divided()
        self.words, self.turn = Words(program), Rows(self.rows)
        self.nodes = self.division.nodes_all()
        self.dim_names = {dim_of(axis) for node in self.nodes for axis in dims(node.axes)}
        self.used = set(TAKEN) | self.dim_names
        self.of_kernels = self.turn.words(program, set(self.nodes))
        self.memory: dict[Node, Memory] = {}  # what lies in memory when a launch or torch needs it
        self.strides: dict[str, str] = {}  # of tensors that do not tell themselves
        self.host: dict[Node, str] = {}
        inner_names = set(again.stores) if again is not None else set()
        loads = [node for name, node in program.loads.items() if name not in inner_names]
        self.leaves = [*loads, *program.params.values()]
        self.arguments = [self._leaf(node) for node in self.leaves]
        self.results: list[str] = []
        self._carries()
        self.text = self._text()

    def _divided(self) -> tuple[Division, bool]:
        """What is computed where, and whether tiles have rows."""
        of_rows = in_rows(self.program) or (self.again is not None and in_rows(self.again))
        return divide(self.program, self.again, self.single, self.shared, self.twice), of_rows and not self.alone

    def _name(self, wish: str) -> str:
        name = free_name(identifier(wish), self.used)
        self.used.add(name)
        return name

    def _at(self, name: str, layout: str, node: Node, block: tuple[str, ...] = ()) -> Memory:
        axes = self.turn(node).axes
        own = {*block, *map(dim_of, dims(axes))}
        once = tuple(dim for dim in self.division.shared if dim not in own and layout not in (FIXED, SCRATCH))
        return Memory(name, layout, axes, HEADS in node.axes, block, once)

    def _leaf(self, node: Node) -> str:
        name = self._name(node["name"])
        self.memory[node] = self._at(name, TOKENS if GRID in node.axes else FIXED, node)
        return name

    def _carries(self) -> None:
        """The tensors that states come from, go to and are saved in."""
        self.enter: dict[Node, Memory] = {}
        self.leave: dict[Node, Memory] = {}
        self.keep: dict[Node, Memory] = {}
        self.outputs: list[tuple[Node, str]] = []
        states = {carry.old["name"] for carry in self.program.carries}
        for wish, node in self.program.stores.items():
            name = self._name(f"{wish}_all" if wish in states else f"{wish}_out" if wish in self.used else wish)
            self.outputs.append((node, name))
            self.results.append(name)
        for carry in self.program.carries:
            name = self._name(carry.old["name"])
            self.enter[carry.old] = self._at(name, STATES, carry.old)
            self.arguments.append(name)
        for carry in self.program.carries:
            name = self._name(f"{self.enter[carry.old].name}_out")
            self.leave[carry.old] = self._at(name, STATES, carry.old)
            self.results.append(name)
        if self.saved:
            for carry in self.program.carries:
                name = self._name(f"{self.enter[carry.old].name}_saved")
                self.keep[carry.old] = self._at(name, CHUNKS, carry.old)
                self.results.append(name)
        if self.again is not None:
            for carry in self.again.carries:
                name = self._name(f"{carry.old['name']}_saved")
                self.keep[carry.old] = self._at(name, CHUNKS, carry.old)
                self.arguments.append(name)

    def _text(self) -> str:
        kernels: list[str] = []
        body: list[str] = []
        self.kernels: list[Kernel] = []
        self.named_parts: dict[str, str] = {}  # those that a configuration says
        self.tiles: set[tuple[str, ...]] = set()
        self.room, self.narrow = TILE, False
        for at, launch in enumerate(self.division.launches):
            self.part = self._part_name(self._walk_name(at))
            body += self._host(at)
            body += self._made(launch)
            kernel = self._kernel(at, launch)
            self.kernels.append(kernel)
            body += self._scratch(kernel)
            self.tiles |= set(kernel.largest())
            self.room = WARPS * kernel.share if len(kernel.walk.shared) > 1 else min(self.room, WARPS * kernel.share)
            self.narrow |= kernel.crowded and may_share(kernel.walk)
            kernels += [part for line in kernel.lines() for part in folded(line)] + ["", ""]
            body += kernel.call(self._size, lambda memory: self.strides.get(memory.tensor, f"{memory.tensor}.stride()"))
        body += self._host(self.division.count)
        for node, name in self.outputs:
            if node not in self.division.results:
                body.append(f"    {name}.copy_(call.tokens({self._expression(node)}))")
        sums = [self._expression(node) for node in self.program.sums.values()]
        body.append(f"    return ({', '.join(sums)}{',' if len(sums) == 1 else ''})")
        lines = wrapped(f"def {self.name}(", ["call", *self.arguments, *self.results], "):")
        lines.append(f'    """{self.doc}"""')
        return "\n".join([*kernels, *lines, *self._size_lines("\n".join(body)), *body]) + "\n"

    def fits(self, dims: Mapping[str, int | None]) -> bool:
        """Whether programs have room for the largest tile of the text. dims: the sizes of those that are fixed."""
        blocks = {dim: Tokens.block(dims.get(dim) or TYPICAL, self._least(dim)) for dim in self.dim_names}
        blocks["ROWS"] = ROWS
        for dim in reversed(self.division.shared):
            beside = [prod(blocks[other] for other in tile) for tile in self._beside_tiles(dim)]
            least = self._least(dim)
            blocks[dim] = Tokens.part(blocks[dim], *beside, least=least if least > 1 else None)
        return all(prod(blocks[dim] for dim in tile) <= MOST for tile in self.tiles)

    def _sizes(self, node: Node) -> list[str]:
        return [self._size(axis) for axis in node.axes if axis != GRID]

    def _size(self, axis: Axis | None) -> str:
        return {GRID: "n", HEADS: "heads"}.get(axis or "") or dim_of(axis or "")

    def _size_lines(self, body: str) -> list[str]:
        found = [*((node.axes, name, 1) for node, name in zip(self.leaves, self.arguments))]
        found += [(node.axes, memory.name, 0) for node, memory in self.enter.items()]
        lines = ["    like = call.like"] if re.search(r"\blike\b", body) else []
        lines += ["    n = call.batch * call.time"] if re.search(r"\bn\b", body) else []
        lines += ["    heads = call.heads"] if re.search(r"\bheads\b", body) else []
        seen: set[str] = set()
        for axes, name, more in found:
            for place, axis in enumerate(axes):
                dim = dim_of(axis)
                if axis in (GRID, HEADS) or dim in seen:
                    continue
                seen.add(dim)
                if re.search(rf"\b(\w+_)?{dim}\b", body):
                    lines.append(f"    {dim} = {name}.shape[{place + (more if GRID in axes else 0)}]")
        for dim in sorted(seen):
            if re.search(rf"\b(block|part|parts)_{dim}(_\d+)?\b", body):
                lines.append(f"    block_{dim} = call.block({dim}, {self._least(dim)})")
        for dim in reversed(self.division.shared):
            parts = [kernel.part for kernel in self.kernels] if dim == self.division.split else [dim]
            for part in dict.fromkeys(parts):
                lines.append(f"    part_{part} = {self.named_parts.get(part) or self._part(dim)}")
                if re.search(rf"\bparts_{part}\b", body):
                    lines.append(f"    parts_{part} = triton.cdiv({dim}, part_{part})")
        return lines

    def _walk_name(self, at: int) -> str:
        role = self.name.removesuffix("_tiles")
        return f"{role}_walk" if self.division.count == 1 else f"{role}_walk_{at + 1}"

    def _part_name(self, walk: str) -> str | None:
        """What stands after `part_` and `parts_` in the names for a walk's part of the dim that programs share."""
        split, tile = self.division.split, self.config.tile(walk)
        if split is None or tile is None:
            return split
        name = f"{split}_{tile.block}"
        self.named_parts[name] = f"call.most(block_{split}, {max(tile.block, self._least(split))})"
        return name

    def _part(self, dim: str) -> str:
        """How many places of a shared dim a program takes; of two, the first takes what the other leaves."""
        first, least = dim == self.division.split, self._least(dim)
        more = [f"least={least}"] if least > 1 or (first and len(self.division.shared) > 1) else []
        more += [f"room={self.room}"] if first and self.room != TILE else []
        return f"call.part({', '.join([f'block_{dim}', *self._beside(dim), *more])})"

    def _beside(self, dim: str) -> list[str]:
        """How many elements stand beside one place of a shared dim, in each of the largest tiles."""
        names = {"ROWS": "call.ROWS", **{also: f"part_{also}" for also in self.division.shared}}
        tiles = filter(None, self._beside_tiles(dim))
        return [" * ".join(names.get(other, f"block_{other}") for other in tile) for tile in tiles]

    def _beside_tiles(self, dim: str) -> list[list[str]]:
        """The largest tiles that have a shared dim, without it and without the dim that is shared after it."""
        gone = {dim, self.division.split}
        return [[other for other in tile if other not in gone] for tile in sorted(self.tiles) if dim in tile]

    def _parts(self, dims: tuple[str, ...]) -> list[str]:
        """The size of an axis that counts the blocks of some shared dims, if of any."""
        own = (self.part if dim == self.division.split else dim for dim in dims)
        return [" * ".join(f"parts_{part}" for part in own)] if dims else []

    def _least(self, dim: str) -> int:
        """16 for a side of a matrix product, which tensor cores need; of a side of several dims for one of them."""
        return 16 if dim in self._sides else 1

    @functools.cached_property
    def _sides(self) -> set[str]:
        return sides(self.turn(node) for node in self.nodes if self.division.side[node] != HOST)

    def _made(self, launch: Launch) -> list[str]:
        """Lines that make the memory of what a launch hands on, and where each value goes."""
        lines: list[str] = []
        self.written: dict[Node, list[Memory]] = {}
        self.summed: list[tuple[Node, Memory]] = []
        names: dict[Node, list[str]] = {}
        for node, name in self.outputs:
            names.setdefault(node, []).append(name)
        for node in launch.stores:
            if node in self.division.results:
                self.written[node] = [self._at(name, TOKENS, node) for name in names[node]]
            if node in self.division.held:
                name = self._name(self.words.name(node) if node.args else f"{node['name']}_all")
                memory = self._at(name, TOKENS, node)
                lines.append(f"    {name} = call.empty({', '.join(['n', *self._sizes(node)])})")
                self.strides[name] = f"call.strides({name})"
                self.written.setdefault(node, []).append(memory)
                self.memory[node], self.host[node] = memory, name
        for node in launch.parts:
            part, block = self.division.kernel_part(node), self.division.shared_over(node)
            name = self._name(f"{self.words.name(node)}_parts")
            memory = self._at(name, TOKENS, part, block)
            lines.append(f"    {name} = call.empty({', '.join([*self._parts(block), 'n', *self._sizes(part)])})")
            self.strides[name] = f"call.strides({name}, 1)"
            self.written.setdefault(part, []).append(memory)
            self.host[node] = self._total(node, part, name, ["0"])
        for node in launch.sums:
            part = self.division.kernel_part(node)  # in rows, sums over them come at the end
            name, block = self._name(f"{self.words.name(node)}_parts"), self.division.shared_over(node)
            memory = self._at(name, SUMS, part, block)
            memory = replace(memory, axes=tuple(axis for axis in memory.axes if axis != ROW))
            lead = [*self._parts(block), "call.programs" if self.rows else "call.sequences"]
            lines.append(f"    {name} = call.empty({', '.join([*lead, *self._sizes(part)])})")
            self.summed.append((self.turn(part), memory))
            self.host[node] = self._total(node, part, name, [str(place) for place in range(len(lead))])
        return lines

    def _total(self, node: Node, part: Node, name: str, lead: list[str]) -> str:
        """The sum over what programs have computed apart; heads are summed here, too."""
        gone = [axis for axis in part.axes if axis not in node.axes and axis != GRID]
        rest = [axis for axis in part.axes if axis != GRID]
        shift = len(lead) + (GRID in node.axes)
        over = [*lead, *(str(shift + rest.index(axis)) for axis in gone)]
        return f"{name}.sum({over[0] if len(over) == 1 else '(' + ', '.join(over) + ')'})"

    def _scratch(self, kernel: Kernel) -> list[str]:
        """Lines that make the memory of a chunk's states, which a program runs again, and of what else it puts by."""
        found: dict[str, tuple] = {}
        for node, memory in (*self.chunked.items(), *kernel.kept.items(), *kernel.terms.items()):
            lead = [*self._parts(memory.block), "call.sequences"]
            lead.append("2" if memory.layout == WAITING else "call.CHUNK")
            found.setdefault(kernel.tensor_of(memory.name), (lead, []))[1].append(node)
        sizes = {name: [*lead, *sizes_in_one(nodes, self._size)] for name, (lead, nodes) in found.items()}
        return [f"    {name} = call.empty({', '.join(own)})" for name, own in sizes.items()]

    def _kernel(self, at: int, launch: Launch) -> Kernel:
        again = self.again if at == 0 else None
        self.chunked: dict[Node, Memory] = {}  # leaves that the program itself computes again
        if again is not None:
            for node in (node for node in self.nodes if node in self.division.inner):
                name = self._name(f"{node['name']}_chunk")
                own = dims(node.axes) if len(inner(node.axes)) > 2 else ()  # what has fewer may be dense
                block = [dim for dim in self.division.shared if dim not in map(dim_of, own)]
                self.chunked[node] = self._at(name, SCRATCH, node, tuple(block))
        loads = {node: self.chunked.get(node) or self._memory(node) for node in launch.loads}
        needed = set(self._needed(launch))
        loop = Loop(
            self.of_kernels,
            [(self.turn(c.old), self.turn(c.new)) for c in launch.carries],
            {self.turn(node): memory for node, memory in loads.items() if node in needed},
            [(self.turn(node), memory) for node, found in self.written.items() for memory in found],
            self.summed,
            self.program.reverse,
        )
        self.beside, self.terms = self._aside(launch) if again is not None else ({}, {})
        saving = again.carries if again is not None else launch.carries if self.saved else []
        walk = Walk(
            self._walk_name(at),
            self._purpose(launch),
            loop,
            self._again(again, loads) if again is not None else None,
            {self.turn(c.old): self.enter[c.old] for c in launch.carries},
            {self.turn(c.old): self.leave[c.old] for c in launch.carries},
            {self.turn(c.old): self.keep[c.old] for c in saving},
            self.rows,
            self.division.shared,
            self.beside,
            self.terms,
            self.single,
        )
        return self._emitted(walk)

    def _aside(self, launch: Launch) -> tuple[dict[Node, Memory], dict[Node, Memory]]:
        """Where states and the terms of sums may lie that registers do not hold."""
        states = [c.old for c in launch.carries if len(inner(c.old.axes)) in (1, 2)]
        sums = [(node, memory.name) for node, memory in self.summed if len(inner(node.axes)) == 1]
        return ({node: self._at(self._name(f"{node['name']}_kept"), WAITING, node) for node in states},
                {node: self._at(self._name(f"{name}_each"), SCRATCH, node) for node, name in sums})  # fmt: skip

    def _emitted(self, walk: Walk) -> Kernel:
        return Kernel(walk, identifier, self.dim_names, self.config.tile(walk.name), self.part)

    def _again(self, again: TileProgram, loads: dict[Node, Memory]) -> Loop:
        values = {self.program.loads[name]: value for name, value in again.stores.items() if name in self.program.loads}
        stores = [(self.turn(values[node]), memory) for node, memory in self.chunked.items()]
        own = set(ordered([*(c.new for c in again.carries), *values.values()], set(loads)))
        return Loop(
            self.turn.words(again, set(self.nodes)),
            [(self.turn(c.old), self.turn(c.new)) for c in again.carries],
            {self.turn(node): memory for node, memory in loads.items() if node in own},
            stores,
        )

    def _needed(self, launch: Launch) -> list[Node]:
        roots = [*(c.new for c in launch.carries), *self.written, *(self.division.kernel_part(n) for n in launch.sums)]
        return ordered(roots, set(launch.loads))

    def _memory(self, node: Node) -> Memory:
        if node not in self.memory:  # torch has computed it
            name = self.host[node]
            self.memory[node] = self._at(name, TOKENS if GRID in node.axes else FIXED, node)
            self.strides[name] = f"call.strides({name})" if GRID in node.axes else f"{name}.stride()"
        return self.memory[node]

    def _purpose(self, launch: Launch) -> str:
        names = ", ".join(f"`{carry.name}`" for carry in launch.carries)
        what = "the cotangents of " if self.program.reverse else ""
        return f"{what}{names} {'at one token' if self.single else 'from token to token'}" if names else "its tokens"

    # --- torch's part ----------------------------------------------------------------------------------------------

    def _host(self, at: int) -> list[str]:
        lines = []
        for node in self.division.hosts[at]:
            if node in self.host and self.division.kernel_part(node) is not None:
                text = self.host[node]
            else:
                text = Text(self._named, self._size).define(node)
            name = self._name(self.words.name(node))
            lines += [f"    # {note}" for note in self.words.notes(node)]
            lines.append(f"    {name} = {text}")
            self.host[node] = name
        return lines

    def _expression(self, node: Node) -> str:
        return Text(self._named, self._size)(node)

    def _named(self, node: Node) -> str | None:
        if node in self.host:
            return self.host[node]
        memory = self.memory.get(node)
        if memory is None:
            return None
        return f"call.flat({memory.name})" if memory.layout == TOKENS and not node.args else memory.name
