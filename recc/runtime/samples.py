"""Inputs to verify a recurrence with: drawn from its declared domains, or set to their hard corners.

A bound of a domain is what a compiled op may rely on, so it is also where it must still be right: a decay that forgets
nothing, one that forgets everything, a write strength at its ends.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from recc.ir.node import COMPLEX, HEADS, dim_of
from recc.ir.program import Domain, Input, Recurrence

CORNERS = {
    "decay_zero": "inputs with one bound stand at it: a log decay of 0",
    "decay_strong": "inputs with one bound are 30 away from it: a log decay of -30",
    "decay_mixed": "inputs with one bound are at it or 30 away, at random",
    "low": "inputs from an interval are its lower end",
    "high": "inputs from an interval are its upper end",
    "large": "inputs without bounds are three times as large",
}
STRONG = 30.0


def sample_inputs(
    rec: Recurrence,
    sizes: Mapping[str, int],
    batch: int,
    time: int,
    heads: int,
    dtype: torch.dtype = torch.float32,
    generator: torch.Generator | None = None,
    corner: str | None = None,
) -> dict[str, Tensor]:
    """An input tensor ``[batch, time, heads, *dims]`` for each input of `rec`, ``[batch, time, *dims]`` when shared.

    Without bounds: standard normal. One bound: mostly within 1 of it, with a tail. Two: uniform. `unit`: a random
    direction along the last axis. Numbers are drawn in float64, so one seed means the same inputs in every dtype; they
    lie on the generator's device.
    `corner`: one of `CORNERS`.
    """
    if corner is not None and corner not in CORNERS:
        raise ValueError(f"no corner `{corner}`; there are {', '.join(CORNERS)}")
    known = {**{dim: size for dim, size in rec.dims.items() if size is not None}, **sizes, HEADS: heads}
    missing = sorted({dim_of(axis) for x in rec.inputs for axis in x.axes} - set(known))
    if missing:
        raise ValueError(f"no size for {', '.join(missing)}")
    return {
        x.name: _sample(x, [batch, time, *(known[dim_of(a)] for a in x.axes)], dtype, generator, corner)
        for x in rec.inputs
    }


def _sample(
    x: Input, shape: list[int], dtype: torch.dtype, generator: torch.Generator | None, corner: str | None
) -> Tensor:
    # Both draws are made for every input, so that a corner changes the inputs it is about and no others.
    draw = {"generator": generator, "dtype": torch.float64, "device": None if generator is None else generator.device}
    normal = torch.randn([2, *shape], **draw)
    uniform = torch.rand(shape, **draw)
    if x.dtype == COMPLEX:
        value = torch.complex(*normal) / 2**0.5
        wide = torch.complex128 if dtype == torch.float64 else torch.complex64
        return (value * 3 if corner == "large" else value).to(wide)
    return _within(x.domain, normal[0], normal[1], uniform, corner).to(dtype)


def _within(domain: Domain, normal: Tensor, second: Tensor, uniform: Tensor, corner: str | None) -> Tensor:
    low, high = domain.low, domain.high
    if domain.unit:
        return normal / normal.norm(dim=-1, keepdim=True)
    if low is not None and high is not None:
        place = {"low": torch.zeros_like(uniform), "high": torch.ones_like(uniform)}.get(corner or "", uniform)
        return low + (high - low) * place
    if low is None and high is None:
        return normal * 3 if corner == "large" else normal
    # A softplus of a normal around -3: decays of e^-0.05 or so; one in ten is ten times as strong.
    distance = F.softplus(2 * normal - 3) * torch.where(uniform < 0.1, 10.0, 1.0)
    distance = {
        "decay_zero": torch.zeros_like(distance),
        "decay_strong": torch.full_like(distance, STRONG),
        "decay_mixed": torch.where(second > 0, STRONG, 0.0).to(distance),
    }.get(corner or "", distance)
    return low + distance if low is not None else high - distance
