"""Public and usual ways to run the same recurrences on a CPU, each as a function from named tensors to the output.

What is not installed, or has no form of a spec, is left out with a reason. A form that is only for inference is
marked; so is one whose backward pass nobody would wait for.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata, util
from pathlib import Path

import fallbacks
import loops
import torch
from torch import Tensor
from workloads import MATRICES, Tensors

LOOP, ADDCMUL, CHUNK = "torch loop", "torch addcmul loop", "torch chunk"
COMPILED_SCAN, COMPILED_CHUNK = "torch.compile(scan)", "torch.compile(chunk)"
COMPILED_CHUNKS = ("gla", "gated_delta_net")  # each takes minutes to compile: the loop over chunks is unrolled
FLA, NN, SCIPY, JAX = "fla-core naive chunk", "torch.nn", "SciPy lfilter", "jax.lax.scan"
BESIDE = {JAX: "recc native, beside jax"}  # what has a process of its own is compared with native code in there


@dataclass(frozen=True)
class Rival:
    """run: named tensors to the output. trains: whether its backward pass is timed. about: what else to say of it."""

    name: str
    run: Callable[[Tensors], Tensor]
    trains: bool = True
    about: str = ""


def rivals(spec: str, compiled: tuple[str, ...] = ("scan", "chunk")) -> Iterator[Rival]:
    """All that can run the spec here. compiled: what goes through torch.compile."""
    yield Rival(LOOP, lambda x: loops.run(spec, x))
    if spec == "hgrn":
        yield Rival(ADDCMUL, lambda x: AddcmulLoop.apply(x["f"], (1 - x["f"]) * x["i"]))
    if chunk := _CHUNKS.get(spec):
        yield Rival(CHUNK, chunk)
        if "chunk" in compiled and spec in COMPILED_CHUNKS:
            yield Rival(COMPILED_CHUNK, compiled_once(chunk))
    if "scan" in compiled:
        yield Rival(COMPILED_SCAN, compiled_once(scanned(spec)))
    if (run := _FLA.get(spec)) and installed("fla"):
        yield Rival(FLA, run)
    if (fallback := fallbacks.FALLBACKS.get(spec)) and missing_fallback(spec) is None:
        function = fallbacks.function_of(spec)
        about = "; ".join(filter(None, (fallback.path, fallback.about)))
        yield Rival(fallbacks.NAME, lambda x: fallback.call(function, x), not fallback.about, about)
    if spec in MATRICES:
        yield Rival(NN, lambda x: torch_cell(spec, x))
    if spec == "ema" and installed("scipy"):
        yield Rival(SCIPY, filtered, trains=False)


def absent(spec: str) -> dict[str, str]:
    """What could run the spec if its package were installed, or had it, and that it is not or has not."""
    wanted = {
        FLA: ("fla", "fla-core", spec in _FLA),
        JAX: ("jax", "jax", True),
        SCIPY: ("scipy", "scipy", spec == "ema"),
    }
    found = {
        name: f"{package} is not installed"
        for name, (module, package, has_form) in wanted.items()
        if has_form and not installed(module)
    }
    if spec in fallbacks.FALLBACKS and (reason := missing_fallback(spec)):
        found[fallbacks.NAME] = reason
    return found


@cache
def missing_fallback(spec: str) -> str | None:
    """Why transformers' function for the spec cannot be called."""
    if not installed("transformers"):
        return "transformers is not installed"
    try:
        fallbacks.function_of(spec)
    except ImportError as error:
        return str(error)
    return None


def installed(package: str) -> bool:
    return util.find_spec(package) is not None


def versions() -> dict[str, str]:
    """Of the rivals that are installed; those that are not have the text "not installed"."""
    names = {"fla": "fla-core", "transformers": "transformers", "jax": "jax", "scipy": "scipy"}
    return {name: metadata.version(name) if installed(package) else "not installed" for package, name in names.items()}


# --- forms in plain torch -------------------------------------------------------------------------------------------


