"""E03: shapes and dtypes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from recc.frontend.diagnostics import Diagnostic, Label
from recc.frontend.messages import a, diagnostic, quote
from recc.ir.node import Span

if TYPE_CHECKING:
    from recc.frontend.types import Value


def text(dims: Sequence[str] | None) -> str:
    """A type as specs write it."""
    return " x ".join(dims) if dims else "scalar"


def _labels(*values: Value) -> list[Label]:
    """What each operand is, where it stands."""
    return [Label(value.span, text(value.dims)) for value in values if value.span]


def _function(word: str, span: Span) -> Span:
    """Of a call, its function's name: the arguments have labels of their own."""
    return Span(span.line, span.col, span.line, span.col + len(word)) if word.isidentifier() else span


def type_differs(
    name: str, kind: str, declared: Sequence[str], found: Sequence[str], what: str, span: Span, at: Span
) -> Diagnostic:
    help = ""
    if not declared and found:
        help = f"reduce it with `sum(...)`, or declare {quote(name)} as {text(found)}"
    elif set(found) < set(declared) and what != "its initialiser":
        dim = next(dim for dim in declared if dim not in found)
        help = f"to repeat it along {dim}, multiply by `ones({dim})`"
    elif set(declared) < set(found):
        dim = next(dim for dim in found if dim not in declared)
        help = f"to add it up along {dim}, write `@` for the product of what has {dim}, or `sum(..., over={dim})`"
    return diagnostic(
        "E0301",
        f"{quote(name)} is declared {text(declared)}, but {what} is {text(found)}",
        span,
        text(found),
        labels=[Label(at, f"{kind} of type {text(declared)}")] if at != span else [],
        help=help,
    )


def product_mismatch(word: str, a: Value, b: Value, span: Span, sizes: dict[str, int | None]) -> Diagnostic:
    sign = not word.isidentifier()
    left, right = ("left operand", "right one") if sign else ("first argument", "second")
    note = f"`{word}` joins the last dim of the {left} with the first dim of the {right}"
    if a.dims and b.dims:
        note += f": {a.dims[-1]} and {b.dims[0]}"
    bound = [f"{dim} = {sizes[dim]}" for dim in dict.fromkeys(a.dims + b.dims) if sizes.get(dim)]
    return diagnostic(
        "E0302",
        f"`{word}` of {text(a.dims)} and {text(b.dims)}",
        _function(word, span),
        "" if a.span else "dims that do not meet",
        labels=_labels(a, b),
        note=[note, f"where {', '.join(bound)}" if bound else ""],
        help=_product_help(word, a.dims, b.dims),
    )


def not_applicable(matrix: Value, x: Value, span: Span) -> Diagnostic:
    return diagnostic(
        "E0302",
        f"`apply` of {text(matrix.dims)} to {text(x.dims)}",
        _function("apply", span),
        "" if matrix.span else "dims that do not meet",
        labels=_labels(matrix, x),
        note=["`apply(M, x)` adds up along the second of the two axes that M has of one dim, which x has once; their "
              "other dims meet by name"],
        help="a matrix of two dims takes `@`" if len(set(matrix.dims)) == len(matrix.dims) == 2 else "",
    )  # fmt: skip


def _product_help(word: str, left: Sequence[str], right: Sequence[str]) -> str:
    if not left or not right:
        return "a scalar multiplies with `*`"
    if len(left) > 2 or len(right) > 2:
        return f"`{word}` takes vectors and matrices; multiply with `*` and add up with `sum(..., over=K)`"
    form = (lambda a, b: f"`{word}({a}, {b})`") if word.isidentifier() else (lambda a, b: f"`{a} {word} {b}`")
    if right[-1] == left[0]:
        return f"swap the two: {form('b', 'a')}"
    if left[-1] == right[-1]:
        return f"transpose the right one: {form('a', 'b.T')}"
    if left[0] == right[0]:
        return f"transpose the left one: {form('a.T', 'b')}"
    if len(left) == len(right) == 1:
        return f"`outer(a, b)` is the {text([*left, *right])} matrix of all products"
    return ""


