"""docs/specs.md, from what the analysis finds and what the tests run: ``python tests/specs_page.py docs/specs.md``."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from kernels import parallel
from oracles import ORACLES

from recc.cli.list import table
from recc.library import names

HEAD = """# The specs

This page is made by `make readme`; a test holds it to the specs. Class and strategy are what the analysis finds.

*Oracle* is what a spec's outputs, final states and gradients are compared with in float64, at random values and at the
ends of its domains (`tests/oracles`): a public implementation where it is named, else a closed form or a loop that is
written from the paper's equations.

*Tested as* tells what is compared with the float64 loop: batched `torch` code; `native` C; `loop`, the Triton kernels
that walk over tokens, and `chunks`, those that are parallel over time, both in Triton's interpreter. What has `chunks`
also has tests for GPUs, which run where one is at hand (`make gpu`).
"""


def page() -> str:
    """The text of docs/specs.md."""
    rows, loops, chunks = table(), set(names()), set(parallel())
    count = sum(row["parallel"] for row in rows)
    grids = sum(row["strategy"] == "wavefront" for row in rows)
    how = f"{count - grids} are parallel over time and {grids} along the anti-diagonals of a grid"
    lines = [HEAD, f"{len(rows)} specs, of which {how}; the median has {_median(rows)} lines."]
    lines += ["", "| spec | class | strategy | oracle | tested as | lines |", "|---|---|---|---|---|---|"]
    for row in rows:
        name = row["spec"]
        forms = {"torch": True, "native": row["native"], "loop": name in loops, "chunks": name in chunks}
        tested = ", ".join(form for form, holds in forms.items() if holds)
        oracle = "; ".join(ORACLES[name])
        cells = (f"[`{name}`](../specs/{name}.rec)", row["class"], row["strategy"], oracle, tested, str(row["lines"]))
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Why some run token by token", "", "| spec | in one sentence |", "|---|---|"]
    lines += [f"| `{row['spec']}` | {row['hindrance']} |" for row in rows if not row["parallel"]]
    return "\n".join(lines) + "\n"


def _median(rows: list[dict[str, Any]]) -> int:
    return round(statistics.median(row["lines"] for row in rows))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
