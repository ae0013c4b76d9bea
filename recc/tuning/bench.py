"""What `recc bench` measures: every form of a recurrence that serves on a device, the sequential loop, and a floor."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recc.analysis import analyse
from recc.ir import interpreter
from recc.ir.node import HEADS
from recc.runtime.api import compile_recurrence
from recc.strategies import STRATEGIES, Refused, choose
from recc.tuning import measure, store
from recc.tuning.space import QUICK, Form, space_of
from recc.tuning.tune import Task

FORWARD, TRAINING, DECODE = "forward", "forward + backward", "decode step"
PASSES = (FORWARD, TRAINING, DECODE)
LOOP, COPY, BOUND = "torch loop", "torch copy", ", bound"
STEPS = 50  # decode steps that are timed in a row
AGREE = {torch.float64: 1e-9, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass
class Results:
    """times: by pass and name, seconds in each round. missing: what could not be timed, and why."""

    task: Task
    times: dict[str, measure.Times] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Of all that was timed: recc's forms, each with what belongs to it, then the loop, then the copy."""
        every = list(dict.fromkeys(name for times in self.times.values() for name in times))
        place = {name: every.index(name.removesuffix(BOUND)) for name in every if name.removesuffix(BOUND) in every}
        return sorted(every, key=lambda name: (name == COPY, name == LOOP, place.get(name, len(every)), len(name)))

    def view(self) -> dict[str, Any]:
        return {"recurrence": self.task.rec.name, "shape": self.task.shape, "dtype": self.task.dtype_name,
                "device": self.task.device, "machine": self.machine, "seconds": self.times,
                "missing": self.missing}  # fmt: skip


def forms(task: Task) -> Iterator[tuple[str, Form]]:
    """What recc has for the task, by name: each backend, torch in every strategy that serves, what was tuned."""
    plan = analyse(task.rec)
    for form in space_of(task.device, plan).starts(QUICK):
        if form in ({"backend": "c"}, {"backend": "torch"}):
            yield ("recc native" if form["backend"] == "c" else f"recc torch, {store.strategy_of(task.rec)}"), form
        elif form == {"backend": "triton"}:
            yield "recc triton", form
    for name in STRATEGIES:
        try:
            chosen = choose(plan, name)
        except Refused:
            continue
        if chosen.strategies != choose(plan).strategies:
            yield f"recc torch, {name}", {"backend": "torch", "strategy": name}
    for passes in (store.FORWARD, store.TRAINING):
        found = next((e for e in store.entries(task.rec) if e.key == task.key(passes)), None)
        if found is not None:
            yield f"recc, tuned for {'forward' if passes == store.FORWARD else 'training'}", dict(found.config)


def run(task: Task, *, clock: measure.Clock, count: int, budget: float, wanted: tuple[str, ...] = PASSES,
        report: Callable[[str], None] = lambda doing: None) -> Results:  # fmt: skip
    """Times the passes in `wanted` in at most `count` interleaved rounds each, for about `budget` seconds in all.

    Before anything is timed, results are compared with the sequential loop's; what differs is left out with the reason.
    """
    found = Results(task, machine=measure.machine(task.device))
    calls = _Calls(task, found.missing, report)
    ends = clock.now() + budget
    for place, passes in enumerate(wanted):
        cases = calls.of(passes)
        report(f"timing {len(cases)} ways, {passes}")
        until = clock.now() + (ends - clock.now()) / (len(wanted) - place)
        timed = {name: measure.whole(call, clock) for name, call in cases.items()}
        times = measure.rounds(timed, count, until, clock.now) if timed else {}
        steps = STEPS if passes == DECODE else 1
        found.times[passes] = {n: [None if x is None else x / steps for x in row] for n, row in times.items()}
    return found


