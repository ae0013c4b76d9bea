"""Text to syntax tree. Every line is parsed by itself, so that all syntax errors of a file are found at once."""

from __future__ import annotations

import functools
import importlib
import re
import threading
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from lark import Lark, Token, Transformer
from lark.exceptions import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from recc.frontend import ast
from recc.frontend.diagnostics import Bag
from recc.frontend.lines import Line, split
from recc.frontend.messages import syntax
from recc.frontend.words import KEYWORDS
from recc.ir.node import Span

MAX_DEPTH = 100  # of an expression: the passes after this one are recursive
_WORD = re.compile(r"[A-Za-z_]\w*")
_lock = threading.Lock()  # the transformer inside the parser holds the number of the line it is at


def grammar_text() -> str:
    """recc.lark, as installed (package ``recc.grammar``) or as it lies beside the package in a checkout."""
    try:
        importlib.import_module("recc.grammar")
        return (resources.files("recc.grammar") / "recc.lark").read_text("utf-8")
    except (ImportError, FileNotFoundError):
        return (Path(__file__).parents[2] / "grammar" / "recc.lark").read_text("utf-8")


def parse(text: str, bag: Bag) -> list[ast.Block]:
    """The `recurrence` blocks of `text`. What does not parse is reported and stays in the tree as `Broken`."""
    blocks: list[ast.Block] = []
    heading: ast.Heading | None = None
    statements: list[ast.Statement] = []
    doc: ast.Docstring | None = None
    complained = False

    def close() -> None:
        if heading is not None:
            blocks.append(ast.Block(heading.name, doc.text if doc else "", tuple(statements)))

    for line in split(text, bag):
        if line.kind == "blank":
            continue
        statement = parse_line(line, bag)
        if isinstance(statement, ast.Heading):
            close()
            heading, statements, doc = statement, [], None
        elif heading is None and not complained:
            # A broken first line is most likely the heading itself, and has its own error.
            if not isinstance(statement, ast.Broken):
                bag.add(syntax.outside_recurrence(statement.span))
            complained = True
        elif isinstance(statement, ast.Docstring):
            if doc is not None or any(not isinstance(other, ast.Broken) for other in statements):
                bag.add(syntax.docstring_misplaced(statement.span))
            doc = doc or statement
        else:
            statements.append(statement)
    close()
    if not blocks and not bag.has_errors:
        bag.add(syntax.no_recurrence(Span(1, 1, 1, 2)))
    return blocks


def parse_line(line: Line, bag: Bag) -> ast.Statement:
    """The statement on one logical line."""
    if not line.good:
        return _broken(line)
    parser, build = _parser()
    try:
        with _lock:
            build.offset = line.number - 1
            build.problems = []
            statement = parser.parse(line.text)
            problems = build.problems
    except UnexpectedInput as error:
        bag.add(_syntax_error(error, line, parser))
        return _broken(line)
    for problem in problems:
        bag.add(problem)
    if problems:
        return _broken(line)
    if _depth(statement) > MAX_DEPTH:
        bag.add(syntax.too_deep(MAX_DEPTH, statement.span))
        return _broken(line)
    return statement


def _depth(statement: ast.Statement) -> int:
    """How deep the expressions of `statement` nest, without recursion."""
    level: list[Any] = [getattr(statement, name, None) for name in ("init", "body", "value")]
    level += [item.value for item in getattr(statement, "items", None) or () if isinstance(item, ast.Setting)]
    if isinstance(statement, ast.Assign):
        level += statement.items or ()
    if isinstance(statement, ast.Declaration) and statement.domain:
        level += [statement.domain.low, statement.domain.high]
    depth = 0
    while level := [expr for expr in level if expr is not None]:
        level = [child for expr in level for child in ast.children(expr)]
        depth += 1
    return depth


def _broken(line: Line) -> ast.Broken:
    code = "\n".join(part.partition("#")[0] for part in line.text.split("\n"))
    words = _WORD.findall(code)
    if words[:1] in (["dim"], ["steps"]):
        defines = words[1:]
    else:
        head = re.split(r"[:=<>(\[]|\bin\b", code, maxsplit=1)[0]
        defines = [word for word in _WORD.findall(head) if word not in KEYWORDS]
    height = line.text.count("\n")
    span = Span(line.number, 1, line.number + height, len(line.text.split("\n")[-1]) + 1)
    return ast.Broken(tuple(defines), frozenset(words), span)


# --- syntax errors in the reader's words --------------------------------------------------------------------

