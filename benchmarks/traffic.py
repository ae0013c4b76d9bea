"""Bytes that kernels move per token and head, beside flash-linear-attention's: `python -m benchmarks.traffic`.

It needs no GPU: bytes are counted on the launches. The table is written to docs/traffic.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recc.backends.triton import traffic
from recc.backends.triton.module import chosen

from recc import library
from recc.analysis import analyse
from recc.frontend import parse_text

PAGE = Path(__file__).parents[1] / "docs" / "traffic.md"
# What must be reached, and what FLA's kernels move (fla-core 0.6.0, compiled for sm_90, read from its launches).
ROWS = {
    "simple_gla": ((1544, 3600), (2576, 8732)),
    "gla": ((2600, 6900), (6656, 16640)),
    "delta_net": ((2600, 5400), (5124, 10758)),
    "gated_delta_net": ((2600, 5400), (5668, 12342)),
    "kda": ((3900, 9200), (10318, 21154)),
    "rwkv7": ((4500, 10000), (11520, 29968)),
}
HEAD = """# Bytes that kernels move

Bytes per token and head, forward / backward, at K = V = 128 in bfloat16, of the kernels that recc makes by default.
They are counted on the launches (`recc.backends.triton.traffic`): each tensor as often as it is read or written, what
passes between launches included. The states at the ends of a sequence are not counted. No GPU measured anything here.
`python -m benchmarks.traffic` writes this page.

"""


@dataclass(frozen=True)
class Row:
    """One spec: forward and backward of what its kernels move, of what they should, and of FLA's."""

    name: str
    moved: tuple[float, float]
    goal: tuple[int, int]
    fla: tuple[int, int]

    def cells(self) -> list[str]:
        pairs = (self.moved, self.goal, self.fla)
        ratio = " / ".join(f"{own / other:.2f}" for own, other in zip(self.moved, self.fla, strict=True))
        return [self.name, *(" / ".join(f"{value:.0f}" for value in pair) for pair in pairs), ratio]


def row(name: str) -> Row:
    """The counts of a spec that ships with recc."""
    text, path = library.find(name)
    plan = analyse(parse_text(text, str(path))[0])
    forward, backward = (
        sum(one.total for one in traffic.moved(part, {})) for part in traffic.passes(plan, chosen(plan))
    )
    return Row(name, (forward, backward), *ROWS[name])


def page(rows: list[Row]) -> str:
    lines = ["| spec | moved | goal | FLA | moved / FLA |", "|---|---|---|---|---|"]
    return HEAD + "\n".join([*lines, *(f"| {' | '.join(found.cells())} |" for found in rows)]) + "\n"


if __name__ == "__main__":
    text = page([row(name) for name in ROWS])
    PAGE.write_text(text, encoding="utf-8")
    print(text)