class _Calls:
    """The calls that are timed, by pass and name."""

    def __init__(self, task: Task, missing: dict[str, str], report: Callable[[str], None]) -> None:
        self.task, self.missing, self.report = task, missing, report
        self.tensors = task.tensors()
        names = [x.name for x in (*task.rec.inputs, *task.rec.params)]
        self.named = dict(zip(names, self.tensors, strict=True))
        self.inputs = {x.name: self.named[x.name] for x in task.rec.inputs}
        self.params = {x.name: self.named[x.name] for x in task.rec.params}
        report("running the sequential loop")
        self.outputs = [y.detach().to(task.dtype) for y in self._loop()]
        random = torch.Generator().manual_seed(task.seed + 1)
        self.grads = [torch.randn(y.shape, generator=random).to(y) for y in self.outputs]
        self.ops = dict(self._ops())

    def _loop(self) -> list[Tensor]:
        wide = torch.float64 if self.task.dtype == torch.float64 else torch.float32
        outputs, _ = interpreter.run(self.task.rec, self.inputs, self.params, sizes=self._sizes(), dtype=wide)
        return list(outputs.values())

    def _sizes(self) -> dict[str, int]:
        return {**self.task.sizes, HEADS: self.task.heads}

    def _ops(self) -> Iterator[tuple[str, Any]]:
        """The ops that compute what the loop computes."""
        for name, form in forms(self.task):
            self.report(f"comparing {name} with the loop")
            try:
                op = compile_recurrence(self.task.rec, **form)
                with torch.no_grad():
                    got = _listed(op(*self.tensors))
            except Exception as error:  # a backend that is not there, or does not serve at this size
                self.missing[name] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                continue
            apart = max(((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-30)).item()
                        for a, b in zip(got, self.outputs, strict=True))  # fmt: skip
            if apart <= AGREE[self.task.dtype]:
                yield name, op
            else:
                self.missing[name] = f"differs from the loop by {apart:.1e}; not timed"

    def of(self, passes: str) -> dict[str, Callable[[], object]]:
        """The calls of a pass, and its floor: a copy of the bytes that it must read and write at least."""
        moved = [sum(x.numel() * x.element_size() for x in group) for group in (self.inputs.values(), self.outputs)]
        if passes == DECODE:
            states = self._state(next(iter(self.ops.values()))).values() if self.ops else ()
            size = sum(x.numel() * x.element_size() for x in states)
            copied = self._copied(2 * size, STEPS)
            return {**dict(self._steps()), **({COPY: copied} if size else {})}
        found = {name: self._forward(op) if passes == FORWARD else self._training(op) for name, op in self.ops.items()}
        if passes == FORWARD:
            return {**found, LOOP: torch.no_grad()(self._loop), COPY: self._copied(sum(moved))}
        found[LOOP] = lambda: self._derived([y.to(self.task.dtype) for y in self._loop()])
        return {**found, COPY: self._copied(3 * moved[0] + 2 * moved[1])}

    def _forward(self, op: Any) -> Callable[[], object]:
        return torch.no_grad()(lambda: op(*self.tensors))

    def _training(self, op: Any) -> Callable[[], object]:
        return lambda: self._derived(_listed(op(*self.tensors)))

    def _derived(self, outputs: list[Tensor]) -> object:
        smooth = [(y, dy) for y, dy in zip(outputs, self.grads) if y.requires_grad]  # a position has no gradient
        outputs, grads = zip(*smooth)
        return torch.autograd.grad(outputs, self.tensors, grads, allow_unused=True)

    def _copied(self, moved: int, times: int = 1) -> Callable[[], object]:
        source = torch.zeros(max(moved // 2, 1), dtype=torch.uint8, device=self.task.device)
        target = torch.empty_like(source)
        return lambda: [target.copy_(source) for _ in range(times)]

    # --- decode -----------------------------------------------------------------------------------------------------

    def _state(self, op: Any) -> dict[str, Tensor]:
        params = list(self.params.values())
        return op.initial_state(self.task.batch, heads=self.task.heads, sizes=self.task.sizes, params=params,
                                device=self.task.device)  # fmt: skip

    def _steps(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """STEPS decode steps in a row, each from the state that the one before left."""
        token = [x.detach()[:, 0].contiguous() for x in self.inputs.values()]
        token += [x.detach() for x in self.params.values()]
        taken: list[str] = []
        for name, op in self.ops.items():
            if "tuned" in name or any("torch" in name and "torch" in other for other in taken):
                continue  # its step is the same as without, and that of all strategies of torch
            taken.append(name)
            try:
                yield name, self._stepped(op, token)
                if hasattr(op, "bind"):
                    bound = op.bind(*token, state=self._state(op))
                    yield name + BOUND, lambda bound=bound: [bound() for _ in range(STEPS)]
            except ValueError as error:
                self.missing[f"{name}, decode"] = str(error)

    def _stepped(self, op: Any, token: list[Tensor]) -> Callable[[], object]:
        state = self._state(op)

        @torch.no_grad()
        def steps() -> None:
            held = state
            for _ in itertools.repeat(None, STEPS):
                _, held = op.step(*token, state=held)

        steps()
        return steps


def _listed(output: Any) -> list[Tensor]:
    return [output] if torch.is_tensor(output) else list(output)
