"""The text of every message of the front end, one function each. `pages/` holds the long form of each code.

Messages are lower case without a final full stop; a note says why, a help what to write instead.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from recc.frontend.diagnostics import WARNING, Diagnostic, Label
from recc.frontend.types import type_text
from recc.ir.node import Span

# Names that other libraries give to what this language has.
_ELSEWHERE = {
    "maximum": "`max(a, b)`", "minimum": "`min(a, b)`", "amax": "`max(x, over=dim)`", "amin": "`min(x, over=dim)`",
    "dot": "`a @ b`", "matmul": "`a @ b`", "mm": "`a @ b`", "einsum": "`@`, `outer` and `sum(x, over=dim)`",
    "transpose": "`M.T`", "log_sigmoid": "`logsigmoid`", "logistic": "`sigmoid`", "swish": "`silu`", "pow": "`a ** b`",
    "power": "`a ** b`", "square": "`x ** 2`", "normalize": "`l2norm`", "exponential": "`exp`", "detach": "`stopgrad`",
    "stop_gradient": "`stopgrad`", "clip": "`clamp(x, low, high)`", "log_softmax": "`x - logsumexp(x)`",
    "arange": "`iota(dim)`", "rms_norm": "`rmsnorm`", "conjugate": "`conj`", "sgn": "`sign`", "prod": "`exp(sum(log(x)))`",
    "ln": "`log`", "fabs": "`abs`", "identity": "`eye(dim)`", "swapaxes": "`M.T`", "logcumsumexp": "a state of its own",
}  # fmt: skip
_PYTHON = {"if": "`where(condition, a, b)`", "else": "`where(condition, a, b)`", "and": "`where(a, b, ...)`, nested",
           "or": "`where(a, ..., b)`, nested", "not": "the opposite comparison", "lambda": "`def f(a) = ...`",
           "for": "`sum(x, over=dim)`, or `steps r : R`"}  # fmt: skip


def _a(kind: str) -> str:
    return f"{'an' if kind[0] in 'aeio' else 'a'} {kind}"


def _near(name: str, known: Iterable[str], sign: str = "") -> tuple[str, ...]:
    """A help that names the nearest known names."""
    known = list(dict.fromkeys(known))
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.lower()[:80], by_lower, n=3, cutoff=0.6)
    return (f"did you mean {' or '.join(f'`{by_lower[word]}{sign}`' for word in close)}?",) if close else ()


def _list(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


# --- E01 syntax ---------------------------------------------------------------------------------------------


def syntax(expected: str, found: str, span: Span, before: str) -> Diagnostic:
    word = found.strip("`")
    helps: tuple[str, ...] = (f"write {_PYTHON[word]}",) if word in _PYTHON else ()
    if found == "`=`" and "`==`" not in expected:
        helps = ("a comparison is `==`; only the target stands before `=`",)
    return Diagnostic("E0101", f"expected {expected}, found {found}", span, f"expected {expected}", helps=helps)


def unknown_character(char: str, span: Span) -> Diagnostic:
    shown = f"`{char}`" if char.isprintable() else f"U+{ord(char):04X}"
    near = {"−": "-", "–": "-", "—": "-", "×": "x", "·": "*", "⊙": "*", "^": "**", "≤": "<=", "≥": ">=", "≠": "!=",
            "ᵀ": ".T", "{": "(", "}": ")", "∈": "in", "⋅": "*", "!": "!="}.get(char)  # fmt: skip
    helps = (f"write `{near}`",) if near else ()
    if not near and char.isalpha():
        helps = ("names are letters of ASCII, digits and `_`: `alpha`, `beta_1`",)
    return Diagnostic("E0102", f"{shown} means nothing here", span, "", helps=helps)


def bracket_not_closed(opening: str, span: Span) -> Diagnostic:
    return Diagnostic("E0103", f"`{opening}` is never closed", span, "opened here")


def bracket_not_opened(char: str, span: Span) -> Diagnostic:
    return Diagnostic("E0103", f"`{char}` closes nothing", span, "no bracket is open here")


def brackets_differ(opening: str, opened: Span, char: str, span: Span) -> Diagnostic:
    return Diagnostic("E0103", f"`{opening}` is closed by `{char}`", span, "", (Label(opened, "opened here"),))


def docstring_not_closed(span: Span) -> Diagnostic:
    return Diagnostic("E0104", "this docstring is never closed", span, "opened here", helps=('end it with `"""`',))


def docstring_misplaced(span: Span) -> Diagnostic:
    first = Span(span.line, span.col, span.line, span.col + 3)
    note = "the docstring of a recurrence stands once, right below its first line"
    return Diagnostic("E0104", "a docstring cannot stand here", first, "", notes=(note,), helps=("write a `#` comment",))


