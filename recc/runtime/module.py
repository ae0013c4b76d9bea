"""A recurrence as a layer: `Module` holds a spec's params and states its initial values."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from recc import library
from recc.frontend import parse_text
from recc.ir.node import HEADS
from recc.ir.program import Param
from recc.ir.starts import init_params
from recc.runtime.api import loads


class Module(nn.Module):
    """An nn.Module of a spec: its path, the name of one that ships with recc, or its text.

        layer = recc.Module("gated_delta_net", heads=4, K=64, V=64)
        o = layer(q, k, v, g, beta)                             # [batch, time, heads, dims]
        o, state = layer(..., return_final_state=True)
        o, state = layer.step(..., state=layer.init_state(batch))   # one token, without the time axis

    heads: how many heads; not needed where all params are shared or there are none. dims: the sizes of the spec's dims
    that its params have (and of those that `init_state` needs). The spec's params become nn.Parameters under their own
    names, [heads, dims] or [dims] when shared, initialised as the spec says; `generator` seeds the random ones.
    strategy, chunk, backend: as for recc.load. Raises SpecError for a bad spec, ValueError for a dim without size.
    """

    def __init__(self, spec: str, *, heads: int | None = None, strategy: str | None = None, chunk: int | None = None,
                 backend: str | None = None, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
                 generator: torch.Generator | None = None, **dims: int) -> None:  # fmt: skip
        super().__init__()
        text, path = (spec, "<spec>") if "\n" in spec else library.find(spec)
        path = str(path)
        rec = parse_text(text, path)[0]
        fixed = {name: size for name, size in dims.items() if rec.dims.get(name) is not None}
        rec = parse_text(text, path, dims=fixed)[0] if fixed else rec
        unknown = sorted(set(dims) - set(rec.dims))
        if unknown:
            raise ValueError(f"{rec.name} has no dim {', '.join(unknown)}; its dims are {', '.join(rec.dims)}")
        self.recurrence, self.heads = rec, heads
        self.sizes = {name: dims.get(name, size) for name, size in rec.dims.items()}
        self.op = loads(text, path=path, strategy=strategy, chunk=chunk, backend=backend, **fixed)
        for param in rec.params:
            self._needs_sizes(param)
        known = {name: size for name, size in self.sizes.items() if size is not None}
        made = init_params(
            rec, known, heads or 1, dtype or torch.get_default_dtype(), device or "cpu", generator=generator
        )
        for name, value in made.items():
            self.register_parameter(name, nn.Parameter(value))

    def _needs_sizes(self, param: Param) -> None:
        for axis in param.axes:
            dim = axis.partition("'")[0]
            if axis == HEADS and self.heads is None:
                raise ValueError(
                    f"{self.recurrence.name}: give `heads`: its param `{param.name}` has one value per head"
                )
            if axis != HEADS and self.sizes.get(dim) is None:
                raise ValueError(
                    f"{self.recurrence.name}: give the size of {dim}: its param `{param.name}` has that axis"
                )

    @property
    def params(self) -> list[torch.Tensor]:
        """The params in the order of the spec, as the op takes them."""
        return [getattr(self, param.name) for param in self.recurrence.params]

    def forward(self, *inputs: torch.Tensor, **options: Any) -> Any:
        """The op on `inputs` (the spec's, by place) with this module's params; options as for the op."""
        return self.op(*inputs, *self.params, **options)

    def step(self, *inputs: torch.Tensor, state: Any) -> Any:
        """One token: inputs [batch, heads, dims], and the state; returns (output, new state)."""
        return self.op.step(*inputs, *self.params, state=state)

    def init_state(
        self, batch: int, *, dtype: torch.dtype = torch.float32, device: Any = None
    ) -> dict[str, torch.Tensor]:
        """The state before the first token, a dict of tensors [batch, heads, dims]."""
        if device is None and self.params:
            device = self.params[0].device
        known = {name: size for name, size in self.sizes.items() if size is not None}
        return self.op.initial_state(
            batch, heads=self.heads, sizes=known, params=self.params, dtype=dtype, device=device
        )

    def extra_repr(self) -> str:
        parts = [self.recurrence.name]
        parts += [f"heads={self.heads}"] if self.heads is not None else []
        parts += [f"{name}={size}" for name, size in self.sizes.items() if size is not None]
        return ", ".join([*parts, f"strategy={self.op.meta['strategy']}"])
