"""transformers' functions in plain torch, which it runs where kernels are missing, as on a CPU.

Taken are functions of a recurrence alone, without the projections and convolutions of the layer around it. Between
versions of transformers they move and change their names, so one that is not found is a reason, not an error.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from importlib import metadata

import torch
from torch import Tensor
from workloads import Tensors

NAME = "transformers fallback"
INDEXED = "forward alone: its loop indexes tokens, which backwards takes a tensor of zeros as large as all of them each"


@dataclass(frozen=True)
class Fallback:
    """path: where the function is found in transformers.models. call: takes it and the workload's tensors.

    about: why its backward pass is not timed; empty where it is.
    """

    path: str
    call: Callable[[Callable, Tensors], Tensor]
    about: str = ""


def function_of(spec: str) -> Callable:
    """The function in plain torch, not the kernel that a decorator may put in its place; ImportError where this
    version of transformers has none of that name."""
    model, *names = FALLBACKS[spec].path.split(".")
    try:
        module = importlib.import_module(f"transformers.models.{model}.modeling_{model}")
        return inspect.unwrap(reduce(getattr, names, module))
    except (ImportError, AttributeError) as error:
        version = metadata.version("transformers")
        raise ImportError(f"transformers {version} has no {FALLBACKS[spec].path}: {error}".splitlines()[0]) from error


def heads_first(x: Tensors, *names: str) -> list[Tensor]:
    """From [batch, time, heads, ...] to [batch, heads, time, ...]."""
    return [x[name].transpose(1, 2).contiguous() for name in names]


def _gated_delta(function: Callable, x: Tensors) -> Tensor:
    return function(x["q"], x["k"], x["v"], x["g"], x["beta"])[0]


def _mlstm(function: Callable, x: Tensors) -> Tensor:
    return function(*heads_first(x, "q", "k", "v", "i", "f"), eps=0.0).transpose(1, 2)


def _mamba(function: Callable, x: Tensors) -> Tensor:
    u, dt, B, C = (x[name].squeeze(2).transpose(1, 2) for name in ("x", "dt", "B", "C"))
    return function(u, dt, -x["A_log"][0].exp(), B, C, x["skip"][0]).transpose(1, 2).unsqueeze(2)


def _mamba2(function: Callable, x: Tensors) -> Tensor:
    chunk = 256  # as its configuration has it
    return function(x["x"], x["dt"], -x["A_log"].exp(), x["B"], x["C"], chunk, D=x["skip"])


def _rg_lru(function: Callable, x: Tensors) -> Tensor:
    """The recurrence that HGRN shares: what it takes are the decay and what is written."""
    f, write = (y.squeeze(2) for y in (x["f"], (1 - x["f"]) * x["i"]))
    reset = torch.zeros_like(f[..., :1], dtype=torch.bool)
    return function(None, write, f, reset, None)[0].unsqueeze(2)


FALLBACKS = {
    "gated_delta_net": Fallback("qwen3_next.torch_chunk_gated_delta_rule", _gated_delta),
    "mlstm": Fallback("xlstm.mlstm_chunkwise_native_autograd", _mlstm),
    "mamba": Fallback("mamba.mamba_selective_scan", _mamba, INDEXED),
    "mamba2": Fallback("mamba2.mamba2_chunk_scan", _mamba2),
    "hgrn": Fallback("recurrent_gemma.RecurrentGemmaRglru._rnn_scan", _rg_lru, INDEXED),
}
