"""What oracles are made with: their registry, the public functions, and sums over all earlier tokens."""

from __future__ import annotations

import importlib.util
import math
import re
import types
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
Result = tuple[dict[str, Tensor], dict[str, Tensor]]
Oracle = Callable[[Tensors, Tensors, Tensors], Result]
ORACLES: dict[str, dict[str, Oracle]] = {}


def oracle(spec: str, source: str) -> Callable[[Oracle], Oracle]:
    def register(function: Oracle) -> Oracle:
        ORACLES.setdefault(spec, {})[source] = function
        return function

    return register


@cache
def fla(path: str) -> types.ModuleType:
    """A module of the installed `fla` that is plain torch, without importing the package, which wants a GPU's driver.

    These functions cast to float32 inside, whatever they are given. The casts are widened to float64 as the module
    is loaded, so that agreement can be asked for to the rounding of float64 and not to that of float32.
    """
    package = importlib.util.find_spec("fla")
    if package is None or not package.submodule_search_locations:
        pytest.skip("fla-core is not installed (pip install --no-deps fla-core==0.6.0 einops)")
    file = Path(package.submodule_search_locations[0]) / "ops" / path
    text = file.read_text().replace(".float()", ".double()")
    text = re.sub(r"torch\.float(32)?\b", "torch.float64", text)
    module = types.ModuleType(f"oracle_{path.replace('/', '_').removesuffix('.py')}")
    exec(compile(text, str(file), "exec"), module.__dict__)
    return module


def time_first(x: Tensor) -> Tensor:
    """Between ``[batch, time, heads, ...]`` and ``[batch, heads, time, ...]``."""
    return x.transpose(1, 2)


def fold(x: Tensor) -> Tensor:
    """Heads and channels as one axis of channels."""
    return x.flatten(2)


def decayed(log_decay: Tensor) -> Tensor:
    """``[batch, time t, time s, ...]``: what remains at t of what was written at s, 0 before that.

    The decays between s and t are added up, not subtracted from each other's totals, so strong ones cost no digits.
    """
    time = torch.arange(log_decay.shape[1])
    t, s, r = time[:, None, None], time[:, None], time
    between = ((s < r) & (r <= t)).to(log_decay.dtype)
    total = torch.einsum("tsr,br...->bts...", between, log_decay)
    seen = (time[:, None] >= time).reshape(1, len(time), len(time), *[1] * (log_decay.dim() - 2))
    return total.masked_fill(~seen, -math.inf).exp()


def looped(gain: Tensor, write: Tensor, start: Tensor) -> Tensor:
    """All h[t] = gain[t] h[t-1] + write[t] along dim 1, one token after the other: for gains without a logarithm."""
    h, found = start, []
    for t in range(write.shape[1]):
        h = gain[:, t] * h + write[:, t]
        found.append(h)
    return torch.stack(found, 1)
