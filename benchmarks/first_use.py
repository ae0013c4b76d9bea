"""How long the first use of a native op takes: with an empty cache, and in a new process once the library is there."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile

SPECS = ("gla", "gated_delta_net", "mamba")
TIMED = """
import sys, time
import torch, recc
from dataclasses import replace
from recc.backends.c import build
from workloads import WORKLOADS, draw, projected

seconds, library = 0.0, build.library

def timed(*args, **options):
    global seconds
    began = time.perf_counter()
    found = library(*args, **options)
    seconds += time.perf_counter() - began
    return found

build.library = timed
torch.set_num_threads(1)
spec = sys.argv[1]
x = draw(replace(WORKLOADS[spec], time=16))
recc.load(spec, backend="c")(**projected(spec, x))
print(seconds)
"""


def first_use(times: int = 3) -> dict[str, dict[str, float]]:
    """Median seconds in `build.library`, by spec: `build` with an empty cache, `load` in later processes."""
    found: dict[str, dict[str, float]] = {}
    for spec in SPECS:
        build, load = [], []
        for _ in range(times):
            with tempfile.TemporaryDirectory() as cache:
                build.append(_seconds(spec, cache))
                load.append(_seconds(spec, cache))
        if all(seconds is not None for seconds in (*build, *load)):
            found[spec] = {"build": statistics.median(build), "load": statistics.median(load)}
    return found


def _seconds(spec: str, cache: str) -> float | None:
    here = os.path.dirname(os.path.abspath(__file__))
    environment = os.environ | {"RECC_CACHE_DIR": cache, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TIMED, spec], capture_output=True, text=True, env=environment, cwd=here
    )
    return float(done.stdout.split()[-1]) if done.returncode == 0 else None
