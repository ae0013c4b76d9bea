"""The tile program: one chunk of a recurrence as expressions over tiles, and its adjoint.

Tiles are leaves `tile` with the axis GRID (one entry per chunk and sequence). A program maps the tiles that it loads
and the states that enter a chunk (`carry` leaves) to tiles that it stores and states that leave. With C = 1 there is
no ROW axis and the program is the step itself.

`adjoint` turns a program into that of its backward pass: it loads the same tiles, the saved entering states and
the cotangents of what was stored; its carries are the states' cotangents and run from the last chunk to the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from recc.ir.node import GRID, ROW, Node, rebuild
from recc.ir.ops import is_zero, leaf
from recc.tile.adjoint import cotangents
from recc.tile.ops import leave


@dataclass(frozen=True)
class Carry:
    """A state between chunks. `old`: the leaf that enters; `new`: what leaves; level: components before it."""

    name: str
    old: Node
    new: Node
    level: int


@dataclass(frozen=True)
class TileProgram:
    """loads, params: leaves by name. stores: one tile each. sums: values without GRID, added up over all chunks."""

    name: str
    chunk: int
    loads: dict[str, Node]
    params: dict[str, Node]
    carries: tuple[Carry, ...]
    stores: dict[str, Node]
    sums: dict[str, Node] = field(default_factory=dict)
    names: dict[Node, str] = field(default_factory=dict)
    notes: dict[Node, str] = field(default_factory=dict)
    source: tuple[str, ...] = ()  # the spec's file name, then its lines
    reverse: bool = False  # the carries run from the last chunk to the first

    @property
    def roots(self) -> list[Node]:
        return [*(c.new for c in self.carries), *self.stores.values(), *self.sums.values()]


def tile(name: str, axes: Iterable[str], dtype: str, rows: bool) -> Node:
    """A leaf that is loaded for each chunk."""
    return leaf("tile", (GRID, *axes, *((ROW,) if rows else ())), dtype, name=name)


def adjoint(program: TileProgram) -> TileProgram:
    """The backward pass of `program`, derived by reverse mode."""
    saved = {c.name: leaf("tile", c.old.axes, c.old.dtype, name=state_key(c.name)) for c in program.carries}
    seeds, loads = [], dict(program.loads)
    for name, value in program.stores.items():
        seed = leaf("tile", value.axes, value.dtype, name=f"d_{name}")
        loads[f"d_{name}"] = seed
        seeds.append((value, seed))
    entering = {}
    for c in program.carries:
        entering[c.name] = leaf("tile", c.old.axes, c.old.dtype, name=f"d_{state_key(c.name)}")
        seeds.append((c.new, entering[c.name]))
    wrt = [*program.loads.values(), *program.params.values(), *(c.old for c in program.carries)]
    grads = cotangents(seeds, wrt)
    olds = {c.old: saved[c.name] for c in program.carries}
    order = list(grads)
    new = dict(zip(order, rebuild([_finish(grads[n]) for n in order], olds.get), strict=True))
    top = max((c.level for c in program.carries), default=0)
    carries = tuple(Carry(c.name, entering[c.name], new[c.old], top - c.level) for c in reversed(program.carries))
    return TileProgram(
        f"{program.name} backward",
        program.chunk,
        {**loads, **{state_key(name): node for name, node in saved.items()}},
        program.params,
        carries,
        {f"d_{name}": new[node] for name, node in program.loads.items() if not is_zero(new[node])},
        {f"d_{name}": new[node] for name, node in program.params.items() if not is_zero(new[node])},
        _renamed(program.names, olds),
        _renamed(program.notes, olds),
        program.source,
        not program.reverse,
    )


def _renamed(texts: dict[Node, str], olds: dict[Node, Node]) -> dict[Node, str]:
    return dict(zip(rebuild(texts, olds.get), texts.values(), strict=True))


def finish(program: TileProgram) -> TileProgram:
    """The program with the rows of scans taken out of its loops (`end(scan(...))` becomes a chunk's summary)."""
    carries = tuple(Carry(c.name, c.old, _finish(c.new), c.level) for c in program.carries)
    return TileProgram(**{**program.__dict__, "carries": carries})


def _finish(node: Node) -> Node:
    def rule(below: Node) -> Node | None:
        if below.op == "end" and below.args[0].op == "scan":
            return leave(below.args[0])
        return None

    return rebuild([node], rule)[0]


def state_key(name: str) -> str:
    """A state's name as an identifier: a delayed value `x[t-2]` becomes `x_2`."""
    return "S_" + name.replace("[t-", "_").replace("]", "") if "[" in name else f"S_{name}"
