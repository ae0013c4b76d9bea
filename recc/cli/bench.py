"""Time every form of a recurrence on this machine: recc's backends and strategies, the sequential loop in torch, and a
copy of as many bytes as must move at least. Interleaved rounds in one process; results are compared before."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recc.cli import options

if TYPE_CHECKING:
    from recc.tuning.bench import Results

NAMES = {"forward": "forward", "training": "forward + backward", "decode": "decode step"}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC")
    options.sized(parser)
    parser.add_argument("--passes", choices=tuple(NAMES), action="append", help="only these; may be given again")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the tensors")
    parser.add_argument("--rounds", type=int, default=9, metavar="N", help="interleaved rounds (default: 9)")
    parser.add_argument("--budget", default="60s", metavar="TIME", help="about how long in all, as 90s or 5m")
    parser.add_argument("--json", action="store_true", help="the machine's view")
    parser.add_argument("--plot", metavar="FILE.png", help="draw a chart")


def run(args: argparse.Namespace) -> int:
    from recc.cli import common, sized
    from recc.cli.tune import budget
    from recc.tuning import bench, measure

    task, seconds = sized.task(args), budget(args)
    if args.rounds < 1:
        raise common.Usage(f"`--rounds {args.rounds}` times nothing", "5 and more give a spread")
    if args.plot:
        _plottable(args.plot)
    if not sized.present(task.device):
        raise common.Usage(f"there is no {task.device} device on this machine, so nothing was timed",
                           "`recc explain SPEC --target sm_90` shows kernels without a GPU")  # fmt: skip
    wanted = tuple(NAMES[name] for name in args.passes or NAMES)
    with _status() as report:
        found = bench.run(task, clock=measure.clock_of(task.device), count=args.rounds, budget=seconds, wanted=wanted,
                          report=report)  # fmt: skip
    if args.json:
        print(json.dumps(found.view(), indent=2))
    else:
        _tell(found)
    if args.plot:
        from recc.tuning.plot import plot

        plot(found, Path(args.plot))
        print(f"wrote {args.plot}", file=sys.stderr)
    return 0


def _plottable(path: str) -> None:
    from recc.cli import common

    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise common.Usage("`--plot` needs matplotlib", "pip install 'recc[plot]'") from None
    if Path(path).suffix not in (".png", ".svg", ".pdf"):
        raise common.Usage(f"`--plot {path}` names no picture", "end it in .png, .svg or .pdf")
    if not Path(path).absolute().parent.is_dir():
        raise common.Usage(f"there is no folder `{Path(path).parent}`", "make it first")


def _tell(found: Results) -> None:
    from recc.cli import common

    console, task = common.console(), found.task
    where = found.machine.get("gpu") or f"{found.machine['cpu']}, {found.machine['threads']} threads"
    console.print(f"[bold]{task.rec.name}[/]: {task.shape}, {task.dtype_name}; {where}, torch {found.machine['torch']}")
    console.print(table(found))
    for name, why in found.missing.items():
        console.print(f"  {name}: {why}", style="dim")


def table(found: Results) -> Any:
    """Medians, in brackets half of what lies between the quartiles, and how many times the loop's speed that is."""
    from rich.table import Table

    from recc.tuning import bench, measure
    from recc.tuning.chart import duration

    rows = Table(box=None, pad_edge=False, padding=(0, 2))
    rows.add_column("")
    for passes in found.times:
        rows.add_column(passes, justify="right")
        rows.add_column("" if passes == bench.DECODE else "of the loop", justify="right", style="dim")
    for name in found.names:
        cells = []
        for times in found.times.values():
            if name not in times:
                cells += ["", ""]
                continue
            low, high = measure.spread(times[name])
            spread = round(50 * (high - low) / measure.median(times[name]))
            faster = measure.ratio(times, bench.LOOP, name) if bench.LOOP in times and name != bench.COPY else None
            cells += [f"{duration(measure.median(times[name]))} ±{spread:2d}%", f"{faster:.1f}x" if faster else ""]
        rows.add_row(f"  {name}", *cells, style="dim" if name == bench.COPY else None)
    return rows


@contextmanager
def _status():
    """What is being done, on standard error while it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda doing: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield lambda doing: status.update(doing)