_WORDS = {
    "NAME": "a name", "NUMBER": "a number", "DOCSTRING": "a docstring", "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`",
    "RSQB": "`]`", "COMMA": "`,`", "COLON": "`:`", "EQUAL": "`=`", "DOT": "`.`", "IN": "`in`", "X": "`x`",
    "LE": "`<=`", "GE": "`>=`", "LT": "`<`", "GT": "`>`", "EQ": "`==`", "NE": "`!=`", "PLUS": "`+`", "MINUS": "`-`",
    "TIMES": "`*`", "OVER": "`/`", "AT": "`@`", "POWER": "`**`", "$END": "the end of the line",
}  # fmt: skip
_COMPARISONS = {"LE", "GE", "LT", "GT", "EQ", "NE"}
_ARITHMETIC = {"PLUS", "MINUS", "TIMES", "OVER", "AT", "POWER"}
_BEGINS_EXPRESSION = {"NAME", "NUMBER", "LPAR", "MINUS", "PLUS"}


def _expected(terminals: set[str], declaring: bool) -> str:
    """What could have stood there, in a few words; `declaring`: in a declaration."""
    left, words = set(terminals) - {"DOT"}, []
    if "$END" in left and not declaring:  # after a whole expression
        return "an operator or the end of the line"
    if left >= _BEGINS_EXPRESSION:
        left -= _BEGINS_EXPRESSION
        words.append("an expression")
    if left & {keyword.upper() for keyword in KEYWORDS}:
        left = {"NAME"} & left
        words.append("a declaration")
    if left & _ARITHMETIC:
        left -= _ARITHMETIC | _COMPARISONS | {"LSQB", "LPAR"}
        words.append("an operator")
    if left >= _COMPARISONS - {"EQ", "NE"}:
        left -= _COMPARISONS
        words.append("a domain")
    order = list(_WORDS)
    words += [
        _WORDS.get(name, name.lower()) for name in sorted(left, key=lambda n: order.index(n) if n in order else 99)
    ]
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1] if words else "nothing more"


def _syntax_error(error: UnexpectedInput, line: Line, parser: Lark) -> Any:
    rows = line.text.split("\n")
    if isinstance(error, UnexpectedCharacters):
        row, column = error.line - 1, error.column
        char = rows[row][column - 1]
        span = Span(line.number + row, column, line.number + row, column + 1)
        return syntax.unknown_character(char, span)
    assert isinstance(error, UnexpectedToken)
    found = error.token
    first = (_WORD.findall(line.text) or [""])[0]
    expected = set(error.accepts or error.expected)
    if found.type == "$END":
        row = max(index for index, text in enumerate(rows) if text.partition("#")[0].strip())
        column = len(rows[row].partition("#")[0].rstrip()) + 1
        span = Span(line.number + row, column, line.number + row, column + 1)
        before = _last_token(rows[row].partition("#")[0])
        return syntax.unexpected(_expected(expected, first in KEYWORDS), "the end of the line", span, before, first)
    number = line.number + found.line - 1
    span = Span(
        number, found.column, line.number + (found.end_line or found.line) - 1, found.end_column or found.column + 1
    )
    before = _last_token(rows[found.line - 1][: found.column - 1])
    return syntax.unexpected(
        _expected(expected, first in KEYWORDS),
        f"`{str(found).splitlines()[0]}`",
        span,
        before,
        first,
    )


def _last_token(text: str) -> str:
    return next((match[0] for match in reversed(list(token().finditer(text)))), "")


def terminals() -> dict[str, str]:
    """The grammar's tokens: names to regular expressions."""
    return {terminal.name: terminal.pattern.to_regexp() for terminal in _parser()[0].terminals}


@functools.cache
def token() -> re.Pattern[str]:
    """Any token but docstrings and comments; longer operators before shorter ones."""
    table = terminals()
    words = [table["NUMBER"], table["NAME"]]
    skip = {*words, table["DOCSTRING"], table["COMMENT"], table["SPACE"]}
    signs = [pattern for pattern in table.values() if pattern not in skip and not pattern.isalpha()]
    return re.compile("|".join([*words, *sorted(signs, key=len, reverse=True)]))


# --- the tree -----------------------------------------------------------------------------------------------


@functools.cache
def _parser() -> tuple[Lark, _Build]:
    build = _Build()
    parser = Lark(
        grammar_text(), start="statement", parser="lalr", lexer="contextual", transformer=build,
        keep_all_tokens=True, maybe_placeholders=False,
    )  # fmt: skip
    return parser, build


