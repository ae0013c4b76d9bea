"""The formatter: one way to write a spec. It moves space only: the tokens of every line stay the same.

Keywords stand in a column, and so do types, the equals signs of neighbouring equations, and comments. Line breaks
inside brackets, docstrings and single blank lines stay.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from recc.frontend.diagnostics import Bag, SpecError
from recc.frontend.lines import Line, code_and_comment, split
from recc.frontend.parse import parse, token
from recc.frontend.words import KEYWORDS

_COMMENTS = 33  # where comments start, unless the code before them is longer
_WIDEST_NAMES = 32  # longer lists of names do not push the types of others to the right
_ALIGNED = ("input", "param", "state", "output", "steps")
_INDENT = "    "
_BEFORE_OPERAND = {"", "(", "[", ",", "=", "+", "-", "*", "/", "@", "**", "<", "<=", ">", ">=", "==", "!="}


@dataclass(slots=True)
class _Item:
    """A logical line on its way out: `code` and `comment` of each physical line."""

    kind: str  # declaration, equation, comment, blank, other
    code: list[str]
    comment: list[str]
    names: str = ""  # the column to align on: what stands before it
    rest: str = ""


def format_text(text: str, path: str = "<spec>") -> str:
    """`text` in its one form; raises SpecError when it does not parse.

    >>> print(format_text("recurrence ema\\ninput a,x\\nstate h=0\\noutput h\\nh[ t ]=a*h[t - 1]+x"), end="")
    recurrence ema
    input  a, x
    state  h = 0
    output h
    h[t] = a * h[t-1] + x
    """
    text = text.replace("\r\n", "\n")
    bag = Bag(path)
    parse(text, bag)
    if bag.has_errors:
        raise SpecError(bag.sorted(), text)
    items: list[_Item] = []
    for item in map(_item, split(text, Bag())):
        if item.code[0].startswith("recurrence ") and items and items[-1].kind not in ("blank", "comment"):
            items.append(_Item("blank", [""], [""]))
        items.append(item)
    for group in _groups(items, "declaration", "equation"):
        _align_codes(group)
    for group in _groups(items, "declaration", "equation", "other", "comment"):
        _align_comments(group)
    return _join(items)


def _item(line: Line) -> _Item:
    if line.kind == "docstring":
        return _Item("other", [line.text.strip()], [""])
    if line.kind == "blank":
        comment = _comment(line.text.strip())
        return _Item("comment" if comment else "blank", [""], [comment])
    rows = [code_and_comment(row) for row in line.text.split("\n")]
    rows = [(code, comment) for at, (code, comment) in enumerate(rows) if at == 0 or code.strip() or comment]
    code = [
        ("" if at == 0 or row.startswith((")", "]")) else _INDENT) + row
        for at, row in enumerate(_spaced([code for code, _ in rows]))
    ]
    item = _Item("other", [row.rstrip() for row in code], [_comment(comment) for _, comment in rows])
    word, _, rest = item.code[0].partition(" ")
    if word in KEYWORDS:
        if word in ("dim", *_ALIGNED):
            item.kind = "declaration"
            item.code[0] = f"{word:<6} {rest}"
        if word in _ALIGNED:
            names = re.match(r"\w+(?:, \w+)*", rest)
            item.names, item.rest = (names[0], rest[names.end() :].strip()) if names else (rest, "")
    elif " = " in item.code[0]:
        item.kind = "equation"
        item.names, _, item.rest = item.code[0].partition(" = ")
    return item


def _comment(text: str) -> str:
    """A comment with a blank after its sign."""
    text = text.strip()
    return f"# {text[1:]}" if text[1:2] not in ("", " ", "#", "!", ":") else text


# --- the space between tokens -------------------------------------------------------------------------------


def _spaced(rows: list[str]) -> list[str]:
    """The code of a statement's physical lines, with its space made regular."""
    spacing = _Spacing(declaration=rows[0].split()[0] in KEYWORDS)
    return ["".join(spacing.place(match[0], at == 0) for at, match in enumerate(token().finditer(row))) for row in rows]


class _Spacing:
    """Which space stands before a token, from the tokens before it."""

    def __init__(self, declaration: bool) -> None:
        self.declaration = declaration
        self.brackets: list[str] = []  # "(", "[" of an index, "in" for the bracket of a domain
        self.last = ""
        self.unary = False  # the last token is a sign, not an operation

    def place(self, token: str, first: bool) -> str:
        """`token` with the space before it; `first` on its line."""
        space = "" if first or not self.last or self._tight(token) else " "
        operand = self.last in _BEFORE_OPERAND or (self.declaration and self.last == "in")
        self.unary = token in "+-" and operand
        if token in "([":
            self.brackets.append("in" if self._domain(token) else token)
        elif token in ")]":
            self.brackets.pop()
        self.last = token
        return space + token

    def _domain(self, token: str) -> bool:
        return self.declaration and token == "[" and self.last == "in" and not self.brackets

    def _tight(self, token: str) -> bool:
        """Whether `token` follows the last one without space."""
        last = self.last
        if self.unary or last in "([" or token in ")],":
            return True
        if token == "." or last == ".":
            return not last[0].isdigit()  # `1 .T` is not `1. T`
        if token in "([" and (last[0].isalpha() or last[0] == "_" or last in ")]"):
            return not self._domain(token)
        inside = self.brackets[-1] if self.brackets else ""
        return inside == "[" or (token == "=" or last == "=") and inside == "("


# --- columns ------------------------------------------------------------------------------------------------


def _groups(items: list[_Item], *kinds: str) -> Iterator[list[_Item]]:
    """Runs of neighbouring items of one of `kinds`; comments between them do not end a run."""
    group: list[_Item] = []
    for item in [*items, _Item("blank", [], [])]:
        if item.kind in kinds and (len(kinds) > 2 or not group or item.kind == group[-1].kind):
            group.append(item)
        elif item.kind != "comment":
            if group:
                yield group
            group = [item] if item.kind in kinds else []


def _align_codes(group: list[_Item]) -> None:
    """Pads what stands before types and equals signs to one width."""
    widths = [len(item.names) for item in group if item.rest and len(item.names) <= _WIDEST_NAMES]
    width = max(widths, default=0)
    for item in group:
        if item.kind == "equation":
            item.code[0] = f"{item.names:<{width}} = {item.rest}"
        elif item.names:
            item.code[0] = f"{item.code[0][:6]} {item.names:<{width if item.rest else 0}} {item.rest}".rstrip()


def _align_comments(group: list[_Item]) -> None:
    """Appends the comments, those of neighbouring lines in one column."""
    rows = [(item, at) for item in group for at in range(len(item.code)) if item.code[at] and item.comment[at]]
    column = max((len(item.code[at]) + 2 for item, at in rows), default=0)
    column = max(column, _COMMENTS)
    for item, at in rows:
        item.code[at] = f"{item.code[at]:<{column}}{item.comment[at]}"
        item.comment[at] = ""


def _join(items: list[_Item]) -> str:
    """All lines, with at most one blank line between two."""
    lines: list[str] = []
    for item in items:
        if item.kind == "blank":
            if lines and lines[-1]:
                lines.append("")
        else:
            indents = [_INDENT if at and not code else "" for at, code in enumerate(item.code)]
            lines += [f"{i}{c}{m}" for i, c, m in zip(indents, item.code, item.comment, strict=True)]
    while lines and not lines[-1]:
        lines.pop()
    return "\n".join(lines) + "\n" if lines else ""
