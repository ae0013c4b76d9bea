"""Peak memory of forward + backward, beyond what the inputs take, measured in a process of its own.

`python benchmarks/memory.py SPEC TIME` prints the bytes; `peak_of` runs that, where the kernel tells (Linux). A first
run on a short sequence loads and compiles all that is loaded once; the figure is what the peak resident size is beyond
the size before the second. glibc gives freed blocks back at once, so the peak is what lives, not what is kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def peak_of(spec: str, time_steps: int) -> int:
    """Bytes at the peak of one forward + backward of the chunked op."""
    environment = os.environ | {
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "65536",
        "MALLOC_ARENA_MAX": "1",
    }
    command = [sys.executable, __file__, spec, str(time_steps)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.split()[-1])


def status(entry: str) -> int:
    """Bytes by the kernel's account of this process: VmRSS, what it has in memory, or VmHWM, the most it ever had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{entry}:"))


def main() -> None:
    import foundation
    import torch

    import recc

    torch.set_num_threads(foundation.THREADS)
    spec, time_steps = sys.argv[1], int(sys.argv[2])
    op = recc.load(spec, strategy="chunk")
    foundation.both_passes(op, foundation.draw(spec, 128))
    inputs = foundation.draw(spec, time_steps)
    before = status("VmRSS")
    foundation.both_passes(op, inputs)
    print(status("VmHWM") - before)


if __name__ == "__main__":
    main()
