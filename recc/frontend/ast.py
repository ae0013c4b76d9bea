"""The surface syntax tree of a .rec file. It reads like the grammar; spans are positions in the file."""

from __future__ import annotations

from dataclasses import dataclass

from recc.ir.node import Span


@dataclass(frozen=True, slots=True)
class Ident:
    """A name where it stands."""

    text: str
    span: Span


# --- expressions --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Name:
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Unary:
    """-x or +x."""

    sign: str
    arg: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    """left sign right, for + - * / @ **."""

    sign: str
    left: Expr
    right: Expr
    span: Span
    sign_span: Span


@dataclass(frozen=True, slots=True)
class Comparison:
    """left sign right, for < <= > >= == !=."""

    sign: str
    left: Expr
    right: Expr
    span: Span
    sign_span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """name(args, key=value)."""

    function: Ident
    args: tuple[Expr, ...]
    keywords: tuple[tuple[Ident, Expr], ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Index:
    """base[items]."""

    base: Expr
    items: tuple[Expr, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Attribute:
    """base.name."""

    base: Expr
    name: Ident
    span: Span


@dataclass(frozen=True, slots=True)
class Tuple:
    """(a, b): only as the value of `over`."""

    items: tuple[Expr, ...]
    span: Span


Expr = Number | Name | Unary | Binary | Comparison | Call | Index | Attribute | Tuple


def children(expr: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside `expr`."""
    match expr:
        case Unary():
            return (expr.arg,)
        case Binary() | Comparison():
            return (expr.left, expr.right)
        case Call():
            return expr.args + tuple(value for _, value in expr.keywords)
        case Index():
            return (expr.base, *expr.items)
        case Attribute():
            return (expr.base,)
        case Tuple():
            return expr.items
    return ()


# --- statements ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heading:
    """recurrence name."""

    name: Ident
    span: Span


@dataclass(frozen=True, slots=True)
class Docstring:
    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class Setting:
    """name, or name = value."""

    name: Ident
    value: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Dims:
    """dim K, R = 2."""

    items: tuple[Setting, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Bounds:
    """A domain: `sign` is one of <= >= < >, or `in` with both bounds."""

    sign: str
    low: Expr | None
    high: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Declaration:
    """kind names : type attributes domain = initialiser."""

    kind: str  # input, param, state or output
    names: tuple[Ident, ...]
    type: tuple[Ident, ...] | None
    attributes: tuple[Ident, ...]
    domain: Bounds | None
    init: Expr | None
    span: Span


@dataclass(frozen=True, slots=True)
class Steps:
    """steps r : R."""

    index: Ident
    dim: Ident
    span: Span


@dataclass(frozen=True, slots=True)
class Def:
    """def name(params) = body."""

    name: Ident
    params: tuple[Ident, ...]
    body: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Example:
    """example T = 33, heads = 2, K = 8."""

    items: tuple[Setting, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Assign:
    """target[items] = value; no brackets: items is None."""

    target: Ident
    items: tuple[Expr, ...] | None
    target_span: Span
    value: Expr
    span: Span


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that did not parse. What it seems to define and use is kept, so that its error is the only one."""

    defines: tuple[str, ...]
    uses: frozenset[str]
    span: Span


Statement = Heading | Docstring | Dims | Declaration | Steps | Def | Example | Assign | Broken


@dataclass(frozen=True, slots=True)
class Block:
    """One `recurrence` with its statements."""

    name: Ident
    doc: str
    statements: tuple[Statement, ...]
