"""Cells that torch does not have: the equations of their papers, one token after the other."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.base import Result, Tensors, oracle


def stepped(spec: str, source: str) -> Callable[[Callable[..., tuple[Tensors, Tensors]]], None]:
    """Registers a step: from the tokens at one time, params and states, by name, to outputs and new states."""

    def register(step: Callable[..., tuple[Tensors, Tensors]]) -> None:
        @oracle(spec, source)
        def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
            outputs, states = [], dict(s)
            for t in range(next(iter(x.values())).shape[1]):
                output, states = step({name: value[:, t] for name, value in x.items()}, p, states)
                outputs.append(output)
            return {name: torch.stack([output[name] for output in outputs], 1) for name in outputs[0]}, states

    return register


def times(R: Tensor, h: Tensor) -> Tensor:
    """A matrix for each head, ``[heads, D, D]``, times a vector for each ``[batch, heads, D]``."""
    return torch.einsum("hij,bhj->bhi", R, h)


@stepped("para_gru", "equations of ParaRNN's GRU")
def _(x: Tensors, p: Tensors, s: Tensors):
    h = s["h"]
    z, r = torch.sigmoid(p["az"] * h + x["xz"]), torch.sigmoid(p["ar"] * h + x["xr"])
    h = h + z * (torch.tanh(p["ac"] * h * r + x["xc"]) - h)
    return {"h": h}, {"h": h}


@stepped("para_lstm", "equations of ParaRNN's LSTM")
def _(x: Tensors, p: Tensors, s: Tensors):
    c, h = s["c"], s["h"]
    f = torch.sigmoid(p["af"] * h + p["wf"] * c + x["xf"])
    c = torch.lerp(torch.tanh(p["ac"] * h + x["xc"]), c, f)
    h = torch.sigmoid(p["ao"] * h + p["wo"] * c + x["xo"]) * c.tanh()
    return {"h": h}, {"c": c, "h": h}


@stepped("gru_reset_before", "equations 5 to 8 of Cho et al.")
def _(x: Tensors, p: Tensors, s: Tensors):
    h = s["h"]
    r, z = (torch.sigmoid(x[f"x{gate}"] + times(p[f"R{gate}"], h)) for gate in "rz")
    h = torch.lerp(torch.tanh(x["xn"] + times(p["Rn"], r * h)), h, z)
    return {"h": h}, {"h": h}


@oracle("slstm", "without its stabiliser, whose scale n and c share")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    h, c, n, outputs = s["h"], s["c"] * s["m"].exp(), s["n"] * s["m"].exp(), []
    for t in range(x["xz"].shape[1]):
        z, i, f, o = (x[f"x{gate}"][:, t] + times(p[f"R{gate}"], h) for gate in "zifo")
        c, n = f.sigmoid() * c + i.exp() * z.tanh(), f.sigmoid() * n + i.exp()
        h = o.sigmoid() * c / n
        outputs.append(h)
    return {"h": torch.stack(outputs, 1)}, {"h": h, "c*exp(m)": c, "n*exp(m)": n}


@stepped("indrnn", "equation 2 of Li et al.")
def _(x: Tensors, p: Tensors, s: Tensors):
    h = F.relu(x["x"] + p["u"] * s["h"])
    return {"h": h}, {"h": h}


@stepped("mgu", "equations of Zhou et al.")
def _(x: Tensors, p: Tensors, s: Tensors):
    h = s["h"]
    f = torch.sigmoid(x["xf"] + times(p["Rf"], h))
    h = torch.lerp(h, torch.tanh(x["xn"] + times(p["Rn"], f * h)), f)
    return {"h": h}, {"h": h}


@stepped("rhn", "equations 6 to 8 of Zilly et al.")
def _(x: Tensors, p: Tensors, s: Tensors):
    s_l = s["s"]
    for layer in range(p["bh"].shape[1]):
        first = 1.0 if layer == 0 else 0.0
        h = torch.tanh(first * x["xh"] + times(p["Rh"][:, layer], s_l) + p["bh"][:, layer])
        g = torch.sigmoid(first * x["xg"] + times(p["Rg"][:, layer], s_l) + p["bg"][:, layer])
        s_l = h * g + s_l * (1 - g)
    return {"s": s_l}, {"s": s_l}


@stepped("leaky_rnn", "equations of Khajehabdollahi et al.")
def _(x: Tensors, p: Tensors, s: Tensors):
    W = p["R"] - torch.diag_embed(p["R"].diagonal(dim1=-2, dim2=-1))
    h = F.leaky_relu(s["h"] + (times(W, s["h"]) + x["x"] - s["h"]) / p["tau"], 0.01)
    return {"h": h}, {"h": h}


@stepped("plrnn", "equations of Koppe et al.")
def _(x: Tensors, p: Tensors, s: Tensors):
    W = p["W"] - torch.diag_embed(p["W"].diagonal(dim1=-2, dim2=-1))
    z = p["A"] * s["z"] + times(W, s["z"].clamp(min=0)) + p["b"] + x["x"]
    return {"z": z}, {"z": z}


@stepped("shallow_plrnn", "equations of Hess et al.")
def _(x: Tensors, p: Tensors, s: Tensors):
    start = torch.lerp(s["z"], x["target"], x["alpha"][..., None])
    z = p["A"] * start + times(p["W1"], F.relu(times(p["W2"], start) + p["b2"])) + p["b1"]
    return {"z": z}, {"z": z}


@stepped("dend_plrnn", "equations of Brenner et al., 2022")
def _(x: Tensors, p: Tensors, s: Tensors):
    start = torch.lerp(s["z"], x["target"], x["force"])
    bases = [p["alpha"][:, b, None] * F.relu(start - p["H"][:, :, b]) for b in range(p["H"].shape[-1])]
    z = p["A"] * start + times(p["W"], sum(bases)) + p["b"]
    return {"z": z}, {"z": z}


@stepped("al_rnn", "equations of Brenner et al., 2024")
def _(x: Tensors, p: Tensors, s: Tensors):
    start = torch.lerp(s["z"], x["target"], x["force"])
    z = p["A"] * start + times(p["W"], torch.cat([start[..., :-2], F.relu(start[..., -2:])], -1)) + p["b"]
    return {"z": z}, {"z": z}


@stepped("peephole_lstm", "equations of Gers, Schraudolph, Schmidhuber")
def _(x: Tensors, p: Tensors, s: Tensors):
    c, h = s["c"], s["h"]
    i, f, g, o = (x[f"x{gate}"] + times(p[f"R{gate}"], h) for gate in "ifgo")
    c = torch.sigmoid(f + p["wf"] * c) * c + torch.sigmoid(i + p["wi"] * c) * g.tanh()
    h = torch.sigmoid(o + p["wo"] * c) * c.tanh()
    return {"h": h}, {"c": c, "h": h}


@stepped("iclrnn", "equations of Wang, Pravin, Wu")
def _(x: Tensors, p: Tensors, s: Tensors):
    h = F.relu(times(p["W"], x["x"]) + times(p["U"], s["h"]) + p["b"])
    return {"y": F.relu(times(p["V"], h) + p["c"])}, {"h": h}


class Spike(torch.autograd.Function):
    """The step at 0, with the derivative of a fast sigmoid."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return torch.heaviside(u, torch.ones_like(u))

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (1 + 10 * u.abs()).square()


