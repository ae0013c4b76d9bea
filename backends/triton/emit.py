"""A tile program as Triton kernels and the function of torch that launches them."""

from __future__ import annotations

import re
from dataclasses import replace

from recc.backends.torch.emit import identifier
from recc.backends.torch.text import Text
from recc.backends.triton.between import between_rows
from recc.backends.triton.block_loop import LoopKernel
from recc.backends.triton.blocks import Blocks
from recc.backends.triton.chunk_walk import WalkKernel
from recc.backends.triton.config import Config, Tile, default_tile
from recc.backends.triton.gather import gathered
from recc.backends.triton.kernel import Kernel, ranks
from recc.backends.triton.levels import paired_sums
from recc.backends.triton.lines import folded, wrapped
from recc.backends.triton.loops import loops
from recc.backends.triton.nodes import dims, inner, is_matrix, lies_in, per_token, reads
from recc.backends.triton.one_side import one_side
from recc.backends.triton.outer import OuterText
from recc.backends.triton.pressure import beside
from recc.backends.triton.row_sums import row_sums
from recc.backends.triton.schedule import Schedule
from recc.backends.triton.steps import Host, Launch
from recc.backends.triton.tensor import CHUNKS, FIXED, STATES, TOKENS, Tensor, Walk

from recc.ir.names import free_name
from recc.ir.node import COL, GRID, HEADS, ROW, Axis, Node, dim_of, sort_axes
from recc.tile.program import seed_key
from recc.tile.words import Words

# What is float32 in memory, too: triangular inverses, and what scans of whole chunks leave.
WIDE = ("inverse", "span_gain", "span_sum", "span_rsum", "scan", "rscan", "part")
# Names that the generated text has of its own.
TAKEN = {"tl", "triton", "torch", "math", "F", "chunks", "like", "batch", "time", "heads", "head", "sequence", "block",
         "start", "count", "step", "chunk", "place", "slot", "first", "end", "rows", "tokens", "valid", "table",
         "owners", "outer", "begin", "each"}  # fmt: skip