def outside_recurrence(span: Span) -> Diagnostic:
    helps = ("begin with `recurrence name`",)
    return Diagnostic("E0105", "this stands outside of a recurrence", span, "", helps=helps)


def no_recurrence(span: Span) -> Diagnostic:
    return Diagnostic("E0105", "there is no recurrence in this file", span, "", helps=("begin with `recurrence name`",))


def number_too_large(text: str, span: Span) -> Diagnostic:
    shown = text if len(text) <= 24 else text[:20] + "..."
    return Diagnostic("E0106", f"`{shown}` is too large a number", span, "", notes=("the largest is about 1.8e308",))


def not_a_size(what: str, span: Span) -> Diagnostic:
    return Diagnostic("E0106", f"{what} must be a whole number above 0", span, "")


def too_deep(limit: int, span: Span) -> Diagnostic:
    helps = ("give parts of it names of their own",)
    return Diagnostic("E0107", "this expression is nested too deeply", span, f"deeper than {limit}", helps=helps)


def expands_too_deep(limit: int, span: Span) -> Diagnostic:
    text = f"more than {limit} functions call each other here"
    return Diagnostic("E0107", text, span, "", helps=("give intermediate results names of their own",))


def too_large(what: str, size: str, limit: str, span: Span) -> Diagnostic:
    return Diagnostic("E0108", f"{what} is too long", span, "", notes=(f"it has {size}; the limit is {limit}",))


def expands_too_far(limit: int, span: Span) -> Diagnostic:
    note = f"with functions and micro-steps unfolded, it has more than {limit:,} operations"
    return Diagnostic("E0108", "this recurrence becomes too large", span, "", notes=(note,))


def not_text(path: str, position: int) -> Diagnostic:
    return Diagnostic("E0109", f"this file is not UTF-8 text (byte {position})", None, "", path=path)


def chained_comparison(span: Span) -> Diagnostic:
    helps = ("nest them: `where(a < b, where(b < c, x, y), y)`",)
    return Diagnostic("E0110", "comparisons cannot be chained", span, "a second comparison", helps=helps)


# --- E02 names ----------------------------------------------------------------------------------------------


def unknown_name(name: str, known: Iterable[str], span: Span) -> Diagnostic:
    return Diagnostic("E0201", f"unknown name `{name}`", span, "not declared or defined", helps=_near(name, known))


def unknown_dim(name: str, known: Sequence[str], span: Span) -> Diagnostic:
    parts = name.split("x")
    if len(parts) > 1 and all(part in known for part in parts):
        helps: tuple[str, ...] = (f"write `{' x '.join(parts)}`, with blanks",)
    else:
        helps = _near(name, known) or (f"declare it: `dim {name}`",)
    return Diagnostic("E0201", f"unknown dim `{name}`", span, "not declared", helps=helps)


def dim_expected(name: str | None, known: Iterable[str], span: Span) -> Diagnostic:
    notes = (f"the dims are {_list(known)}",)
    text = f"`{name}` is not a dim" if name else "a dim's name is expected here"
    return Diagnostic("E0210", text, span, "", notes=notes)


def defined_twice(name: str, span: Span, first: Span) -> Diagnostic:
    labels = (Label(first, "first defined here"),) if first != span else ()
    return Diagnostic("E0202", f"`{name}` is defined twice", span, "defined again", labels)


def unknown_function(name: str, kind: str | None, known: Iterable[str], span: Span) -> Diagnostic:
    if kind is not None:
        text = f"`{name}` is {_a(kind)}, not a function"
        return Diagnostic("E0203", text, span, "called here", helps=(f"to multiply, write `{name} * (...)`",))
    helps = (f"write {_ELSEWHERE[name]}",) if name in _ELSEWHERE else _near(name, known)
    return Diagnostic("E0203", f"unknown function `{name}`", span, "", helps=helps)


