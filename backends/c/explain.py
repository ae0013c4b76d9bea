"""What native code makes of a recurrence, told for `recc explain`: each core's loops, and why they are as they are."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from recc.backends.c import build
from recc.backends.c.kernel import generate, side_by_side
from recc.backends.c.limits import refusal
from recc.backends.c.loops import Loops
from recc.backends.c.tidy import state_names
from recc.backends.c.vectors import Real
from rich.console import Console, ConsoleOptions
from rich.text import Text

from recc.analysis.plan import Plan
from recc.analysis.projections import apart
from recc.analysis.work import TYPICAL
from recc.ir.node import HEADS, SEQUENCES, Axis, dim_of, walk
from recc.ir.printer import show
from recc.tile.alone import has_all_heads
from recc.tile.cores import Core, Phases
from recc.tile.program import TileProgram
from recc.tile.step import step_programs
from recc.tile.together import together

PASSES = {"forward": "forward", "again": "backward: states again", "backward": "backward: cotangents"}


def view(plan: Plan, vector_bytes: int | None = None) -> dict[str, Any]:
    """The machine's view, for float32 and vectors of this machine; dims without a size are those of `explain`."""
    reason = refusal(plan)
    if reason is not None:
        line = reason.span.line if reason.span else None
        return {"served": False, "reason": {"text": reason.text, "line": line}}
    width = vector_bytes or build.target().vector_bytes
    real, registers = Real("float", max(4, width // 4)), 32 if width == 64 else 16
    sizes = {dim: size or TYPICAL for dim, size in plan.recurrence.dims.items()}
    step, again, back = step_programs(plan)
    all_heads = has_all_heads(step)
    if all_heads:
        sizes[HEADS] = plan.recurrence.example.get(HEADS, 4)
    kernel = generate(plan, sizes, real, registers)
    if kernel.sequences is not None:
        step, again, back = map(together, (step, again, back))
    lanes: dict[str, Axis | None] = {}
    cores = {
        "forward": _cores(step, sizes, real, registers),
        "backward": _cores(back, sizes, real, registers, lanes, shared=kernel.shared),
        "again": _cores(again, sizes, real, registers, lanes, settled=True, shared=kernel.shared),
    }
    return {
        "served": True,
        "dtype": "float32",
        "lanes": real.lanes,
        "sizes": sizes,
        "all_heads": all_heads,
        "tokens_between_saved_states": kernel.chunk,
        "projections": _projections(plan),
        "side_by_side": 1 if kernel.sequences is None else side_by_side(registers),
        **{name: cores[name] for name in PASSES},
    }


def _projections(plan: Plan) -> list[str]:
    """What torch multiplies around the core, in an op."""
    parts, names = apart(plan.recurrence), plan.recurrence.names
    values = [] if parts is None else [value.value for value in (*parts.before, *parts.behind)]
    products = [node for node in walk(*values) if node.op == "dot"]
    return list(dict.fromkeys(show(node, names) for node in products))


def _cores(
    program: TileProgram,
    sizes: dict[str, int],
    real: Real,
    registers: int,
    lanes: dict[str, Axis | None] | None = None,
    settled: bool = False,
    shared: Loops | None = None,
) -> list[dict[str, Any]]:
    """A program's cores in order. lanes: each state's vector axis, noted here, or (settled) kept to. shared: the loops
    of its only core, where another program settles them."""
    phases, found, sizes = Phases(program), [], {**sizes, SEQUENCES: 1}
    lanes = {} if lanes is None else lanes
    for core in phases.cores:
        lane = lanes.get(core.carries[0].name) if settled else None
        loops = shared or Loops.of_core(core, phases, lambda axis: sizes[dim_of(axis)], real.lanes, registers, lane)
        lanes |= {carry.name: loops.lane for carry in core.carries}
        mark = "d_" if program.reverse else ""
        found.append(_core(core, loops, [mark + name for name in state_names(core)]))
    return found


def _core(core: Core, loops: Loops, states: list[str]) -> dict[str, Any]:
    outer = [axis for axis in loops.outer if axis != SEQUENCES]
    row = [loops.innermost] if loops.innermost else []
    lane = [loops.lane] if loops.lane else []
    order = {
        "tile": [*outer, *lane, *row, "t"],
        "strip": [*outer, *lane, "t", *row],
        "whole": ["t", *outer, *lane, *row],
    }
    return {
        "states": states,
        "shape": loops.shape,
        "loops": order[loops.shape],
        "vector_axis": loops.lane,
        "vector_width": loops.lanes if loops.lane else 1,
        "vectors": loops.vectors,
        "row_axis": loops.innermost,
        "rows": loops.rows,
        "coupled": sorted(core.coupled),
        "moves": core.moves,
    }


# --- for people -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Section:
    """The section `native code` of `recc explain`."""

    facts: dict[str, Any]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = max(min(options.max_width, 140), 40)
        for style, indent, text in self._lines():
            hang = re.match(r"(?:\S.*?\S {2,})*", text).end() if style == "" else 2
            lines = textwrap.wrap(
                text, width, initial_indent=indent, subsequent_indent=indent + " " * min(hang, width // 2),
                break_long_words=False, break_on_hyphens=False, drop_whitespace=True,
            )  # fmt: skip
            yield from (Text(line.rstrip(), style) for line in lines)

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        """Style, margin and text of each line."""
        facts = self.facts
        if not facts["served"]:
            line = facts["reason"]["line"]
            yield "bold", "", "native code: does not serve"
            yield "", "  ", f"why: {facts['reason']['text']}{f' (line {line})' if line else ''}"
            return
        sizes = "".join(f"{dim} = {size}, " for dim, size in facts["sizes"].items())
        task = "sequence with all its heads" if facts["all_heads"] else "head of a sequence"
        side = facts["side_by_side"]
        task += f", or of up to {side} side by side, which share a matrix" if side > 1 else ""
        yield "bold", "", f"native code: loops over tokens t in C, a task for each {task}"
        tokens = facts["tokens_between_saved_states"]
        line = f"{sizes}{facts['dtype']}, {facts['lanes']} lanes; {tokens} tokens between saved states"
        yield "dim", "  ", line
        if facts["projections"]:
            yield "", "  ", f"an op has torch multiply over all tokens at once: {', '.join(facts['projections'])}"
        rows = [(PASSES[name], ", ".join(core["states"]), " > ".join(core["loops"]), _shape(core))
                for name in PASSES for core in facts[name]]  # fmt: skip
        widths = [max(len(row[place]) for row in rows) for place in range(3)] if rows else []
        for row in rows:
            yield "", "    ", "   ".join([*(f"{cell:<{w}}" for cell, w in zip(row, widths)), row[3]])
        reasons: dict[str, list[str]] = {}
        for core in (core for name in PASSES for core in facts[name]):
            reasons.setdefault(_why(core), []).extend(core["states"])
        for reason, states in reasons.items():
            yield "", "  ", f"why: {', '.join(dict.fromkeys(states))}: {reason}"


def _shape(core: dict[str, Any]) -> str:
    lane, row, rows, vectors = (core[key] for key in ("vector_axis", "row_axis", "rows", "vectors"))
    if lane is None:
        return "one number"
    unrolled = f"{vectors} vector{'s' * (vectors > 1)} along {lane}"
    if row is not None:
        unrolled = f"{rows} row{'s' * (rows > 1)} of {row} x {unrolled}"
    return {
        "tile": f"a tile in registers: {unrolled}",
        "strip": f"a strip in the first-level cache: {unrolled}",
        "whole": f"the whole state at each token: {unrolled}",
    }[core["shape"]]


def _why(core: dict[str, Any]) -> str:
    coupled, lane, shape = core["coupled"], core["vector_axis"], core["shape"]
    if lane is None:
        return "it has no dims"
    if core["moves"]:
        return "an element reads another's place, so the state lies in memory as a whole"
    if not coupled:
        alone = "each element needs only itself and the inputs"
        return f"{alone}, so a part of the state stays while time passes" if shape != "whole" else (
            f"{alone}; along {lane} there are more than registers hold, so each token passes over all of them"
        )  # fmt: skip
    along = " and ".join(coupled)
    return f"the next state waits for sums over {along} of the one before" + {
        "tile": f", and the tile covers {along}",
        "strip": f", so all of {along} is kept at hand; parts along {lane} are independent",
        "whole": ", so a token needs the whole state",
    }[shape]  # fmt: skip
