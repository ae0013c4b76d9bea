"""The tile program: one chunk of a recurrence as expressions over tiles, and its adjoint.

Tiles are leaves `tile` with the axis GRID (one entry per chunk and sequence). A program maps the tiles that it loads
and the states that enter a chunk (`carry` leaves) to tiles that it stores and states that leave. With C = 1 there is
no ROW axis and the program is the step itself.

`adjoint` turns a program into that of its backward pass: it loads the same tiles, the saved entering states, what
was kept of the forward pass, and the cotangents of what was stored; its carries are the states' cotangents and run
from the last chunk to the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from recc.ir.names import free_name
from recc.ir.node import GRID, ROW, Node, Spans, rebuild, walk
from recc.ir.ops import VALUE_OF_FIRST, is_zero, leaf
from recc.tile import channels, filters  # noqa: F401 - they register their operations
from recc.tile.adjoint import cotangents
from recc.tile.blocks import leave_blocks
from recc.tile.ops import leave
from recc.tile.share import share

LEAVES = {"scan": leave, "matrix_scan": leave_blocks}  # what `end` of it is without the rows
# What runs step by step inside a chunk: computed in the loop over chunks, and never again.
SOLVED = ("newton", "wavefront", "wavefront_flow")
# What costs more to compute again than to keep: scores, C numbers a token, as much as a key where C is its size; and
# solved trajectories.
DEAR = ("score", "newton", "wavefront")


@dataclass(frozen=True)
class Carry:
    """A state between chunks. `old`: the leaf that enters; `new`: what leaves; level: components before it."""

    name: str
    old: Node
    new: Node
    level: int


@dataclass(frozen=True)
class TileProgram:
    """loads, params: leaves by name. stores: one tile each. sums: values without GRID, added up over all chunks.
    kept: tiles of the forward pass that the backward pass loads. For the generated text: names, notes and spans, what
    nodes are called, what they are, and where in `source` they are written."""

    name: str
    chunk: int
    loads: dict[str, Node]
    params: dict[str, Node]
    carries: tuple[Carry, ...]
    stores: dict[str, Node]
    sums: dict[str, Node] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    notes: dict[Node, str] = field(default_factory=dict)
    spans: Spans = field(default_factory=Spans)
    source: tuple[str, ...] = ()  # the spec's file name, then its lines
    reverse: bool = False  # the carries run from the last chunk to the first
    kept: dict[str, Node] = field(default_factory=dict)

    @property
    def roots(self) -> list[Node]:
        return [*(c.new for c in self.carries), *self.stores.values(), *self.sums.values(), *self.kept.values()]


def tile(name: str, axes: Iterable[str], dtype: str, rows: bool) -> Node:
    """A leaf that is loaded for each chunk."""
    return leaf("tile", (GRID, *axes, *((ROW,) if rows else ())), dtype, name=name)


def differentiate(program: TileProgram, keep: tuple[str, ...] = DEAR) -> tuple[TileProgram, TileProgram]:
    """`program` with what it keeps, and its backward pass. keep: the ops whose tiles it keeps."""
    dear = [node for node in walk(*program.roots) if node.op in keep and GRID in node.axes]
    program = replace(program, kept=kept_names(dear, program))
    backward = adjoint(program)
    used = {node["name"] for node in walk(*backward.roots) if node.op == "tile"}
    kept = {name: node for name, node in program.kept.items() if name in used}
    loads = {name: node for name, node in backward.loads.items() if name in kept or name not in program.kept}
    return replace(program, kept=kept), replace(backward, loads=loads)


def kept_names(nodes: Iterable[Node], program: TileProgram) -> dict[str, Node]:
    """What is kept for the backward pass, under the spec's names where it has one."""
    found: dict[str, Node] = {}
    for place, node in enumerate(nodes):
        found[free_name(f"kept.{program.names.get(node, place)}", found)] = node
    return found