class AddcmulLoop(torch.autograd.Function):
    """h = f * h + w by one fused operation a token, into the rows of the output; backwards likewise, by hand."""

    @staticmethod
    def forward(ctx, f: Tensor, w: Tensor) -> Tensor:
        h = torch.empty_like(w)
        last = torch.zeros_like(w[:, 0])
        for f_t, w_t, h_t in zip(f.unbind(1), w.unbind(1), h.unbind(1), strict=True):
            last = torch.addcmul(w_t, f_t, last, out=h_t)
        ctx.save_for_backward(f, h)
        return h

    @staticmethod
    def backward(ctx, dh: Tensor) -> tuple[Tensor, Tensor]:
        f, h = ctx.saved_tensors
        dw, df = torch.empty_like(h), torch.zeros_like(h)
        rows = [x.unbind(1) for x in (f, h, dh, dw, df)]
        carry = torch.zeros_like(dh[:, 0])
        for t in range(h.shape[1] - 1, -1, -1):
            f_t, dh_t, dw_t = rows[0][t], rows[2][t], rows[3][t]
            torch.add(carry, dh_t, out=dw_t)
            if t:
                torch.mul(dw_t, rows[1][t - 1], out=rows[4][t])
            carry = torch.mul(dw_t, f_t)
        return df, dw


def chunked_gla(x: Tensors, chunk: int = 64) -> Tensor:
    """The usual chunk form, its decay factored into queries and keys: exp(-sum of g) overflows for strong decays."""
    q, k, v, g = (x[name].transpose(1, 2).unflatten(2, (-1, chunk)) for name in "qkvg")
    total = g.cumsum(-2)
    q, end = q * q.shape[-1] ** -0.5 * total.exp(), total[..., -1:, :]
    k_end, k = k * (end - total).exp(), k * (-total).exp()
    inside = (q @ k.mT).tril() @ v
    S, outputs, added, decay = loops.memory(x), [], k_end.mT @ v, end.exp().mT
    for q_n, inside_n, added_n, decay_n in zip(*(y.unbind(2) for y in (q, inside, added, decay)), strict=True):
        outputs.append(inside_n + q_n @ S)
        S = decay_n * S + added_n
    return torch.stack(outputs, 2).flatten(2, 3).transpose(1, 2)


def chunked_delta(x: Tensors, chunk: int = 64) -> Tensor:
    """The usual chunk form of the delta rule, gated or not: what is written in a chunk solves a triangular system."""
    q, k, v = (x[name].transpose(1, 2).unflatten(2, (-1, chunk)) for name in "qkv")
    beta = x["beta"].transpose(1, 2).unflatten(2, (-1, chunk))[..., None]
    g = x["g"].transpose(1, 2).unflatten(2, (-1, chunk)) if "g" in x else torch.zeros_like(beta[..., 0])
    total = g.cumsum(-1)[..., None]
    between = (total - total.mT).tril().exp().tril()
    system = (beta * k) @ k.mT * between
    right = torch.cat([beta * v, beta * k * total.exp()], -1)
    u, w = torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True).split(v.shape[-1], -1)
    q = q * q.shape[-1] ** -0.5
    inside, q = q @ k.mT * between, q * total.exp()
    k, decay = k * (total[..., -1:, :] - total).exp(), total[..., -1:, :].exp()
    S, outputs = loops.memory(x), []
    for q_n, inside_n, u_n, w_n, k_n, decay_n in zip(*(y.unbind(2) for y in (q, inside, u, w, k, decay)), strict=True):
        written = u_n - w_n @ S
        outputs.append(q_n @ S + inside_n @ written)
        S = decay_n * S + k_n.mT @ written
    return torch.stack(outputs, 2).flatten(2, 3).transpose(1, 2)


_CHUNKS = {"gla": chunked_gla, "gated_delta_net": chunked_delta, "delta_net": chunked_delta}


def scanned(spec: str) -> Callable[[Tensors], Tensor]:
    """The loop's step under torch's scan operator."""
    from torch._higher_order_ops.scan import scan
    from torch.utils._pytree import tree_map

    def run(x: Tensors) -> Tensor:
        loop = loops.LOOPS[spec](x)

        def step(state, token):
            state, output = loop.step(state, *token)
            return tree_map(torch.clone, state), output  # an operator's results must not share memory

        return scan(step, loop.start(), tuple(token.movedim(1, 0) for token in loop.tokens))[1].movedim(0, 1)

    return run


