"""E04: time and causality."""

from __future__ import annotations

from collections.abc import Sequence

from recc.frontend.diagnostics import Diagnostic, Label
from recc.frontend.messages import a, diagnostic, quote
from recc.ir.node import Span


def never_updated(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0401",
        f"the state {quote(name)} is never updated",
        span,
        "declared here",
        help=f"add a line `{name}[t] = ...`; what does not change over time is a `param`",
    )


def assigned_twice(name: str, is_state: bool, span: Span, first: Span) -> Diagnostic:
    what = "updated" if is_state else "defined"
    return diagnostic(
        "E0402",
        f"{quote(name)} is {what} twice in one step",
        span,
        "again here",
        labels=[Label(first, f"first {what} here")],
        note="a step is a set of equations, not a sequence of assignments",
        help="give the first value a name of its own, and use it in the second",
    )


def bare_state(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0403",
        f"the state {quote(name)} is read without a time",
        span,
        "before or after the update?",
        help=f"write `{name}[t-1]` for its value before this step, `{name}[t]` for the one after",
    )


def bare_state_target(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0403", f"the state {quote(name)} is assigned without a time", span, help=f"write `{name}[t] = ...`"
    )


def future(name: str, ahead: int, kind: str, span: Span) -> Diagnostic:
    when = "the next step" if ahead == 1 else f"{ahead} steps later"
    return diagnostic(
        "E0404",
        f"`{name}[t+{ahead}]` is not known at step t",
        span,
        f"{when}",
        note="a recurrence runs forward in time, token by token, also when it decodes",
        help=f"shift the sequence before: pass what is needed as {a('input')} of its own" if kind == "input" else "",
    )


def state_too_far_back(name: str, back: int, span: Span) -> Diagnostic:
    return diagnostic(
        "E0405",
        f"only one step of the state {quote(name)} is kept",
        span,
        f"{back} steps back",
        help=f"keep the older one in a state of its own: `{name}_before[t] = {name}[t-1]`, then `{name}_before[t-1]`",
    )


def _around(names: Sequence[str]) -> str:
    """The circle as a sentence; of a long one the ends."""
    way = [quote(name) for name in [*names, names[0]]]
    return " needs ".join(way if len(way) <= 8 else [*way[:4], "...", *way[-3:]])


def local_cycle(names: Sequence[str], span: Span) -> Diagnostic:
    if len(names) == 1:
        return diagnostic(
            "E0406",
            f"{quote(names[0])} is defined by itself",
            span,
            "needs its own value",
            help="what depends on the step before is a state: read it with `[t-1]`",
        )
    return diagnostic(
        "E0406",
        f"{quote(names[0])} is needed to compute itself",
        span,
        "closes the circle",
        note=_around(names),
        help="what depends on the step before is a state: read it with `[t-1]`",
    )


def state_cycle(names: Sequence[str], span: Span) -> Diagnostic:
    return diagnostic(
        "E0407",
        f"{quote(names[0])} is needed to compute itself",
        span,
        "not known yet",
        note=_around(names) if len(names) > 1 else "",
        help=f"read the value before the step: `{names[0].partition('[')[0]}[t-1]`",
    )


def past_of_stateful(name: str, back: int, state: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0408",
        f"{quote(name)} depends on the state {quote(state)}, so its past is a state, too",
        span,
        f"{back} step{'s' * (back != 1)} back",
        note="the past of inputs, and of what is computed from inputs and params alone, is kept for you",
        help=f"declare a state and keep it there: `state {name}_before = 0`, `{name}_before[t] = {name}`; "
        f"then read `{name}_before[t-1]`",
    )


def bad_index(name: str, kind: str, index: str, span: Span) -> Diagnostic:
    help = "a time is `[t]` or `[t-n]` with a whole number n"
    if kind == "state":
        help += ", or `[chunk(C)]` with a dim C"
    if index:
        help += f"; a micro-step is `[{index}]`, and of a state `[t,{index}]` or `[t,{index}-1]`"
    return diagnostic(
        "E0409",
        f"this is no time of the {kind} {quote(name)}",
        span,
        "not an index",
        help=help,
        note="values are whole vectors and matrices: there are no element indices",
    )


