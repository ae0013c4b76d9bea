"""How long the first use of a native op takes: with an empty cache, and in a new process once the library is there.

`python -m benchmarks.first_use --kernels [JOBS]` compiles GPU kernels instead, for a GPU that need not be there.
"""

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


KERNELS = ("gla", "gated_delta_net", "kda", "mamba")


def kernels(spec: str, jobs: int = 1, size: int = 128, target: str = "sm_90") -> dict[str, float]:
    """Seconds that it takes to generate a spec's kernels and to compile all launches of both passes in bfloat16, in
    `jobs` threads, with an empty cache; and how many launches there are."""
    import time
    from concurrent.futures import ThreadPoolExecutor

    import torch
    from recc.backends.triton import aot
    from recc.backends.triton.module import chosen, generate

    from recc import library
    from recc.analysis import analyse
    from recc.frontend import parse_text

    text, path = library.find(spec)
    began = time.perf_counter()
    plan = analyse(parse_text(text, str(path))[0])
    generated = generate(plan, chosen(plan))
    sizes = {dim: size for dim, fixed in plan.recurrence.dims.items() if not fixed}
    launches, ready = aot.launches(generated, sizes, torch.bfloat16), time.perf_counter()
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda launch: aot.compile_launch(launch, target), launches))
    return {"launches": len(launches), "generate": ready - began, "compile": time.perf_counter() - ready}


if __name__ == "__main__":
    if sys.argv[1:2] == ["--kernels"]:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TRITON_CACHE_DIR"] = folder
            for name in KERNELS:
                print(
                    name, {key: round(value, 1) for key, value in kernels(name, int((sys.argv[2:] or [1])[0])).items()}
                )
    else:
        print(first_use())
