"""Diagnostics: what is wrong, where, why, and what to write instead; and the three ways to print them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from recc.ir.node import Span

ERROR, WARNING = "error", "warning"
_WIDEST = 160  # columns of source that a window shows


@dataclass(frozen=True, slots=True)
class Label:
    """A second place that matters, with what it has to do with the error."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding. `label` is the text at its span; notes say why, helps what to write instead."""

    code: str
    message: str
    span: Span | None
    label: str = ""
    labels: tuple[Label, ...] = ()
    notes: tuple[str, ...] = ()
    helps: tuple[str, ...] = ()
    severity: str = ERROR
    path: str = "<spec>"


class Bag:
    """Collects diagnostics, each cause once: a second one with the same code and place is dropped."""

    def __init__(self, path: str = "<spec>") -> None:
        self.path = path
        self._items: dict[tuple, Diagnostic] = {}

    def add(self, diagnostic: Diagnostic) -> None:
        span = diagnostic.span
        key = (diagnostic.code, span and (span.line, span.col), diagnostic.severity)
        self._items.setdefault(key, replace(diagnostic, path=self.path))

    @property
    def has_errors(self) -> bool:
        return any(item.severity == ERROR for item in self._items.values())

    def sorted(self) -> list[Diagnostic]:
        """All diagnostics in the order of the text."""
        return sorted(
            self._items.values(), key=lambda d: (d.span.line, d.span.col, d.code) if d.span else (0, 0, d.code)
        )


class SpecError(Exception):
    """A spec that does not hold. `diagnostics` are all findings, `text` the source; str() is the rendered report."""

    def __init__(self, diagnostics: Sequence[Diagnostic], text: str = "") -> None:
        self.diagnostics = list(diagnostics)
        self.text = text
        super().__init__(render(self.diagnostics, text))


def render(diagnostics: Iterable[Diagnostic], text: str = "", message_format: str = "human") -> str:
    """All `diagnostics` as text; `message_format` is human (a window on the source), short (one line each) or json."""
    return _FORMATS[message_format](list(diagnostics), text)


def render_short(diagnostics: list[Diagnostic], text: str = "") -> str:
    """path:line:col: error[E0201]: message."""
    return "\n".join(f"{_place(item)}: {item.severity}[{item.code}]: {item.message}" for item in diagnostics)


def render_json(diagnostics: list[Diagnostic], text: str = "") -> str:
    """A JSON array; spans are 1-based, their ends exclusive."""
    return json.dumps([_plain(asdict(item)) for item in diagnostics], indent=2)


def render_human(diagnostics: list[Diagnostic], text: str = "") -> str:
    """Windows on the source, as rustc prints them."""
    lines = [line.rstrip("\r") for line in text.split("\n")]
    parts = [_window(item, lines) for item in diagnostics]
    return "\n\n".join(parts)


_FORMATS = {"human": render_human, "short": render_short, "json": render_json}


def _plain(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if value not in ((), "")}


def _place(item: Diagnostic) -> str:
    return f"{item.path}:{item.span.line}:{item.span.col}" if item.span else item.path


def _window(item: Diagnostic, lines: list[str]) -> str:
    out = [f"{item.severity}[{item.code}]: {item.message}"]
    marks = [(item.span, item.label, "^")] if item.span else []
    marks += [(label.span, label.text, "-") for label in item.labels]
    marks = [mark for mark in marks if mark[0].line <= len(lines)]
    numbers = sorted({span.line for span, _, _ in marks})
    gutter = len(str(numbers[-1])) if numbers else 1
    out.append(f"{' ' * gutter}--> {_place(item)}")
    blank = " " * gutter + " |"
    if numbers:
        out.append(blank)
    last = None
    for number in numbers:
        if last is not None and number > last + 1:
            out.append("...")
        source, shift = _clip(lines[number - 1], [span for span, _, _ in marks if span.line == number])
        out.append(f"{number:>{gutter}} | {source}".rstrip())
        here = [
            _columns(span, sign, text, lines[number - 1], shift) for span, text, sign in marks if span.line == number
        ]
        out += [f"{blank} {row}".rstrip() for row in _underline(here)]
        last = number
    if item.notes or item.helps:
        out.append(blank)
    for kind, texts in (("note", item.notes), ("help", item.helps)):
        for entry in texts:
            head, *rest = entry.split("\n")
            out.append(f"{' ' * gutter} = {kind}: {head}")
            out += [f"{' ' * gutter}   {' ' * len(kind)}  {line}" for line in rest]
    return "\n".join(out)


def _expand(text: str) -> str:
    """`text` as it is shown: tabs as four blanks, control characters as a visible mark."""
    return "".join("    " if c == "\t" else c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _clip(line: str, spans: list[Span]) -> tuple[str, int]:
    """The part of `line` to show and how far its columns are shifted to the left."""
    shown = _expand(line)
    if len(shown) <= _WIDEST:
        return shown, 0
    first = min(len(_expand(line[: span.col - 1])) for span in spans)
    start = 0 if first < _WIDEST - 40 else first - 40
    rest = "..." if len(shown) > start + _WIDEST else ""
    return ("..." if start else "") + shown[start : start + _WIDEST] + rest, start - 3 if start else 0


def _columns(span: Span, sign: str, text: str, line: str, shift: int) -> tuple[int, int, str, str]:
    """Where the underline starts, how long it is, its sign and its text."""
    end = span.end_col if span.end_line == span.line else len(line) + 1
    start = len(_expand(line[: span.col - 1])) - shift
    stop = len(_expand(line[: max(end, span.col + 1) - 1])) - shift
    start = min(start, _WIDEST + 6)
    return start, max(1, min(stop, _WIDEST + 6) - start), sign, text


def _underline(marks: list[tuple[int, int, str, str]]) -> list[str]:
    """The row of carets with the rightmost label, then the other labels below, each under its carets."""
    marks = sorted(marks)
    row = ""
    for start, length, sign, _ in sorted(marks, key=lambda mark: mark[2] == "^"):  # carets are drawn over dashes
        row = row.ljust(start + length)
        row = row[:start] + sign * length + row[start + length :]
    rows = [row]
    waiting = [mark for mark in marks if mark[3]]
    if waiting and waiting[-1][0] + waiting[-1][1] == len(row):
        rows[0] += " " + waiting.pop()[3]
    while waiting:
        start, _, _, text = waiting.pop()
        below = ""
        for other in waiting:
            below = below.ljust(other[0]) + "|" if other[0] < start else below
        rows.append(below.ljust(start) + text)
    return rows
