"""E02: names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recc.frontend.diagnostics import WARNING, Diagnostic, Label
from recc.frontend.messages import a, diagnostic, listing, nearest, quote
from recc.ir.node import Span

# What other libraries call what this language has.
_ELSEWHERE = {
    "maximum": "max(a, b)", "minimum": "min(a, b)", "amax": "max(x, over=K)", "amin": "min(x, over=K)",
    "dot": "a @ b", "matmul": "a @ b", "mm": "a @ b", "bmm": "a @ b", "einsum": "a @ b", "inner": "a @ b",
    "transpose": "M.T", "swapaxes": "M.T", "logistic": "sigmoid(x)", "swish": "silu(x)", "pow": "a ** b",
    "power": "a ** b", "square": "x * x", "normalize": "l2norm(x)", "detach": "stopgrad(x)",
    "stop_gradient": "stopgrad(x)", "clip": "clamp(x, low, high)", "log_softmax": "x - logsumexp(x)",
    "arange": "iota(K)", "conjugate": "conj(z)", "sgn": "sign(x)", "ln": "log(x)", "fabs": "abs(x)",
    "identity": "eye(K)", "zeros": "0", "rand": "uniform(0, 1)", "randn": "normal(0, 1)",
    "elu": "where(x > 0, x, expm1(x))", "cumsum": "s[t] = s[t-1] + x",
}  # fmt: skip


def unknown_name(name: str, known: Iterable[str], span: Span) -> Diagnostic:
    return diagnostic(
        "E0201",
        f"nothing is called {quote(name)}",
        span,
        "unknown name",
        help=nearest(name, known) or f"declare it: `input {name}`, or define it: `{name} = ...`",
    )


def defined_twice(name: str, span: Span, first: Span) -> Diagnostic:
    return diagnostic(
        "E0202", f"{quote(name)} is defined twice", span, "again here", labels=[Label(first, "first defined here")]
    )


def unused(name: str, kind: str, span: Span) -> Diagnostic:
    return diagnostic("E0203", f"nothing reads the {kind} {quote(name)}", span, "never read", severity=WARNING)


def unknown_function(name: str, kind: str | None, known: Sequence[str], span: Span) -> Diagnostic:
    if kind is not None:
        return diagnostic(
            "E0204",
            f"{quote(name)} is {a(kind)}, not a function",
            span,
            "called here",
            help=f"an index stands in square brackets: `{name}[t-1]`; a product needs its sign: `{name} * (...)`",
        )
    help = f"write `{_ELSEWHERE[name]}`" if name in _ELSEWHERE else nearest(name, known)
    return diagnostic("E0204", f"there is no function {quote(name)}", span, "unknown function", help=help)


def unknown_dim(name: str, known: Iterable[str], span: Span, declare: bool = True) -> Diagnostic:
    known = list(known)
    if not declare:
        known += ["T", "heads"]
    if name == "heads":
        return diagnostic(
            "E0205",
            "`heads` is no part of a type",
            span,
            "not here",
            help="every value has a heads axis already; the attribute `shared` takes it away",
        )
    parts = name.split("x")
    if len(parts) > 1 and all(part in known for part in parts):
        return diagnostic(
            "E0205",
            f"{quote(name)} is not a declared dim",
            span,
            "one word",
            help=f"write `{' x '.join(parts)}`, with blanks",
        )
    return diagnostic(
        "E0205",
        f"{quote(name)} is not a declared dim",
        span,
        "unknown dim",
        help=nearest(name, known)
        or (f"declare it: `dim {', '.join([*known, name])}`" if declare else f"there are {listing(known)}"),
    )


def no_such_dim(name: str, known: Sequence[str]) -> Diagnostic:
    """A size was asked for from outside, for a dim that the spec does not have."""
    return diagnostic(
        "E0205",
        f"a size is given for {quote(name)}, which is not a dim of this spec",
        None,
        note=f"its dims are {listing(known)}",
        help=nearest(name, known),
    )


def not_to_export(name: str, known: Sequence[str]) -> Diagnostic:
    """A value was asked for from outside that the spec does not have, or puts out already."""
    return diagnostic(
        "E0201",
        f"{quote(name)} cannot be exported: it is no local and no state of this spec that is not an output already",
        None,
        note=f"what can be exported: {listing(known)}",
        help=nearest(name, known),
    )


def reserved(name: str, span: Span) -> Diagnostic:
    why = {
        "t": "`t` is the time of this step, as in `S[t-1]`",
        "T": "`T` is the number of steps, as in `example T = 33`",
        "heads": "every value has a `heads` axis unless it is declared `shared`",
        "pi": "`pi` is 3.14159...",
    }.get(name, f"`{name}` begins a declaration")
    return diagnostic("E0206", f"{quote(name)} is a reserved name", span, "cannot be defined", note=why)


def reserved_function(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0206",
        f"{quote(name)} is a function of the language",
        span,
        "cannot be redefined",
        help=f"call yours `my_{name}`",
    )


def not_a_dim(name: str, kind: str, span: Span, declared: Span) -> Diagnostic:
    return diagnostic(
        "E0207",
        f"{quote(name)} is {a(kind)}, not a dim",
        span,
        "a dim belongs here",
        labels=[Label(declared, f"declared as {a(kind)}")],
    )


def function_as_value(name: str, span: Span) -> Diagnostic:
    return diagnostic("E0207", f"{quote(name)} is a function, not a value", span, help=f"call it: `{name}(...)`")


def time_as_value(span: Span) -> Diagnostic:
    return diagnostic(
        "E0207",
        "`t` stands in an index only",
        span,
        "not a value",
        help="count the steps in a state: `state n = 0` and `n[t] = n[t-1] + 1`",
    )


def not_assignable(name: str, kind: str, span: Span, declared: Span) -> Diagnostic:
    why = {
        "input": "an input is what the caller passes",
        "param": "a param is what the optimiser learns",
        "dim": "a dim gets its size from the tensors, or in its declaration: `dim K = 16`",
        "step": "the index of the micro-steps counts by itself",
        "function": "a function is defined once, by `def`",
    }[kind]
    return diagnostic(
        "E0208",
        f"{quote(name)} is {a('micro-step index' if kind == 'step' else kind)} and cannot be assigned to",
        span,
        "assigned here",
        labels=[Label(declared, "declared here")],
        note=why,
        help="give the new value another name" if kind in ("input", "param") else "",
    )


def unknown_attribute(name: str, known: Sequence[str], span: Span) -> Diagnostic:
    help = nearest(name, known) or f"there {'is' if len(known) == 1 else 'are'} {listing(known)}"
    return diagnostic("E0209", f"there is no attribute {quote(name)}", span, "unknown attribute", help=help)


def argument_count(name: str, signature: str, count: int, span: Span) -> Diagnostic:
    found = f"{count} argument{'s' * (count != 1)}"
    return diagnostic("E0210", f"{quote(name)} does not take {found}", span, found, help=f"its form is `{signature}`")


def unknown_keyword(key: str, signature: str, span: Span) -> Diagnostic:
    help = "dims are named by `over=`" if key in ("axis", "axes", "dim", "dims") else "a comparison is written `==`"
    return diagnostic(
        "E0210",
        f"there is no argument {quote(key)} here",
        span,
        "unknown argument",
        help=[f"the form is `{signature}`", help],
    )


def keyword_twice(key: str, span: Span) -> Diagnostic:
    return diagnostic("E0210", f"{quote(key)} is given twice", span, "again here")


def never_defined(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0211", f"the output {quote(name)} is never defined", span, "declared here", help=f"add a line `{name} = ...`"
    )


def no_output(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0212",
        f"the recurrence {quote(name)} has no output",
        span,
        help="declare one: `output y : V` with a line `y = ...`, or `output h` for a state or a local `h`",
    )


def initialiser_misplaced(kind: str, name: str, span: Span) -> Diagnostic:
    why = {
        "input": "an input is what the caller passes; it has no value of its own",
        "output": "an output is defined by a line of its own",
    }[kind]
    help = (
        f"write `{name} = ...` on a line of its own" if kind == "output" else f"make it learned: `param {name} = ...`"
    )
    return diagnostic("E0213", f"{a(kind)} has no initialiser", span, "a value here", note=why, help=help)


def initialiser_reads(name: str, kind: str, read: str, what: str, span: Span) -> Diagnostic:
    allowed = "numbers, dims and random draws" if kind == "param" else "numbers, dims and params"
    return diagnostic(
        "E0213",
        f"the initialiser of {quote(name)} reads the {what} {quote(read)}",
        span,
        f"{a(what)}",
        note=f"the value before the first step is made of {allowed}",
    )


def function_calls_itself(cycle: Sequence[str], span: Span) -> Diagnostic:
    way = " -> ".join([*cycle, cycle[0]])
    return diagnostic(
        "E0214",
        f"the function {quote(cycle[0])} calls itself",
        span,
        f"{way}" if len(cycle) > 1 else "",
        note="functions are unfolded where they are called, so they must end",
        help="what goes on from step to step is a state",
    )


def dim_expected(name: str | None, known: Sequence[str], span: Span) -> Diagnostic:
    what = f"{quote(name)} is not a dim" if name else "this is not a dim's name"
    return diagnostic(
        "E0215",
        what,
        span,
        "the name of a dim belongs here",
        note=f"the dims are {listing(known)}",
        help=nearest(name or "", known),
    )


def expands_too_far(limit: int, span: Span) -> Diagnostic:
    return diagnostic(
        "E0216",
        f"this spec unfolds into more than {limit:,} expressions",
        span,
        note="functions and micro-steps are unfolded where they are used",
        help="name values that are used more than once: a local is computed once",
    )


def calls_too_deep(limit: int, span: Span) -> Diagnostic:
    return diagnostic("E0216", f"the functions called here nest more than {limit} levels deep", span)