def reserved(name: str, span: Span) -> Diagnostic:
    why = {"t": "it is the time of the step", "heads": "it is the dim over heads", "pi": "it is 3.14159...",
           "T": "in an example it is the length of the sequence"}.get(name, "it is a word of the language")  # fmt: skip
    return Diagnostic("E0204", f"the name `{name}` is taken", span, "", notes=(why,), helps=("choose another name",))


def reserved_function(name: str, span: Span) -> Diagnostic:
    note = "it is a function of the language"
    return Diagnostic("E0204", f"the name `{name}` is taken", span, "", notes=(note,), helps=("choose another name",))


def not_assignable(name: str, kind: str, span: Span, declared: Span) -> Diagnostic:
    labels = (Label(declared, f"declared as {_a(kind)}"),)
    helps = {"input": (f"an input is given from outside; call the new value `{name}_new`, or declare a state",),
             "param": (f"a param does not change over time; declare `state {name}` if it should",)}.get(kind, ())  # fmt: skip
    return Diagnostic("E0205", f"{_a(kind)} cannot be assigned to", span, "assigned here", labels, helps=helps)


def never_updated(name: str, span: Span) -> Diagnostic:
    helps = (f"add `{name}[t] = ...`", f"if it never changes, declare it as `param {name}`")
    return Diagnostic("E0206", f"state `{name}` is never updated", span, "declared here", helps=helps)


def assigned_twice(name: str, state: bool, span: Span, first: Span) -> Diagnostic:
    text = f"state `{name}` is updated twice" if state else f"`{name}` is defined twice"
    helps = ("a step has one update of each state: give the first value a name of its own",) if state else ()
    return Diagnostic("E0207" if state else "E0202", text, span, "again here", (Label(first, "first here"),), helps=helps)


def never_defined(name: str, span: Span) -> Diagnostic:
    return Diagnostic("E0208", f"output `{name}` is never defined", span, "declared here", helps=(f"add `{name} = ...`",))


def no_output(name: str, span: Span) -> Diagnostic:
    helps = ("declare `output o : V`, or name a state: `output h`",)
    return Diagnostic("E0208", f"recurrence `{name}` has no output", span, "", helps=helps)


def unknown_attribute(name: str, known: Sequence[str], span: Span) -> Diagnostic:
    helps = _near(name, known) or (f"there is {_list(known)}",)
    return Diagnostic("E0209", f"unknown attribute `{name}`", span, "", helps=helps)


def wrong_kind(name: str, what: str, span: Span, declared: Span) -> Diagnostic:
    return Diagnostic("E0210", f"`{name}` {what}", span, "", (Label(declared, "declared here"),))


def function_as_value(name: str, span: Span) -> Diagnostic:
    return Diagnostic("E0210", f"`{name}` is a function: call it", span, "", helps=(f"write `{name}(...)`",))


def time_as_value(span: Span) -> Diagnostic:
    note = "`t` only says which step is meant; a spec holds for every step alike"
    helps = ("give the position as an input, or count in a state: `n[t] = n[t-1] + 1`",)
    return Diagnostic("E0210", "the time `t` has no value", span, "", notes=(note,), helps=helps)


def tuple_as_value(span: Span) -> Diagnostic:
    note = "several dims in brackets may stand after `over=` only"
    return Diagnostic("E0210", "a list of values is not a value", span, "", notes=(note,))


def function_calls_itself(cycle: Sequence[str], span: Span) -> Diagnostic:
    path = " -> ".join(f"`{name}`" for name in (*cycle, cycle[0]))
    notes = (f"{path}: a function is unfolded where it is called, so this would never end",)
    return Diagnostic("E0211", f"function `{cycle[0]}` calls itself", span, "", notes=notes)


def unused(name: str, kind: str, span: Span) -> Diagnostic:
    return Diagnostic("E0212", f"{kind} `{name}` is never used", span, "", severity=WARNING)


# --- E03 shapes and dtypes ----------------------------------------------------------------------------------


def argument_count(name: str, signature: str, count: int, span: Span) -> Diagnostic:
    text = f"`{name}` does not take {count} argument{'' if count == 1 else 's'}"
    return Diagnostic("E0301", text, span, "", notes=(f"it is `{signature}`",))


