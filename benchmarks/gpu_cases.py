"""What the GPU benchmark runs: specs at sizes, recc's forms and its rivals as functions of the spec's tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import util
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from recc.frontend import parse_text
from recc.library import find
from recc.runtime.api import compile_recurrence
from recc.tuning import store
from recc.tuning.tune import Task

FORWARD, TRAINING, DECODE = PASSES = ("forward", "forward + backward", "decode step")
KERNELS, TUNED, FLA, MAMBA = "recc", "recc, tuned", "fla-core", "mamba-ssm"
ATTENTION, COPY = "flash attention", "copy"
SAME = FLA, MAMBA  # rivals that compute the same recurrence
AGREE = 0.03  # relative difference of outputs in 16 bits, above which a time means nothing
PREFIX, SOME = 512, 2  # tokens and heads by which results are compared
STATES = 16  # per channel, of a spec whose state is channels x N

Tensors = dict[str, Tensor]
Run = Callable[[Tensors], Tensor]


@dataclass(frozen=True)
class Shape:
    """D: of a key and of a value. A spec whose state is elementwise has heads x D channels."""

    batch: int
    time: int
    heads: int
    D: int

    def __str__(self) -> str:
        return f"B{self.batch} T{self.time} H{self.heads} D{self.D}"


SHAPES = (Shape(1, 8192, 96, 128), Shape(2, 16384, 16, 128), Shape(4, 2048, 16, 128), Shape(8, 2048, 32, 256))
SPECS = ("gla", "simple_gla", "gated_delta_net", "delta_net", "retnet", "kda", "mamba", "hgrn")


def task_of(spec: str, shape: Shape, device: str = "cuda", dtype: torch.dtype = torch.bfloat16) -> Task:
    """The spec at this size."""
    text, path = find(spec)
    rec = parse_text(text, path)[0]
    memory = {"K", "V"} <= set(rec.dims)
    channels = shape.D if memory else shape.heads * shape.D
    sizes = {dim: size or (STATES if dim == "N" else channels) for dim, size in rec.dims.items()}
    sized = parse_text(text, path, dims=sizes)[0]
    return Task(rec, sized, sizes, shape.batch, shape.time, shape.heads if memory else 1, dtype, device)


# --- who computes it ------------------------------------------------------------------------------------------------


def own(task: Task) -> Iterator[tuple[str, dict[str, Any]]]:
    """recc's kernels as the heuristics choose them, and as they were tuned."""
    yield KERNELS, {"backend": "triton"} if task.device == "cuda" else {"backend": "torch"}
    found = next((e for e in store.entries(task.rec) if e.key == task.key(store.TRAINING)), None)
    if found is not None and dict(found.config) != {"backend": "triton"}:
        yield TUNED, dict(found.config)


def op_run(task: Task, form: dict[str, Any]) -> Run:
    op = compile_recurrence(task.rec, **form)
    return lambda x: op(**x)


def rivals(spec: str) -> Iterator[tuple[str, Run]]:
    """Public kernels for the same recurrence, and attention on tensors of the same size."""
    if spec in _FLA and util.find_spec("fla") is not None:
        yield FLA, _FLA[spec]
    elif spec == "mamba" and util.find_spec("mamba_ssm") is not None:
        yield MAMBA, _mamba
    if spec == "gla":  # the same for every spec: timed once
        yield ATTENTION, _attention


def _fla(name: str) -> Any:
    import fla.ops

    return getattr(fla.ops, name)


def _hgrn(x: Tensors) -> Tensor:
    kept, inputs = x["f"].squeeze(2), x["i"].squeeze(2)
    return _fla("fused_recurrent_hgrn")((1 - kept) * inputs, kept.log())[0].unsqueeze(2)


_FLA: dict[str, Run] = {
    "gla": lambda x: _fla("chunk_gla")(x["q"], x["k"], x["v"], x["g"])[0],
    "simple_gla": lambda x: _fla("chunk_simple_gla")(x["q"], x["k"], x["v"], x["g"])[0],
    "retnet": lambda x: _fla("chunk_retention")(x["q"], x["k"], x["v"])[0],
    "delta_net": lambda x: _fla("chunk_delta_rule")(x["q"], x["k"], x["v"], x["beta"])[0],
    "gated_delta_net": lambda x: _fla("chunk_gated_delta_rule")(x["q"], x["k"], x["v"], x["g"], x["beta"])[0],
    "kda": lambda x: _fla("chunk_kda")(x["q"], x["k"], x["v"], x["g"], x["beta"])[0],
    "hgrn": _hgrn,
}


