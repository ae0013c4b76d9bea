"""`recc tune --fit`: a configuration of kernels that spills no registers, searched by compiling for a GPU that need not
be there, and kept for the calls that it fits."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from recc.cli import common, kernels

if TYPE_CHECKING:
    from recc.backends.triton.fit import Found
    from recc.tuning.tune import Task


def run(task: Task, seconds: float, args: argparse.Namespace) -> int:
    """Searches for `seconds`; 1 where nothing was found, 130 after Ctrl-C, when nothing is kept."""
    kernels.needed("recc tune --fit")
    from recc.analysis import analyse
    from recc.backends.triton import fitted
    from recc.backends.triton.fit import entry_of, fit, within
    from recc.backends.triton.schedule import Unserved

    target = kernels.checked(args.target or "sm_90")
    try:
        with _progress(task.rec.name) as report:
            found = fit(analyse(task.rec), task.sizes, target, seconds, task.dtype, within(target), report=report)
    except Unserved as error:
        raise common.Usage(error.problem, error.help) from None
    except KeyboardInterrupt:
        print("interrupted; nothing is kept", file=sys.stderr)
        return 130
    entry = entry_of(found, (task.rec, task.sized), task.sizes, target, task.dtype_name)
    if entry is not None:
        try:
            fitted.keep(task.rec, entry)
        except OSError as error:
            where = fitted.folder(task.rec)
            raise common.Usage(f"what was found cannot be kept in `{where}`: {error.strerror or error}",
                               "name a folder that can be written in RECC_CACHE_DIR") from None  # fmt: skip
    if args.json:
        print(json.dumps(_view(task, target, found), indent=2))
    else:
        _tell(task, target, found)
    return 0 if found.config is not None else 1


def _view(task: Task, target: str, found: Found) -> dict[str, Any]:
    from recc.backends.triton import config

    own = None if found.config is None else {"backend": "triton", **config.view(found.config)}
    return {"recurrence": task.rec.name, "target": target, "dtype": task.dtype_name, "dims": task.sizes, "config": own,
            "default_spills": found.spilled, "bytes": found.moved, "default_bytes": found.usual,
            "compiled": found.compiled, "all": found.all}  # fmt: skip


def _tell(task: Task, target: str, found: Found) -> None:
    """What came out, for people."""
    from recc.backends.triton import config
    from recc.tuning.search import said

    console, sizes = common.console(), " ".join(f"{name}={size}" for name, size in task.sizes.items())
    console.print(f"[bold]{task.rec.name}[/]: {sizes}, {task.dtype_name}, compiled for {target}")
    for name, spilled in found.spilled.items():
        console.print(f"  the default's {name} does not fit: {spilled:,} bytes a thread spill")
    if not found.spilled:
        console.print("  the default spills nothing, so there is nothing to keep")
    elif found.config is None:
        more = "which are all that there are to try" if found.all else "give it more with `--budget`"
        console.print(f"  all forms of the kernels spill, as far as {found.compiled} that were compiled show: {more}")
    else:
        form = said({"backend": "triton", **config.view(found.config)})
        console.print(f"  spills nothing: {form}")
        console.print(f"  moves {found.moved:,.0f} bytes per token and head in both passes, the default "
                      f"{found.usual:,.0f}; nothing was timed")  # fmt: skip
        console.print(f"  kept for {task.dtype_name} tensors of these sizes on {target}")


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int, float], None]]:
    """A line on standard error while it is a terminal: how many kernels were compiled, and what is tried."""
    if not sys.stderr.isatty():
        yield lambda compiled, moved: None
        return
    from rich.console import Console

    with Console(stderr=True).status(f"{name}: the default") as status:
        yield lambda compiled, moved: status.update(
            f"{name}: {compiled} kernels compiled; tries what moves {moved:,.0f} bytes per token and head"
        )
