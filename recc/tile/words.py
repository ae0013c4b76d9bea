"""What values are called in generated code, and the comments above them: the same in every backend."""

from __future__ import annotations

from collections.abc import Iterator

from recc.ir.node import GradientOf, Node
from recc.tile.program import TileProgram

# What an operation's result is called where the spec has no name for it.
USUAL = {
    "inverse": "T",
    "decay": "decay",
    "cumsum": "b",
    "score": "A",
    "krylov": "powers",
    "scan": "h",
    "newton": "h",
    "wavefront": "h",
    "wavefront_flow": "into_h",
    "beside": "before_h",
    "shift": "before",
    "tail": "to_end",
    "levels": "halves",
    "since": "from_start",
    "channel_since": "from_start",
    "channel_tail": "to_end",
}


class Words:
    """Names and comments for the nodes of one program. Each comment is given once."""

    def __init__(self, program: TileProgram) -> None:
        self.program = program
        self.results = {node: name for name, node in {**program.stores, **program.sums}.items()}
        self.said: set[str] = set()

    def name(self, node: Node) -> str:
        """The spec's name for a node, or the usual one; not yet an identifier, nor unique."""
        return self.program.names.get(node) or self.results.get(node) or USUAL.get(node.op, "x")

    def notes(self, node: Node) -> Iterator[str]:
        """What a line computes: a strategy's own words, and the line of the spec that it comes from."""
        notes = [self.program.notes[node]] if node in self.program.notes else []
        source, span = self.program.source, self.program.spans.get(node)
        if span is not None and 0 < span.line < len(source):
            what = "gradient of " if isinstance(span, GradientOf) else ""
            notes.append(f"{what}{source[0]}:{span.line}  {source[span.line].partition('#')[0].strip()}")
        for note in notes:
            if note not in self.said:
                self.said.add(note)
                yield note