def unknown_keyword(name: str, signature: str, span: Span) -> Diagnostic:
    helps = ("write `over=` with the dim's name",) if name in ("axis", "dim") else ()
    return Diagnostic("E0301", f"there is no argument `{name}=`", span, "", notes=(f"it is `{signature}`",), helps=helps)


def over_with_two(name: str, span: Span) -> Diagnostic:
    text = f"`{name}` takes two values, or one and `over=`"
    return Diagnostic("E0301", text, span, "", notes=(f"it is `{name}(a, b)` or `{name}(x, over=dim)`",))


def product_mismatch(word: str, a: Sequence[str], b: Sequence[str], span: Span) -> Diagnostic:
    notes = [f"left : {type_text(a)}\nright : {type_text(b)}"]
    helps: tuple[str, ...] = ()
    if not a or not b:
        notes.append("a scalar has no axis to add up along")
        helps = ("multiply a scalar with `*`",)
    elif len(a) > 2 or len(b) > 2:
        notes.append("both sides have at most two dims")
    else:
        notes.append(f"the last dim of the left side (`{a[-1]}`) and the first of the right side (`{b[0]}`) must be the same")
        swaps = []
        if len(b) == 2 and b[1] == a[-1]:
            swaps.append("`right.T`")
        if len(a) == 2 and a[0] == b[0]:
            swaps.append("`left.T`")
        if swaps:
            helps = (f"transpose one side: {' or '.join(swaps)}",)
        elif a == b[1:] or b == a[:-1]:
            helps = ("swap the two sides",)
        elif len(a) == len(b) == 1:
            helps = ("for the matrix of all pairs, write `outer(a, b)`",)
    return Diagnostic("E0302", f"these types do not fit `{word}`", span, "", notes=tuple(notes), helps=helps)


def ambiguous(word: str, a, b, dim: str, span: Span) -> Diagnostic:
    small, large = sorted((a.dims, b.dims), key=len)
    notes = (f"one is {type_text(small)}, the other {type_text(large)}: `{dim}` could be either axis of the second",)
    helps: tuple[str, ...] = ()
    if word == "*" and len(small) == 1:
        helps = ("to scale rows, write `diag(a) @ M`; to scale columns, `M @ diag(a)`",)
    elif word in ("+", "max", "logaddexp") and len(small) == 1:
        helps = (f"write `outer(a, ones({dim}))` to repeat it along rows, `outer(ones({dim}), a)` along columns",
                 "sums and maxima over such a sum are `logmatmulexp(a, M)` and `maxplus(a, M)`")  # fmt: skip
    return Diagnostic("E0303", f"it is not clear how these meet in `{word}`", span, "", notes=notes, helps=helps)


def type_differs(
    name: str, kind: str, declared: Sequence[str], found: Sequence[str], what: str, span: Span, at: Span
) -> Diagnostic:
    text = f"{kind} `{name}` is {type_text(declared)}, but {what} is {type_text(found)}"
    helps: tuple[str, ...] = ()
    if set(found) < set(declared):
        missing = [dim for dim in declared if dim not in found]
        helps = (f"to repeat it along {_list(missing)}, multiply by `ones({missing[0]})`",) if missing else ()
    elif set(declared) < set(found) and len(set(found) - set(declared)) == 1:
        helps = (f"to add up, write `sum(..., over={(set(found) - set(declared)).pop()})`",)
    return Diagnostic("E0304", text, span, type_text(found), (Label(at, f"declared as {type_text(declared)}"),), helps=helps)


def wrong_rank(word: str, rank: int, dims: Sequence[str], span: Span) -> Diagnostic:
    wanted = {1: "a vector", 2: "a matrix"}[rank]
    found = {0: "a scalar", 1: "a vector", 2: "a matrix"}.get(len(dims), f"an array of {len(dims)} dims")
    return Diagnostic("E0305", f"`{word}` needs {wanted}, this is {found}", span, type_text(dims))


