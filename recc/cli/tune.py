"""Find the fastest form of a recurrence for tensors of a size on this machine, and keep it: ops that are loaded from
then on use it. Only this command times anything. Without the device, forms are compiled for it and nothing is timed;
with `--fit` a form of the kernels that spills no registers is searched so, and kept."""

from __future__ import annotations

import argparse
import json
import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from recc.cli import options

if TYPE_CHECKING:
    from recc.tuning.search import Outcome
    from recc.tuning.store import Entry
    from recc.tuning.tune import Task

BUDGETS = {"quick": 60.0, "full": 600.0}  # seconds for each of the passes that are tuned


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC")
    options.sized(parser)
    parser.add_argument("--passes", choices=("forward", "training", "both"), default="both",
                        help="what counts: the forward pass alone, forward + backward, or each (default)")  # fmt: skip
    parser.add_argument("--backend", metavar="NAME", help="only forms of c, torch or triton")
    parser.add_argument("--budget", metavar="TIME",
                        help="how long to search, as 90s or 5m (default: 60s; full and a fit: 10m)")  # fmt: skip
    parser.add_argument("--effort", choices=("quick", "full"), default="quick",
                        help="quick: what differs from the best in one choice; full: everything")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the inputs and of the order")
    parser.add_argument("--fresh", action="store_true", help="time again what an earlier search has timed")
    parser.add_argument("--save", action="store_true", help="also write SPEC.tuned.json, beside the spec")
    parser.add_argument("--dry-run", action="store_true", help="compile the kernels and say what fits; time nothing")
    parser.add_argument("--fit", action="store_true",
                        help="search, by compiling alone, kernels that spill no registers; keep them")  # fmt: skip
    parser.add_argument("--target", metavar="ARCH",
                        help="what a dry run or a fit compiles for: sm_90 (default), sm_80, ...")  # fmt: skip
    parser.add_argument("--jobs", type=int, metavar="N", help="processes that compile (default: one a core)")
    parser.add_argument("--json", action="store_true", help="the machine's view")


def run(args: argparse.Namespace) -> int:
    from recc.cli import common, sized

    if args.fit:
        return _fit(args)
    task, seconds = sized.task(args), budget(args)
    if args.backend not in (None, "torch", "c" if task.device == "cpu" else "triton"):
        there = "c, torch" if task.device == "cpu" else "triton, torch"
        raise common.Usage(f"no backend `{args.backend}` on {task.device}", f"there are {there}")
    if args.target and not args.dry_run:
        raise common.Usage("`--target` is for a dry run", "drop it, or add `--dry-run` or `--fit`")
    if args.save and task.rec.path == "<stdin>":
        raise common.Usage("`--save` writes beside a spec's file", "name a file instead of `-`")
    if args.dry_run or not sized.present(task.device):
        return _dry(task, args)
    return _search(task, seconds, args)


def budget(args: argparse.Namespace) -> float:
    """Seconds."""
    from recc.cli import common

    if args.budget is None:
        return BUDGETS["full" if args.fit else args.effort]
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|h)?", args.budget.strip())
    seconds = float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2] or "s"] if match else 0.0
    if seconds <= 0:
        raise common.Usage(f"`--budget {args.budget}` is no length of time", "write it as 90s, 5m or 1h")
    return seconds


# --- with the device --------------------------------------------------------------------------------------------------


def _search(task: Task, budget: float, args: argparse.Namespace) -> int:
    from recc.cli import common
    from recc.tuning import measure, store, tune

    _calibrate(task, args)
    wanted = ("forward", "training") if args.passes == "both" else (args.passes,)
    views, interrupted, clock = [], False, measure.clock_of(task.device)
    for passes in wanted:
        try:
            with _progress(f"{task.rec.name}, {passes}", budget, clock) as report:
                found, entry = tune.search(
                    task, passes, clock=clock, budget=budget, effort=args.effort, seed=args.seed,
                    backend=args.backend, fresh=args.fresh, jobs=args.jobs, report=report,
                )  # fmt: skip
        except OSError as error:
            where = store.folder(task.rec)
            raise common.Usage(f"what was found cannot be kept in `{where}`: {error.strerror or error}",
                               "name a folder that can be written in RECC_CACHE_DIR") from None  # fmt: skip
        views.append(_view(task, passes, found, entry))
        if not args.json:
            _tell(task, passes, found, entry)
        interrupted = found.interrupted
        if interrupted:
            break
    if args.save and (path := store.export(task.rec)) and not args.json:
        print(f"wrote {path}")
    if args.json:
        print(json.dumps(views, indent=2))
    if interrupted:
        print("interrupted; the best form so far was verified and is kept", file=sys.stderr)
        return 130
    return 0 if all(view["config"] is not None for view in views) else 1


