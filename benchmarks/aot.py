"""Every parallel spec's kernels compiled for GPUs that need not be there: `make aot`, or `python -m benchmarks.aot`.

Each case is one spec, target and size of dims, forward and backward in bfloat16; a process of its own compiles it and
is ended after a time limit. What a case uses is kept in the user's cache under a digest of its text with all that it
calls, and of how it is launched, so a run that was interrupted goes on where it stopped, and only what has changed is
compiled again. The table of all cases that are known is written to benchmarks/results/aot.md; nothing is timed on a
device.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.isolated import isolated, progress

PAGE = Path(__file__).parent / "results" / "aot.md"
USUAL, LARGE = 64, 128  # of dims without a size
HEAD = """# Kernels compiled ahead of time

Specs that run in parallel over time, compiled in bfloat16 for GPUs that need not be there, with the configuration that
a call takes (docs/triton.md). Dims without a size are {sizes}. Of the kernels of a pass, with those that outer chunks
add: how many there are, the registers a thread and the bytes of shared memory of the one that takes most, the bytes a
thread that spill in the one that spills most, and the matrix instructions of all. `make aot` writes this page from the
cases that it has compiled: {count} of {total}. recc {recc}, Triton {triton}.

| spec | dims | target | pass | kernels | registers | spilled | shared | matrix |
|---|---:|---|---|---:|---:|---:|---:|---:|
"""


@dataclass(frozen=True)
class Case:
    """What one process compiles."""

    spec: str
    size: int
    target: str


def cases(specs: list[str], targets: list[str]) -> list[Case]:
    """Every spec for every target, the first one first; for that also with larger dims."""
    usual = [Case(spec, USUAL, target) for target in targets for spec in specs]
    return usual[: len(specs)] + [Case(spec, LARGE, targets[0]) for spec in specs] + usual[len(specs) :]


def parallel() -> list[str]:
    """The specs that ship with recc and have kernels of chunks or scans."""
    from recc.backends.triton.module import chosen

    from recc import library
    from recc.analysis import analyse
    from recc.frontend import parse_text

    plans = {name: analyse(parse_text(*map(str, library.find(name)))[0]) for name in library.names()}
    return [name for name, plan in plans.items() if chosen(plan).parallel]


def compiled(case: Case) -> dict[str, Any]:
    """The facts of a case's launches by pass, from the cache where they are known."""
    import torch
    import triton
    from recc.backends.triton import aot, fitted
    from recc.backends.triton.module import chosen, generate, text_of

    from recc import library
    from recc.analysis import analyse
    from recc.frontend import parse_text
    from recc.runtime import cache

    plan = analyse(parse_text(*map(str, library.find(case.spec)))[0])
    sizes = {dim: size or case.size for dim, size in plan.recurrence.dims.items()}
    config = fitted.config_of(plan.recurrence, sizes, case.target)
    generated = generate(plan, chosen(plan, None, config.chunk), config)
    launches = aot.every_launch(generated, sizes, torch.bfloat16)
    decided = [(launch.name, launch.options, _numbers(launch.arguments)) for launch in launches]
    key = f"{text_of(generated)} {decided} {case} {triton.__version__}"
    path = cache.folder("aot") / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for launch in launches:
        facts = aot.facts(aot.compile_launch(launch, case.target))
        own = found.setdefault(launch.name.partition("_")[0], {"kernels": 0})
        own["kernels"] += 1
        for name in ("registers", "spills", "shared"):
            own[name] = max(own.get(name, 0), facts[name])
        own["matrix"] = own.get("matrix", 0) + facts["matrix"]
    cache.write(path, json.dumps(found).encode())
    return found


def _numbers(arguments: dict[str, Any]) -> dict[str, Any]:
    """What a launch is compiled for beside its text: sizes, blocks and settings."""
    return {name: value for name, value in arguments.items() if value is None or not hasattr(value, "stride")}


def page(found: dict[Case, dict[str, Any] | str], total: int) -> str:
    """The table, and what did not compile."""
    import triton

    import recc

    lines, failed = [], []
    for case in sorted(found, key=lambda case: (case.spec, case.size, case.target)):
        facts = found[case]
        if isinstance(facts, str):
            failed.append(f"- `{case.spec}`, dims of {case.size}, {case.target}: {facts}\n")
            continue
        for name, own in facts.items():
            cells = [case.spec, case.size, case.target, name, own["kernels"], own["registers"], f"{own['spills']:,}",
                     f"{own['shared']:,}", own["matrix"]]  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |\n")
    versions = {"recc": recc.__version__, "triton": triton.__version__}
    head = HEAD.format(sizes=f"{USUAL} or {LARGE}", count=len(found), total=total, **versions)
    more = ["\nWithout a result (the time limit counts what else runs on the machine):\n\n", *failed] if failed else []
    return head + "".join(lines + more)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="*", help="by default all that run in parallel over time")
    parser.add_argument("--target", action="append", help="sm_80, sm_90, sm_100 or gfx942; by default all of them")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--limit", type=float, default=300, help="seconds that a case may take")
    parser.add_argument("--budget", type=float, help="seconds after which no case is begun")
    args = parser.parse_args()
    began, found = time.monotonic(), {}
    wanted = cases(args.specs or parallel(), args.target or ["sm_90", "sm_80", "gfx942", "sm_100"])
    with ThreadPoolExecutor(args.jobs) as pool, progress(len(wanted)) as advance:

        def one(case: Case) -> dict[str, Any] | str | None:
            late = args.budget is not None and time.monotonic() - began > args.budget
            return None if late else isolated(compiled, case, args.limit)

        try:
            waiting = {pool.submit(one, case): case for case in wanted}
            for done in as_completed(waiting):
                if done.result() is not None:
                    found[waiting[done]] = done.result()
                advance(f"{waiting[done].spec} {waiting[done].target}")
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    PAGE.write_text(page(found, len(wanted)), encoding="utf-8")
    failed = sum(isinstance(facts, str) for facts in found.values())
    print(f"{len(found)} of {len(wanted)} cases, {failed} of them did not compile: {PAGE}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