def over_missing(word: str, dim: str, dims: Sequence[str], span: Span) -> Diagnostic:
    if dim in dims:
        notes = (f"it is {type_text(dims)}: `{dim}` could be either axis",)
        helps = (f"write `M @ ones({dim})` for sums along rows, `ones({dim}) @ M` along columns",) if word == "sum" else ()
        return Diagnostic("E0306", f"`{word}` over `{dim}` is ambiguous", span, "", notes=notes, helps=helps)
    return Diagnostic("E0306", f"there is no `{dim}` to take `{word}` over", span, "", notes=(f"it is {type_text(dims)}",))


def heads_of_shared(word: str, span: Span) -> Diagnostic:
    note = "all that it is computed from is `shared`, so it is the same for all heads"
    return Diagnostic("E0306", f"there are no heads to take `{word}` over", span, "", notes=(note,))


def complex_refused(word: str, span: Span) -> Diagnostic:
    helps = ("take a real part of it: `real(z)`, `imag(z)` or `abs(z)`",)
    return Diagnostic("E0307", f"`{word}` is not defined for complex numbers", span, "", helps=helps)


def complex_stored(name: str, kind: str, what: str, span: Span) -> Diagnostic:
    helps = ("write `real(...)`", f"or declare `{name}` as `complex`")
    return Diagnostic("E0307", f"{kind} `{name}` is real, but {what} is complex", span, "complex", helps=helps)


def bool_as_number(word: str, span: Span) -> Diagnostic:
    helps = ("write `where(condition, 1, 0)`",)
    return Diagnostic("E0308", f"`{word}` takes numbers, and a comparison is not one", span, "", helps=helps)


def bool_stored(name: str, kind: str, span: Span) -> Diagnostic:
    helps = ("write `where(condition, 1, 0)`",)
    return Diagnostic("E0308", f"{kind} `{name}` holds numbers, and a comparison is not one", span, "", helps=helps)


def condition_expected(span: Span) -> Diagnostic:
    helps = ("compare it with something: `x > 0`, `x != 0`",)
    return Diagnostic("E0309", "`where` needs a comparison first, this is a number", span, "", helps=helps)


def heads_into_shared(name: str, kind: str, what: str, span: Span, declared: Span) -> Diagnostic:
    text = f"{kind} `{name}` is shared, but {what} differs from head to head"
    helps = ("to add the heads up, write `sum(..., over=heads)`", f"or drop `shared` from `{name}`")
    labels = (Label(declared, "declared as `shared`"),) if declared != span else ()
    return Diagnostic("E0310", text, span, "per head", labels, helps=helps)


def empty_domain(low: float, high: float, span: Span) -> Diagnostic:
    return Diagnostic("E0311", f"no number lies between {low:g} and {high:g}", span, "", helps=("swap the bounds",))


def bound_not_constant(span: Span) -> Diagnostic:
    return Diagnostic("E0311", "the bound of a domain must be a number", span, "", notes=("such as `1`, `-0.5` or `2 * pi`",))


def domain_misplaced(what: str, kind: str, span: Span) -> Diagnostic:
    note = f"domains say what inputs and params may be; what {_a(kind)} is follows from the equations"
    return Diagnostic("E0312", f"{what} cannot stand on {_a(kind)}", span, "", notes=(note,))


def domain_of_complex(name: str, span: Span) -> Diagnostic:
    note = "complex numbers have no order"
    helps = ("declare real and imaginary part, and combine them with `complex(re, im)`",)
    return Diagnostic("E0312", f"`{name}` is complex and cannot have bounds", span, "", notes=(note,), helps=helps)


def unit_needs_vector(name: str, is_complex: bool, span: Span) -> Diagnostic:
    what = "complex" if is_complex else "a scalar"
    note = "`unit` means L2 norm 1 along the last dim of a real value"
    return Diagnostic("E0312", f"`{name}` is {what} and cannot be `unit`", span, "", notes=(note,))


def division_by_zero(span: Span) -> Diagnostic:
    return Diagnostic("E0313", "this divides by 0", span, "")


def not_a_number(span: Span) -> Diagnostic:
    return Diagnostic("E0313", "this constant is not a finite number", span, "")


def initialiser_misplaced(kind: str, name: str, span: Span) -> Diagnostic:
    helps = {"input": (f"if it is fixed, declare it as `param {name}`",), "output": (f"define it below: `{name} = ...`",)}
    return Diagnostic("E0314", f"{_a(kind)} has no initial value", span, "", helps=helps.get(kind, ()))