class Function:
    """The kernels of a schedule, and `name(chunks, loads, params, carries, results)`, which launches them.

    results are the tensors that it writes: stores, leaving states, and, in the forward pass, what is saved. It returns
    the sums. See `launch.py` for how tensors are laid out. text: all of it; kernels: one a launch, in
    order; outer_kernels: those that only calls with outer chunks launch; rows: tokens in a chunk; every: of so many
    chunks, the states that enter the first are kept.
    """

    def __init__(self, schedule: Schedule, name: str, doc: str, config: Config) -> None:
        program = schedule.program
        self.schedule, self.program, self.name, self.doc, self.config = schedule, program, name, doc, config
        self.every = config.every(schedule)
        self.rows = (config.chunk or 0) // self.every
        self.kernels: list[Kernel] = []
        self.outer_kernels: list[Kernel] = []
        self.words = Words(program)
        self.used = set(TAKEN)
        self.tensors: dict[Node, Tensor] = {}
        self.written: dict[Node, list[Tensor]] = {}
        for step in schedule.steps:
            if isinstance(step, Launch):
                step.rows, step.outer = self.rows, [] if config.outer == 0 else step.outer
        self.seeded = self._seeded()
        self.host: dict[Node, str] = {}
        self.arguments = [self._leaf(node) for node in self._leaves()]
        self.results = self._results()
        self.text = self._text()

    # --- tensors -----------------------------------------------------------------------------------------------

    def _leaves(self) -> list[Node]:
        program = self.program
        return [*program.loads.values(), *program.params.values(), *(c.old for c in program.carries)]

    def _claim(self, wish: str) -> str:
        named = {dim_of(axis) for node in self.schedule.every for axis in dims(node.axes)}
        name = free_name(identifier(wish), self.used | named)
        self.used.add(name)
        return name

    def _seeded(self) -> set[Node]:
        """What is zero on the rows after a chunk's last token: what is linear in the cotangents of outputs."""
        names = {seed_key(name) for name in self._outputs()} if self.program.reverse else set()
        seeds = {node for name, node in self.program.loads.items() if name in names}
        for node in self.schedule.every:
            if any(arg in seeds for arg in node.args):
                seeds.add(node)
        return seeds

    def _outputs(self) -> list[str]:
        loads = self.program.loads
        return [name[2:] for name in loads if name.startswith(seed_key(""))]

    def _leaf(self, node: Node) -> str:
        name = self._claim(node["name"])
        carried = node in self.schedule.carried
        layout = STATES if carried else FIXED if GRID not in node.axes else TOKENS if per_token(node) else CHUNKS
        self.tensors[node] = Tensor(name, layout, node.axes, node in self.seeded, wide=layout in (STATES, FIXED))
        return name

    def _results(self) -> list[str]:
        """The tensors that the function writes, and where each stored node goes."""
        program, names = self.program, []
        self.given: list[tuple[Node, str]] = []
        for wish, node in program.stores.items():
            name = self._claim(f"{wish}_out" if wish in self.used else wish)
            names.append(name)
            self.given.append((node, name))
            for part, at in self.schedule.places(node):
                self.written.setdefault(part, []).append(Tensor(name, TOKENS, node.axes, at=at))
        self.walks: dict[Node, Walk] = {}
        every, final = [], []
        for carry in program.carries:
            initial = self.tensors[carry.old]
            entering = Tensor(self._claim(f"{initial.name}_all"), CHUNKS, carry.old.axes)
            leaving = Tensor(self._claim(f"{initial.name}_out"), STATES, carry.old.axes, wide=True)
            read = not program.reverse or self.schedule.is_read(carry)
            self.walks[carry.old] = Walk(initial.name, initial, entering if read else None, leaving)
            self.tensors[carry.old] = entering
            every.append(entering.name)
            final.append(leaving.name)
        names += final
        if not program.reverse:
            names += every
            for node in program.kept.values():
                layout = TOKENS if per_token(node) else CHUNKS
                tensor = Tensor(self._claim(f"{self.words.name(node)}_all"), layout, node.axes)
                self.written.setdefault(node, []).append(tensor)
                self.tensors[node] = tensor
                names.append(tensor.name)
        self.scratch = every if program.reverse else []
        self.scratch = [name for name, carry in zip(self.scratch, program.carries) if self.schedule.is_read(carry)]
        return names

    def _scratch(self, node: Node, part: str | None) -> list[str]:
        """The line that makes the memory of a held value, which later steps read."""
        tensor = self.tensors.get(node)
        if tensor is not None and not tensor.parts:
            return []
        partial, blocked = node in self.schedule.partial, self._by_blocks(node)
        axes = node.axes if not partial else self._part_axes(node)
        by_token = GRID in node.axes and ROW in axes and COL not in axes and self._of_host(node)
        name = self._claim(f"{self.words.name(node)}_parts" if partial else self.words.name(node))
        wide = partial or by_token or GRID not in axes or self._is_wide(node) or self._of_host(node)
        wide = wide or len(inner(axes)) < 2
        tensor = Tensor(name, TOKENS if by_token else CHUNKS if GRID in axes else FIXED, axes,
                        not partial and node in self.seeded, blocked, wide)  # fmt: skip
        self.written.setdefault(node, []).append(tensor)
        if not partial:
            self.tensors[node] = tensor
        self.parts[node] = tensor
        tile = ", ".join(self._extent(axis, by_token) for axis in axes if axis not in (GRID,))
        lead = [f"triton.cdiv({self._split_of(node)}, {part})"] if blocked else []
        lead += ["batch" if by_token else "chunks.count"] if GRID in axes else []
        summed = GRID in axes and not by_token and self._of_host(node)
        make = "summed" if summed else "wide" if wide else "empty"
        return [f"    {name} = chunks.{make}({', '.join([*lead, *([tile] if tile else [])])})"]

    def _is_wide(self, node: Node) -> bool:
        """Whether float32 makes a difference: not for what is a side of matrix products alone, which round it."""
        if node.op not in WIDE:
            return False
        views = {node}
        for user in self.schedule.every:
            views |= {user} if user.op in ("rename", "take") and user.args[0] in views else set()
        users = [user for user in self.schedule.every if user not in views and views & set(reads(user))]
        return not all(user.op == "dot" and is_matrix(user, inner(user["over"])) for user in users)

    def _split_of(self, node: Node) -> str | None:
        for step in self.schedule.steps:
            if isinstance(step, Launch) and node in step.stores:
                return step.split
        return None

    def _by_blocks(self, node: Node) -> bool:
        """Whether each program computes a part of a sum: one over chunks alone has all of it, or of its own places."""
        split = self._split_of(node)
        return node in self.schedule.partial and any(dim_of(axis) == split for axis in node["over"])

    def _part_axes(self, node: Node) -> tuple[Axis, ...]:
        """The axes of what one program computes of a partial sum, with those that tell programs apart."""
        every = {axis for arg in node.args for axis in arg.axes}
        return sort_axes(every - set(inner(node["over"])))

    def _of_host(self, node: Node) -> bool:
        return node in self.schedule.partial or any(node in reads(user) for user in self.schedule.host)

    def _extent(self, axis: Axis, by_token: bool) -> str:
        if axis == ROW and by_token:
            return "time"
        if axis in (ROW, COL, "@a", "@b"):
            return "chunks.rows"
        if dim_of(axis).startswith("@"):
            return str(ranks(self.schedule))
        return self._size(axis)

    # --- text --------------------------------------------------------------------------------------------------

    def _text(self) -> str:
        self.parts: dict[Node, Tensor] = {}
        self.sources: dict[str, str] = {}  # dims that are others under a second name
        self.blocks = Blocks(self.schedule, self._claim)
        kernels: list[str] = []
        lines = wrapped(f"def {self.name}(", ["chunks", *self.arguments, *self.results], "):")
        lines.append(f'    """{self.doc}"""')
        body: list[str] = []
        read = [carry for carry in self.program.carries if self.schedule.is_read(carry)]
        for carry, name in zip(read, self.scratch):
            sizes = ", ".join(self._size(axis) for axis in carry.old.axes if axis != GRID)
            body.append(f"    {name} = chunks.empty(chunks.count{', ' if sizes else ''}{sizes})")
        for step in self.schedule.steps:
            if isinstance(step, Host):
                body += self._host(step)
                continue
            name = self._kernel_name(step, "\n".join(kernels))
            tile = self.config.tile(name, default_tile(step, self.schedule, self.rows))
            step.loop = tile.loop if tile.loop and loops(step, tile.loop) is not None else None
            step.split = None if step.loop == step.split else step.split
            part, stride = self.blocks.of(step, tile)
            for node in step.stores:
                if node in self.schedule.held:
                    body += self._scratch(node, part)
            outer = OuterText(self, step, part) if step.outer else None
            kernel = self._kernel(self._gathered(step), name, tile, outer.walks if outer else self.walks)
            self.kernels.append(kernel)
            lines_of_kernel = text_of(kernel)  # first: comments stand where all of a chunk is computed
            if outer is not None:
                self.outer_kernels += [own for own, _ in outer.kernels]
                kernels += outer.kernel_lines()
                body += outer.lines()
            kernels += lines_of_kernel
            body += kernel.call(self._size, part, stride)
        body += self._copies()
        sums = [self._expression(node) for node in self.program.sums.values()]
        body.append(f"    return ({', '.join(sums)}{',' if len(sums) == 1 else ''})")
        text = "\n".join(body)
        return "\n".join([*kernels, *lines, *self._size_lines(text), *body]) + "\n"

    def _address(self, step: Launch) -> None:
        """Says where what a launch loads lies, where it is a place of a tensor."""
        for node in step.loads:
            whole, at = lies_in(node)
            if node not in self.tensors:
                self.tensors[node] = replace(self.tensors[whole], at=at)

    def _gathered(self, step: Launch) -> Launch:
        """A launch with few accumulators in its loop, if it has one; what it stores goes where it went."""
        if not step.loop:
            return step
        found = one_side(step, step.loop)
        found = paired_sums(row_sums(gathered(between_rows(found, step.loop), step.loop), step.loop))
        for table in (self.written, self.words.results):
            table |= {new: table[old] for old, new in zip(step.stores, found.stores, strict=True) if old in table}
        return found

    def _kernel(self, step: Launch, name: str, tile: Tile, walks: dict[Node, Walk],
                kind: type[Kernel] | None = None) -> Kernel:  # fmt: skip
        self._address(step)
        taken = TAKEN | {dim_of(axis) for node in self.schedule.every for axis in dims(node.axes)}
        kind = kind or (WalkKernel if step.walks else LoopKernel if step.loop else Kernel)
        tensors = self.tensors, self.written, walks
        return kind(self.schedule, step, name, self.words, tensors, identifier, taken, tile, self.every)

    def _kernel_name(self, step: Launch, before: str) -> str:
        return self._free(self._role(step), before)

    def _free(self, role: str, before: str) -> str:
        """A name for a kernel that none of those before it has."""
        wish = f"{self.name.removesuffix('_tiles')}_{role}"
        name, count = wish, 2
        while f"def {name}(" in before:
            name, count = f"{wish}_{count}", count + 1
        return name

    def _role(self, step: Launch) -> str:
        walks = any(
            isinstance(other, Launch) and other.walks and other.slot > step.slot for other in self.schedule.steps
        )
        if step.walks:
            return "fused" if self.schedule.fused else "walk"
        return "prepare" if walks else "finish"

    def _size(self, axis: Axis | None) -> str:
        if axis == HEADS:
            return "heads"
        if axis == GRID:
            return "batch"
        if axis in (ROW, COL):
            return "time"
        return dim_of(axis or "")

    def _size_lines(self, body: str) -> list[str]:
        more = [line for dim, of in self.sources.items() for line in self._source_lines(dim, of)]
        body = "\n".join([body, *more])
        lines = ["    like = chunks.like"] if re.search(r"\blike\b", body) else []
        for name in ("heads", "batch", "time"):
            if re.search(rf"\b{name}\b", body):
                lines.append(f"    {name} = chunks.{name}")
        seen: set[str] = set()
        for node, name in zip(self._leaves(), self.arguments):
            for place, axis in enumerate(node.axes):
                dim = dim_of(axis)
                if axis in (GRID, HEADS, ROW) or dim in seen or dim.startswith("@"):
                    continue
                seen.add(dim)
                if re.search(rf"\b(\w+_)?{dim}\b", body):
                    lines.append(f"    {dim} = {name}.shape[{place}]")
        for dim in sorted(seen):
            parts = self.blocks.lines(dim, seen)
            if parts or re.search(rf"\bblock_{dim}\b", body):
                lines.append(f"    block_{dim} = chunks.block({dim}, {self.least(dim)})")
            lines += parts
        return [*lines, *more]

    def _source_lines(self, dim: str, of: str) -> list[str]:
        """The sizes of a dim that is another one under a second name."""
        return [f"    {dim}, block_{dim} = {of}, block_{of}", *self.blocks.lines(dim, set())]

    def least(self, dim: str) -> int:
        """16 for a side of a matrix product, which tensor cores need."""
        for node in self.schedule.every:
            sides = [arg.axes for arg in reads(node)] if node.op in ("dot", "score", "score_rows", "score_cols") else []
            if node.op == "dot":
                a, b = (set(inner(axes)) for axes in sides)
                over = set(node["over"])
                if (a & b) - over or not a - b or not b - a:
                    continue
            if any(dim_of(axis) == dim for axes in sides for axis in axes):
                return 16
        return 1

    def beside(self, dim: str, others: list[str]) -> list[str]:
        """The dims that stand beside `dim` and rows in the largest tile of a scan."""
        return [other for other in beside(self.schedule, dim) if other in others]

    # --- the host's part -------------------------------------------------------------------------------------------

    def _expression(self, node: Node) -> str:
        return Text(self._named, self._size)(node)

    def _named(self, node: Node) -> str | None:
        if node in self.host:
            return self.host[node]
        tensor = self.tensors.get(node)
        if tensor is None:
            return None
        return f"{tensor.name}.float()" if tensor.layout == TOKENS and not node.args else tensor.name

    def _host(self, step: Host) -> list[str]:
        lines = []
        for node in step.nodes:
            if node in self.schedule.partial:
                text = self._total(node)
            else:
                text = Text(self._named, self._size).define(node)
            if text.isidentifier() and GRID not in node.axes:
                self.host[node] = text
                self.tensors[node] = Tensor(text, FIXED, node.axes)
                continue
            name = self._claim(self.words.name(node))
            lines += [f"    # {note}" for note in self.words.notes(node)]
            if GRID not in node.axes and self._for_kernel(node):
                text = f"({text}).contiguous()"
            lines.append(f"    {name} = {text}")
            self.host[node] = name
            layout = FIXED if GRID not in node.axes else TOKENS if ROW in node.axes else CHUNKS
            self.tensors[node] = Tensor(name, layout, node.axes, node in self.seeded)
        return lines

    def _for_kernel(self, node: Node) -> bool:
        return any(isinstance(step, Launch) and node in step.loads for step in self.schedule.steps)

    def _total(self, node: Node) -> str:
        """The sum of the parts that programs have computed; of no axes torch would take all of them."""
        tensor = self.parts[node]
        gone = {GRID, HEADS} - set(node.axes)
        lead = [0] if tensor.parts else []
        over = [*lead, *(place + len(lead) for place, axis in enumerate(tensor.axes) if axis in gone)]
        if not over:  # one program has all of it, in a loop
            return tensor.name
        return f"{tensor.name}.sum({over[0] if len(over) == 1 else tuple(over)})"

    def _copies(self) -> list[str]:
        """What the kernels do not write: results that the host computes."""
        lines = []
        for node, name in self.given:
            if self.schedule.in_kernel(node):
                continue
            lines.append(f"    {name}.copy_({self._expression(node)})")
        return lines


def text_of(kernel: Kernel) -> list[str]:
    """The lines of a kernel, and two empty ones."""
    return [*(part for line in kernel.lines() for part in folded(line)), "", ""]
