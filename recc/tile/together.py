"""The step of several sequences at once, so that they share what they read of the params.

A cell reads its recurrent matrix at every token. Sequences that advance side by side load each of its rows once for
all of them, and what was a matrix times a vector is a product of matrices. Each sequence's sums keep their order.
"""

from __future__ import annotations

from dataclasses import replace

from recc.ir.node import SEQUENCES, Node, Spans, make, rebuild, walk
from recc.ir.ops import spread
from recc.tile.cores import Core, Phases, dims
from recc.tile.program import TileProgram


def shares_matrix(program: TileProgram) -> bool:
    """Whether all states are vectors, and the next ones wait for products of such a vector with a matrix of params."""
    phases = Phases(program)

    def matrix(node: Node) -> bool:
        return len(dims(node)) > 1 and all(leaf.op != "tile" and leaf not in phases.homes for leaf in walk(node))

    products = [node for node in phases.nodes if node.op == "dot" and isinstance(phases.owner(node), Core)]
    return all(len(dims(c.old)) < 2 for c in program.carries) and any(
        matrix(arg) for node in products for arg in node.args
    )


def together(program: TileProgram) -> TileProgram:
    """The program with the axis SEQUENCES on all that differs from sequence to sequence: on what is loaded, on states,
    and so on all results. `sums` are the terms of each token and sequence, which whoever runs it adds up."""
    spans = Spans(program.spans)

    def lifted(node: Node) -> Node | None:
        if node.op not in ("tile", "carry"):
            return None
        return make(node.op, (), (*node.axes, SEQUENCES), node.dtype, **dict(node.attrs))

    def each(values: dict[str, Node]) -> dict[str, Node]:
        return dict(zip(values, (spread(node, (SEQUENCES,)) for node in rebuild(values.values(), lifted, spans))))

    def renamed(texts: dict[Node, str]) -> dict[Node, str]:
        return dict(zip(rebuild(texts, lifted, spans), texts.values(), strict=True))

    carries = program.carries
    olds = rebuild([c.old for c in carries], lifted)
    news = each({str(place): c.new for place, c in enumerate(carries)}).values()
    return replace(
        program,
        loads=dict(zip(program.loads, rebuild(program.loads.values(), lifted), strict=True)),
        carries=tuple(replace(c, old=old, new=new) for c, old, new in zip(carries, olds, news, strict=True)),
        stores=each(program.stores),
        sums=each(program.sums),
        names=renamed(program.names),
        notes=renamed(program.notes),
        spans=spans,
    )
