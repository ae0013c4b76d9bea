"""Configurations of kernels compiled in parallel processes, for a GPU that need not be there: what spills or does not
fit need not be timed."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

Facts = dict[str, dict[str, int]]  # by kernel, as `aot.facts` gives them


@dataclass(frozen=True)
class Subject:
    """What is compiled: a spec with the dims that it fixes, and the tensors that launches are made for."""

    text: str
    path: str
    name: str
    fixed: tuple[tuple[str, int], ...]
    sizes: tuple[tuple[str, int], ...]
    dtype: str
    batch: int
    time: int
    heads: int
    target: str


def facts_of(subject: Subject, form: str) -> Facts:
    """The facts of every launch of a configuration, which is JSON. Raises what generating and compiling raise."""
    import torch
    from recc.backends.triton import aot, config
    from recc.backends.triton.module import chosen, generate

    plan, options = _plan(subject), json.loads(form)
    strategy = options.pop("strategy", None)
    own = config.of(**{key: value for key, value in options.items() if key != "backend"})
    generated = generate(plan, chosen(plan, strategy, own.chunk), own)
    launches = aot.launches(generated, dict(subject.sizes), getattr(torch, subject.dtype), subject.batch, subject.time,
                            subject.heads)  # fmt: skip
    return {launch.name: aot.facts(aot.compile_launch(launch, subject.target)) for launch in launches}


@functools.lru_cache(maxsize=4)
def _plan(subject: Subject) -> Any:
    from recc.analysis import analyse
    from recc.frontend import parse_text

    found = parse_text(subject.text, subject.path, dims=dict(subject.fixed))
    return analyse(next(rec for rec in found if rec.name == subject.name))


def unfit(facts: Facts, target: str, allowed: int = 0) -> str:
    """Why kernels with these facts need not be timed; an empty text where nothing speaks against them.

    allowed: bytes a thread that a kernel may spill.
    """
    from recc.backends.triton.aot import LEAST, SHARED

    room = SHARED.get(target, LEAST)
    for kernel, own in facts.items():
        if own["shared"] > room:
            return f"{kernel} needs {own['shared']} bytes of shared memory, and there are {room}"
        if own["spills"] > allowed:
            return f"{kernel} spills {own['spills']} bytes a thread"
    return ""


class Pruner:
    """Compiles forms in processes of its own, as many as there are cores; called with forms, it says which are unfit,
    and why. Forms of other backends are left alone.

    first: what the others are compared with; they may spill as much as it does. compile, pool: for tests, in place of
    `facts_of` and of processes.
    """

    def __init__(self, subject: Subject, first: Mapping[str, Any], jobs: int | None = None,
                 compile: Callable[..., Facts] = facts_of, pool: Executor | None = None) -> None:  # fmt: skip
        self.subject, self.jobs, self.compile = subject, jobs or os.cpu_count() or 1, compile
        self.first = json.dumps(first, sort_keys=True)
        self.facts: dict[str, Facts | str] = {}  # by form; the text of an error where it does not compile
        self._pool = pool

    def __call__(self, forms: Iterable[Mapping[str, Any]]) -> dict[str, str]:
        for _ in self.compiled([json.loads(self.first), *forms]):
            pass
        return {name: why for name in self.facts if (why := self.why(name))}

    def compiled(self, forms: Iterable[Mapping[str, Any]]) -> Iterator[str]:
        """The names of the forms, each as soon as its facts are known."""
        names = [json.dumps(form, sort_keys=True) for form in forms if form["backend"] == "triton"]
        waiting: dict[Future, str] = {}
        for name in dict.fromkeys(names):
            if name in self.facts:
                yield name
            else:
                waiting[self._workers().submit(self.compile, self.subject, name)] = name
        try:
            for done in as_completed(waiting):
                try:
                    self.facts[waiting[done]] = done.result()
                except Exception as error:  # Triton's and ptxas's own words are the finding
                    self.facts[waiting[done]] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                yield waiting[done]
        finally:
            for future in waiting:
                future.cancel()

    def why(self, name: str) -> str:
        """Why the form of this name is unfit, or an empty text."""
        facts, first = self.facts[name], self.facts.get(self.first)
        if isinstance(facts, str):
            return facts
        spilled = max((own["spills"] for own in first.values()), default=0) if isinstance(first, dict) else 0
        return unfit(facts, self.subject.target, spilled)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    def _workers(self) -> Executor:
        if self._pool is None:
            started = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.jobs, started, _ignore_interrupts)
        return self._pool


def _ignore_interrupts() -> None:
    """Ctrl-C is for the process that asked; it closes the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
