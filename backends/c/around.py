"""A recurrence whose projections torch multiplies, over all tokens at once, around the native code of its core."""

from __future__ import annotations

from typing import Any

import torch
from recc.backends.torch.layout import dtype_of, working_dtype
from recc.backends.torch.op import Op
from recc.backends.torch.passes import in_full_precision, run_op
from recc.backends.torch.tokenwise import Tokenwise

from recc.analysis.projections import Apart
from recc.ir.program import Recurrence


class Around:
    """The forward pass of a recurrence, called as the ops of torch.library are: inputs, params, states, cu_seqlens,
    reverse. Its derivative is that of its parts."""

    def __init__(self, rec: Recurrence, parts: Apart, meta: dict[str, Any], core: Op) -> None:
        """meta: of `rec`. core: the op of `parts.core`."""
        self.meta, self.core = meta, core
        passed = [*rec.inputs, *parts.before, *parts.core.outputs]
        places = ("before", rec.inputs, parts.before), ("behind", passed, parts.behind)
        self.parts = {place: Tokenwise(rec.name, given, rec.params, values)
                      for place, given, values in places if values}  # fmt: skip

    def __call__(self, *arguments: Any) -> tuple:
        return in_full_precision(self._run, *arguments)

    def _run(self, *arguments: Any) -> tuple:
        *tensors, cu_seqlens, reverse = arguments
        meta, core, (first, *_) = self.meta, self.core, tensors
        working, lead = working_dtype(tensors[: len(meta["inputs"])]), first.shape[:2]
        named = iter(tensors)
        given = {i["name"]: x.flatten(0, 1).to(dtype_of(working, i)) for i, x in zip(meta["inputs"], named)}
        fixed = {i["name"]: x.to(dtype_of(working, i)) for i, x in zip(meta["params"], named)}
        entering = {i["name"]: x for i, x in zip(meta["states"], named)}
        if "before" in self.parts:
            given |= self.parts["before"](given, fixed)
        own = [given[item["name"]].unflatten(0, lead) for item in core.inputs]
        own += [fixed[item["name"]] for item in core.params]
        own += [entering[item["name"]] for item in core.states]
        results = run_op(core._forward_for(*own), *own, cu_seqlens, reverse)
        results = [results] if torch.is_tensor(results) else results
        found = {item["name"]: x for item, x in zip(core.outputs, results)}
        leaving = {item["name"]: x for item, x in zip(core.states, results[len(found) :])}
        if "behind" in self.parts:
            given |= {name: x.flatten(0, 1) for name, x in found.items()}
            found |= {name: x.unflatten(0, lead) for name, x in self.parts["behind"](given, fixed).items()}
        outputs = [found[item["name"]].to(dtype_of(first.dtype, item)) for item in meta["outputs"]]
        return *outputs, *(leaving[item["name"]] for item in meta["states"])
