"""A recurrence as a layer: `Module` holds a spec's params and states its initial values."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from recc import library
from recc.frontend import parse_text
from recc.ir.node import HEADS
from recc.ir.program import Param, Recurrence
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
    names, with `_` behind where a module has an attribute of that name (`step_`), [heads, dims] or [dims] when shared,
    initialised as the spec says; `generator` seeds the random ones.
    strategy, chunk, backend, clip_gradient, deterministic, export: as for recc.load. Raises SpecError for a bad spec,
    ValueError for a dim without size.

    With `hidden` it is a stack of layers, each behind a projection of its own, as torch.nn.LSTM is:
    `recc.Module("lstm", hidden=64, layers=2, bidirectional=True)`; see recc.runtime.stack.Stack.
    """

    def __new__(cls, *args: Any, **options: Any) -> Any:
        if "hidden" in options:
            from recc.runtime.stack import Stack

            return Stack(*args, **options)
        return super().__new__(cls)

    def __init__(self, spec: str, *, heads: int | None = None, strategy: str | None = None, chunk: int | None = None,
                 backend: str | None = None, dtype: torch.dtype | None = None, device: torch.device | str | None = None,
                 generator: torch.Generator | None = None, clip_gradient: float | None = None,
                 deterministic: str | None = None, export: Iterable[str] = (), **dims: int) -> None:  # fmt: skip
        super().__init__()
        text, path, rec, fixed = _read(spec, dims, tuple(export))
        unknown = sorted(set(dims) - set(rec.dims))
        if unknown:
            raise ValueError(f"{rec.name} has no dim {', '.join(unknown)}; its dims are {', '.join(rec.dims)}")
        self.recurrence, self.heads = rec, heads
        self.sizes = {name: dims.get(name, size) for name, size in rec.dims.items()}
        self._source = {"text": text, "path": path, "strategy": strategy, "chunk": chunk, "backend": backend,
                        "clip_gradient": clip_gradient, "deterministic": deterministic, "export": tuple(export),
                        **fixed}  # fmt: skip
        self.op = loads(**self._source)
        for param in rec.params:
            self._needs_sizes(param)
        known = {name: size for name, size in self.sizes.items() if size is not None}
        made = init_params(
            rec, known, heads or 1, dtype or torch.get_default_dtype(), device or "cpu", generator=generator
        )
        for name, value in made.items():
            self.register_parameter(self._attribute(name), nn.Parameter(value))

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: code that is loaded into this process is not, it is made again from the spec."""
        return {key: value for key, value in vars(self).items() if key not in ("op", "recurrence")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.op = loads(**self._source)
        fixed = {name: size for name, size in self._source.items() if name in self.sizes}
        source = self._source
        self.recurrence = parse_text(source["text"], source["path"], dims=fixed, export=source["export"])[0]

    @staticmethod
    def recurrence_of(spec: str, dims: dict[str, Any]) -> Recurrence:
        """The recurrence of a spec as `Module(spec, **dims)` has it."""
        return _read(spec, dims, tuple(dims.get("export", ())))[2]

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

    def _attribute(self, name: str) -> str:
        """The attribute that holds a param."""
        names = {param.name for param in self.recurrence.params} - {name}
        while hasattr(Module, name) or name in vars(self) or name in names:
            name += "_"
        return name

    @property
    def params(self) -> list[torch.Tensor]:
        """The params in the order of the spec, as the op takes them."""
        return [getattr(self, self._attribute(param.name)) for param in self.recurrence.params]

    def forward(self, *inputs: torch.Tensor, **options: Any) -> Any:
        """The op on `inputs` (the spec's, by place) with this module's params; options as for the op."""
        return self.op(*self._whole(inputs), *self.params, **options)

    def _whole(self, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The inputs, none of which may be left out: params would stand in their places. Raises ArgumentError."""
        names = [declared.name for declared in self.recurrence.inputs]
        if len(inputs) < len(names):
            from recc.backends.torch.passes import ArgumentError

            missed = ", ".join(f"`{name}`" for name in names[len(inputs) :])
            raise ArgumentError(f"{self.recurrence.name} misses {missed}; the layer takes {', '.join(names)}")
        return inputs

    def step(self, *inputs: torch.Tensor, state: Any) -> Any:
        """One token: inputs [batch, heads, dims], and the state; returns (output, new state)."""
        return self.op.step(*self._whole(inputs), *self.params, state=state)

    @torch.no_grad()
    def project(self) -> None:
        """Puts every param back into the domain that the spec declares for it, as after an optimiser's step: bounds
        first, then vectors to length 1 (`unit`) and matrices to a spectral norm of at most 1 (`contraction`)."""
        for declared in self.recurrence.params:
            value, domain = getattr(self, self._attribute(declared.name)), declared.domain
            if domain.low is not None or domain.high is not None:
                value.clamp_(domain.low, domain.high)
            if domain.unit:
                value.div_(value.norm(dim=-1, keepdim=True))
            if domain.contraction:
                value.div_(torch.linalg.matrix_norm(value, 2, keepdim=True).clamp_min(1.0))

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


def _read(spec: str, dims: dict[str, Any], export: tuple[str, ...]) -> tuple[str, str, Recurrence, dict[str, int]]:
    """A spec's text and path, its recurrence, and those of `dims` that replace a size which the spec fixes."""
    text, found = (spec, "<spec>") if "\n" in spec else library.find(spec)
    path = str(found)
    rec = parse_text(text, path, export=export)[0]
    fixed = {name: size for name, size in dims.items() if rec.dims.get(name) is not None}
    return text, path, parse_text(text, path, dims=fixed, export=export)[0] if fixed else rec, fixed