class _Build(Transformer):
    """Grammar rules to tree nodes; runs inside the parser, so nothing here is recursive."""

    offset = 0  # lines of the file before the text being parsed
    problems: list[Any]

    def _span(self, children: list[Any]) -> Span:
        first, last = self._of(children[0]), self._of(children[-1])
        return Span(first.line, first.col, last.end_line, last.end_col)

    def _of(self, child: Any) -> Span:
        if isinstance(child, Token):
            return Span(child.line + self.offset, child.column, child.end_line + self.offset, child.end_column)
        if isinstance(child, list):
            return self._span(child)
        return child.span

    def _ident(self, token: Token) -> ast.Ident:
        return ast.Ident(str(token), self._of(token))

    def statement(self, c: list) -> Any:
        return c[0]

    def heading(self, c: list) -> ast.Heading:
        return ast.Heading(self._ident(c[1]), self._span(c))

    def docstring(self, c: list) -> ast.Docstring:
        return ast.Docstring(str(c[0])[3:-3].strip(), self._of(c[0]))

    def dims(self, c: list) -> ast.Dims:
        return ast.Dims(tuple(item for item in c if isinstance(item, ast.Setting)), self._span(c))

    def example(self, c: list) -> ast.Example:
        return ast.Example(tuple(item for item in c if isinstance(item, ast.Setting)), self._span(c))

    def setting(self, c: list) -> ast.Setting:
        return ast.Setting(self._ident(c[0]), c[2] if len(c) > 2 else None, self._span(c))

    def names(self, c: list) -> list[Token]:
        return c  # with its commas, for the span

    def type(self, c: list) -> tuple[str, tuple[ast.Ident, ...]]:
        return _Type([self._ident(token) for token in c[::2]])

    def attr(self, c: list) -> ast.Ident:
        return self._ident(c[0])

    def bound(self, c: list) -> ast.Bounds:
        low, high = (None, c[1]) if c[0].type in ("LE", "LT") else (c[1], None)
        return ast.Bounds(str(c[0]), low, high, self._span(c))

    def interval(self, c: list) -> ast.Bounds:
        return ast.Bounds("in", c[2], c[4], self._span(c))

    def initialiser(self, c: list) -> _Init:
        return _Init(c)

    def declaration(self, c: list) -> ast.Declaration:
        parts = c[2:]
        find = lambda kind: next((part for part in parts if isinstance(part, kind)), None)  # noqa: E731
        kind, init = find(_Type), find(_Init)
        return ast.Declaration(
            str(c[0]),
            self._idents(c[1]),
            tuple(kind) if kind else None,
            tuple(part for part in parts if isinstance(part, ast.Ident)),
            find(ast.Bounds),
            init[1] if init else None,
            self._span(c),
        )

    def _idents(self, names: list[Token]) -> tuple[ast.Ident, ...]:
        return tuple(self._ident(token) for token in names[::2])

    def steps(self, c: list) -> ast.Steps:
        return ast.Steps(self._ident(c[1]), self._ident(c[3]), self._span(c))

    def function(self, c: list) -> ast.Def:
        return ast.Def(self._ident(c[1]), self._idents(c[3]), c[6], self._span(c))

    def assign(self, c: list) -> ast.Assign:
        items = tuple(c[2]) if len(c) > 3 else None
        return ast.Assign(self._ident(c[0]), items, self._span(c[:-2]), c[-1], self._span(c))

    def items(self, c: list) -> list[Any]:
        return c[::2]

    def comparison(self, c: list) -> ast.Comparison:
        if len(c) > 3:
            self.problems.append(syntax.chained_comparison(self._of(c[3])))
        return ast.Comparison(str(c[1]), c[0], c[2], self._span(c), self._of(c[1]))

    def comparison_sign(self, c: list) -> Token:
        return c[0]

    def binary(self, c: list) -> ast.Binary:
        return ast.Binary(str(c[1]), c[0], c[2], self._span(c), self._of(c[1]))

    def unary(self, c: list) -> ast.Unary:
        return ast.Unary(str(c[0]), c[1], self._span(c))

    def index(self, c: list) -> ast.Index:
        return ast.Index(c[0], tuple(c[2]), self._span(c))

    def attribute(self, c: list) -> ast.Attribute:
        return ast.Attribute(c[0], self._ident(c[2]), self._span(c))

    def number(self, c: list) -> ast.Number:
        if not abs(float(c[0])) < float("inf"):
            self.problems.append(syntax.number_too_large(str(c[0]), self._of(c[0])))
        return ast.Number(str(c[0]), self._of(c[0]))

    def name(self, c: list) -> ast.Name:
        return ast.Name(str(c[0]), self._of(c[0]))

    def call(self, c: list) -> ast.Call:
        arguments = c[2:-1:2]
        keywords = tuple((part[0], part[1]) for part in arguments if isinstance(part, tuple))
        args = tuple(part for part in arguments if not isinstance(part, tuple))
        return ast.Call(self._ident(c[0]), args, keywords, self._span(c))

    def argument(self, c: list) -> Any:
        return c[0]

    def keyword(self, c: list) -> tuple[ast.Ident, Any]:
        return self._ident(c[0]), c[2]

    def parens(self, c: list) -> Any:
        return replace(c[1], span=self._span(c))

    def tuple(self, c: list) -> ast.Tuple:
        return ast.Tuple(tuple(c[1::2]), self._span(c))


class _Type(list):
    """The dims of a type, told apart from other lists."""


class _Init(list):
    """``= expr``."""
