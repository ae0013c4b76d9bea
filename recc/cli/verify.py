"""Compare every lowering of specs with the float64 sequential reference: outputs, final states, every gradient,
the decode step, packed and odd lengths, inputs at the hard corners of their domains. Exit 1 where one differs."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from recc.cli import options

if TYPE_CHECKING:
    from recc.ir.program import Recurrence
    from recc.runtime.verify import Report


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("specs", nargs="*", metavar="SPEC")
    parser.add_argument("--all", action="store_true", help="all specs that ship with recc")
    parser.add_argument("--quick", action="store_true", help="without the longest length and the smaller chunk")
    parser.add_argument("--strategy", metavar="NAME", action="append", help="only this one; may be given again")
    parser.add_argument("--case", metavar="WORDS", help='only cases with all of these words, as "T=17 float32"')
    parser.add_argument("--json", action="store_true", help="every comparison, for machines")
    options.spec(parser)


def run(args: argparse.Namespace) -> int:
    from recc.cli import common
    from recc.library import names

    if bool(args.specs) == args.all:
        raise common.Usage("nothing to verify" if not args.all else "`--all` and specs exclude each other",
                           "name specs, or say `--all`")  # fmt: skip
    chosen = names() if args.all else args.specs
    found = [rec for spec in chosen for rec in common.recurrences(spec, args)]
    import torch

    # The tensors are small: threads that wait for each other only cost time, much of it on a busy machine.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        reports = [_verify(rec, args, brief=len(found) > 1) for rec in found]
    finally:
        torch.set_num_threads(threads)
    if args.json:
        print(json.dumps([_view(report) for report in reports], indent=2))
    elif len(reports) > 1:
        bad = [report.name for report in reports if not report.ok]
        print(f"{len(reports) - len(bad)} of {len(reports)} verified" + (f"; failed: {', '.join(bad)}" if bad else ""))
    return int(not all(report.ok for report in reports))


def _verify(rec: Recurrence, args: argparse.Namespace, brief: bool) -> Report:
    """Verifies one recurrence and prints what came out: a line when `brief` and fine, else the table."""
    from recc.cli import common
    from recc.runtime.verify import verify
    from recc.strategies import Refused

    began = time.perf_counter()
    try:
        with _progress() as progress:
            report = verify(rec, strategies=args.strategy, quick=args.quick, case=args.case, progress=progress)
    except Refused as refused:
        raise common.SpecError([common.refusal(rec, refused)], rec.text) from None
    except ValueError as error:
        raise common.Usage(str(error)) from None
    if not report.rows:
        raise common.Usage(
            f"no case of `{rec.name}` has the words `{args.case}`", "as in `--case 'T=17 float32 plain'`"
        )
    if args.json:
        return report
    if not (brief and report.ok):
        common.console().print(report.table())
        for name, reason in report.refused.items():
            print(f"{name} does not apply: {reason.text}")
        for note in report.notes:
            print(f"note: {note}")
    took = time.perf_counter() - began
    if report.ok:
        print(f"{rec.name}: {len(report.rows):,} comparisons, all within their limits ({took:.1f} s)", flush=True)
    else:
        common.report(common.SpecError([_difference(rec, report, args)], rec.text), args.message_format)
    return report


def _difference(rec: Recurrence, report: Report, args: argparse.Namespace) -> Any:
    """The first failure as a diagnostic, with the command that repeats it."""
    from recc.frontend.diagnostics import Diagnostic

    row = report.failures[0]
    repro = " ".join([str(report.repro), *(f"--dim {dim}" for dim in args.dim)])
    if args.recurrence:
        repro += f" --recurrence {args.recurrence}"
    size = row.note or f"error {row.error:.1e}, allowed {row.limit:.1e}"
    return Diagnostic(
        "E0701",
        f"{row.what} of `{row.strategy}` differs from the reference",
        None,
        notes=(f"{row.case}: {size}", f"{len(report.failures):,} of {len(report.rows):,} comparisons failed"),
        helps=(f"repeat it with: {repro}",),
        path=rec.path,
    )


def _view(report: Report) -> dict[str, Any]:
    rows = [{"strategy": row.strategy, "what": row.what, "dtype": row.dtype, "case": row.case, "ok": row.ok,
             "error": row.error if math.isfinite(row.error) else None, "limit": row.limit, "note": row.note}
            for row in report.rows]  # fmt: skip
    refused = {name: reason.text for name, reason in report.refused.items()}
    return {"name": report.name, "path": report.path, "ok": report.ok, "repro": report.repro, "rows": rows,
            "refused": refused, "notes": report.notes}  # fmt: skip


@contextmanager
def _progress():
    """A progress bar on standard error while it is a terminal, else nothing; yields what `verify` calls."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("")
        yield lambda done, total, name: bar.update(task, completed=done, total=total, description=name)
