"""A random probe of what the analysis says: each component's class and structure, tested on the step itself.

One token of the sequential reference is a function of the states. Differences of it in the component's own states,
all else fixed, must be what its class says: linear in the difference (affine), a homomorphism of (max, +) or
(logsumexp, +), zero off the diagonal, of rank r off the diagonal. A wrong claim fails for almost every draw.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from recc.analysis.plan import Affine, Component, Nonlinear, Plan, Semiring
from recc.ir import interpreter
from recc.ir.node import HEADS
from recc.ir.program import Recurrence
from recc.runtime.cases import BATCH, Case, Problem, problem, widen

CASE = "probe"
LIMIT = 1e-9  # of the largest response
Finding = tuple[str, str, str, float, float, str]  # what, dtype, case, error, limit, note
States = dict[str, Tensor]


def findings(plan: Plan) -> list[Finding]:
    """One finding for each claim about each component: its error is how far the claim is from holding."""
    if not plan.recurrence.states:
        return []
    given = problem(plan.recurrence, Case(1, "plain"))
    return _as_written(plan.recurrence) + [
        (f"{', '.join(component.states)}: {claim}", "float64", CASE, error, LIMIT, "")
        for component in plan.components
        for claim, error in _Probe(plan, component, given).claims()
    ]


def _as_written(rec: Recurrence) -> list[Finding]:
    """That states carried as mantissa and scale compute what is written, over some tokens of the reference."""
    if rec.origin is None:
        return []
    given = problem(rec.origin, Case(17, "fresh"))
    runs = [
        interpreter.run(each, given.inputs, given.params, sizes=given.sizes, dtype=torch.float64)
        for each in (rec, rec.origin)
    ]
    (carried, parts), (written, final) = runs
    for name, scale in rec.scales.items():
        axes, own = rec.state(name).axes, rec.state(scale).axes
        view = [slice(None), *(slice(None) if axis in own else None for axis in axes)]
        written[name], carried[name] = final[name], parts[name] * parts[scale].exp()[tuple(view)]
    error = max(_size({"": carried[name] - x}) / max(_size({"": x}), 1e-300) for name, x in written.items())
    return [(f"{', '.join(rec.scales)}: mantissa and scale", "float64", CASE, error, LIMIT, "")]


class _Probe:
    """The step as a function of one component's states, and random differences of these."""

    def __init__(self, plan: Plan, component: Component, given: Problem) -> None:
        self.rec, self.component, self.given = plan.recurrence, component, given
        self.inputs = {name: widen(x, torch.float64) for name, x in given.inputs.items()}
        self.params = {name: widen(x, torch.float64) for name, x in given.params.items()}
        assert given.state is not None
        self.start = {name: widen(x, torch.float64) for name, x in given.state.items()}
        self.generator = torch.Generator().manual_seed(zlib.crc32(" ".join(component.states).encode()))
        self.own = {name: self.start[name] for name in component.states}

    def claims(self) -> Iterator[tuple[str, float]]:
        match self.component.kind:
            case Affine() as kind:
                yield "affine", self._affine(lambda x: x, lambda x: x)
                yield from self._structure(kind)
            case Semiring(kind=ring, column=column):
                if ring == "max":
                    yield "affine over (max, +)", self._join()
                else:
                    yield "affine over (logsumexp, +)", self._affine(torch.log, torch.exp, positive=True)
                if column is None:
                    yield "elementwise", self._outside(sorted(self._axes()))
            case Nonlinear(jacobian):
                if jacobian == "head-block-dense":
                    yield "Jacobian head-block-dense", self._outside([HEADS])
                elif jacobian != "dense":
                    yield f"Jacobian {jacobian}", self._outside(sorted(self._axes()))

    def _structure(self, kind: Affine) -> Iterator[tuple[str, float]]:
        name, axes = self.component.states[0], sorted(self._axes())
        d = self._difference()
        if kind.time_invariant and kind.structure not in ("zero", "identity"):
            yield "transition the same at every token", self._changes(d)
        if kind.structure == "zero":
            yield "does not read its old value", _size(self._response(d)) / _size(d)
        elif kind.structure == "identity":
            response = self._response(d)
            yield "transition identity", _size({n: response[n] - d[n] for n in d}) / _size(d)
        elif kind.structure == "scalar":
            yield "transition scalar", self._one_factor(name)
        elif kind.structure == "diagonal" or kind.structure.startswith("block"):
            yield f"transition {kind.structure}", self._outside(axes)
        elif kind.structure == "diagonal+rank":
            yield f"mixes {kind.mixing} alone", self._outside([axis for axis in axes if axis != kind.mixing])
            yield f"rank {len(kind.ranks)} off the diagonal", self._rank(name, kind)

    # --- the step -------------------------------------------------------------------------------------------

    def _step(self, own: States) -> States:
        state = {**self.start, **own}
        _, new = interpreter.run(
            self.rec, self.inputs, self.params, initial_state=state, sizes=self.given.sizes, dtype=torch.float64
        )
        return {name: new[name] for name in self.component.states}

    def _response(self, d: States) -> States:
        """step(s + d) - step(s)."""
        moved, still = self._step({name: x + d[name] for name, x in self.own.items()}), self._step(self.own)
        return {name: moved[name] - still[name] for name in d}

    def _difference(self) -> States:
        return {name: self._normal(x) for name, x in self.own.items()}

    def _normal(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=self.generator, dtype=x.dtype)

    def _axes(self) -> set[str]:
        return {axis for name in self.component.states for axis in self.rec.state(name).axes}

    def _changes(self, d: States) -> float:
        """How far the response to d is from that at another token: the other sequence of the batch lends its inputs."""
        here, inputs = self._response(d), self.inputs
        self.inputs = {name: x.roll(1, 0) for name, x in inputs.items()}
        there, self.inputs = self._response(d), inputs
        return _size({name: here[name] - there[name] for name in d}) / max(_size(here), 1e-300)

    # --- claims ---------------------------------------------------------------------------------------------

    def _affine(self, into: Callable, out: Callable, positive: bool = False) -> float:
        """How far step(a s + (1 - a) s') is from a step(s) + (1 - a) step(s'), in the semiring's linear coordinates."""
        share = 0.3
        first, second = self._difference(), self._difference()
        if positive:  # values spread so that now what is carried over and now what is added is larger
            first, second = ({name: torch.exp(3 * x) for name, x in states.items()} for states in (first, second))
        mixed = {name: share * first[name] + (1 - share) * second[name] for name in first}
        a, b, c = (
            {name: out(x) for name, x in self._step({name: into(x) for name, x in states.items()}).items()}
            for states in (first, second, mixed)
        )
        gap = {name: c[name] - share * a[name] - (1 - share) * b[name] for name in a}
        return _size(gap) / max(_size(a), _size(b), _size(c), 1e-300)

    def _join(self) -> float:
        """How far step(max(s, s')) is from max(step(s), step(s'))."""
        first, second = ({name: 3 * x for name, x in self._difference().items()} for _ in range(2))
        joined = self._step({name: torch.maximum(first[name], second[name]) for name in first})
        a, b = self._step(first), self._step(second)
        gap = {name: joined[name] - torch.maximum(a[name], b[name]) for name in a}
        return _size(gap) / max(_size(joined), 1e-300)

    def _outside(self, axes: list[str]) -> float:
        """The response along `axes` (and batch) at places that were not changed, relative to the change."""
        sizes = {axis: self.start[n].shape[1 + self.rec.state(n).axes.index(axis)]
                 for n in self.component.states for axis in self.rec.state(n).axes}  # fmt: skip
        sizes["@batch"], worst = BATCH, 0.0
        for axis in ["@batch", *axes]:
            keep = torch.rand(sizes[axis], generator=self.generator) < 0.5
            keep[0], keep[-1] = True, False  # in an axis of size 1 nothing is changed, and nothing must answer
            masks = {name: self._mask(name, axis, keep) for name in self.component.states}
            d = {name: x * masks[name] for name, x in self._difference().items()}
            response = self._response(d)
            worst = max(worst, _size({n: response[n] * ~masks[n] for n in d}) / max(_size(d), 1e-300))
        return worst

    def _mask(self, name: str, axis: str, keep: Tensor) -> Tensor:
        axes = ("@batch", *self.rec.state(name).axes)
        if axis not in axes:
            return torch.ones([1] * len(axes), dtype=torch.bool)
        return keep.view([-1 if other == axis else 1 for other in axes])

    def _one_factor(self, name: str) -> float:
        """How far the response is from one multiple of the difference for each batch entry and head."""
        d = self._difference()
        response, x = self._response(d)[name], d[name]
        axes = self.rec.state(name).axes
        dims = [1 + place for place, axis in enumerate(axes) if axis != HEADS]
        if not dims:
            return 0.0
        factor = (response * x.conj()).sum(dims, keepdim=True) / (x * x.conj()).sum(dims, keepdim=True)
        return _size({name: response - factor * x}) / _size(d)

    def _rank(self, name: str, kind: Affine) -> float:
        """The singular value after the r-th of a block of the transition off its diagonal, relative to the first.

        The rows of the block are one half of the mixing axis, its columns the other; all other axes are at place 0.
        """
        axes, mixing = self.rec.state(name).axes, kind.mixing
        assert mixing is not None
        place = 1 + axes.index(mixing)
        size = self.own[name].shape[place]
        half = size // 2
        rest = [0] * (self.own[name].dim() - 1)
        columns = []
        for k in range(half):
            d = torch.zeros_like(self.own[name])
            d.movedim(place, 0)[(k, *rest)] = 1.0
            columns.append(self._response({name: d})[name].movedim(place, 0)[(slice(half, None), *rest)])
        if len(kind.ranks) >= min(half, size - half):
            return 0.0
        values = torch.linalg.svdvals(torch.stack(columns, 1))
        return float(values[len(kind.ranks)] / values[0].clamp(min=1e-300))


def _size(x: States) -> float:
    return max((float(value.abs().max()) for value in x.values() if value.numel()), default=0.0)


__all__ = ["CASE", "LIMIT", "findings"]
