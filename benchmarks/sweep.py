"""Matrix memories of other sizes than the workloads have: native code over the multiply-adds that each pass must do."""

from __future__ import annotations

import sys
import time
from dataclasses import replace

from workloads import WORKLOADS, Workload

SPECS, SIZES = ("gla", "gated_delta_net"), (32, 128, 256)
CHECKED = 64  # tokens that are compared with the reference, which keeps a state for each


def swept(w: Workload, size: int) -> Workload:
    """The workload with K = V = size, and fewer tokens where that is more than its own: about as much work."""
    own = w.sizes["K"]
    return replace(
        w,
        sizes={"K": size, "V": size},
        time=w.time if size < own else w.time * own**2 // size**2,
        multiply_adds=w.multiply_adds * size**2 // own**2,
    )


def sweep(floors, rounds: int) -> dict[str, dict[str, dict]]:
    """By spec and size: the shape, the times of both passes and of their floors, and the error."""
    return {spec: {str(size): _one(swept(WORKLOADS[spec], size), floors, rounds) for size in SIZES} for spec in SPECS}


def _one(w: Workload, floors, rounds: int) -> dict:
    import torch
    from candidates import AGREE, NATIVE, Candidate, difference, op_on, reference
    from native import FLOOR, bounds, parts
    from rivals import Rival
    from workloads import draw

    from recc.tuning.measure import rounds as timed
    from recc.tuning.measure import whole

    began, run = time.perf_counter(), op_on(w, "c")

    def candidate(w: Workload) -> Candidate:
        tensors = draw(w)
        dy = torch.randn(tensors["v"].shape, generator=torch.Generator().manual_seed(1))
        return Candidate(Rival(NATIVE, run), tensors, dy)

    short, full = candidate(replace(w, time=CHECKED)), candidate(w)
    error = difference(short.results(), reference(w, short.tensors, short.dy))
    if not error < AGREE:
        raise SystemExit(f"{w.spec} at {w.shape()} differs from the reference by {error:.1e}")
    forward, backward = bounds(w, floors)
    times = {
        "forward": timed({NATIVE: whole(full.forward)} | {FLOOR + n: whole(f) for n, f in forward.items()}, rounds),
        "both": timed({NATIVE: parts(full.both)} | {FLOOR + n: whole(f) for n, f in backward.items()}, rounds),
    }
    print(f"{w.spec}: {w.shape()}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    return {"shape": w.shape(), "seconds": times, "agreement": {NATIVE: error}}
