"""Ops of the triton backend for tests, and their errors against the float64 loop; also for the interpreting process."""

from __future__ import annotations

import functools

import torch
from recc.backends.triton import module
from recc.backends.triton.config import Config

from recc import library
from recc.analysis import analyse
from recc.frontend import parse_text
from recc.ir.node import COMPLEX
from recc.runtime import verify
from recc.runtime.cases import Case, problem, run_op


def recurrence(spec: str):
    text, path = (spec, "spec.rec") if "\n" in spec else library.find(spec)
    return parse_text(text, str(path))[0]


def has_complex_state(name: str) -> bool:
    return any(state.dtype == COMPLEX for state in recurrence(name).states)


def parallel() -> list[str]:
    """The shipped specs that a strategy with chunks runs, those with complex states aside."""
    names = (name for name in library.names() if not has_complex_state(name))
    return [name for name in names if module.chosen(analyse(recurrence(name))).parallel]


@functools.cache
def op(spec: str, chunk: int | None = 16, schedule: str | None = None):
    """The op of a spec, in small chunks: a short sequence has several. schedule: of both passes, or the default."""
    plan = analyse(recurrence(spec))
    config = Config(chunk, forward=schedule, backward=schedule)
    return module.load(module.generate(plan, module.chosen(plan), config))


def too_large(
    spec: str, case: Case, chunk: int | None = 16, schedule: str | None = None, dtype: str = "float32"
) -> list[str]:
    """The quantities whose error is beyond the budget of `recc verify`."""
    rows = verify.compare(recurrence(spec), case, [dtype], {"kernels": op(spec, chunk, schedule)}, [])
    assert rows
    return [f"{row.what}: {row.error:.2g} > {row.limit:.2g} {row.note}" for row in rows if not row.ok]


def bits(spec: str, case: Case) -> list[bool]:
    """Whether two runs give the same bits, for each quantity."""
    given = problem(recurrence(spec), case)
    first, second = (run_op(given, op(spec), torch.float32) for _ in range(2))
    return [torch.equal(first[what], second[what]) for what in first]
