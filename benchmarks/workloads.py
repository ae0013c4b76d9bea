"""What the CPU benchmark runs: a size for each spec, with inputs as a layer would give them.

Names as in the study that set the aims: W1 a diagonal scan, W2 gated linear attention, W3 the gated delta rule, W4
Mamba, W5 a gated cell. Gated cells that torch has are measured as torch has them, with the projection of their input.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Tensors = dict[str, Tensor]
GATES = {"gru": ("xr", "xz", "xn"), "lstm": ("xi", "xf", "xg", "xo")}
MATRICES = {"gru": ("Rr", "Rz", "Rn"), "lstm": ("Ri", "Rf", "Rg", "Ro")}
# Tensors without batch and time. All others are inputs of a token.
PARAMS = {
    "mamba": ("A_log", "skip"),
    "mamba2": ("A_log", "skip"),
    "ema": ("alpha", "delta", "beta", "eta"),
    "gru": ("W", *MATRICES["gru"], "bn"),
    "lstm": ("W", *MATRICES["lstm"]),
    "para_gru": ("az", "ar", "ac"),
}


@dataclass(frozen=True)
class Workload:
    """sizes: the spec's dims. multiply_adds: of the step, for each token and head, as the equation is written.

    streams: arrays [batch, time, heads, D] that the forward pass of a scan must move. exponentials: for each token and
    head. What takes longest of the three bounds the forward pass. backward_work: multiply-adds of the backward pass
    over those of the forward pass.
    """

    spec: str
    batch: int
    time: int
    heads: int
    sizes: Mapping[str, int]
    study: str = ""
    multiply_adds: int = 0
    streams: int = 0
    exponentials: int = 0
    backward_work: int = 3  # the states again, and two derivatives of each product

    def shape(self) -> str:
        dims = " ".join(f"{name}={size}" for name, size in self.sizes.items())
        return f"B={self.batch} T={self.time} H={self.heads} {dims}"


def _memory(spec: str, products: int, study: str = "", dims: str = "KV") -> Workload:
    """A memory K x V: so many products of its size in a step."""
    return Workload(spec, 2, 2048, 4, dict.fromkeys(dims, 64), study, multiply_adds=products * 64 * 64)


WORKLOADS = {
    w.spec: w
    for w in (
        _memory("gla", 3, "W2"),
        _memory("simple_gla", 3),
        _memory("mamba2", 3, dims="NP"),
        _memory("gated_delta_net", 4, "W3"),
        _memory("delta_net", 3),
        _memory("rwkv7", 5),
        _memory("mlstm", 3),
        Workload("mamba", 2, 2048, 1, {"D": 512, "N": 16}, "W4", exponentials=512 * 16),
        Workload("hgrn", 4, 4096, 1, {"D": 1024}, "W1", streams=3),
        Workload("para_gru", 4, 4096, 1, {"D": 1024}, "W5", streams=4, exponentials=3 * 1024),
        Workload("ema", 2, 2048, 1, {"D": 512, "N": 16}, multiply_adds=3 * 512 * 16),
        Workload("gru", 16, 512, 1, {"D": 256}, multiply_adds=6 * 256 * 256, backward_work=2),
        Workload("lstm", 16, 512, 1, {"D": 256}, multiply_adds=8 * 256 * 256, backward_work=2),
    )
}


def draw(w: Workload, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensors:
    """Inputs [batch, time, heads, ...] and params [heads, ...] by name; the same numbers in every dtype."""
    random = torch.Generator().manual_seed(seed)

    def normal(*dims: int) -> Tensor:
        return torch.randn(w.batch, w.time, w.heads, *dims, generator=random)

    def param(*dims: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(w.heads, *dims, generator=random)

    made = _DRAWS[w.spec](w.sizes, normal, param)
    return {name: x.to(dtype).contiguous().requires_grad_() for name, x in made.items()}


def first_token(w: Workload, tensors: Tensors) -> Tensors:
    """The inputs of the first token, [batch, heads, ...], and the params as they are."""
    fixed = PARAMS.get(w.spec, ())
    return {name: x.detach() if name in fixed else x.detach()[:, 0].contiguous() for name, x in tensors.items()}


def unit(x: Tensor) -> Tensor:
    return F.normalize(x, dim=-1)


def _gla(d, normal, param) -> Tensors:
    K, V = d["K"], d["V"]
    return {"q": normal(K), "k": unit(normal(K)), "v": normal(V), "g": F.logsigmoid(normal(K) + 3)}


def _simple_gla(d, normal, param) -> Tensors:
    return {**_gla(d, normal, param), "g": F.logsigmoid(normal() + 3)}


def _delta_net(d, normal, param) -> Tensors:
    K, V = d["K"], d["V"]
    return {"q": unit(normal(K)), "k": unit(normal(K)), "v": normal(V), "beta": normal().sigmoid()}


def _gated_delta_net(d, normal, param) -> Tensors:
    return {**_delta_net(d, normal, param), "g": F.logsigmoid(normal() + 3)}


def _rwkv7(d, normal, param) -> Tensors:
    K, V = d["K"], d["V"]
    made = {"r": unit(normal(K)), "k": unit(normal(K)), "v": normal(V), "w": -0.606531 * (normal(K) - 3).sigmoid()}
    return {**made, "kappa": unit(normal(K)), "a": normal(K).sigmoid()}


def _mlstm(d, normal, param) -> Tensors:
    return {"q": normal(d["K"]), "k": normal(d["K"]), "v": normal(d["V"]), "i": normal(), "f": normal() + 3}


def _mamba(d, normal, param) -> Tensors:
    D, N = d["D"], d["N"]
    made = {"x": normal(D), "dt": F.softplus(normal(D) - 4), "B": normal(N), "C": normal(N)}
    return {**made, "A_log": (0 * param(D, N) + torch.arange(1.0, N + 1)).log(), "skip": 0 * param(D) + 1}


def _mamba2(d, normal, param) -> Tensors:
    N, P = d["N"], d["P"]
    made = {"x": normal(P), "dt": F.softplus(normal() - 4), "B": normal(N), "C": normal(N)}
    return {**made, "A_log": (1 + 15 * param().sigmoid()).log(), "skip": 0 * param() + 1}


def _hgrn(d, normal, param) -> Tensors:
    return {"f": (normal(d["D"]) + 3).sigmoid(), "i": normal(d["D"])}


def _para_gru(d, normal, param) -> Tensors:
    D = d["D"]
    made = {name: normal(D) for name in ("xz", "xr", "xc")}
    return made | {name: param(D, scale=2 / (5 * D) ** 0.5) for name in ("az", "ar", "ac")}


def _ema(d, normal, param) -> Tensors:
    D, N = d["D"], d["N"]
    made = {"x": normal(D), "alpha": param(D, N, scale=0.2), "delta": param(D, N, scale=0.2)}
    return {**made, "beta": param(D, N), "eta": param(D, N, scale=N**-0.5)}


def _cell(spec: str) -> Callable[..., Tensors]:
    def draws(d, normal, param) -> Tensors:
        D, names = d["D"], MATRICES[spec]
        made = {"x": normal(D)[:, :, 0], "W": param(len(names) * D, D, scale=D**-0.5)[0]}
        made |= {name: param(D, D, scale=D**-0.5) for name in names}
        return {**made, "bn": param(D, scale=0.1)} if spec == "gru" else made

    return draws


_DRAWS = {
    "gla": _gla, "simple_gla": _simple_gla, "gated_delta_net": _gated_delta_net, "delta_net": _delta_net,
    "rwkv7": _rwkv7, "mlstm": _mlstm, "mamba": _mamba, "mamba2": _mamba2, "hgrn": _hgrn, "ema": _ema,
    "gru": _cell("gru"), "lstm": _cell("lstm"), "para_gru": _para_gru,
}  # fmt: skip


# --- the op of a spec on them ---------------------------------------------------------------------------------------


def projected(spec: str, tensors: Tensors) -> Tensors:
    """The spec's own inputs: those of a gated cell are made from x [batch, (time,) D] by the projection W."""
    if spec not in GATES:
        return tensors
    gates = F.linear(tensors["x"], tensors["W"]).unflatten(-1, (len(GATES[spec]), 1, -1)).unbind(-3)
    rest = {name: x for name, x in tensors.items() if name not in ("x", "W")}
    return {**dict(zip(GATES[spec], gates, strict=True)), **rest}


def folded(spec: str, output: Tensor) -> Tensor:
    """A gated cell has one head, which torch's cells do not show."""
    return output.squeeze(-2) if spec in GATES else output