@stepped("lif", "equations of Neftci, Mostafa, Zenke, soft reset")
def _(x: Tensors, p: Tensors, s: Tensors):
    u = p["decay"] * s["v"] + x["x"]
    spike = Spike.apply(u - 1)
    return {"spike": spike}, {"v": u - spike}


@stepped("lif_hard", "equations of Neftci, Mostafa, Zenke, hard reset")
def _(x: Tensors, p: Tensors, s: Tensors):
    u = p["decay"] * s["v"] + x["x"]
    spike = Spike.apply(u - 1)
    return {"spike": spike}, {"v": u - u * spike}


class ATan(Spike):
    """The step at 0, with the derivative of atan(pi x) / pi."""

    @staticmethod
    def backward(ctx, grad):
        (u,) = ctx.saved_tensors
        return grad / (1 + (torch.pi * u).square())


@oracle("spikegpt", "equations of Zhu et al., sums without a scale")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    scale, spikes = s["log_scale_a"].exp(), []
    a, b, m = s["a"] * scale, s["b"] * scale, s["m"]
    for t in range(x["k"].shape[1]):
        r, k, v = (x[name][:, t] for name in "rkv")
        now = (p["u"] + k).exp()
        h = (m + torch.sigmoid(r) * (a + now * v) / (b + now)) / 2
        spikes.append(ATan.apply(h - 1))
        m = h - h * spikes[-1]
        a, b = ((-p["w"]).exp() * total + k.exp() * new for total, new in ((a, v), (b, 1)))
    final = {"a*exp(log_scale_a)": a, "b*exp(log_scale_a)": b, "m": m}
    return {"spike": torch.stack(spikes, 1)}, final


@stepped("pv_rnn", "equations of Ahmadi, Tani, the divergence by torch.distributions")
def _(x: Tensors, p: Tensors, s: Tensors):
    Normal, new, kl, above = torch.distributions.Normal, {}, 0, None
    for layer in "21":
        h, tau = s[f"h{layer}"], p[f"tau{layer}"][:, None]
        d = h.tanh()
        mean, log_deviation = times(p[f"P{layer}"], d), times(p[f"Q{layer}"], d)
        prior = Normal(mean.tanh(), log_deviation.exp())
        posterior = Normal((mean + x[f"m{layer}"]).tanh(), (log_deviation + x[f"s{layer}"]).exp())
        z = posterior.mean + posterior.stddev * x[f"eps{layer}"]
        drive = times(p[f"W{layer}"], d) + times(p[f"V{layer}"], z)
        if above is not None:
            drive = drive + times(p["U"], above)
        new[f"h{layer}"] = (1 - 1 / tau) * h + drive / tau
        above = new[f"h{layer}"].tanh()
        kl = kl + torch.distributions.kl_divergence(posterior, prior).sum(-1)
    return {"d": above, "kl": kl}, new
