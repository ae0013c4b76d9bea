"""What tests of compiled recurrences share: specs, plans as facts, inputs to run with, and comparisons."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from recc.analysis import analyse
from recc.frontend import parse_text
from recc.ir.interpreter import init_params, run
from recc.ir.program import Recurrence
from recc.runtime.samples import sample_inputs
from recc.strategies import choose

SPECS = {path.stem: path.read_text() for path in sorted((Path(__file__).parents[1] / "specs").glob("*.rec"))}
TOLERANCE = 1e-9  # relative to the largest entry: what a compiled op promises in float64
SIZES = {"K": 4, "V": 3}
HEADS = 2

Tensors = dict[str, Tensor]


@cache
def parsed(text: str) -> Recurrence:
    (rec,) = parse_text(text)
    return rec


def facts(text: str) -> list[tuple]:
    """What the plan says of each component, and the strategy chosen for it."""
    plan = analyse(parsed(text))
    choice = choose(plan)
    return [
        (
            part.states,
            part.class_name,
            part.structure,
            len(getattr(part.kind, "ranks", ())),
            len(getattr(part.kind, "writes", ())),
            getattr(part.kind, "mixing", None),
            frozenset(part.reads),
            choice.name(part),
        )
        for part in plan.components
    ]


def problem(rec: Recurrence, batch: int, time: int, seed: int = 0, corner: str | None = None, dtype=torch.float64):
    """Inputs from the declared domains, fresh params, and a state to start from (not negative: some are divided by)."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: size for name, size in rec.example.items() if name not in ("T", "heads")} or SIZES
    inputs = sample_inputs(rec, sizes, batch, time, HEADS, dtype, generator, corner)
    params = init_params(rec, sizes, HEADS, dtype, generator=generator)
    shapes = run(rec, {name: x[:, :0] for name, x in inputs.items()}, params)[1]
    start = {}
    for name, x in shapes.items():
        drawn = torch.empty_like(x).normal_(generator=generator)
        start[name] = drawn if drawn.is_complex() else drawn.abs()
    return inputs, params, start


def call(op, inputs: Tensors, params: Tensors, start: Tensors | None, **options) -> tuple[Tensors, Tensors]:
    result, final = op(**inputs, **params, initial_state=start, return_final_state=True, **options)
    results = result if isinstance(result, tuple) else (result,)
    return dict(zip((item["name"] for item in op.outputs), results, strict=True)), final


def part(inputs: Tensors, first: int, last: int) -> Tensors:
    return {name: x[:, first:last] for name, x in inputs.items()}


def overflows(values: Tensors) -> bool:
    """Whether the equation itself left the range of numbers, as a memory that is trained too fast does: then it is no
    yardstick."""
    return not all(x.isfinite().all() for x in values.values())


def error(actual: Tensor, expected: Tensor, least: float = 1e-3) -> float:
    """The largest error over the largest entry, or over `least` where all entries are smaller."""
    assert actual.shape == expected.shape and actual.isfinite().all()
    if expected.numel() == 0:
        return 0.0
    actual, expected = actual.detach(), expected.detach()
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=least))


def assert_same(actual: Tensors, expected: Tensors, least: float = 1e-3) -> None:
    assert actual.keys() == expected.keys()
    for name, x in expected.items():
        found = error(actual[name], x, least)
        assert found <= TOLERANCE, f"{name}: {found:.1e}"


def gradients(outputs: Tensors, final: Tensors, leaves: Tensors) -> Tensors:
    """Of a random weighting of outputs and final states, the same for the same shapes; zeros where nothing depends."""
    generator, loss = torch.Generator().manual_seed(0), torch.zeros((), dtype=torch.float64)
    for _, x in [*sorted(outputs.items()), *sorted(final.items())]:
        parts = torch.view_as_real(x) if x.is_complex() else x
        loss = loss + (parts * torch.randn(parts.shape, generator=generator, dtype=torch.float64)).sum()
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    pairs = zip(leaves.items(), found, strict=True)
    return {name: torch.zeros_like(x) if gradient is None else gradient for (name, x), gradient in pairs}