def _mamba(x: Tensors) -> Tensor:
    """mamba-ssm's scan, whose tensors are [batch, channels, time]: the copies to that layout are its caller's here."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    u, dt, B, C = (x[name].squeeze(2).transpose(1, 2).contiguous() for name in ("x", "dt", "B", "C"))
    y = selective_scan_fn(u, dt, -x["A_log"][0].exp(), B, C, x["skip"][0])
    return y.transpose(1, 2).unsqueeze(2)


# What they import, by spec.
LIBRARIES = {spec: ("fla.ops",) for spec in _FLA} | {
    "mamba": ("mamba_ssm.ops.selective_scan_interface", "mamba_ssm.ops.triton.selective_state_update")
}


def _attention(x: Tensors) -> Tensor:
    """Causal softmax attention, which computes something else: no output is compared."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q, k, v = (x[name].transpose(1, 2) for name in "qkv")
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION]):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


# --- decode ---------------------------------------------------------------------------------------------------------


def own_step(task: Task, form: dict[str, Any], x: Tensors) -> Callable[[], object]:
    """A step of the op from the same state each time; of kernels, the one that is a launch."""
    op = compile_recurrence(task.rec, **({"backend": "triton", "strategy": "sequential"} if _kernels(form) else form))
    state = state_of(task, x)
    token = {name: value.detach() for name, value in first_token(task, x).items()}
    return torch.no_grad()(lambda: op.step(**token, state=state))


def _kernels(form: dict[str, Any]) -> bool:
    return form["backend"] == "triton"


def fla_step(spec: str, task: Task, x: Tensors) -> Callable[[], object]:
    """A step by the recurrent kernel, which also returns the state."""
    token = {name: value.detach() for name, value in first_token(task, x).items()}
    (state,) = state_of(task, x).values()
    one = {name: value[:, None] for name, value in token.items() if name in {i.name for i in task.rec.inputs}}
    more = {"initial_state": state, "output_final_state": True}
    if spec == "hgrn":
        kept, inputs = one["f"].squeeze(2), one["i"].squeeze(2)
        return lambda: _fla("fused_recurrent_hgrn")((1 - kept) * inputs, kept.log(), state.squeeze(1), True)
    name = {"gla": "gla", "simple_gla": "simple_gla", "retnet": "retention", "delta_net": "delta_rule",
            "gated_delta_net": "gated_delta_rule", "kda": "kda"}[spec]  # fmt: skip
    names = {"g": "gk"} if spec == "gla" else {}
    given = {names.get(key, key): value for key, value in one.items()}
    return torch.no_grad()(lambda: _fla(f"fused_recurrent_{name}")(**given, **more))


def mamba_step(spec: str, task: Task, x: Tensors) -> Callable[[], object]:
    """A step by mamba-ssm's kernel, which updates its state in place."""
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update

    token = {name: value.detach() for name, value in first_token(task, x).items()}
    (state,) = state_of(task, x).values()
    state, A, skip = state.squeeze(1).contiguous(), -token["A_log"][0].exp(), token["skip"][0]
    now = [token[name].squeeze(1) for name in ("x", "dt")]
    mixed = [token[name].squeeze(1) for name in ("B", "C")]
    return torch.no_grad()(lambda: selective_state_update(state, *now, A, *mixed, skip))


STEPS = {FLA: fla_step, MAMBA: mamba_step}


def first_token(task: Task, x: Tensors) -> Tensors:
    inputs = {item.name for item in task.rec.inputs}
    return {name: value[:, 0].contiguous() if name in inputs else value for name, value in x.items()}


def state_of(task: Task, x: Tensors) -> Tensors:
    """The state before the first token."""
    op = compile_recurrence(task.rec, backend="torch")
    params = [x[item.name].detach() for item in task.rec.params]
    return op.initial_state(task.batch, heads=task.heads, sizes=task.sizes, params=params, device=task.device)


# --- what is right --------------------------------------------------------------------------------------------------


def difference(task: Task, run: Run, x: Tensors) -> float:
    """How far a run is from recc's torch form in float32 on the first tokens of some heads, relative to its size.

    Every recurrence here is causal, so the first tokens do not depend on the others.
    """
    inputs = {item.name: item for item in task.rec.inputs}
    params = {item.name: item for item in task.rec.params}

    def part(name: str, value: Tensor) -> Tensor:
        lead, item = (2, inputs[name]) if name in inputs else (0, params[name])
        value = value.detach()[:1, :PREFIX] if name in inputs else value.detach()
        return value.narrow(lead, 0, min(SOME, task.heads)) if "heads" in item.axes else value

    truth = compile_recurrence(task.rec, backend="torch")
    with torch.no_grad():
        want = truth(**{name: part(name, value).float() for name, value in x.items()})
        got = run(x)[:1, :PREFIX]
    got = got[:, :, : want.shape[2]] if "heads" in task.rec.outputs[0].axes else got
    return ((got.float() - want).norm() / want.norm()).nan_to_num(torch.inf).item()
