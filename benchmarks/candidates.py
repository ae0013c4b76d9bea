"""Everything that is timed on one workload: the op on each backend, its rivals, and what it is compared with."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import rivals
import torch
from rivals import Rival
from torch import Tensor
from workloads import Tensors, Workload, folded, projected

import recc
from recc.frontend import parse_text
from recc.ir.interpreter import run as interpret
from recc.library import find

NATIVE, TORCH = "recc native", "recc torch"
AGREE = 1e-3  # relative difference of outputs and of gradients, above which a time means nothing


class Candidate:
    """One way to compute the workload's output from its tensors, and the gradients of all of them."""

    rest = 0.0  # seconds after a call in which its threads go on

    def __init__(self, rival: Rival, tensors: Tensors, dy: Tensor):
        self.name, self.run, self.trains, self.about = rival.name, rival.run, rival.trains, rival.about
        self.tensors, self.dy = tensors, dy

    def forward(self) -> Any:
        with torch.no_grad():
            return self.run(self.tensors)

    def both(self) -> float:
        """Both passes; returns the seconds of the backward one."""
        y = self.run(self.tensors)
        began = time.perf_counter()
        torch.autograd.grad(y, list(self.tensors.values()), self.dy)
        return time.perf_counter() - began

    def results(self) -> tuple[Tensor, ...]:
        if not self.trains:
            return (self.forward(),)
        y = self.run(self.tensors)
        return y.detach(), *torch.autograd.grad(y, list(self.tensors.values()), self.dy)


class JaxCandidate:
    """The same for jax, whose passes are one compiled function: the backward one has no time of its own."""

    rest = 0.2

    def __init__(self, spec: str, tensors: Tensors, dy: Tensor):
        import jax_scans

        self.name, self.trains, self.about = rivals.JAX, True, ""
        self.compiled = jax_scans.Compiled(spec, tensors, dy)
        self.forward, self.results = self.compiled.forward, self.compiled.results

    def both(self) -> None:
        self.compiled.both()


def op_on(w: Workload, backend: str) -> Callable[[Tensors], Tensor]:
    """The compiled op as a function of the workload's tensors."""
    op = recc.load(w.spec, backend=backend)
    return lambda x: folded(w.spec, op(**projected(w.spec, x)))


def candidates(
    w: Workload, tensors: Tensors, dy: Tensor, compiled: tuple[str, ...], jax: bool
) -> tuple[list, dict[str, str]]:
    """What can run here, and for what cannot the reason. jax: native code and jax alone, else all but jax."""
    found: list[Candidate | JaxCandidate] = []
    missing = rivals.absent(w.spec)
    for name, backend in ((NATIVE, "c"), *([] if jax else [(TORCH, "torch")])):
        try:
            found.append(Candidate(Rival(name, op_on(w, backend)), tensors, dy))
        except Exception as error:  # a backend that is not there, or has no form of this spec
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    if jax:
        return [*found, JaxCandidate(w.spec, tensors, dy)], missing
    return found + [Candidate(rival, tensors, dy) for rival in rivals.rivals(w.spec, compiled)], missing


def reference(w: Workload, tensors: Tensors, dy: Tensor) -> tuple[Tensor, ...]:
    """Output and gradients by recc's interpreter of the spec, token by token in float64."""
    rec = parse_text(*find(w.spec))[0]
    wide = {name: x.detach().double().requires_grad_() for name, x in tensors.items()}
    given = projected(w.spec, wide)
    inputs, params = ({x.name: given[x.name] for x in group} for group in (rec.inputs, rec.params))
    y = folded(w.spec, next(iter(interpret(rec, inputs, params)[0].values())))
    return y.detach(), *torch.autograd.grad(y, list(wide.values()), dy.double())


def difference(got: tuple[Tensor, ...], want: tuple[Tensor, ...]) -> float:
    """The largest difference of an output or a gradient, relative to its size; NaN where something is not finite."""
    return max(((a.double() - b).norm() / b.norm()).nan_to_num(torch.inf).item() for a, b in zip(got, want))
