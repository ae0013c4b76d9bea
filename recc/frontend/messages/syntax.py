"""E01: syntax."""

from __future__ import annotations

from recc.frontend.diagnostics import Diagnostic, Label
from recc.frontend.messages import diagnostic, nearest, quote
from recc.frontend.words import KEYWORDS
from recc.ir.node import Span

_SMART = {
    "‘": "'", "’": "'", "“": '"', "”": '"', "−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "⋅": "*", "⊙": "*",
    "≤": "<=", "≥": ">=", "≠": "!=", "∈": "in", "ᵀ": ".T", "√": "sqrt(...)", "π": "pi", "²": "** 2",
}  # fmt: skip
_INSTEAD = {
    "^": "`**` is the power",
    "&": "nest `where` instead of joining conditions",
    "|": "nest `where` instead of joining conditions",
    "%": "the remainder is `x - n * floor(x / n)`",
    ";": "write one statement a line",
    "{": "group with `(` and `)`",
    '"': 'a docstring stands in `"""`, right below `recurrence`',
    "!": "`!=` compares",
    "\\": "a line goes on while a bracket is open",
}
# Words of other languages.
_PYTHON = {
    "if": "choose by value: `where(condition, a, b)`", "else": "choose by value: `where(condition, a, b)`",
    "and": "nest `where`: `where(p, where(q, a, b), b)`", "or": "nest `where`: `where(p, a, where(q, a, b))`",
    "not": "write the opposite comparison, or swap the arguments of `where`", "lambda": "write `def f(a) = ...`",
    "for": "what goes on from step to step is a state; within a step there is `steps r : R`",
    "while": "what goes on from step to step is a state; within a step there is `steps r : R`",
    "return": "declare `output y` and write `y = ...`", "import": "a spec stands alone",
    "let": "a value has no word before it: `y = ...`", "var": "a value has no word before it: `y = ...`",
    "const": "a value has no word before it: `y = ...`", "local": "a value has no word before it: `y = ...`",
}  # fmt: skip


def unexpected(expected: str, found: str, span: Span, before: str, first: str = "") -> Diagnostic:
    """`expected` and `found` in words; `before` is the word that stands before, `first` that at the line's start."""
    help = _PYTHON.get(found.strip("`")) or _PYTHON.get(before) or ""
    if not help and first not in KEYWORDS:
        near = nearest(first, KEYWORDS)
        help = near if before == first and not found.startswith(("`=", "`[")) else ""
    if not help and found == "`=`":
        help = "`==` compares; a line has one `=`, after what it defines"
    if not help and before == "in" and found == "`(`":
        help = "a domain is closed: `in [0, 1]`"
    after = f" after {quote(before)}" if before else ""
    return diagnostic("E0101", f"expected {expected}{after}, found {found}", span, f"expected {expected}", help=help)


def unknown_character(char: str, span: Span) -> Diagnostic:
    shown = quote(char) if char.isprintable() else f"the character U+{ord(char):04X}"
    help = f"write `{_SMART[char]}`" if char in _SMART else _INSTEAD.get(char, "")
    note = "" if char.isascii() else "letters beyond ASCII are for comments and docstrings"
    return diagnostic("E0102", f"{shown} has no meaning here", span, "not part of the language", note=note, help=help)


def bracket_not_closed(bracket: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0103",
        f"this `{bracket}` is never closed",
        span,
        f"no `{_partner(bracket)}` follows",
        note="a line goes on while a bracket is open",
    )


def bracket_not_opened(bracket: str, span: Span) -> Diagnostic:
    return diagnostic("E0103", f"this `{bracket}` closes nothing", span, f"no `{_partner(bracket)}` is open here")


def brackets_differ(opening: str, opened: Span, closing: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0103",
        f"`{opening}` is closed by `{closing}`",
        span,
        f"`{_partner(opening)}` expected",
        labels=[Label(opened, "opened here")],
    )


def _partner(bracket: str) -> str:
    return {"(": ")", ")": "(", "[": "]", "]": "["}[bracket]


def docstring_not_closed(span: Span) -> Diagnostic:
    return diagnostic("E0104", "this docstring never ends", span, 'no `"""` follows')


def docstring_misplaced(span: Span) -> Diagnostic:
    first = Span(span.line, span.col, span.line, span.col + 3)
    return diagnostic(
        "E0104",
        "a docstring stands right below its `recurrence`, and there is one",
        first,
        "out of place",
        help="turn this one into a comment, `# ...`",
    )


def outside_recurrence(span: Span) -> Diagnostic:
    return diagnostic(
        "E0105",
        "a spec starts with `recurrence NAME`",
        span,
        "this belongs to no recurrence",
        help="put `recurrence my_name` above this line",
    )


def no_recurrence(span: Span) -> Diagnostic:
    return diagnostic("E0105", "this file holds no recurrence", span, help="`recc new NAME` writes one to start from")


def chained_comparison(span: Span) -> Diagnostic:
    return diagnostic(
        "E0106",
        "comparisons do not chain",
        span,
        "a second comparison",
        help="nest `where`: `where(0 < x, where(x < 1, a, b), b)`",
    )


def number_too_large(text: str, span: Span) -> Diagnostic:
    return diagnostic("E0107", f"{quote(text)} is too large for a float", span, "more than 1.7e308")


def too_deep(limit: int, span: Span) -> Diagnostic:
    return diagnostic(
        "E0108", f"this nests more than {limit} levels deep", span, help="give the inner parts names of their own"
    )


def too_long(what: str, length: int, limit: int, span: Span) -> Diagnostic:
    return diagnostic("E0109", f"{what} has {length:,} characters, more than {limit:,}", span)


def too_many_dims(count: int, limit: int, span: Span) -> Diagnostic:
    return diagnostic("E0109", f"a type of {count:,} dims, more than {limit}", span)


def index_of_expression(span: Span) -> Diagnostic:
    return diagnostic(
        "E0110",
        "only a name has a time, and only `[r]` picks from an expression",
        span,
        "an index of an expression",
        help="give the expression a name and index that: `u = ...`, then `u[t-1]`",
    )


def index_of_argument(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0110",
        f"{quote(name)} is an argument of this function and has no time",
        span,
        "an index of an argument",
        note="a function sees the value that it is called with, not where it came from",
        help="pass the past value as an argument of its own: `f(x, x[t-1])`",
    )


def tuple_as_value(span: Span) -> Diagnostic:
    return diagnostic(
        "E0111",
        "several values in brackets are no value",
        span,
        "a tuple",
        note="a tuple names the dims of a reduction: `sum(x, over=(K, V))`",
    )
