"""The derivation laid out for people, as a rich renderable: headings, source lines, columns of equations.

Columns are set here and not by rich's tables, so that plain output has no blanks at line ends.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions
from rich.text import Text

from recc.analysis import work
from recc.analysis.cascade import state_leaves
from recc.analysis.explain import class_of, predicted, readable, without
from recc.analysis.formula import FORMULAS, LIMIT, Line, Writer, axes_text, normal_form
from recc.analysis.moved import Named
from recc.analysis.plan import Component, Plan, Reason
from recc.ir.node import Span
from recc.ir.printer import show
from recc.ir.program import Recurrence
from recc.strategies import STRATEGIES, Choice, Refused, choose, cost

HEAD, FACT, DIM = "bold", "cyan", "dim"
WIDEST = 140
_HOW = {
    "chunk": "all chunks at once, but for the state that goes from chunk to chunk",
    "coupled": "all chunks at once, but for the states that go from chunk to chunk",
    "convolution": "one kernel for all chunks, by FFT, and a state that goes from chunk to chunk",
    "scan": "prefixes of an associative operation inside a chunk, then from chunk to chunk",
    "block_scan": "prefixes of products of small matrices inside a chunk, then from chunk to chunk",
    "wavefront": "the cells of an anti-diagonal at once, one diagonal after the other",
    "frozen": "affine once the memory at their start is given, and that goes from chunk to chunk",
    "newton": "a linear recurrence for all of them an iteration",
}


@dataclass(frozen=True)
class Page:
    """What `recc explain` prints; as wide as the console, and no wider than is readable."""

    rec: Recurrence
    plan: Plan
    choice: Choice

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = min(options.max_width, WIDEST)
        rec, plan = self.rec, self.plan
        yield Text.assemble((rec.name, HEAD), f"  {rec.path}")
        yield from _wrapped(Text(" ".join(rec.doc.split()), DIM), width)
        yield Text()
        yield from _moved("hoisted", "reads no state", plan.hoisted, rec, width)
        yield from _moved("sunk", "only reads finished states", plan.sunk, rec, width)
        core = [component for component in plan.components if not _is_past(component, rec)]
        past = [name for c in plan.components if _is_past(c, rec) for name in c.states]
        if past:
            line = Text.assemble(("past values", HEAD), f": {', '.join(past)}: rows shifted, nothing to solve")
            yield from _wrapped(line, width)
        yield Text(_core_line(len(core)), HEAD)
        view = readable(plan)
        for component in core:
            yield Text()
            yield from self._component(component, *view[component.states], width)
        yield Text()
        yield from self._work(width)

    def _component(self, component: Component, own: Component, view: Plan, width: int) -> Iterator[Text]:
        rec, choice, say = self.rec, self.choice, Writer(view)
        shapes = dict.fromkeys(axes_text(rec.state(name).axes) for name in component.states)
        title = Text.assemble((", ".join(component.states), f"{HEAD} {FACT}"), f" : {', '.join(shapes)}   ")
        title.append(class_of(component), HEAD)
        if before := _before(component, self.plan):
            title.append(f"   (after {', '.join(before)})", DIM)
        yield title
        for reason in own.reasons:
            yield from _reason("why", reason, rec, width)
        form, strategy = normal_form(own, view, say), choice.name(component)
        formula = FORMULAS[strategy](own, view, say)
        yield Text("  the update, in normal form")
        yield from _columns(form, width)
        solved = Text.assemble("  solved by ", (strategy, f"{HEAD} {FACT}"))
        if strategy == "sequential":
            yield solved.append(": T steps of this update, each after the one before")
        else:
            yield from _wrapped(solved.append(f", {choice.chunk} tokens at a time: {_HOW[strategy]}"), width, "    ")
            yield from _columns(formula, width)
        if definitions := say.definitions():
            yield Text("  where")
            yield from _columns(definitions, width)
        if predicted(component, self.plan, choice):
            yield from self._predicted(component)
        shown = {reason.span for reason in own.reasons}
        for name, reason in choice.refused[component.states]:
            yield from _reason(f"{name} refused", reason, rec, width, again=reason.span in shown)
            shown.add(reason.span)

    def _predicted(self, component: Component) -> Iterator[Text]:
        """What the cost model says of the loop and of what runs for all tokens, with few channels and with many."""
        yield Text(f"  predicted: milliseconds for {cost.Shape.tokens:,} tokens, forward, as one fused kernel")
        few, many = cost.CHANNELS
        other = cost.cell_of(component, self.plan).parallel or "newton"
        rows = [("  device", f"sequential, {few} channel", f"{many:,} channels", f"{other}, {few}", f"{many:,}")]
        words = []
        for view in cost.predictions(component, self.plan).values():
            times = [view["seconds"][str(n)].get(s) for s in ("sequential", other) for n in cost.CHANNELS]
            cells = ["-" if time is None else f"{time * 1e3:.3g}" for time in times]
            rows.append((f"  {view['device']}, {view['source']}", *cells))
            words.append(f"{view['device']}: {_below(view[f'{other}_below'])}")
        yield from _grid(rows)
        yield Text(f"    {other} is preferred: {'; '.join(words)}")

    def _work(self, width: int) -> Iterator[Text]:
        rec, plan, choice = self.rec, self.plan, self.choice
        cost = work.work(plan, choice)
        sizes = cost.sizes(rec.dims)
        free = [dim for dim, size in rec.dims.items() if size is None]
        at = [f"{' = '.join(free)} = {work.TYPICAL}"] if free else []
        at += [f"C = {choice.chunk}"] if choice.parallel else []
        yield Text.assemble(("work per token and head, forward", HEAD), f"  ({', '.join(at)})" if at else "")
        rows = [("strategy", "dependent steps", "multiply-adds in contractions", "", "other")]
        for name, other in self._alternatives().items():
            mine = work.work(plan, other)
            products, rest = (_number(count.at(sizes | {work.C: mine.chunk})) for count in (mine.products, mine.other))
            rows.append(
                (name + (" (chosen)" if other is choice else ""), mine.depth, str(mine.products), products, rest)
            )
        yield from _grid(rows)
        yield Text("bytes per token and head, float32", HEAD)
        carried = "kept for the backward pass" if choice.parallel else "state"
        lines = [(name, str(count), _number(count.at(sizes)))
                 for name, count in (("inputs and outputs", cost.moved), (carried, cost.kept))]  # fmt: skip
        yield from _columns(lines, width)

    def _alternatives(self) -> dict[str, Choice]:
        """The choice made, then what the other strategies that can run the recurrence would give."""
        found = {_name(self.plan, self.choice): self.choice}
        for name in STRATEGIES:
            try:
                other = choose(self.plan, strategy=name)
            except Refused:
                continue
            found.setdefault(_name(self.plan, other), other)
        return found


def _below(channels: int) -> str:
    return f"below {channels:,} channels" if channels > 1 else "never"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.2g}"


def _name(plan: Plan, choice: Choice) -> str:
    return " and ".join(sorted({choice.name(component) for component in plan.components})) or "none"


def _core_line(count: int) -> str:
    if count == 0:
        return "the core: empty; everything runs over all tokens at once"
    return (
        f"the core: {'one component' if count == 1 else f'{count} components, each solved after those that it reads'}"
    )


def _is_past(component: Component, rec: Recurrence) -> bool:
    return all(rec.state(name).delay for name in component.states)


def _before(component: Component, plan: Plan) -> list[str]:
    """The states that the component reads, but for its own and past values."""
    read = set[str]().union(*(state_leaves(plan.updates[name]) for name in component.states)) - set(component.states)
    return [state.name for state in plan.recurrence.states if state.name in read and not state.delay]


def _moved(head: str, meaning: str, nodes: Named, rec: Recurrence, width: int) -> Iterator[Text]:
    if not nodes:
        yield Text.assemble((head, HEAD), ": nothing")
        return
    yield Text.assemble((head, HEAD), f": {meaning}, so it runs over all tokens at once")
    lines = []
    for name, node in nodes:
        text, span = show(node, without(rec, node), LIMIT), rec.spans.get(node)
        lines.append((name or text, text if name else "", f"line {span.line}" if span else ""))
    yield from _columns(lines, width)


def _reason(label: str, reason: Reason, rec: Recurrence, width: int, again: bool = False) -> Iterator[Text]:
    """A reason with its source line and what to do about it; `again`: that line stands above already."""
    yield from _wrapped(Text.assemble((f"  {label}: ", FACT), reason.text), width, "    ")
    if reason.span is not None and not again:
        yield from window(rec.text, reason.span)
    if reason.help:
        yield from _wrapped(Text(f"    help: {reason.help}", DIM), width, "    ")


def window(text: str, span: Span) -> Iterator[Text]:
    """The source line of a span with carets below it; nothing where the text is not at hand."""
    lines = text.split("\n")
    if not text or not 1 <= span.line <= len(lines):
        return
    line = lines[span.line - 1]
    code = line.partition("#")[0].rstrip()
    end = span.end_col if span.end_line == span.line else len(line) + 1
    shown = code if end - 1 <= len(code) else line
    start = span.col - 1
    yield Text(f"  {span.line:>4} | {shown}", DIM)
    yield Text(f"       | {' ' * start}{'^' * max(1, min(end - 1, len(shown)) - start)}", DIM)


def _wrapped(text: Text, width: int, indent: str = "") -> Iterator[Text]:
    """`text` on as many lines as it needs, all but the first indented."""
    rest = text.plain
    if len(rest) <= width:
        yield text
        return
    lines = textwrap.wrap(rest, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    place = 0
    for line in lines:
        words = line.removeprefix(indent) if place else line
        place = rest.index(words, place) + len(words)
        part = text[place - len(words) : place]
        yield part if part.plain == line else Text(indent) + part


def _columns(lines: list[Line], width: int) -> Iterator[Text]:
    """`left = right   remark`, equal signs below each other; what is too long goes on in its column."""
    margin, half = 4, max(width // 3, 12)
    lines = [
        (f"{name[: half - 4]} ..." if value and len(name) > half else name, value, remark)
        for name, value, remark in lines
    ]
    left = min(max((len(line[0]) for line in lines if line[1]), default=0), 34)
    remarks = max((len(line[2]) for line in lines), default=0)
    gap = 3 if remarks else 0
    middle = max((len(value) if value else len(name) - left - 3 for name, value, _ in lines), default=0)
    room = width - margin - left - 3 - gap
    middle = min(middle, max(room - min(remarks, 34), room // 2))
    for name, value, remark in lines:
        head = f"{name:<{left}} = " if value else ""
        body = _fold(value if value else name, middle if value else left + 3 + middle)
        notes = _fold(remark, max(room - middle, 12))
        for row in range(max(len(body), len(notes))):
            text = Text(" " * margin)
            text.append(head if row == 0 else " " * len(head))
            text.append(body[row] if row < len(body) else "")
            if row < len(notes) and notes[row]:
                text.append(" " * (margin + left + 3 + middle + gap - len(text.plain)))
                text.append(notes[row], DIM)
            text.rstrip()
            yield text


def _fold(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 12), break_long_words=False, break_on_hyphens=False) or [""]


def _grid(rows: list[tuple[str, ...]]) -> Iterator[Text]:
    """Rows below a dim header; numbers, the last two columns, to the right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for place, row in enumerate(rows):
        cells = [
            f"{cell:>{w}}" if i >= len(row) - 2 else f"{cell:<{w}}"
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        yield Text("    " + "   ".join(cells).rstrip(), DIM if place == 0 else FACT if "(chosen)" in row[0] else "")