def adjoint(program: TileProgram, placed: bool = False) -> TileProgram:
    """The backward pass of `program`, derived by reverse mode. placed: whether its `spans` say of which line of the
    spec a value is on the way to the gradient."""
    saved = {c.name: leaf("tile", c.old.axes, c.old.dtype, name=state_key(c.name)) for c in program.carries}
    seeds, loads = [], dict(program.loads)
    for name, value in program.stores.items():
        seed = leaf("tile", value.axes, value.dtype, name=seed_key(name))
        loads[seed_key(name)] = seed
        seeds.append((value, seed))
    entering = {}
    for c in program.carries:
        entering[c.name] = leaf("tile", c.old.axes, c.old.dtype, name=seed_key(state_key(c.name)))
        seeds.append((c.new, entering[c.name]))
    wrt = [*program.loads.values(), *program.params.values(), *(c.old for c in program.carries)]
    spans = Spans(program.spans)
    grads = cotangents(seeds, wrt, spans=spans if placed else None)
    kept = {name: leaf("tile", node.axes, node.dtype, name=name) for name, node in program.kept.items()}
    order = list(grads)
    olds = {c.old: saved[c.name] for c in program.carries}
    olds |= {_finish(node, spans): kept[name] for name, node in program.kept.items()}
    found = share(rebuild([_finish(grads[n], spans) for n in order], olds.get, spans), spans)
    new = dict(zip(order, found, strict=True))
    top = max((c.level for c in program.carries), default=0)
    carries = tuple(Carry(c.name, entering[c.name], new[c.old], top - c.level) for c in reversed(program.carries))
    return TileProgram(
        f"{program.name} backward",
        program.chunk,
        {**loads, **{state_key(name): node for name, node in saved.items()}, **kept},
        program.params,
        carries,
        {f"d_{name}": new[node] for name, node in program.loads.items() if not is_zero(new[node])},
        {f"d_{name}": new[node] for name, node in program.params.items() if not is_zero(new[node])},
        names=_renamed(program.names, olds),
        notes=_renamed(program.notes, olds),
        spans=spans,
        source=program.source,
        reverse=not program.reverse,
    )


def _renamed(texts: dict[Node, str], olds: dict[Node, Node]) -> dict[Node, str]:
    return dict(zip(rebuild(texts, olds.get), texts.values(), strict=True))


def with_values(program: TileProgram, new: dict[Node, Node], spans: Spans) -> TileProgram:
    """`program` with what it computes replaced by `new`, which has every node of it."""

    def each(group: dict[str, Node]) -> dict[str, Node]:
        return {name: new[node] for name, node in group.items()}

    return replace(
        program,
        carries=tuple(replace(carry, new=new[carry.new]) for carry in program.carries),
        stores=each(program.stores),
        sums=each(program.sums),
        kept=each(program.kept),
        names={new.get(node, node): text for node, text in program.names.items()},
        notes={new.get(node, node): text for node, text in program.notes.items()},
        spans=spans,
    )


def finish(program: TileProgram) -> TileProgram:
    """The program as it is computed: without what only a derivative asks for, and with the rows of scans taken out of
    its loops (`end(scan(...))` becomes a chunk's summary)."""
    spans = Spans(program.spans)

    def each(values: dict[str, Node]) -> dict[str, Node]:
        return {name: _finish(node, spans) for name, node in values.items()}

    carries = tuple(replace(c, new=_finish(c.new, spans)) for c in program.carries)
    stores, sums, kept = each(program.stores), each(program.sums), each(program.kept)
    names, notes = ({_finish(node, spans): text for node, text in of.items()} for of in (program.names, program.notes))
    return replace(program, carries=carries, stores=stores, sums=sums, kept=kept, names=names, notes=notes, spans=spans)


def _finish(node: Node, spans: Spans) -> Node:
    def summed(below: Node) -> Node | None:
        summary = LEAVES.get(below.args[0].op) if below.op == "end" else None
        return summary(below.args[0]) if summary else None

    return rebuild([valued(node, spans)], summed, spans)[0]


def valued(node: Node, spans: Spans) -> Node:
    """`node` with what is there for the derivative alone replaced by its value."""

    def value(below: Node) -> Node | None:
        return valued(below.args[0], spans) if below.op in VALUE_OF_FIRST else None

    return rebuild([node], value, spans)[0]


# Names of a program that no spec can have: as identifiers they are `S_x` and `d_x`.


def state_key(name: str) -> str:
    """Of a state's leaf; a delayed value is called `x[t-2]`, a state at the start of its chunk `S[C]`."""
    return "S." + name.replace("[t-", ".").replace("[", ".").replace("]", "")


def seed_key(name: str) -> str:
    """Of the cotangent that enters for a result."""
    return f"d.{name}"