def compiled_once(run: Callable[[Tensors], Tensor]) -> Callable[[Tensors], Tensor]:
    """By inductor, for one spec and size. What it compiled for others would count towards its limit."""
    torch._dynamo.reset()
    return torch.compile(run, fullgraph=True)


def torch_cell(spec: str, x: Tensors) -> Tensor:
    """torch.nn.GRU or torch.nn.LSTM with the tensors as its weights."""
    R = torch.cat([x[name][0] for name in MATRICES[spec]])
    D = R.shape[1]
    zeros = R.new_zeros(R.shape[0])
    bias = torch.cat([zeros[: 2 * D], x["bn"][0]]) if spec == "gru" else zeros
    start = x["x"].new_zeros(1, x["x"].shape[0], D)
    options = (True, 1, 0.0, False, False, True)  # biases, layers, dropout, training, both directions, batch first
    weights = [x["W"], R, zeros, bias]
    if spec == "gru":
        return torch.gru(x["x"], start, weights, *options)[0]
    return torch.lstm(x["x"], (start, start), weights, *options)[0]


# --- other packages -------------------------------------------------------------------------------------------------


@cache
def fla(path: str) -> types.ModuleType:
    """A file of fla-core's that is plain torch, without importing the package, which wants a GPU's driver."""
    package = util.find_spec("fla")
    assert package is not None and package.submodule_search_locations, "fla-core is not installed; run `make bench`"
    file = Path(package.submodule_search_locations[0]) / "ops" / path
    module = types.ModuleType(path.removesuffix(".py").replace("/", "_"))
    exec(compile(file.read_text(), f"fla/ops/{path}", "exec"), module.__dict__)
    return module


def _fla_simple_gla(x: Tensors) -> Tensor:
    return fla("simple_gla/naive.py").naive_chunk_simple_gla(x["q"], x["k"], x["v"], x["g"])[0]


def _fla_gated_delta(x: Tensors) -> Tensor:
    function = fla("gated_delta_rule/naive.py").naive_chunk_gated_delta_rule
    return function(x["q"], x["k"], x["v"], x["g"], x["beta"])[0]


def _fla_delta(x: Tensors) -> Tensor:
    function = fla("delta_rule/naive.py").delta_rule_chunkwise
    return function(*(x[name].transpose(1, 2) for name in ("q", "k", "v", "beta")))[0].transpose(1, 2)


def _fla_dplr(x: Tensors) -> Tensor:
    function = fla("generalized_delta_rule/dplr/naive.py").dplr_chunkwise
    scaled = x["r"] * x["r"].shape[-1] ** 0.5  # undoes its scale, which is not an argument
    named = (scaled, x["k"], x["v"], -x["kappa"], x["a"] * x["kappa"], x["w"])
    return function(*(y.transpose(1, 2) for y in named))[0].transpose(1, 2)


_FLA = {"simple_gla": _fla_simple_gla, "gated_delta_net": _fla_gated_delta, "delta_net": _fla_delta, "rwkv7": _fla_dplr}


def filtered(x: Tensors) -> Tensor:
    """N first-order filters for each channel; SciPy takes one filter a call."""
    from scipy.signal import lfilter

    alpha, delta = x["alpha"].sigmoid()[0], x["delta"].sigmoid()[0]
    pole, gain = 1 - alpha * delta, x["eta"][0] * alpha * x["beta"][0]
    u, y = x["x"].detach().numpy()[:, :, 0], torch.zeros_like(x["x"]).numpy()
    poles, gains = pole.detach().numpy(), gain.detach().numpy()
    for channel in range(poles.shape[0]):
        for a, b in zip(poles[channel], gains[channel], strict=True):
            y[:, :, 0, channel] += lfilter([b], [1, -a], u[:, :, channel], axis=1)
    return torch.from_numpy(y)
