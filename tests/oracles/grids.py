"""Recurrences over an image whose rows are the tokens, or over one axis of space: loops over cells, and torch's
convolutions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.base import Result, Tensors, oracle
from oracles.steps import stepped


@oracle("ssm_2d", "a loop over cells")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    u = x["u"]
    zero = torch.zeros_like(s["v"][:, :, 0])

    def row(v: list[Tensor], u: Tensor) -> list[Tensor]:
        h: list[Tensor] = []
        for y in range(len(v)):
            left = (p["A1"] * h[-1] + p["A2"] * v[y - 1]) / 2 if y else zero
            h.append(left + p["B1"] * u[:, :, y, None])
        return h

    v = list(s["v"].unbind(2))
    h, outputs = row(v, torch.zeros_like(u[:, 0])), []
    for now in u.unbind(1):
        v = [(p["A3"] * h[y] + p["A4"] * v[y]) / 2 + p["B2"] * now[:, :, y, None] for y in range(len(v))]
        h = row(v, now)
        cells = [(p["C1"] * a + p["C2"] * b).sum(-1) for a, b in zip(h, v, strict=True)]
        outputs.append(torch.stack(cells, -1) + p["skip"][:, None] * now)
    return {"y": torch.stack(outputs, 1)}, {"v": torch.stack(v, 2)}


@oracle("s4nd", "torch's conv2d with the product of two kernels")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    u, A = x["u"], torch.complex(-p["a"].exp(), p["b"])

    def kernel(log_dt: Tensor, C: Tensor, length: int) -> Tensor:
        """[heads, length]"""
        dt = log_dt.exp()[:, None]
        powers = (dt * A)[..., None] * torch.arange(length)
        return 2 * torch.einsum("hn,hnl->hl", C * ((dt * A).exp() - 1) / A, powers.exp()).real

    Cx, Cy = (torch.complex(p[f"C{d}_re"], p[f"C{d}_im"]) for d in "xy")
    time, width = u.shape[1], u.shape[3]
    both = kernel(p["log_dx"], Cx, time)[:, :, None] * kernel(p["log_dy"], Cy, width)[:, None]
    padded = F.pad(u.transpose(1, 2), (width - 1, 0, time - 1, 0))
    o = F.conv2d(padded, both.flip(1, 2)[:, None], groups=u.shape[2]).transpose(1, 2)
    dt = p["log_dx"].exp()[:, None] * A
    since = torch.exp(dt * torch.arange(1, time + 1)[:, None, None])  # [time, heads, N]
    o = o + 2 * torch.einsum("thn,hn,bhyn->bthy", since, Cx, s["x"]).real
    across = torch.stack([(kernel(p["log_dy"], Cy, y + 1).flip(1) * u[..., : y + 1]).sum(-1) for y in range(width)], -1)
    faded = torch.exp(dt * torch.arange(time - 1, -1, -1)[:, None, None]) * (dt.exp() - 1) / A
    final = since[-1][:, None] * s["x"] + torch.einsum("thn,bthy->bhyn", faded, across.to(faded.dtype))
    return {"o": o}, {"x": final}


def cells(x: Tensors, s: Tensors, crossing: bool) -> Result:
    """pLSTM cell by cell. crossing: what comes along a row may also turn down."""
    R, outputs = list(s["R"].unbind(2)), []
    for t in range(x["q"].shape[1]):
        now = {name: value[:, t] for name, value in x.items()}
        D, row, new = torch.zeros_like(R[0]), [], []
        for y, above in enumerate(R):
            q, k, v = (now[name][:, :, y] for name in "qkv")
            gate = {name: now[name][:, :, y, None] for name in now if name not in "qkv"}
            kv = torch.einsum("bhk,bhv->bhkv", k, v)
            read = [torch.einsum("bhk,bhkv->bhv", q, memory) for memory in (above, D)]
            own = gate["direct"] * (q * k).sum(-1, keepdim=True) * v
            row.append((gate["m_r"] * read[0] + gate["m_d"] * read[1] + own) / q.shape[-1] ** 0.5)
            gate = {name: value[..., None] for name, value in gate.items()}
            on = gate["g"].exp()
            new.append(gate["t_r"] * (above + D if crossing else above) + gate["s_r"] * kv)
            D = on * D + (on if crossing else gate["t_d"]) * above + gate["s_d"] * kv
        R = new
        outputs.append(torch.stack(row, 2))
    return {"y": torch.stack(outputs, 1)}, {"R": torch.stack(R, 2)}


@oracle("plstm_2d", "a loop over cells")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    return cells(x, s, crossing=True)


@oracle("plstm_2d_diffusive", "a loop over cells")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    return cells(x, s, crossing=False)


@oracle("chimera", "a loop over cells")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    h, v, outputs = list(s["h"].unbind(2)), list(s["v"].unbind(2)), []
    for t in range(x["x"].shape[1]):
        u, dt, dv = (x[name][:, t, :, :, None].unbind(2) for name in ("x", "dt", "dv"))
        B1, B2, C1, C2 = (x[name][:, t] for name in ("B1", "B2", "C1", "C2"))
        h = [(-p["A1"] * dt[y]).exp() * h[y] + dt[y] * (p["A2"] * v[y] + u[y] * B1) for y in range(len(h))]
        v = []
        for y in range(len(h)):
            left = (-p["A4"] * dv[y]).exp() * v[-1] + dv[y] * p["A3"] * h[y - 1] if y else 0
            v.append(left + dv[y] * u[y] * B2)
        outputs.append(torch.stack([(h[y] * C1 + v[y] * C2).sum(-1) for y in range(len(h))], -1))
    return {"y": torch.stack(outputs, 1)}, {"h": torch.stack(h, 2), "v": torch.stack(v, 2)}


@stepped("fernn", "torch's circular conv1d and roll")
def _(x: Tensors, p: Tensors, s: Tensors):
    kernel = torch.stack([p["L"], p["M"], p["R"]], -1)[:, None]

    def conv(h: Tensor) -> Tensor:
        return F.conv1d(F.pad(h, (1, 1), mode="circular"), kernel, groups=h.shape[1])

    new = {name: F.relu(x["x"] + conv(s[name].roll(step, -1))) for name, step in (("a", -1), ("b", 0), ("c", 1))}
    return {"y": torch.stack(list(new.values())).amax(0)}, new


@stepped("conv_gru", "torch's conv1d")
def _(x: Tensors, p: Tensors, s: Tensors):
    h = s["h"]
    batch, heads, places, depth = h.shape

    def conv(h: Tensor, gate: str) -> Tensor:
        taps = torch.stack([p[f"{side}{gate}"] for side in "LMR"], -1)  # [heads, in, out, 3]
        kernel = taps.transpose(1, 2).flatten(0, 1)
        found = F.conv1d(h.transpose(2, 3).flatten(1, 2), kernel, padding=1, groups=heads)
        return found.unflatten(1, (heads, depth)).transpose(2, 3)

    r, z = (torch.sigmoid(x[f"x{gate}"] + conv(h, gate)) for gate in "rz")
    h = torch.lerp(h, torch.tanh(x["xn"] + conv(r * h, "n")), z)
    return {"h": h}, {"h": h}


@stepped("mdlstm", "equations of Graves, Fernandez, Schmidhuber")
def _(x: Tensors, p: Tensors, s: Tensors):
    zero = torch.zeros_like(s["h"][:, :, 0])
    h, c = [zero], [zero]
    for y in range(s["h"].shape[2]):
        ha, ca = s["h"][:, :, y], s["c"][:, :, y]
        above, beside = (torch.einsum("hgij,bhj->bhgi", p[name], state) for name, state in (("U", ha), ("W", h[-1])))
        i, f, left, o, g = (x["x"][:, :, y] + above + beside).unbind(2)
        c.append(f.sigmoid() * ca + left.sigmoid() * c[-1] + i.sigmoid() * g.tanh())
        h.append(o.sigmoid() * c[-1].tanh())
    new = {"h": torch.stack(h[1:], 2), "c": torch.stack(c[1:], 2)}
    return {"h": new["h"]}, new