def ambiguous(word: str, first: Value, second: Value, dim: str, span: Span) -> Diagnostic:
    few, many = sorted((first, second), key=lambda value: value.dims.count(dim))
    times = {2: "twice"}.get(many.dims.count(dim), f"{many.dims.count(dim)} times")
    help = ""
    if few.dims == (dim,) and word in ("*", "/"):
        help = "to scale the rows write `diag(a) @ M`, the columns `M @ diag(a)`"
    elif few.dims == (dim,):
        help = f"to repeat it along the rows write `outer(ones({dim}), a)`, along the columns `outer(a, ones({dim}))`"
    return diagnostic(
        "E0303",
        f"`{word}` of {text(first.dims)} and {text(second.dims)}: {dim} can be met in more than one way",
        span,
        labels=_labels(first, second),
        note=f"operands meet by the names of their dims, and {text(many.dims)} has {dim} {times}",
        help=help,
    )


def wrong_rank(word: str, rank: int, value: Value, span: Span) -> Diagnostic:
    wanted = {1: "a vector", 2: "a matrix"}[rank]
    found = {0: "a scalar", 1: "a vector", 2: "a matrix"}.get(len(value.dims), f"a tensor of {len(value.dims)} dims")
    return diagnostic(
        "E0304",
        f"`{word}` takes {wanted}, and this is {found}",
        value.span or span,
        text(value.dims),
        note="its type is " + text(value.dims) if len(value.dims) > 2 else "",
    )


def gradient_of_many(value: Value, span: Span) -> Diagnostic:
    found = "complex" if value.dtype == "complex" else text(value.dims)
    return diagnostic(
        "E0315",
        f"`grad` differentiates one real number, and this is {found}",
        value.span or span,
        found,
        help="" if value.dtype == "complex" else "add it up: `grad(sum(...), x)`",
    )


def gradient_of_nothing(x: Value, span: Span) -> Diagnostic:
    return diagnostic(
        "E0315",
        "the first argument of `grad` does not read the second",
        x.span or span,
        "differentiated by this",
        note="what is differentiated by must stand in the loss as it is written here, such as `S[t-1]`",
    )


def over_missing(word: str, dim: str, value: Value, span: Span) -> Diagnostic:
    if dim in value.dims:
        message = f"`over={dim}` names {value.dims.count(dim)} axes of {text(value.dims)}"
        help = f"`M @ ones({dim})` adds up along the rows, `ones({dim}) @ M` along the columns"
    else:
        message = f"`{word}` over {dim}, which {text(value.dims)} does not have"
        help = f"its dims are {', '.join(value.dims)}" if value.dims else "a scalar has no dims to reduce"
    return diagnostic("E0305", message, _function(word, span), labels=_labels(value), help=help)


def over_with_two(word: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0305",
        f"`{word}` of two arguments compares them one by one and takes no `over`",
        span,
        help=f"reduce first: `{word}({word}(a, over=K), b)`",
    )


def heads_of_shared(word: str, value: Value, span: Span) -> Diagnostic:
    return diagnostic(
        "E0305",
        f"`{word}` over heads of a value that is the same for all heads",
        value.span or span,
        "shared",
        note="only inputs, params and states that are not `shared` differ between heads",
    )


def eye_of_heads(span: Span) -> Diagnostic:
    return diagnostic(
        "E0305", "heads do not mix: there is no `eye(heads)`", span, note="each head has values of its own"
    )


def complex_refused(word: str, value: Value, span: Span) -> Diagnostic:
    return diagnostic(
        "E0306",
        f"`{word}` takes real values",
        value.span or span,
        "complex",
        help="take `real(...)`, `imag(...)` or `abs(...)` of it",
    )


def complex_stored(name: str, kind: str, what: str, span: Span, at: Span) -> Diagnostic:
    return diagnostic(
        "E0306",
        f"{quote(name)} is real, but {what} is complex",
        span,
        "complex",
        labels=[Label(at, f"a real {kind}")],
        help=f"declare it complex (`{kind} {name} : N complex`), or take `real(...)`",
    )


def bool_as_number(word: str, value: Value, span: Span) -> Diagnostic:
    return diagnostic(
        "E0307",
        f"`{word}` takes numbers, and this is a comparison",
        value.span or span,
        "true or false",
        help="turn it into a number: `where(..., 1, 0)`",
    )


