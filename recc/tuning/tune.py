"""What `recc tune` does with one recurrence: tensors of a size, calls on them, verification, and what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recc.analysis import analyse
from recc.ir.interpreter import init_params
from recc.ir.node import HEADS
from recc.ir.program import Recurrence
from recc.runtime.api import compile_recurrence
from recc.runtime.cases import PACKED, Case
from recc.runtime.samples import sample_inputs
from recc.tuning import measure, store
from recc.tuning.search import Outcome, Search
from recc.tuning.space import Form, space_of

USUAL = 64  # of a dim without size
# What a winner must get right, at the sizes of its dims: a length that fills no chunk, one token, packed sequences, a
# hard corner.
CASES = (Case(70, "plain"), Case(1, "plain"), Case(sum(PACKED), "packed"), Case(80, "decay_mixed"))


@dataclass(frozen=True)
class Task:
    """A recurrence at a size. sized: the same with every dim fixed, which is what a verification runs."""

    rec: Recurrence
    sized: Recurrence
    sizes: dict[str, int]
    batch: int
    time: int
    heads: int
    dtype: torch.dtype
    device: str
    seed: int = 0

    @property
    def shape(self) -> str:
        sizes = " ".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"B={self.batch} T={self.time} H={self.heads} {sizes}".rstrip()

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def tensors(self) -> list[Tensor]:
        """The inputs, then the params, as leaves that gradients flow to."""
        there = torch.Generator(self.device).manual_seed(self.seed)
        inputs = sample_inputs(self.rec, self.sizes, self.batch, self.time, self.heads, self.dtype, there)
        here, sizes = torch.Generator().manual_seed(self.seed), {**self.sizes, HEADS: self.heads}
        params = init_params(self.rec, sizes, self.heads, torch.float32, generator=here)
        return [x.detach().to(self.device).requires_grad_() for x in (*inputs.values(), *params.values())]

    def subject(self, target: str) -> Any:
        """What kernels are compiled for before they are timed; backends.triton.prune.Subject."""
        from recc.backends.triton.prune import Subject

        rec = self.rec
        fixed = tuple((name, size) for name, size in rec.dims.items() if size is not None)
        return Subject(rec.text, rec.path, rec.name, fixed, tuple(self.sizes.items()), self.dtype_name, self.batch,
                       self.time, self.heads, target)  # fmt: skip

    def key(self, passes: str) -> store.Key:
        dims = tuple(sorted(self.sizes.items()))
        return store.Key(
            self.rec.fingerprint, store.strategy_of(self.rec), passes, self.dtype_name, dims, store.bucket(self.time),
            store.bucket(self.batch * self.heads), store.arch_of(self.device),
        )  # fmt: skip


def calls(task: Task, passes: str) -> Callable[[Form], Callable[[], object]]:
    """Of a form, a call that runs it on the task's tensors."""
    tensors = task.tensors()
    shapes: list[Tensor] = []

    def runner(form: Form) -> Callable[[], object]:
        op = compile_recurrence(task.rec, **form)

        def forward() -> object:
            with torch.no_grad():
                return op(*tensors)

        def training() -> object:
            outputs = op(*tensors)
            outputs = [y for y in ([outputs] if torch.is_tensor(outputs) else outputs) if y.requires_grad]
            if not shapes:
                shapes.extend(torch.randn_like(y) for y in outputs)
            return torch.autograd.grad(outputs, tensors, shapes, allow_unused=True)

        return forward if passes == store.FORWARD else training

    return runner


def wrong(task: Task, form: Form) -> str:
    """What differs from the float64 loop beyond its limit; an empty text where nothing does."""
    from recc.runtime import verify

    op = compile_recurrence(task.rec, **form)
    moved = op if task.device == "cpu" else OnDevice(op, task.device)
    for case in CASES:
        for row in verify.compare(task.sized, case, [task.dtype_name], {"tuned": moved}, []):
            if not row.ok:
                return f"{row.what}, {row.case}: {row.note or f'error {row.error:.1e}, allowed {row.limit:.1e}'}"
    return ""


class OnDevice:
    """An op that takes and returns CPU tensors and computes elsewhere: what a verification calls."""

    def __init__(self, op: Any, device: str) -> None:
        self.op, self.device, self.passes = op, device, op.passes

    def __call__(self, **named: Any) -> Any:
        return self._back(self.op(**{name: self._there(x) for name, x in named.items()}))

    def step(self, **named: Any) -> Any:
        return self._back(self.op.step(**{name: self._there(x) for name, x in named.items()}))

    def _there(self, x: Any) -> Any:
        if isinstance(x, dict):
            return {name: self._there(value) for name, value in x.items()}
        return x.to(self.device) if torch.is_tensor(x) else x

    def _back(self, x: Any) -> Any:
        if isinstance(x, dict):
            return {name: self._back(value) for name, value in x.items()}
        if isinstance(x, tuple):
            return tuple(self._back(value) for value in x)
        return x.cpu()


def search(
    task: Task,
    passes: str,
    *,
    clock: measure.Clock,
    budget: float,
    effort: str,
    seed: int = 0,
    backend: str | None = None,
    fresh: bool = False,
    jobs: int | None = None,
    report: Callable[[Outcome, str], None] = lambda outcome, doing: None,
) -> tuple[Outcome, store.Entry | None]:
    """Searches for `budget` seconds and stores the best form; goes on where an earlier search ended, unless `fresh`.

    Returns what was found and the stored entry, None where there is none. Raises OSError where it cannot be stored.
    """
    key, rec = task.key(passes), task.rec
    earlier = None if fresh else next((e for e in store.entries(rec) if e.key == key), None)
    space = space_of(task.device, analyse(rec), backend, task.sizes)
    prune = _pruner(task, space.starts(effort), jobs) if task.device == "cuda" else None
    found = Search(
        space, calls(task, passes), lambda form: wrong(task, form), clock, clock.now() + budget, effort, seed,
        journal=store.folder(rec) / f"{key.digest}.tried", report=report,
        **({} if prune is None else {"prune": prune}),
    ).run(None if earlier is None else dict(earlier.config))  # fmt: skip
    if prune is not None:
        prune.close()
    if found.best is None:
        return found, None
    facts: dict[str, Any] = {"seconds": found.seconds, "first_seconds": found.first_seconds, "timed": found.timed,
                             "shape": task.shape, "effort": effort, "exhausted": found.exhausted,
                             "machine": measure.machine(task.device)}  # fmt: skip
    entry = store.Entry(key, found.best, facts)
    store.record(rec, entry)
    return found, entry


def _pruner(task: Task, starts: list[Form], jobs: int | None) -> Any:
    try:
        from recc.backends.triton.prune import Pruner
    except ImportError:  # without Triton there are only forms of torch
        return None
    return Pruner(task.subject(store.arch_of("cuda")), starts[0], jobs)
