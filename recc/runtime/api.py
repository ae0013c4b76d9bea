"""From a spec to a callable: `load`, `loads`, `source`, and the module."""

from __future__ import annotations

import functools
from typing import Any

from recc import library
from recc.analysis import analyse
from recc.frontend import parse_text
from recc.ir.program import Recurrence
from recc.strategies import choose


def load(name_or_path: str, *, strategy: str | None = None, chunk: int | None = None, **dims: int) -> Any:
    """The op of a spec file, by its path or by the name of one that ships with recc.

    strategy: `chunk`, `scan` or `sequential` to ask for one; it is an error if it cannot serve the spec.
    chunk: tokens in a chunk, a power of two. dims: sizes for dims that the spec fixes, such as R=3.
    Returns backends.torch.op.Op. Raises SpecError for a bad spec, library.UnknownSpec for an unknown name.
    """
    text, path = library.find(name_or_path)
    return loads(text, path=path, strategy=strategy, chunk=chunk, **dims)


def loads(
    text: str, *, path: str = "<spec>", strategy: str | None = None, chunk: int | None = None, **dims: int
) -> Any:
    """The op of a spec given as text; see `load`."""
    return _compiled(text, str(path), strategy, chunk, tuple(sorted(dims.items())))


@functools.lru_cache(maxsize=256)
def _compiled(text: str, path: str, strategy: str | None, chunk: int | None, dims: tuple) -> Any:
    rec = parse_text(text, path, dims=dict(dims))[0]
    return compile_recurrence(rec, strategy=strategy, chunk=chunk)


def compile_recurrence(rec: Recurrence, *, strategy: str | None = None, chunk: int | None = None) -> Any:
    """The op of a parsed recurrence."""
    from recc.backends.torch import op, primitives
    from recc.backends.torch.module import generate

    plan = analyse(rec)
    generated = generate(plan, choose(plan, strategy, chunk))
    space = dict(vars(primitives))
    exec(compile(generated.functions, f"<recc {rec.name}>", "exec"), space)  # our own text: a spec holds no code
    functions = [space[name] for name in ("forward_tiles", "backward_tiles", "step_tiles", "initial_tiles")]
    made = op.Op(generated.meta, *functions)
    made.source = generated.functions
    return made


def source(rec: Recurrence, *, strategy: str | None = None, chunk: int | None = None) -> str:
    """A standalone torch file for `rec`, which imports torch alone."""
    from recc.backends.torch.module import generate, standalone

    plan = analyse(rec)
    return standalone(generate(plan, choose(plan, strategy, chunk)), rec)
