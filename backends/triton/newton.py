"""The strategy `newton` as Triton code: one launch that solves windows of tokens, for small elementwise Jacobians.

The backward pass and the decode step are those of the strategy `sequential`: whatever the forward pass did, the
backward pass is one linear recurrence over the states that it found.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from recc.backends.torch.module import Generated, finished
from recc.backends.triton import sequential, walks
from recc.backends.triton.division import Division, by_channels
from recc.backends.triton.nodes import dims, inner
from recc.backends.triton.schedule import Unserved
from recc.backends.triton.statements import Walk
from recc.backends.triton.steps import Launch
from recc.backends.triton.walk import Kernel
from recc.backends.triton.windows import TAKEN, NewtonKernel

from recc.analysis.plan import Plan
from recc.ir.node import GRID, Node, Spans
from recc.ir.ops import spread
from recc.strategies import Choice
from recc.tile.program import valued
from recc.tile.solve import slopes_of
from recc.tile.step import step_program


def generate(plan: Plan, choice: Choice, window: int | None = None) -> Generated:
    """Kernels and tile functions of a plan whose one component Newton's method solves. Raises Unserved.

    window: tokens that are solved at a time, a power of two; by default what fits in registers.
    """
    rec = plan.recurrence
    if len(plan.components) != 1:
        listing = ", ".join(name for component in plan.components for name in component.states)
        raise Unserved(
            f"{rec.name}: kernels of Newton's method solve one group of coupled states, and {listing} are several",
            'use the torch backend, or `strategy="sequential"`',
        )
    solver = functools.partial(Function, slopes=_slopes(plan), window=window)
    generated = sequential.generate(plan, replace(choice, chunk=1), solver=solver)
    states = ", ".join(carry.name for carry in step_program(plan).carries)
    return finished(generated.functions, {**generated.meta, "solvers": {states: "forward_tiles"}})


def _slopes(plan: Plan) -> list[Node]:
    """The derivatives of each state's next value by each state, row by row."""
    program = step_program(plan)
    news, olds = [valued(c.new, Spans()) for c in program.carries], [c.old for c in program.carries]
    return [spread(slope, olds[0].axes) for slope in slopes_of(tuple(news), tuple(olds), None)]


class Function(walks.Function):
    """`forward_tiles` and its one kernel. slopes: see `_slopes`; window: tokens solved at a time, or None."""

    def __init__(self, *program: Any, slopes: list[Node], window: int | None, **options: Any) -> None:
        self.slopes, self.window = slopes, window
        super().__init__(*program, **options)

    def _divided(self) -> tuple[Division, bool]:
        division, name = by_channels(self.program), self.program.name
        advice = 'use the torch backend, or `strategy="sequential"`'
        if division is None:
            raise Unserved(f"{name}: kernels of Newton's method take vectors of channels that never meet", advice)
        own = {axis for carry in self.program.carries for axis in dims(carry.old.axes)}
        for node in division.launches[0].loads:
            if GRID in node.axes and set(inner(node.axes)) - {GRID} - own:
                raise Unserved(f"{name}: what is read at a token has dims that the states do not have", advice)
        return division, True

    def _text(self) -> str:
        self.used |= TAKEN
        return super()._text()

    def _purpose(self, launch: Launch) -> str:
        return f"{', '.join(f'`{carry.name}`' for carry in launch.carries)} by Newton's method, ROWS tokens at a time"

    def _part(self, split: str) -> str:
        return f"call.channels(block_{split})"

    def _size_lines(self, body: str) -> list[str]:
        split = self.division.split
        given = [f"part_{split}" if split else "1", str(len(self.program.carries))]
        given += [str(self.window)] if self.window else []
        window = f"    window = call.window({', '.join(given)})"
        return [*super()._size_lines(body), window, f"    counts = call.counts({self.name})"]

    def _emitted(self, walk: Walk) -> Kernel:
        walk = replace(walk, name=walk.name.replace("_walk", "_newton"))
        return NewtonKernel(walk, [self.turn(slope) for slope in self.slopes], self.dim_names)


__all__ = ["Function", "generate"]
