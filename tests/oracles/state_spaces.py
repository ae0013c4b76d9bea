"""State spaces with a complex diagonal transition, from their kernels: C A^t B for every lag t."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from oracles.base import Result, Tensors, decayed, looped, oracle


def zoh(p: Tensors, real: str, imag: str, dt: Tensor) -> tuple[Tensor, Tensor]:
    """(dt A, (exp(dt A) - 1) / A) of A = -exp(real) + i imag."""
    A = torch.complex(-p[real].exp(), p[imag])
    return dt * A, ((dt * A).exp() - 1) / A


def trajectory(log_a: Tensor, write: Tensor, start: Tensor) -> Tensor:
    """All x[t] = exp(log_a) x[t-1] + write[t], by the sum over earlier tokens."""
    steps = log_a.expand(write.shape)
    return torch.einsum("bts...,bs...->bt...", decayed(steps), write) + steps.cumsum(1).exp() * start[:, None]


def per_channel(p: Tensors, u: Tensor, start: Tensor) -> Tensor:
    log_a, B = zoh(p, "a", "b", p["log_dt"].exp()[..., None])
    return trajectory(log_a, B * u[..., None], start)


@oracle("s4d", "closed form")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    h = per_channel(p, x["u"], s["x"])
    y = 2 * (torch.complex(p["C_re"], p["C_im"]) * h).sum(-1).real + p["skip"] * x["u"]
    return {"y": y}, {"x": h[:, -1]}


@oracle("gss", "closed form between torch's layers")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    v, u = (F.gelu(torch.einsum("bthd,hde->bthe", x["x"], p[name])) for name in ("Wv", "Wu"))
    h = per_channel(p, v, s["s"])
    y = 2 * (torch.complex(p["C_re"], p["C_im"]) * h).sum(-1).real
    return {"o": torch.einsum("bthe,hed->bthd", y * u, p["Wo"])}, {"s": h[:, -1]}


@oracle("dss", "closed form")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    log_a, B = zoh({name: value[:, None] for name, value in p.items()}, "L_re", "L_im", p["log_dt"].exp()[..., None])
    h = trajectory(log_a, B * x["u"][..., None], s["x"])
    return {"y": (torch.complex(p["W_re"], p["W_im"]) * h).sum(-1).real}, {"x": h[:, -1]}


@oracle("s5", "closed form")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    log_a, B = zoh(p, "a", "b", p["log_dt"].exp())
    projected = torch.einsum("hnd,bthd->bthn", torch.complex(p["B_re"], p["B_im"]), x["u"].to(B.dtype))
    h = trajectory(log_a, B * projected, s["x"])
    y = 2 * torch.einsum("hdn,bthn->bthd", torch.complex(p["C_re"], p["C_im"]), h).real + p["skip"] * x["u"]
    return {"y": y}, {"x": h[:, -1]}


@oracle("liquid_s4", "a loop over tokens")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    log_a, B = zoh(p, "a", "b", p["log_dt"].exp()[..., None])
    h = looped(log_a.exp() + B * x["u"][..., None], B * x["u"][..., None], s["x"])
    return {"y": 2 * (torch.complex(p["C_re"], p["C_im"]) * h).sum(-1).real}, {"x": h[:, -1]}


@oracle("s4", "dense matrices, discretised by solving")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    A = torch.diag_embed(torch.complex(-p["a"].exp(), p["b"]))
    P, B, C = (torch.complex(p[f"{name}_re"], p[f"{name}_im"]) for name in "PBC")
    A = A - P[..., :, None] * P.conj()[..., None, :]
    dt = p["log_dt"].exp()[..., None, None]
    left, right = torch.eye(A.shape[-1]) - dt / 2 * A, torch.eye(A.shape[-1]) + dt / 2 * A
    step, write = torch.linalg.solve(left, right), torch.linalg.solve(left, dt * B[..., None])[..., 0]
    now, found = s["x"], []
    for u in x["u"].unbind(1):
        now = torch.einsum("hdij,bhdj->bhdi", step, now) + write * u[..., None]
        found.append((C * now).sum(-1).real + p["skip"] * u)
    return {"y": torch.stack(found, 1)}, {"x": now}


def oscillating(x: Tensors, p: Tensors, s: Tensors, implicit: bool, friction: Tensor) -> Result:
    """Velocity and position from the scheme's linear system, solved at each token. implicit: the force is that at the
    new position."""
    dt, A = p["step"].sigmoid(), p["a"].relu()
    one, none = torch.ones_like(dt), torch.zeros_like(dt)
    new = torch.stack([torch.stack([one + dt * friction, dt * A if implicit else none], -1),
                       torch.stack([-dt, one], -1)], -2)  # fmt: skip
    old = torch.stack([torch.stack([one, none if implicit else -dt * A], -1), torch.stack([none, one], -1)], -2)
    now, found = torch.stack([s["z"], s["x"]], -1), []
    for u in x["u"].unbind(1):
        force = torch.stack([dt * torch.einsum("hnd,bhd->bhn", p["B"], u), none.expand(now.shape[:-1])], -1)
        known = torch.einsum("hnij,bhnj->bhni", old, now) + force
        now = torch.linalg.solve(new, known[..., None])[..., 0]
        found.append(torch.einsum("hdn,bhn->bhd", p["C"], now[..., 1]) + p["skip"] * u)
    return {"y": torch.stack(found, 1)}, {"z": now[..., 0], "x": now[..., 1]}


@oracle("linoss", "a linear system solved at each token")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    return oscillating(x, p, s, True, torch.zeros_like(p["a"]))


@oracle("linoss_damped", "a linear system solved at each token")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    return oscillating(x, p, s, False, p["g"].relu())


@oracle("lssl", "a convolution with the kernel C A^t B")
def _(x: Tensors, p: Tensors, s: Tensors) -> Result:
    u, A = x["u"], p["A"]
    time = u.shape[1]
    powers = torch.stack([torch.linalg.matrix_power(A, t) for t in range(time + 1)])  # [time + 1, heads, N, N]
    kernel = torch.einsum("hdn,thnm,hm->hdt", p["C"], powers[:-1], p["B"])
    padded = F.pad(u.movedim(1, 3).flatten(1, 2), (time - 1, 0))
    y = F.conv1d(padded, kernel.flatten(0, 1).flip(1)[:, None], groups=padded.shape[1])
    y = y.unflatten(1, u.shape[2:]).movedim(3, 1) + torch.einsum("hdn,thnm,bhdm->bthd", p["C"], powers[1:], s["x"])
    written = torch.einsum("thnm,hm,bthd->bhdn", powers[:-1].flip(0), p["B"], u)
    return {"y": y + p["skip"] * u}, {"x": written + torch.einsum("hnm,bhdm->bhdn", powers[-1], s["x"])}
