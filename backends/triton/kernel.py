"""One launch as the text of one Triton kernel, and the text of its call."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from recc.backends.torch.binding import is_static
from recc.backends.triton.config import Tile
from recc.backends.triton.lines import wrapped
from recc.backends.triton.nodes import dims, inner, is_matrix, ordered, plain, reads, source, sums_on
from recc.backends.triton.padding import Padding
from recc.backends.triton.schedule import Schedule
from recc.backends.triton.steps import Launch
from recc.backends.triton.tensor import BLOCK, TOKENS, Tensor, Walk
from recc.backends.triton.text import TileText
from recc.backends.triton.wording import aligned_text, called, inlinable, static_text

from recc.ir.names import free_name
from recc.ir.node import GRID, HEADS, RANK, ROW, Axis, Node, dim_of
from recc.tile.outside import is_mask
from recc.tile.words import Words

WIDTH = 88  # longest expression that is printed in line
NUMBERS = ("ROWS", "LEVELS", "STEP", "DOT", "PACKED")
LEAVE_BEYOND = "    if PACKED:  # there may be fewer", "        if sequence < 0:", "            return"
Tensors = tuple[dict[Node, Tensor], dict[Node, list[Tensor]], dict[Node, Walk]]


class Kernel:
    """The text of one launch over all chunks.

    tensors: every value in memory, by node; for each stored node the tensors it goes to; each carry that the launch
    takes along. spell: makes a name of the generated file. every: of so many chunks of a sequence, the states that
    enter the first are stored.
    """

    title = "One chunk and head"

    def __init__(self, schedule: Schedule, launch: Launch, name: str, words: Words, tensors: Tensors,
                 spell: Callable[[str], str], taken: set[str], tile: Tile, every: int) -> None:  # fmt: skip
        self.schedule, self.launch, self.name, self.words = schedule, launch, name, words
        self.tensors, self.written, self.walks = tensors
        self.spell, self.tile, self.every = spell, tile, every
        self.entering = [carry for carry in launch.walks if self.walks[carry.old].entering is not None]
        self.variables: dict[Node, str] = {}
        self.spelled: dict[Node, str] = {}
        self.used = set(taken)
        self.statics: dict[Node, str] = {}
        self.ranks = ranks(schedule)
        loads = set(launch.loads) | {c.old for c in launch.walks}
        padding = Padding(loads.__contains__)
        self.narrow = self._sides()
        self.read: dict[Node, int] = {}  # how often the text loads a tensor
        self.policies: dict[Node, str] = {}  # how long the cache keeps what the next load reads
        self.text = TileText(self.variables.get, self._static, padding, self.ranks, self._part, self.narrow)
        self.users = self._count_users()
        self.text.summed |= self._summed()
        self.per_chunk = any(GRID in node.axes for node in [*launch.nodes, *launch.loads])

    # --- text ----------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        body = self._body()
        arguments = [*self._pointers(), *self._constants()]
        lines = ["@triton.jit", *wrapped(f"def {self.name}(", arguments, "):")]
        lines.append(f'    """{self.title}{self._block_words()}: {self._purpose()}."""')
        return [*lines, *self._prologue(body), *body]

    def _block_words(self) -> str:
        return f", one block of {self.launch.split}" if self.launch.split else ""

    def _purpose(self) -> str:
        names = [tensor.name for node in self.launch.stores for tensor in self.written[node]]
        return ", ".join(f"`{name}`" for name in dict.fromkeys(names))

    def _body(self) -> list[str]:
        lines: list[str] = []
        for node in self.launch.loads:
            self._claim(node, self.tensors[node].name)
        return [*lines, *self._computed(self.launch.nodes, list(self.launch.loads), "    ")]

    def _computed(self, nodes: list[Node], pending: list[Node], indent: str) -> list[str]:
        """Nodes, each with its stores as soon as it is there."""
        lines: list[str] = []
        for node in nodes:
            lines += self._assign(node, pending, indent)
            for tensor in self.written.get(node, ()) if node in self.launch.stores else ():
                lines += self._load_before([node], pending, indent)
                lines.append(f"{indent}{self._store(node, tensor)}")
        return lines

    def _prologue(self, body: list[str]) -> Iterator[str]:
        text = "\n".join(body)
        yield from self._where(text)
        if re.search(r"\bhead\b", text):
            yield "    head = tl.program_id(1)"
        if re.search(r"\bheads\b", text):
            yield "    heads = tl.num_programs(1)"
        if self.launch.split or "block" in text:
            yield "    block = tl.program_id(2)"
        if re.search(r"\brows\b|\btokens\b|\bvalid\b", text):
            yield "    rows = tl.arange(0, ROWS)"
        if not self.launch.walks and re.search(r"\b(tokens|end|valid|batch)\b", text):
            yield from chunk_lines("    ")
        for dim in self.launch.dims:
            if dim != self.launch.loop and re.search(rf"\b(offs|in)_{dim}\b", text):
                at = f"block * BLOCK_{dim} + " if dim == self.launch.split else ""
                yield f"    offs_{dim} = {at}tl.arange(0, BLOCK_{dim})"
                yield f"    in_{dim} = offs_{dim} < {dim}"

    def _where(self, text: str) -> Iterator[str]:
        """What the program works on."""
        if re.search(r"\b(chunk|tokens|end|valid|batch)\b", text):
            yield "    chunk = tl.program_id(0).to(tl.int64)"
            yield "    sequence, place = tile_place(chunk, owners_ptr, table_ptr, time, ROWS, PACKED)"
            yield from LEAVE_BEYOND

    # --- arguments -------------------------------------------------------------------------------------------

    def _memory(self) -> list[Tensor]:
        """Every tensor that the kernel reads or writes, in order."""
        found = [self.tensors[node] for node in self.launch.loads]
        found += [tensor for node in self.launch.stores for tensor in self.written[node]]
        for carry in self.launch.walks:
            own = self.walks[carry.old]
            found += [x for x in (own.initial, own.entering, own.leaving) if isinstance(x, Tensor)]
        return list(dict.fromkeys(tensor.whole for tensor in found))

    def _places(self) -> list[tuple[str, str]]:
        """The arguments that say where chunks lie, and what the call passes for them."""
        names = ("owners_ptr", "chunks.owners"), ("table_ptr", "chunks.table"), ("time", "chunks.time")
        return [*names] if self.per_chunk else []

    def _programs(self) -> str:
        return "chunks.count" if self.per_chunk else "1"

    def _fixed(self) -> tuple[str, ...]:
        return NUMBERS

    def _pointers(self) -> list[str]:
        parts = [name for name, _ in self._places()]
        for tensor in self._memory():
            parts += [f"{tensor.name}_ptr", *(name for _, name in tensor.strides)]
        return parts

    def _constants(self) -> list[str]:
        """The names of sizes, known when the kernel is compiled."""
        dims_ = [f"{prefix}{dim}: tl.constexpr" for dim in self.launch.dims for prefix in ("", "BLOCK_")]
        numbers = [f"{name}: tl.constexpr" for name in self.statics.values()]
        fixed = [f"{name}: tl.constexpr" for name in self._fixed()]
        return [*dims_, *numbers, *fixed]

    def call(self, sizes: Callable[[Axis], str], part: str | None, step: str | None) -> list[str]:
        """The lines that launch the kernel. part, step: the variables for how much of the split dim a program takes,
        and how much of the dim of its loop at a time."""
        lead = [passed for _, passed in self._places()]
        for tensor in self._memory():
            lead.append(tensor.name)
            lead += [f"*{tensor.name}.stride()"] if tensor.strides else []
        blocks = {dim: f"block_{dim}" for dim in self.launch.dims}
        split = self.launch.split
        if split and part:
            blocks[split] = part
        if self.launch.loop and step:
            blocks[self.launch.loop] = step
        keys = [f"{dim}={sizes(dim)}, BLOCK_{dim}={blocks[dim]}" for dim in self.launch.dims]
        keys += [f"{name}={static_text(node, sizes)}" for node, name in self.statics.items()]
        count = f"triton.cdiv({sizes(split)}, {blocks[split]})" if split else "1"
        heads = "heads" if self._headed() else "1"
        tile = self.tile
        options = f"num_warps={tile.warps}, num_stages={tile.stages}, enable_fp_fusion=True"
        grid = f"({self._programs()}, {heads}, {count})"
        return wrapped(
            f"    {self.name}[{grid}](",
            [*lead, *keys, "**outer.fixed" if "OUTER" in self._fixed() else "**chunks.fixed", options],
            ")",
        )

    def _headed(self) -> bool:
        every = [*self.launch.nodes, *self.launch.loads, *(c.old for c in self.launch.walks)]
        return any(HEADS in node.axes for node in every)

    # --- statements -------------------------------------------------------------------------------------------

    def _claim(self, node: Node, wish: str) -> str:
        if node in self.spelled:  # in an earlier loop
            self.variables[node] = self.spelled[node]
            return self.spelled[node]
        name = free_name(self.spell(wish), self.used)
        self.used.add(name)
        self.variables[node] = self.spelled[node] = name
        return name

    def _assign(self, node: Node, pending: list[Node], indent: str) -> list[str]:
        """One line `name = expression`, unless the node is a number or stands in its only user's line."""
        if is_static(node) or is_mask(node) or node.op in ("ones", "const", "size"):
            return []
        stored = node in self.launch.stores
        if (node.op == "rename" and node.args[0] in self.narrow and not stored) or plain(node) in self.text.summed:
            return []
        alone = self.users.get(node, 0) <= 1 and node not in self.words.program.names and node not in self.narrow
        if inlinable(node) and alone and not stored:
            if len(self.text.define(node)) < WIDTH:
                return []
        lines = self._load_before(reads(node), pending, indent)
        text = self.text.define(node)
        if node in self.narrow:
            text = f"{called(text)}.to(DOT)"
        if text.isidentifier() and not stored:
            self.variables[node] = text
            return lines
        name = self._claim(node, self.words.name(node))
        lines += [f"{indent}# {note}" for note in self.words.notes(node)]
        return [*lines, f"{indent}{name} = {text}"]

    def _load_before(self, args, pending: list[Node], indent: str) -> list[str]:
        """The loads of what the expressions `args` read, at their first use: tiles live no longer than they must."""
        lines = []
        named = set(self.variables) - set(self.launch.loads)
        for node in ordered(args, named | set(self.launch.loads)):
            if node in pending:
                pending.remove(node)
                self.read[node] = self.read.get(node, 0) + 1
                text = self._load(self.tensors[node], node in self.narrow, self.policies.get(node, ""))
                lines.append(f"{indent}{self.variables[node]} = {text}")
        return lines

    def _summed(self) -> set[Node]:
        """Products of matrices whose only use is a sum of their shape."""
        return {product for product, total in self._additions() if product in total.args}

    def _additions(self) -> Iterator[tuple[Node, Node]]:
        """Products of matrices that nothing but a sum of their shape reads, each with that sum."""
        for node in self.launch.nodes:
            for arg in node.args if node.op == "add" else ():
                product = plain(arg)
                alone = all(self.users.get(one) == 1 and one not in self.launch.stores for one in (arg, product))
                found = alone and arg.axes == node.axes and product in self.launch.nodes and product.op == "dot"
                if found and sums_on(product, self._part(product)):
                    yield product, node

    def _count_users(self) -> dict[Node, int]:
        count: dict[Node, int] = {}
        for node in self.launch.nodes:
            for arg in reads(node):
                count[arg] = count.get(arg, 0) + (2 if node.op == "silu" else 1)
        for carry in self.launch.walks:
            count[carry.new] = count.get(carry.new, 0) + 1
        return count

    def _static(self, node: Node) -> str:
        text = static_text(node, lambda dim: dim_of(dim))
        if not re.search(r"[A-Za-z]", text.replace("float", "").replace("inf", "").replace("e-", "").replace("e+", "")):
            return text
        if text.isidentifier():
            return text
        if node not in self.statics:
            self.statics[node] = self._claim(node, "n_" + re.sub(r"\W+", "_", text.replace("math.", "")).strip("_"))
            del self.variables[node], self.spelled[node]
        return self.statics[node]

    def _part(self, node: Node) -> tuple[Axis, ...]:
        """The axes that a contraction goes over within one program."""
        return inner(node["over"])

    # --- memory ------------------------------------------------------------------------------------------------

    def _sides(self) -> frozenset[Node]:
        """The loads that are sides of matrix products, for which they need not be widened."""
        found = set()
        for node in self.launch.nodes:
            found.update(map(source, self._rounded(node)))
        return frozenset(node for node in self.launch.loads if node in found and not self._is_wide(node))

    def _rounded(self, node: Node) -> tuple[Node, ...]:
        """What a node reads in the precision of matrix products."""
        if node.op in ("score_rows", "score_cols"):
            return node.args[:1]
        return node.args if node.op == "dot" and is_matrix(node, self._part(node)) else ()

    def _is_wide(self, node: Node) -> bool:
        tensor = self.tensors[node]
        return tensor.wide and tensor.layout != TOKENS

    def _load(self, tensor: Tensor, narrow: bool = False, policy: str = "") -> str:
        pointer, masks = self._address(tensor)
        if tensor.zero and tensor.layout == TOKENS:
            masks.insert(0, aligned_text("valid", 0, (ROW,), tensor.tile))
        kept = f', eviction_policy="{policy}"' if policy else ""
        text = f"tl.load({pointer}{_masked(masks, ', other=0.0')}{kept})"
        return text if narrow or (tensor.wide and tensor.layout != TOKENS) else f"{text}.to(tl.float32)"

    def _store(self, node: Node, tensor: Tensor) -> str:
        pointer, masks = self._address(tensor)
        if tensor.layout == TOKENS:
            masks.insert(0, aligned_text("valid", 0, (ROW,), tensor.tile))
        value = self.variables.get(node) or self.text._whole(node, tensor.tile)
        cast = value if tensor.wide else f"{value}.to({tensor.name}_ptr.dtype.element_ty)"
        return f"tl.store({pointer}, {cast}{_masked(masks, '')})"

    def _address(self, tensor: Tensor) -> tuple[str, list[str]]:
        """A pointer for each element of a tensor's tile, and the masks of its dims."""
        tile, at = tensor.tile, dict(tensor.at)
        parts = [f"{tensor.name}_ptr"]
        if tensor.strides:
            entry = tensor.entry or ("batch" if tensor.layout == TOKENS else "sequence")
            lead = {BLOCK: "block", GRID: entry, HEADS: "head"}
            for axis, stride in tensor.strides:
                if axis in at:
                    parts += [f"{at[axis]} * {stride}"] if at[axis] else []
                    continue
                index = lead.get(axis) or ("tokens" if axis == ROW else self.text.place(axis))
                place = index if axis in lead else aligned_text(index, 0, (axis,), tile)
                parts.append(f"{place} * {stride}")
        else:
            parts += self._contiguous(tensor)
        masks = [aligned_text(f"in_{dim_of(a)}", 0, (a,), tile) for a in dims(tile) if not dim_of(a).startswith("@")]
        return " + ".join(parts), masks

    def _contiguous(self, tensor: Tensor) -> Iterator[str]:
        tile, order, at = tensor.tile, tensor.order, dict(tensor.at)
        sizes = [dim_of(axis) if axis in dims(order) and not dim_of(axis).startswith("@") else self.text.size(axis)
                 for axis in order]  # fmt: skip
        lead = ""
        if tensor.parts:
            lead = "block"
        if GRID in tensor.axes:
            entry = tensor.entry or "chunk"
            lead = f"({lead} * tl.num_programs(0) + {entry})" if lead else entry
        if HEADS in tensor.axes:
            lead = f"({lead} * heads + head)" if lead else "head"
        if lead:
            yield " * ".join([lead, *sizes])
        for place, axis in enumerate(order):
            if at.get(axis) != 0:
                text = str(at[axis]) if axis in at else aligned_text(self.text.place(axis), 0, (axis,), tile)
                yield " * ".join([text, *sizes[place + 1 :]])


def ranks(schedule: Schedule) -> int:
    """How many rank terms there are, to the next power of two."""
    found = [len(node.args) for node in schedule.every if node.op == "stack" and dim_of(node["axis"]) == RANK]
    return 1 << (max(found, default=1) - 1).bit_length()


def chunk_lines(indent: str) -> list[str]:
    return [
        f"{indent}batch, first, end = tile_chunk(sequence, place, table_ptr, time, ROWS, STEP, PACKED)",
        f"{indent}valid = rows <= end  # the last row that holds a token",
        f"{indent}tokens = first + STEP * tl.minimum(rows, end)  # rows after it repeat that token",
    ]


def _masked(masks: list[str], more: str) -> str:
    if not masks:
        return ""
    joined = " & ".join(masks)
    return f", mask={joined}{more}"
