"""A file's text cut into logical lines: what the parser and the formatter work on, one at a time."""

from __future__ import annotations

import re
from dataclasses import dataclass

from recc.frontend.diagnostics import Bag
from recc.frontend.messages import syntax
from recc.frontend.words import KEYWORDS
from recc.ir.node import Span

MAX_FILE = 200_000  # characters
MAX_LINE = 20_000  # characters of one logical line
MAX_NESTING = 50  # brackets

_OPENING = {"(": ")", "[": "]"}
_STARTS_ANEW = re.compile(rf"(?:{'|'.join(KEYWORDS)})\b|[A-Za-z_]\w*(?:\[[^\]]*\])?\s*=[^=]")


@dataclass(frozen=True, slots=True)
class Line:
    """A logical line: `text` are whole physical lines from `number` (1-based) on, `good` when its brackets match."""

    kind: str  # "statement", "docstring", "blank" (also lines with only a comment)
    text: str
    number: int
    good: bool = True


def split(text: str, bag: Bag) -> list[Line]:
    """The logical lines of `text`. Reports brackets and docstrings that don't close, and what is no text at all."""
    if len(text) > MAX_FILE:
        bag.add(syntax.too_long("this file", len(text), MAX_FILE, Span(1, 1, 1, 2)))
        return []
    physical = text.split("\n")
    if physical[-1] == "":
        physical.pop()
    lines, at = [], 0
    while at < len(physical):
        first = at
        stripped = physical[at].strip()
        if stripped.startswith('"""'):
            at, good = _docstring_end(physical, at, bag)
            lines.append(Line("docstring", "\n".join(physical[first:at]), first + 1, good))
        elif not stripped or stripped.startswith("#"):
            at += 1
            lines.append(Line("blank", physical[first], first + 1))
        else:
            at, good = _statement_end(physical, at, bag)
            body = "\n".join(physical[first:at])
            if good and len(body) > MAX_LINE:
                span = Span(first + 1, 1, first + 1, 2)
                bag.add(syntax.too_long("this line", len(body), MAX_LINE, span))
                good = False
            lines.append(Line("statement", body, first + 1, good))
    return lines


def _docstring_end(physical: list[str], at: int, bag: Bag) -> tuple[int, bool]:
    """The index after the docstring that starts on line `at`, and whether it ends at all."""
    start = physical[at].index('"""')
    if '"""' in physical[at][start + 3 :]:
        return at + 1, True
    for end in range(at + 1, len(physical)):
        if '"""' in physical[end]:
            return end + 1, True
    bag.add(syntax.docstring_not_closed(Span(at + 1, start + 1, at + 1, start + 4)))
    return len(physical), False


def _statement_end(physical: list[str], at: int, bag: Bag) -> tuple[int, bool]:
    """The index after the statement that starts on line `at`, and whether its brackets match."""
    stack: list[tuple[str, Span]] = []
    first = at
    while at < len(physical):
        line = physical[at]
        # A line at the margin that looks like a statement is one: then the bracket before it was forgotten.
        if stack and at > first and _STARTS_ANEW.match(line):
            break
        for column, char in enumerate(line, start=1):
            if char == "#":
                break
            span = Span(at + 1, column, at + 1, column + 1)
            if char in _OPENING:
                stack.append((char, span))
                if len(stack) > MAX_NESTING:
                    bag.add(syntax.too_deep(MAX_NESTING, span))
                    return at + 1, False
            elif char in ")]":
                if not stack:
                    bag.add(syntax.bracket_not_opened(char, span))
                    return at + 1, False
                opening, opened = stack.pop()
                if _OPENING[opening] != char:
                    bag.add(syntax.brackets_differ(opening, opened, char, span))
                    return at + 1, False
        at += 1
        if not stack:
            return at, True
    opening, opened = stack[-1]
    bag.add(syntax.bracket_not_closed(opening, opened))
    return at, False


def code_and_comment(line: str) -> tuple[str, str]:
    """A physical line's code without the space at its end, and its comment from the ``#`` on."""
    code, sign, comment = line.partition("#")
    return code.rstrip(), (sign + comment).rstrip()