def _calibrate(task: Task, args: argparse.Namespace) -> None:
    """The constants of the cost model, once for a device, where the spec has what the model decides."""
    from recc.analysis import analyse
    from recc.analysis.plan import Nonlinear
    from recc.cli import common
    from recc.strategies import devices
    from recc.tuning import calibrate

    nonlinear = any(isinstance(component.kind, Nonlinear) for component in analyse(task.rec).components)
    known = devices.is_calibrated(calibrate.key_of(task.device))
    if not nonlinear or (known and not args.fresh) or not calibrate.possible(task.device):
        return
    found = calibrate.calibrate(task.device)
    if not args.json:
        common.console().print(f"calibrated {found.name} for the cost model; `recc explain {task.rec.name}` uses it")


def _tell(task: Task, passes: str, found: Outcome, entry: Entry | None) -> None:
    """What came out, for people."""
    from recc.cli import common
    from recc.tuning.search import said

    console = common.console()
    console.print(f"[bold]{task.rec.name}[/], {passes}: {task.shape}, {task.dtype_name} on {task.key(passes).arch}")
    left = [trial for trial in found.trials if trial.ratio is None]
    console.print(_table(found))
    if entry is None:
        console.print("  nothing could be verified, so nothing is kept")
    elif found.seconds is not None and found.first_seconds is not None:
        gain = found.first_seconds / found.seconds
        more = f", {gain:.2f}x as fast as the first form" if gain > 1.005 else ", which is the first form"
        console.print(f"  best: {said(dict(entry.config))}: {1e3 * found.seconds:.3g} ms{more}; verified and kept")
    else:
        console.print(f"  best so far: {said(dict(entry.config))}; verified and kept")
    if left:
        console.print(f"  {len(left)} forms were not timed: {'; '.join(sorted({t.why for t in left})[:3])}")
    if found.timed <= 1 and not (found.exhausted or found.interrupted):
        console.print("  the budget was spent before another form was timed; give it more with `--budget`")
    if found.exhausted and found.timed <= 1 and not left:
        console.print("  every form had been timed before; `--fresh` times them again")


def _table(found: Outcome) -> Any:
    from rich.table import Table

    from recc.tuning.search import said

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("  time, of the best before it", justify="right")
    table.add_column("form")
    timed = [trial for trial in found.trials if trial.ratio is not None]
    for trial in sorted(timed, key=lambda trial: trial.ratio)[:12]:
        mark = "bold" if trial.form == found.best else None
        table.add_row(f"{trial.ratio:.2f}", said(trial.form), style=mark)
    return table


def _view(task: Task, passes: str, found: Outcome, entry: Entry | None) -> dict[str, Any]:
    trials = [{"config": t.form, "ratio": t.ratio, "why": t.why} for t in found.trials]
    return {"recurrence": task.rec.name, "passes": passes, "shape": task.shape, "dtype": task.dtype_name,
            "config": None if entry is None else dict(entry.config), "seconds": found.seconds,
            "first_seconds": found.first_seconds, "interrupted": found.interrupted, "exhausted": found.exhausted,
            "trials": trials}  # fmt: skip


@contextmanager
def _progress(name: str, budget: float, clock: Any):
    """A bar on standard error while it is a terminal: how much of the budget is spent, and the best form so far."""
    if not sys.stderr.isatty():
        yield lambda outcome, doing: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from recc.tuning.search import said

    columns = TextColumn("{task.description}"), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.fields[best]}")
    began = clock.now()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        row = bar.add_task(name, total=budget, best="")

        def report(outcome: Outcome, doing: str) -> None:
            best = "" if outcome.best is None else f"{outcome.timed} timed, best {said(outcome.best)}"
            bar.update(row, completed=min(clock.now() - began, budget), best=best, description=f"{name}: {doing}"[:64])

        yield report


# --- without ----------------------------------------------------------------------------------------------------------


def _dry(task: Task, args: argparse.Namespace) -> int:
    """Compiles the kernels of every form for a device that need not be there."""
    from recc.cli import common, kernels

    if task.device == "cpu":
        raise common.Usage("a dry run compiles for GPUs", "add `--device cuda`, or drop `--dry-run`")
    return kernels.dry_run(task, args)


def _fit(args: argparse.Namespace) -> int:
    """Searches for kernels that fit a device that need not be there."""
    from recc.cli import common, fit, sized

    for option in ("dry_run", "save", "backend"):
        if getattr(args, option):
            given = "--" + option.replace("_", "-")
            raise common.Usage(f"`{given}` does not go with `--fit`", "a fit compiles and times nothing; drop one")
    if args.dtype == "float64":
        raise common.Usage("kernels compute in float32, not float64", "drop `--dtype`, or name another one")
    args.device = "cuda" if args.device == "cpu" else args.device  # what kernels are for; it need not be there
    return fit.run(sized.task(args), budget(args), args)