def chunk_without_length(name: str, length: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0409",
        f"{quote(length)} is no dim of fixed size, and a chunk has as many tokens as one",
        span,
        "how many tokens?",
        help=f"declare `dim C = 16` and read `{name}[chunk(C)]`",
        note=f"`{name}[chunk(C)]` is {name} before the first token of the chunk of C tokens",
    )


def time_of_constant(name: str, kind: str, span: Span) -> Diagnostic:
    kind = "micro-step index" if kind == "step" else kind
    return diagnostic(
        "E0409", f"{quote(name)} is {a(kind)} and has no time", span, "indexed here", help=f"write {quote(name)} alone"
    )


def bad_target(name: str, kind: str, span: Span) -> Diagnostic:
    form = f"`{name}[t] = ...`" if kind == "state" else f"`{name} = ...`"
    return diagnostic(
        "E0410",
        f"an equation defines {quote(name)} at this step",
        span,
        "not this step's value",
        help=f"write {form}"
        + (
            f"; its value before the first step stands in its declaration: `state {name} = 0`"
            if kind == "state"
            else ""
        ),
    )


def step_outside(index: str, span: Span, state: str = "") -> Diagnostic:
    return diagnostic(
        "E0411",
        f"the micro-step {quote(index)} is read outside of the micro-steps",
        span,
        "which micro-step?",
        note=f"only lines `S[t,{index}] = ...` and `u[{index}] = ...` are computed for each micro-step",
        help=f"`{state}[t]` is its value after the last micro-step" if state else "",
    )


def step_of_value(name: str, index: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0411",
        f"{quote(name)} has no micro-step before this one",
        span,
        help=f"`{name}[{index}]` picks its entry for this micro-step",
    )


def micro_local_read(name: str, index: str, micro: bool, span: Span) -> Diagnostic:
    return diagnostic(
        "E0411",
        f"{quote(name)} has a value for each micro-step",
        span,
        "which micro-step?",
        help=f"write `{name}[{index}]`"
        if micro
        else "only lines of a micro-step read it; what comes after them reads the state",
    )


def step_of_state(name: str, index: str, micro: bool, span: Span) -> Diagnostic:
    if micro:
        help = f"a micro-step reads `{name}[t,{index}-1]`, the value before it, or `{name}[t,{index}]`, the one after"
        return diagnostic("E0411", f"this is no micro-step of the state {quote(name)}", span, help=help)
    return diagnostic(
        "E0411",
        f"the state {quote(name)} is not updated in micro-steps",
        span,
        help=f"write `{name}[t-1]` or `{name}[t]`; or update it as `{name}[t,{index}] = ...`",
    )


def no_step_axis(dim: str, index: str, dims: Sequence[str], span: Span) -> Diagnostic:
    shown = " x ".join(dims) or "scalar"
    return diagnostic(
        "E0411",
        f"`[{index}]` picks an entry along {dim}, and this is {shown}",
        span,
        f"no axis {dim}",
        help=f"drop `[{index}]`, or declare it with the dim {dim}",
    )


def start_without_steps(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0411",
        f"`{name}[t,0]` starts micro-steps that never come",
        span,
        help=f"add the line `{name}[t,r] = ...`, or write `{name}[t] = ...`",
    )


def steps_need_size(dim: str, span: Span, declared: Span) -> Diagnostic:
    return diagnostic(
        "E0412",
        f"the number of micro-steps, {quote(dim)}, must be fixed",
        span,
        labels=[Label(declared, "free")],
        note="micro-steps are unfolded when the spec is compiled",
        help=f"give it a size: `dim {dim} = 2`",
    )


def too_many_steps(dim: str, size: int, limit: int, span: Span) -> Diagnostic:
    return diagnostic(
        "E0412",
        f"{size:,} micro-steps are more than {limit}",
        span,
        f"{dim} = {size:,}",
        note="micro-steps are unfolded when the spec is compiled",
        help="make them tokens of their own: a sequence may be longer, a step may not",
    )


def delay_too_long(name: str, back: int, limit: int, span: Span) -> Diagnostic:
    return diagnostic(
        "E0413",
        f"{quote(name)} is read {back:,} steps back, more than {limit}",
        span,
        note="every step back is a value that decoding keeps",
    )


def own_past(name: str, span: Span) -> Diagnostic:
    return diagnostic(
        "E0414",
        f"{quote(name)} needs its own past, which makes it a state",
        span,
        "its own past",
        help=f"declare it: `state {name} = 0`, and define `{name}[t] = ...`",
    )
