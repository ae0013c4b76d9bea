"""A compiled recurrence whose passes run as native code on CPU tensors, and as torch code elsewhere."""

from __future__ import annotations

from typing import Any

import torch
from recc.backends.c.passes import NativePasses
from recc.backends.torch.op import Op
from recc.backends.torch.passes import register

from recc.analysis.plan import Plan


class NativeOp(Op):
    """An Op with the same contract; see there. Kernels are built at first use of each size of the dims."""

    def __init__(self, plan: Plan, meta: dict[str, Any], *tiles: Any) -> None:
        super().__init__(meta, *tiles)
        self._native, self.native = register(NativePasses(plan, meta))

    def _forward_on(self, device: torch.device) -> Any:
        return self._native if device.type == "cpu" else self._forward
