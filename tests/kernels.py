"""Ops of the triton backend for tests, and their errors against the float64 loop; also for the interpreting process."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
from recc.backends.triton import module
from recc.backends.triton.config import Config

import recc
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
    """The shipped specs that a strategy with chunks runs."""
    return [name for name in library.names() if module.chosen(analyse(recurrence(name))).parallel]


@functools.cache
def op(spec: str, chunk: int | None = 16, schedule: str | None = None):
    """The op of a spec, in small chunks: a short sequence has several. schedule: `sequential` walks over tokens, of
    which `chunk` are between the states that are saved, where not all are; `newton` solves `chunk` tokens at a time;
    `two_level` walks outer chunks of two chunks, in the default schedule, and `two_level split` and `two_level fused`
    in those; `apart` and `handed` have more launches of fewer tiles; in `looped` those without a loop have one where
    they can; in `narrow` programs that share a dim take a place of another at a time."""
    plan = analyse(recurrence(spec))
    if schedule == "newton":
        return module.load(module.generate(plan, module.chosen(plan, "newton"), Config(chunk)))
    if schedule == "narrow":
        return module.load(module.generate(plan, module.chosen(plan), _narrow(plan, chunk)))
    if schedule != "sequential":
        words = (schedule or "").split()
        kind = next((word for word in words if word in ("split", "fused")), None)
        outer = 2 * chunk if "two_level" in words else None
        more = {word: True for word in words if word in ("apart", "handed")}
        config = Config(chunk, forward=kind, backward=kind, outer=outer, **more)
        config = _looped(plan, config) if "looped" in words else config
        return module.load(module.generate(plan, module.chosen(plan), config))
    generated = module.generate(plan, module.chosen(plan, "sequential"))
    meta = dict(generated.meta)
    if meta["checkpoint"] > 1:
        meta |= {"checkpoint": chunk, "digest": f"{meta['digest']}_{chunk}"}
    return module.load(replace(generated, meta=meta))


def _looped(plan, config: Config) -> Config:
    """A configuration in which launches that take every dim whole take one block by block."""

    def kernels(config):
        passes = module.functions(plan, module.chosen(plan), config)[:2]
        return {kernel.name: kernel for part in passes for kernel in part.kernels}

    found = config
    for name, kernel in kernels(config).items():
        for dim in kernel.launch.dims if not (kernel.launch.walks or kernel.launch.loop) else ():
            tried = found.with_tile(name, replace(kernel.tile, loop=dim, step=16))
            found = tried if kernels(tried)[name].launch.loop == dim else found
    assert found != config
    return found


def _narrow(plan, chunk: int) -> Config:
    """A configuration in which the loops of programs that share another dim have several turns."""
    config = Config(chunk)
    forward, backward, _ = module.functions(plan, module.chosen(plan), config)
    for kernel in (*forward.kernels, *backward.kernels):
        if kernel.launch.loop and kernel.launch.split:
            config = config.with_tile(kernel.name, replace(kernel.tile, block=4, step=2))
    assert config.tiles
    return config


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


def alone(spec: str, bad: float, schedule: str = "sequential") -> list[str]:
    """What a bad number in the second of three sequences changes in the others."""
    rec, call = recurrence(spec), op(spec, 4, schedule)
    given = problem(rec, Case(6, "plain"))
    inputs = {name: torch.cat([x, x[:1]]) for name, x in given.inputs.items()}
    state = {name: torch.cat([x, x[:1]]) for name, x in (given.state or {}).items()}
    spoilt = {name: x.clone() for name, x in inputs.items()}
    next(iter(spoilt.values()))[1, 2] = bad
    found = []
    for tensors in (inputs, spoilt):
        leaves = {name: x.requires_grad_() for name, x in tensors.items()}
        result, final = call(**leaves, **given.params, initial_state=state, return_final_state=True)
        results = [*(result if isinstance(result, tuple) else (result,)), *final.values()]
        grads = torch.autograd.grad(sum(x.square().sum() for x in results), list(leaves.values()), allow_unused=True)
        found.append([x[[0, 2]].detach() for x in (*results, *grads) if x is not None])
    return [f"result {place}" for place, (a, b) in enumerate(zip(*found)) if not torch.equal(a, b)]


def steps(spec: str, call=None) -> list[str]:
    """Where a bound decode step, which updates its state in place, differs from `step`."""
    rec, call = recurrence(spec), call or op(spec, 4, "sequential")
    given = problem(rec, Case(3, "step"))
    state = {name: x.clone() for name, x in (given.state or {}).items()}
    now = {name: x[:, 0].clone() for name, x in given.inputs.items()}
    with torch.no_grad():
        bound, wrong, held = call.bind(**now, **given.params, state=state), [], given.state
        for t in range(3):
            for name, x in given.inputs.items():
                now[name].copy_(x[:, t])
            got = bound()
            want, held = call.step(**{name: x[:, t] for name, x in given.inputs.items()}, **given.params, state=held)
            pairs = zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,))
            wrong += [f"output at {t}" for a, b in pairs if not torch.equal(a, b)]
            wrong += [f"{name} at {t}" for name in state if not torch.equal(state[name], held[name])]
    return wrong


def apart(spec: str, reverse: bool, schedule: str = "sequential") -> list[str]:
    """Where packed sequences give other results than each of them alone."""
    rec, call, lengths = recurrence(spec), op(spec, 4, schedule), (3, 0, 6, 1)
    given = problem(rec, Case(sum(lengths), "plain"))
    inputs = {name: x[:1].requires_grad_() for name, x in given.inputs.items()}
    state = {name: x[[0, 1, 0, 1]].requires_grad_() for name, x in (given.state or {}).items()}
    params = {name: x.requires_grad_() for name, x in given.params.items()}
    edges = torch.tensor([0, *lengths]).cumsum(0)

    def called(inputs: dict, state: dict, offsets: torch.Tensor | None) -> list[torch.Tensor]:
        result, final = call(**inputs, **params, initial_state=state, return_final_state=True, cu_seqlens=offsets,
                             reverse=reverse)  # fmt: skip
        return [*(result if isinstance(result, tuple) else (result,)), *final.values()]

    whole = called(inputs, state, edges)
    pieces = [
        called(
            {name: x[:, lo:hi] for name, x in inputs.items()}, {name: x[at : at + 1] for name, x in state.items()}, None
        )
        for at, (lo, hi) in enumerate(zip(edges[:-1], edges[1:]))
    ]
    count = len(whole) - len(state)
    single = [torch.cat(parts, 1 if place < count else 0) for place, parts in enumerate(zip(*pieces))]
    leaves = [*inputs.values(), *params.values(), *state.values()]
    grads = [
        torch.autograd.grad(sum((x * x.detach().cos()).sum() for x in results), leaves) for results in (whole, single)
    ]
    pairs = [*zip(whole, single), *zip(*grads)]
    return [f"{place}" for place, (a, b) in enumerate(pairs) if not torch.allclose(a, b, rtol=1e-4, atol=1e-5)]


def clipped_and_truncated(spec: str) -> list[str]:
    """Where gradients that are clipped and cut off differ from those of torch in float64."""
    given, found = problem(recurrence(spec), Case(7, "plain")), []
    for backend, dtype in (("triton", torch.float32), ("torch", torch.float64)):
        call = recc.load(spec, backend=backend, strategy="sequential")
        tensors, state = (
            {name: x.to(dtype).requires_grad_() for name, x in of.items()}
            for of in ({**given.inputs, **given.params}, given.state)
        )
        leaves = [*tensors.values(), *state.values()]
        plain, short = (
            torch.autograd.grad(call(**tensors, initial_state=state, **options).square().sum(), leaves)
            for options in ({}, {"clip_gradient": 0.1, "truncate": 3})
        )
        assert not all(torch.allclose(a, b) for a, b in zip(plain, short))  # it does something
        found.append(short)
    pairs = enumerate(zip(*found))
    return [f"{place}" for place, (a, b) in pairs if not torch.allclose(a.double(), b, rtol=1e-4, atol=1e-5)]


def paired(spec: str) -> list[str]:
    """Where an op in chunks and the walk beside it differ from float64: `step`, and calls of few tokens, which the walk
    serves; with gradients."""
    rec = recurrence(spec)
    call, found = module.op(analyse(rec)), steps(spec, module.op(analyse(rec)))
    taken = call._forward_for(*problem(rec, Case(3, "plain")).inputs.values())
    found += [] if taken is call.walk._forward else ["few tokens are not walked one by one"]
    for time in (3, 40):
        rows = verify.compare(rec, Case(time, "plain"), ["float32"], {"kernels": call}, [])
        found += [f"{time} tokens, {row.what}: {row.error:.2g} > {row.limit:.2g}" for row in rows if not row.ok]
    return found


def taken_unasked(spec: str) -> list[str]:
    """Where an op that takes Newton's method unasked differs from float64, and whether it does where it pays."""
    rec = recurrence(spec)
    call, found = module.op(analyse(rec)), []
    for time, channels, wanted in ((8192, 1, call.solver._forward), (16, 4096, call._forward)):
        params, states = [torch.zeros(1)] * len(rec.params), [torch.zeros(1, 1, channels)] * len(rec.states)
        tensors = [torch.zeros(1, time, 1, channels)] * len(rec.inputs) + params + states
        found += [] if call._forward_for(*tensors) is wanted else [f"another form for {time} tokens"]
    call.pays = lambda *_: True
    rows = verify.compare(rec, Case(17, "plain"), ["float32"], {"kernels": call}, [])
    found += [f"{row.what}: {row.error:.2g} > {row.limit:.2g}" for row in rows if not row.ok]
    found += [] if any(one["channels"] for one in call.statistics().values()) else ["nothing was solved"]
    call.watch.rest = 1  # as after calls that did not converge
    return found + [f"form {n + 1}" for n, form in enumerate((call._forward, call.solver._forward))
                    if call._forward_for(*tensors) is not form]  # fmt: skip


def lost(spec: str, T: int) -> float:
    """What a sum over T tokens loses: the first that is added is 2^24, and each of the others a 1, which that rounds
    away. The spec is a cell h[t] = f(w h[t-1] + x[t]) with f(1) = 1 and f'(1) = 1."""
    w = torch.zeros(1, 1, requires_grad=True)
    h = op(spec, 4, "sequential")(torch.ones(1, T, 1, 1), w)
    weights = torch.ones(1, T, 1, 1)
    weights[:, -1] = 2.0**24
    (h * weights).sum().backward()
    return 2.0**24 + T - 2 - float(w.grad)