def initialiser_reads(name: str, kind: str, read: str, read_kind: str, span: Span) -> Diagnostic:
    allowed = "numbers, dims and params" if kind == "state" else "numbers and dims"
    notes = (f"it is computed once, before the first step, from {allowed}; `{read}` is {_a(read_kind)}",)
    return Diagnostic("E0314", f"the initial value of `{name}` cannot read `{read}`", span, "", notes=notes)


def random_misplaced(name: str, span: Span) -> Diagnostic:
    notes = ("random numbers are drawn once, for the initial value of a param",)
    helps = ("declare a param with this initial value, or an input for noise at every step",)
    return Diagnostic("E0314", f"`{name}` cannot stand here", span, "", notes=notes, helps=helps)


# --- E04 time and causality ---------------------------------------------------------------------------------


def future(name: str, ahead: int, kind: str, span: Span) -> Diagnostic:
    notes = ["a step is computed before later ones exist, so that decoding can go token by token"]
    helps = [f"read `{name}[t]`" + (f" or the past, `{name}[t-1]`" if kind != "state" else f" or `{name}[t-1]`")]
    if kind == "input":
        helps.append(f"to look {ahead} ahead, shift the other inputs into the past, or run with `reverse=True`")
    return Diagnostic("E0401", f"`{name}[t+{ahead}]` reads the future", span, "", notes=tuple(notes), helps=tuple(helps))


def bare_state(name: str, span: Span) -> Diagnostic:
    helps = (f"write `{name}[t-1]` for its value before this step's update, `{name}[t]` for the one after",)
    return Diagnostic("E0402", f"state `{name}` is read without a time", span, "before or after the update?", helps=helps)


def bare_state_target(name: str, span: Span) -> Diagnostic:
    return Diagnostic("E0402", f"state `{name}` is updated without a time", span, "", helps=(f"write `{name}[t] = ...`",))


def state_too_far_back(name: str, back: int, span: Span) -> Diagnostic:
    notes = ("a step keeps one value of each state, the last one",)
    helps = (f"keep it in a second state: `{name}_before[t] = {name}[t-1]`; then `{name}[t-2]` is `{name}_before[t-1]`",)
    return Diagnostic("E0403", f"`{name}[t-{back}]` is gone by now", span, "", notes=notes, helps=helps)


def state_cycle(names: Sequence[str], span: Span) -> Diagnostic:
    first = names[0]
    path = " -> ".join(f"`{name}`" for name in (*names, first))
    notes = () if len(names) == 1 else (f"it needs {path}, all within one step",)
    helps = (f"read the value before the update, `{first[:-1]}-1]`",)
    return Diagnostic("E0404", f"`{first}` needs itself", span, "needed for its own update", notes=notes, helps=helps)


def local_cycle(names: Sequence[str], span: Span) -> Diagnostic:
    path = " -> ".join(f"`{name}`" for name in (*names, names[0]))
    notes = () if len(names) == 1 else (f"it needs {path}",)
    helps = (f"if `{names[0]}` is carried from step to step, declare it as a state and read `{names[0]}[t-1]`",)
    return Diagnostic("E0405", f"`{names[0]}` is defined by itself", span, "", notes=notes, helps=helps)


def own_past(name: str, span: Span) -> Diagnostic:
    notes = ("what depends on its own past is carried from step to step: that is a state",)
    helps = (f"declare `state {name} = 0` and define `{name}[t] = ...`",)
    return Diagnostic("E0406", f"`{name}` depends on its own past", span, "", notes=notes, helps=helps)


def past_of_stateful(name: str, back: int, state: str, span: Span) -> Diagnostic:
    notes = (f"`{name}` depends on state `{state}`, so its past value is a state, too",)
    helps = (f"declare one: `{name}_before[t] = {name}`, and read `{name}_before[t-1]`",)
    return Diagnostic("E0406", f"`{name}[t-{back}]` is not kept", span, "", notes=notes, helps=helps)


def bad_index(name: str, kind: str, index: str, span: Span) -> Diagnostic:
    forms = {"state": "`[t-1]` and `[t]`", "param": "none", "dim": "none"}.get(kind, "`[t]` and `[t-1]`, `[t-2]` ...")
    micro = f"; `[{index}]` for a micro-step" if index and kind != "dim" else ""
    notes = (f"the indices of {_a(kind)} are {forms}{micro}",)
    helps = () if kind in ("dim", "step") else ("elements are not picked by number: use `sum`, `@` and dims",)
    return Diagnostic("E0407", f"`{name}` cannot be indexed like this", span, "", notes=notes, helps=helps)


