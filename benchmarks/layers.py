"""Whole layers, whose projections torch multiplies around native code, and the demo's training step: native code
beside the torch backend, forward and backward, in turns in one process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import demo
import torch
from candidates import AGREE, NATIVE, TORCH

import recc
from recc.tuning.measure import rounds as timed
from recc.tuning.measure import whole

BATCH, TIME, WIDTH = 2, 1024, 256
MEMORY = {"heads": 4, "D": WIDTH, "K": 64, "V": 64}
SIZES = {
    "gated_delta_net_layer": MEMORY,
    "gla_layer": MEMORY,
    "lru": {"heads": 1, "D": WIDTH, "N": 256},
    "s5": {"heads": 1, "D": WIDTH, "N": 64},
    "linoss": {"heads": 1, "D": WIDTH, "N": 256},
    "gss": {"heads": 1, "D": WIDTH, "E": 64, "N": 16},
}
STEPS = 30  # of the demo


def layers(rounds: int) -> dict[str, dict]:
    """By spec, and `demo`: the shape and the times of both backends; of a layer how far their results are apart."""
    found = {spec: _one(spec, sizes, rounds) for spec, sizes in SIZES.items()}
    config = demo.Config()
    times = demo.compare(config, STEPS)
    shape = f"B={config.batch} T={config.length} {config.layers} layers, width {config.width}, {config.heads} heads"
    seconds = {NATIVE: times["c"], TORCH: times["torch"]}
    return {**found, "demo": {"shape": shape, "seconds": {"both": seconds}, "agreement": None}}


def _one(spec: str, sizes: dict[str, int], rounds: int) -> dict:
    began, random = time.perf_counter(), torch.Generator().manual_seed(1)
    torch.manual_seed(0)
    modules = {name: recc.Module(spec, backend=backend, **sizes) for name, backend in ((NATIVE, "c"), (TORCH, "torch"))}
    modules[TORCH].load_state_dict(modules[NATIVE].state_dict())
    (item,) = modules[NATIVE].op.inputs
    heads = (sizes["heads"],) if "heads" in item["axes"] else ()
    x = torch.randn(BATCH, TIME, *heads, WIDTH, generator=random).requires_grad_()
    dy = torch.randn(x.shape, generator=random)

    def both(name: str) -> Callable[[], tuple]:
        module = modules[name]
        wanted = [x, *module.parameters()]

        def call() -> tuple:
            y = module(x)
            return y, *torch.autograd.grad(y, wanted, dy)

        return call

    cases = {name: both(name) for name in modules}
    pairs = zip(cases[NATIVE](), cases[TORCH](), strict=True)
    apart = max(((a - b).norm() / b.norm()).nan_to_num(torch.inf).item() for a, b in pairs)
    if not apart < AGREE:
        raise SystemExit(f"{spec}: native code and torch differ by {apart:.1e}")
    times = timed({name: whole(case) for name, case in cases.items()}, rounds)
    shape = " ".join([f"B={BATCH} T={TIME}", *(f"{name}={size}" for name, size in sizes.items())])
    print(f"{spec}: {shape}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return {"shape": shape, "seconds": {"both": times}, "agreement": apart}
