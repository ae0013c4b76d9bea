"""One layer of any recurrence between an embedding and a read-out, its inputs put into their declared domains."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import recc
from recc.ir.node import HEADS, dim_of
from recc.ir.program import Domain

COUNT, SIZE, WIDTH = 2, 16, 32  # heads, the size of every dim of a spec, and of the model


def within(x: Tensor, domain: Domain) -> Tensor:
    """`x`, any numbers, as values of a domain."""
    low, high = domain.low, domain.high
    if domain.unit:
        return F.normalize(x, dim=-1)
    if low is not None and high is not None:
        return low + (high - low) * torch.sigmoid(x)
    if low is not None:
        return low + F.softplus(x)
    return x if high is None else high - F.softplus(x - 2)


class Layer(nn.Module):
    """Projections of a token and of the one before it, the recurrence, and an output projection."""

    def __init__(self, spec: str) -> None:
        super().__init__()
        rec = recc.Module.recurrence_of(spec, {})
        dims = {name: size or SIZE for name, size in rec.dims.items()}
        free = {name: size for name, size in dims.items() if rec.dims[name] is None}
        self.cell = recc.Module(spec, heads=COUNT, **free)
        self.domains = [item.domain for item in rec.inputs]
        self.shapes = [[COUNT if a == HEADS else dims[dim_of(a)] for a in item.axes] for item in rec.inputs]
        self.inputs = nn.ModuleList(nn.Linear(2 * WIDTH, torch.Size(shape).numel()) for shape in self.shapes)
        (output,) = rec.outputs
        self.output = nn.Linear(COUNT * torch.Size([dims[dim_of(a)] for a in output.axes if a != HEADS]).numel(), WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, F.pad(x, (0, 0, 1, 0))[:, :-1]], -1)
        values = [
            within(linear(x).unflatten(-1, shape), domain)
            for linear, shape, domain in zip(self.inputs, self.shapes, self.domains)
        ]
        return self.output(self.cell(*values).flatten(2))


class Model(nn.Module):
    """Tokens [batch, time] to logits [batch, time, classes]."""

    def __init__(self, spec: str, tokens: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, WIDTH)
        self.mixer, self.norm = Layer(spec), nn.RMSNorm(WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, classes))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        return self.mlp(self.norm(x + self.mixer(x)))
