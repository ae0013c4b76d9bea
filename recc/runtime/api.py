"""From a spec to a callable: `load`, `loads`, `source`, and the module."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from recc import library
from recc.analysis import analyse
from recc.analysis.plan import Plan
from recc.analysis.projections import apart
from recc.frontend import parse_text
from recc.ir.clip import clipped
from recc.ir.program import Recurrence
from recc.strategies import Choice, choose

BACKENDS = ("c", "torch", "triton")


def load(
    name_or_path: str,
    *,
    strategy: str | None = None,
    chunk: int | None = None,
    backend: str | None = None,
    config: Mapping[str, Any] | None = None,
    clip_gradient: float | None = None,
    deterministic: str | None = None,
    export: Iterable[str] = (),
    **dims: int,
) -> Any:
    """The op of a spec file, by its path or by the name of one that ships with recc.

    strategy: one of `recc.strategies.STRATEGIES`, such as `chunk` or `sequential`, to ask for it; an error if it cannot
        serve the spec.
    chunk: tokens in a chunk, a power of two. dims: sizes for dims that the spec fixes, such as R=3.
    backend: `c` for native code on CPU tensors, `torch` for torch alone, `triton` for kernels on GPU tensors (under
    Triton's interpreter on CPU tensors, which is for tests). By default native code serves CPU tensors
    where a C compiler is at hand, unless a strategy or chunk asks for one of torch's parallel forms, or torch has a
    parallel form and the spec has more micro-steps than a C compiler takes fast, or products of tokens with matrices of
    params that cannot be told apart from the recurrence. Where they can, torch multiplies; native code does the rest.
    config: all of these at once, as `recc tune` prints it. Without any of strategy, chunk and config, a call takes the
    form that `recc tune` has found for its sizes, if it has found one (docs/tuning.md).
    clip_gradient: each element of the gradient that a state hands to the token before is cut to [-limit, limit]. A
    call may ask for it, too: the op for a limit is compiled when it is first asked for.
    deterministic: `portable` for native code that rounds each product and each sum: its bits are the same at every
        level of optimisation and with every compiler, on machines whose vectors are as wide. Without it they are the
        same on one machine, however many threads there are.
    export: states and locals of the spec, by name, that the op puts out as well, behind the spec's own outputs: a
        memory's read-out before its gate, say.
    Returns backends.torch.op.Op. Raises SpecError for a bad spec, library.UnknownSpec for an unknown name.
    """
    text, path = library.find(name_or_path)
    return loads(
        text,
        path=path,
        strategy=strategy,
        chunk=chunk,
        backend=backend,
        config=config,
        clip_gradient=clip_gradient,
        deterministic=deterministic,
        export=export,
        **dims,
    )


def loads(
    text: str,
    *,
    path: str = "<spec>",
    strategy: str | None = None,
    chunk: int | None = None,
    backend: str | None = None,
    config: Mapping[str, Any] | None = None,
    clip_gradient: float | None = None,
    deterministic: str | None = None,
    export: Iterable[str] = (),
    **dims: int,
) -> Any:
    """The op of a spec given as text; see `load`."""
    if config is not None and (strategy, chunk, backend, deterministic) != (None, None, None, None):
        raise ValueError("`config` says all that `strategy`, `chunk`, `backend` and `deterministic` would")
    wanted = {"strategy": strategy, "chunk": chunk, "backend": backend} if config is None else dict(config)
    wanted |= {} if deterministic is None else {"deterministic": deterministic}
    asked = json.dumps(wanted, sort_keys=True)
    return _compiled(text, str(path), asked, clip_gradient, tuple(export), tuple(sorted(dims.items())))


@functools.lru_cache(maxsize=256)
def _compiled(text: str, path: str, asked: str, limit: float | None, export: tuple, dims: tuple) -> Any:
    rec, wanted = parse_text(text, path, dims=dict(dims), export=export)[0], json.loads(asked)
    rec = rec if limit is None else clipped(rec, limit)
    made = compile_recurrence(rec, **wanted)
    made.recipe = _compiled, (text, path, asked, limit, export, dims)
    made.clipped = lambda limit: _compiled(text, path, asked, limit, export, dims)
    if wanted.keys() == {"strategy", "chunk", "backend"} and wanted["strategy"] is None and wanted["chunk"] is None:
        from recc.tuning.tuned import Tuned

        made.tuned = Tuned.of(rec, wanted["backend"])
    return made


def compile_recurrence(
    rec: Recurrence,
    *,
    strategy: str | None = None,
    chunk: int | None = None,
    backend: str | None = None,
    **options: Any,
) -> Any:
    """The op of a parsed recurrence; see `load`. options: more of a configuration, which are the backend's own."""
    from recc.backends.torch import op

    plan = analyse(rec)
    if backend == "triton":
        from recc.backends.triton import config
        from recc.backends.triton import module as triton

        return triton.op(plan, strategy, config.of(chunk=chunk, **options))
    if options.get("deterministic") is not None and backend is None:
        backend = "c"  # which alone has such a form: no other may stand in for it
    parts = apart(rec) if options.get("deterministic") is None else None
    core = analyse(parts.core) if parts is not None else plan
    native = _native(plan, core, backend, asked=strategy is not None or chunk is not None)
    if options and not native:
        raise ValueError(f"the backend {backend or 'torch'} has no option {', '.join(options)}")
    if not native:
        return _made(op.Op, plan, choose(plan, strategy, chunk))
    from recc.backends.c.around import Around
    from recc.backends.c.op import NativeOp
    from recc.backends.c.options import Options

    # With native code asked for by name, a chunk is the tokens between its saved states.
    kind = functools.partial(NativeOp, options=Options(chunk, **options), asked=backend == "c")
    made = _made(functools.partial(kind, plan), plan, choose(plan, strategy))
    if parts is not None:
        within = _made(functools.partial(kind, core), core, choose(core))
        made.around = Around(rec, parts, made.meta, within)
    return made


def _made(kind: Callable[..., Any], plan: Plan, choice: Choice) -> Any:
    """An op of a plan, with torch code under this choice of strategies."""
    from recc.backends.torch.module import TILES, executed, generate

    generated = generate(plan, choice)
    space = executed(generated.functions, plan.recurrence.name)
    made = kind(generated.meta, *(space[name] for name in TILES))
    made.source = generated.functions
    return made


def _native(plan: Plan, core: Plan, backend: str | None, asked: bool) -> bool:
    """Whether native code serves CPU tensors. core: what it has to do where torch multiplies the projections. asked:
    for a strategy or chunk, which are forms of the torch backend."""
    if backend not in (None, *BACKENDS):
        raise ValueError(f"no backend `{backend}`; there are {', '.join(BACKENDS)}")
    if backend == "torch" or (backend is None and asked):
        return False
    from recc.backends.c import build
    from recc.backends.c.limits import projects, refusal, unfolds

    if backend is None and unfolds(plan) and choose(plan).parallel:
        return False
    why = refusal(plan)
    if why is not None and backend == "c":
        raise ValueError(f'{plan.recurrence.name}: native code does not serve: {why.text}; use `backend="torch"`')
    if backend is None and choose(plan).parallel and projects(core):
        return False
    return why is None and build.usable()


def source(rec: Recurrence, *, strategy: str | None = None, chunk: int | None = None) -> str:
    """A standalone torch file for `rec`, which imports torch alone."""
    from recc.backends.torch.module import generate, standalone

    plan = analyse(rec)
    return standalone(generate(plan, choose(plan, strategy, chunk)), rec)
