"""The configurations that ship with recc because the default would spill: `make fitted`.

Each case is one spec, target and size of dims, in bfloat16; a process of its own searches for what fits (see
`backends/triton/fit.py`). An entry that still fits, of a default that still spills, is kept as it is; `--fresh`
searches anew. The file is written after each case, so a run that was interrupted goes on where it stopped. Nothing is
timed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from typing import Any

from recc.backends.triton.fitted import FILE, Fitted, everything

from benchmarks.aot import Case, parallel
from benchmarks.isolated import isolated, progress
from recc import library
from recc.runtime import cache

DIMS = (64, 128)


def searched(case: Case, seconds: float, known: Fitted | None, strategy: str | None = None) -> dict[str, Any]:
    """The entry of a case, if it needs one, and what the default spills by launch. strategy: see `Fitted`."""
    from recc.backends.triton.fit import entry_of, fit, within

    from recc.analysis import analyse
    from recc.frontend import parse_text

    text, path = map(str, library.find(case.spec))
    rec = parse_text(text, path)[0]
    plan, sizes = analyse(rec), {dim: size or case.size for dim, size in rec.dims.items()}
    first = known.config if known is not None else None
    found = fit(plan, sizes, case.target, seconds, compile=within(case.target), first=first, strategy=strategy)
    kept = entry_of(found, (rec, parse_text(text, path, dims=sizes)[0]), sizes, case.target, "bfloat16")
    entry = None if kept is None else replace(kept, strategy=strategy).view()
    return {"entry": entry, "spilled": found.spilled, "fits": found.config is not None, "sizes": sizes}


def write(entries: list[Fitted], path: Path = FILE) -> None:
    """An entry a line."""
    order = sorted(entries, key=lambda entry: (entry.name, entry.target, entry.dims, entry.strategy or ""))
    lines = [json.dumps(entry.view()) for entry in order]
    cache.write(path, ("[\n" + ",\n".join(lines) + "\n]\n").encode() if lines else b"[]\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("specs", nargs="*", help="by default all that ship with recc")
    parser.add_argument("--walks", action="store_true", help="the walks over few tokens of what runs in parallel")
    parser.add_argument("--target", action="append", help="sm_80, sm_90, sm_100 or gfx942; by default sm_90")
    parser.add_argument("--dim", type=int, action="append", help="of every dim without a size; by default 64 and 128")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes at a time")
    parser.add_argument("--limit", type=float, default=600, help="seconds that a case may take")
    parser.add_argument("--budget", type=float, help="seconds after which no case is begun")
    parser.add_argument("--fresh", action="store_true", help="search again where an entry still fits")
    args = parser.parse_args()
    wanted = [Case(spec, size, target) for target in args.target or ["sm_90"] for size in args.dim or DIMS
              for spec in args.specs or (parallel() if args.walks else library.names())]  # fmt: skip
    entries, began, without = list(everything()), time.monotonic(), []
    strategy = "sequential" if args.walks else None

    def one(case: Case) -> Any:
        if args.budget is not None and time.monotonic() - began > args.budget:
            return None
        same = [e for e in entries if (e.name, e.target, e.strategy) == (case.spec, case.target, strategy)]
        known = next((e for e in same if not args.fresh and case.size in dict(e.dims).values()), None)
        search = functools.partial(searched, seconds=args.limit, known=known, strategy=strategy)
        return isolated(search, case, 1.5 * args.limit)

    with ThreadPoolExecutor(args.jobs) as pool, progress(len(wanted)) as advance:
        waiting = {pool.submit(one, case): case for case in wanted}
        try:
            for done in as_completed(waiting):
                case, found = waiting[done], done.result()
                advance(f"{case.spec} {case.target}")
                if not isinstance(found, dict):
                    without += [f"{case}: {found}"] if found else []
                    continue
                place = (case.spec, case.target, tuple(sorted(found["sizes"].items())), strategy)
                entries = [e for e in entries if (e.name, e.target, e.dims, e.strategy) != place]
                entries += [Fitted.of(found["entry"])] if found["entry"] else []
                without += [] if found["fits"] else [f"{case}: {found['spilled']}"]
                write(entries)
                if found["spilled"]:
                    print(case, found["spilled"], found["entry"] and found["entry"]["config"], flush=True)
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
    print(f"{len(entries)} entries in {FILE}", file=sys.stderr)
    if without:
        print("without a configuration that fits:", *without, sep="\n  ", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