def index_of_expression(span: Span) -> Diagnostic:
    helps = ("give the expression a name, and index that",)
    return Diagnostic("E0407", "only a name can be read at another time", span, "", helps=helps)


def index_of_argument(name: str, span: Span) -> Diagnostic:
    notes = (f"`{name}` is an argument: a value, not a sequence",)
    return Diagnostic("E0407", f"`{name}` has no time here", span, "", notes=notes, helps=("index where the function is called",))


def bad_target(name: str, kind: str, span: Span) -> Diagnostic:
    form = f"`{name}[t] = ...`" if kind == "state" else f"`{name} = ...`"
    notes = ("a step defines values of its own time",)
    return Diagnostic("E0408", f"`{name}` cannot be assigned like this", span, "", notes=notes, helps=(f"write {form}",))


def time_of_constant(name: str, kind: str, span: Span) -> Diagnostic:
    notes = (f"`{name}` is {_a(kind)}, the same at every step",)
    return Diagnostic("E0409", f"`{name}` has no time", span, "", notes=notes, helps=(f"write `{name}`",))


def step_outside(index: str, span: Span) -> Diagnostic:
    notes = (f"`{index}` counts micro-steps, inside definitions such as `S[t,{index}] = ...` or `u[{index}] = ...`",)
    return Diagnostic("E0410", f"there is no micro-step `{index}` here", span, "", notes=notes)


def step_of_state(name: str, index: str, stepped: bool, span: Span) -> Diagnostic:
    notes = [f"micro-step {index} reads `{name}[t,{index}-1]` and makes `{name}[t,{index}]`; `{name}[t,0]` is set by its own line"]
    helps = () if stepped else (f"`{name}` has no micro-steps: write `{name}[t-1]` or `{name}[t]`",)
    return Diagnostic("E0410", f"state `{name}` has no such micro-step", span, "", notes=tuple(notes), helps=helps)


def step_of_value(name: str, index: str, span: Span) -> Diagnostic:
    notes = (f"only a state is carried from one micro-step to the next; of `{name}` there is `{name}[{index}]`",)
    return Diagnostic("E0410", f"`{name}` is read at another micro-step", span, "", notes=notes)


def micro_local_read(name: str, index: str, micro: bool, span: Span) -> Diagnostic:
    notes = (f"`{name}` has a value in each micro-step, none of its own outside",)
    helps = (f"write `{name}[{index}]`",) if micro else (f"carry it in a state: `s[t,{index}] = ...`, then read `s[t]`",)
    return Diagnostic("E0410", f"`{name}` is defined for each micro-step", span, "", notes=notes, helps=helps)


def no_step_axis(dim: str, index: str, dims: Sequence[str], span: Span) -> Diagnostic:
    notes = (f"`[{index}]` picks along `{dim}`; this is {type_text(dims)}",)
    return Diagnostic("E0410", f"there is no `{dim}` to pick a micro-step from", span, "", notes=notes)


def steps_need_size(dim: str, span: Span, declared: Span) -> Diagnostic:
    notes = ("micro-steps are unrolled, so their number must be known",)
    labels = (Label(declared, "declared without a size"),)
    helps = (f"write `dim {dim} = 2`",)
    return Diagnostic("E0411", f"the number of micro-steps `{dim}` is not fixed", span, "", labels, notes, helps)


def too_many_steps(dim: str, size: int, limit: int, span: Span) -> Diagnostic:
    notes = (f"micro-steps are unrolled; `{dim}` is {size}",)
    return Diagnostic("E0411", f"there can be at most {limit} micro-steps", span, "", notes=notes)


def delay_too_long(name: str, back: int, limit: int, span: Span) -> Diagnostic:
    notes = (f"each step back is a value to keep; the limit is {limit}",)
    helps = ("put the long window into a convolution before the recurrence",)
    return Diagnostic("E0412", f"`{name}[t-{back}]` is too far back", span, "", notes=notes, helps=helps)