def bool_stored(name: str, kind: str, what: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0307",
        f"{what} is a comparison, and {quote(name)} holds numbers",
        span,
        "true or false",
        help="turn it into a number: `where(..., 1, 0)`",
    )


def condition_expected(value: Value, span: Span) -> Diagnostic:
    return diagnostic(
        "E0308",
        "the first argument of `where` is a comparison",
        value.span or span,
        "a number",
        help="compare it: `where(x > 0, a, b)`",
    )


def heads_into_shared(name: str, kind: str, what: str, span: Span, at: Span) -> Diagnostic:
    return diagnostic(
        "E0309",
        f"{quote(name)} is shared by all heads, but {what} differs from head to head",
        span,
        "one value for each head",
        labels=[Label(at, f"a shared {kind}")] if at != span else [],
        help=f"add the heads up: `sum(..., over=heads)`; or drop `shared` from {quote(name)}",
    )


def domain_misplaced(what: str, kind: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0310",
        f"{a(kind)} has no domain",
        span,
        f"{what} here",
        note="a domain says what values an input or a param takes; states and outputs are computed",
    )


def domain_of_complex(name: str, span: Span) -> Diagnostic:
    return diagnostic("E0310", f"{quote(name)} is complex, and complex numbers have no order", span, "a domain here")


def empty_domain(low: float, high: float, span: Span) -> Diagnostic:
    return diagnostic("E0310", f"no number lies between {low:g} and {high:g}", span, "an empty domain")


def start_outside(name: str, start: float, bound: float, span: Span) -> Diagnostic:
    where = f"above {bound:g}" if start > bound else f"below {bound:g}"
    return diagnostic("E0310", f"{quote(name)} starts at {start:g}, outside of its domain", span, f"{where}, its bound")


def bound_not_constant(span: Span) -> Diagnostic:
    return diagnostic("E0310", "the bound of a domain is a number", span, "not known before it runs")


def unit_needs_vector(name: str, is_complex: bool, span: Span) -> Diagnostic:
    what = "complex" if is_complex else "a scalar"
    return diagnostic(
        "E0311",
        f"{quote(name)} is {what}, and `unit` means a real vector of length 1",
        span,
        "has no effect here",
        help="drop `unit`" if is_complex else f"give it a dim: `{name} : K unit`",
    )


def contraction_needs_matrix(name: str, kind: str, dims: tuple[str, ...], is_complex: bool, span: Span) -> Diagnostic:
    what = (
        a(kind) if kind != "param" else "complex" if is_complex else f"a param of type {' x '.join(dims) or 'scalar'}"
    )
    return diagnostic(
        "E0316",
        f"{quote(name)} is {what}, and `contraction` means a real matrix that is learned",
        span,
        "has no effect here",
        note="a contraction is a matrix of spectral norm at most 1; `Module.project()` brings a param back to that",
        help="declare it as a param, such as `param W : D x D contraction`, or drop `contraction`",
    )


def division_by_zero(span: Span) -> Diagnostic:
    return diagnostic("E0312", "this divides by zero", span, "the divisor is 0")


def not_a_number(span: Span) -> Diagnostic:
    return diagnostic(
        "E0312",
        "this expression of constants has no finite value",
        span,
        note="it is outside of what a float64 holds, or undefined",
    )


def not_a_size(what: str, low: int, high: int, span: Span | None) -> Diagnostic:
    return diagnostic("E0313", f"{what} is a whole number from {low} to {high}", span, "not such a number")


def size_differs(name: str, declared: int, given: int, span: Span, at: Span) -> Diagnostic:
    return diagnostic(
        "E0313",
        f"{quote(name)} is fixed to {declared:,}, but the example says {given:,}",
        span,
        "another size",
        labels=[Label(at, "fixed here")],
        help=f"drop {quote(name)} from the example",
    )


def random_misplaced(word: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0314",
        f"`{word}` stands in the initialiser of a param only",
        span,
        "random here",
        note="a recurrence is a function of its inputs: the same inputs give the same outputs",
        help="pass the noise as an input",
    )
