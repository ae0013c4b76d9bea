"""What `recc tune` and `recc bench` share: the recurrence, the sizes and the device that are meant."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from recc.cli import common

if TYPE_CHECKING:
    from recc.tuning.tune import Task

DEVICES = ("cpu", "cuda")


def task(args: argparse.Namespace) -> Task:
    """The task that the options ask for; raises Usage and SpecError."""
    import torch

    from recc.frontend import parse_text
    from recc.tuning.tune import USUAL, Task

    if args.device not in DEVICES:
        raise common.Usage(f"no device is called `{args.device}`", f"there are {', '.join(DEVICES)}")
    for name in ("batch", "time", "heads"):
        if getattr(args, name) < 1:
            raise common.Usage(f"`--{name} {getattr(args, name)}` is no size", "it must be at least 1")
    asked, args.dim = common.dim_sizes(args.dim), []
    rec = common.recurrence(args.spec, args)
    unknown = sorted(set(asked) - set(rec.dims))
    if unknown:
        raise common.Usage(f"`{rec.name}` has no dim {', '.join(unknown)}", f"its dims are {', '.join(rec.dims)}")
    # A dim that the spec fixes is part of the recurrence; the sizes of the others are the tensors' own.
    fixed = {name: size for name, size in asked.items() if rec.dims[name] is not None}
    sizes = {name: asked.get(name) or size or USUAL for name, size in rec.dims.items()}

    def parsed(dims: dict[str, int]):
        return next(found for found in parse_text(rec.text, rec.path, dims=dims) if found.name == rec.name)

    dtype = args.dtype or ("float32" if args.device == "cpu" else "bfloat16")
    return Task(parsed(fixed), parsed(sizes), sizes, args.batch, args.time, args.heads, getattr(torch, dtype),
                args.device, getattr(args, "seed", 0))  # fmt: skip


def present(device: str) -> bool:
    """Whether this machine has it."""
    import torch

    return device == "cpu" or torch.cuda.is_available()
