"""Kernels on a GPU that need not be there: the table of `recc explain --target`, and `recc tune --dry-run`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import TYPE_CHECKING, Any

from recc.cli import common

if TYPE_CHECKING:
    from rich.console import RenderableType

    from recc.analysis.plan import Plan
    from recc.strategies import Choice
    from recc.tuning.tune import Task

BYTES = "per token and head, what is read again counted again"
COLUMNS = {"registers": "registers", "spills": "spilled", "shared": "shared memory", "matrix": "matrix instructions"}


def needed(what: str) -> None:
    """Raises Usage where Triton is not installed."""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise common.Usage(f"`{what}` needs `{error.name}`", "pip install 'recc[triton]'") from None


def checked(target: str) -> str:
    """A GPU's architecture; raises Usage for what is none."""
    from recc.backends.triton.aot import TARGETS, target_of

    try:
        target_of(target)
    except ValueError:
        raise common.Usage(f"no GPU is called `{target}`", f"there are {', '.join(TARGETS)}") from None
    return target


# --- explain ----------------------------------------------------------------------------------------------------------


def view(plan: Plan, choice: Choice, target: str) -> dict[str, Any]:
    """The machine's view of a recurrence's kernels in bfloat16, compiled for `target`; dims without a size are 64."""
    needed(f"--target {target}")
    import torch

    from recc.analysis.work import TYPICAL
    from recc.backends.triton import traffic
    from recc.backends.triton.aot import compile_launch, facts, launches
    from recc.backends.triton.module import generate
    from recc.backends.triton.schedule import Unserved

    checked(target)
    try:
        generated = generate(plan, choice)
    except Unserved as error:
        return {"target": target, "served": False, "reason": f"{error.problem}; {error.help}"}
    sizes = {dim: size or TYPICAL for dim, size in plan.recurrence.dims.items()}
    moved = {one.kernel: one.total for part in traffic.passes(plan, choice) for one in traffic.moved(part, sizes)}
    rows = []
    for launch in launches(generated, {}, torch.bfloat16):
        found = facts(compile_launch(launch, target))
        rows.append({"kernel": launch.name, **found, "warps": launch.options["num_warps"],
                     "bytes": moved[launch.name]})  # fmt: skip
    return {"target": target, "served": True, "dtype": "bfloat16", "sizes": sizes, "chunk": choice.chunk,
            "launches": rows}  # fmt: skip


class Section:
    """The section `kernels` of `recc explain`."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.found = found

    def __rich__(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        found = self.found
        if not found["served"]:
            return Group(Text(f"kernels for {found['target']}: none", "bold"), Text(f"  why: {found['reason']}"))
        sizes = "".join(f"{dim} = {size}, " for dim, size in found["sizes"].items())
        table = Table(box=None, pad_edge=False, padding=(0, 2))
        table.add_column("  kernel")
        for head in ("warps", *COLUMNS.values(), "bytes"):
            table.add_column(head, justify="right")
        for row in found["launches"]:
            cells = [f"{row[name]:,}" for name in COLUMNS]
            style = "bold red" if row["spills"] else None
            table.add_row(f"  {row['kernel']}", str(row["warps"]), *cells, f"{row['bytes']:,.0f}", style=style)
        for passes in ("forward", "backward"):
            own = [row for row in found["launches"] if row["kernel"].startswith(passes)]
            moved = sum(row["bytes"] for row in own)
            empty = [""] * (len(COLUMNS) + 1)
            launches = f"{len(own)} launch{'es' * (len(own) != 1)}"
            table.add_row(f"  {passes}: {launches}", *empty, f"{moved:,.0f}", style="dim")
        return Group(
            Text(f"kernels for {found['target']}", "bold"),
            Text(f"  {sizes}{found['dtype']}, {found['chunk']} tokens in a chunk; bytes: {BYTES}", "dim"),
            table,
        )


# --- tune, without the device -----------------------------------------------------------------------------------------


def dry_run(task: Task, args: argparse.Namespace) -> int:
    """Compiles what a search would time first, as far as the budget goes; times nothing and keeps nothing."""
    needed("recc tune --device cuda")
    from recc.analysis import analyse
    from recc.backends.triton.prune import Pruner
    from recc.cli.tune import budget
    from recc.tuning.search import said
    from recc.tuning.space import GpuSpace

    target, deadline = checked(args.target or "sm_90"), time.monotonic() + budget(args)
    space = GpuSpace(analyse(task.rec), "triton")
    starts = space.starts(args.effort)
    if not starts:
        raise common.Usage(f"{task.rec.name} has no Triton kernels", f"`recc explain {task.rec.name}` says why")
    forms = starts + space.around(starts[0], args.effort)
    pruner, interrupted = Pruner(task.subject(target), starts[0], args.jobs), False
    known: list[str] = []
    try:
        for name in pruner.compiled(forms):
            known.append(name)
            if time.monotonic() > deadline:
                break
    except KeyboardInterrupt:
        interrupted = True
    finally:
        pruner.close()
    rows = [(json.loads(name), pruner.facts[name], pruner.why(name)) for name in known]
    rows.sort(key=lambda row: forms.index(row[0]))
    if args.json:
        print(json.dumps({"target": target, "timed": False, "forms": len(forms), "compiled": [
            {"config": form, "facts": None if isinstance(facts, str) else facts, "unfit": why or None}
            for form, facts, why in rows]}, indent=2))  # fmt: skip
    else:
        from rich.table import Table

        table = Table(box=None, pad_edge=False, padding=(0, 2))
        for head in ("  registers", "spilled", "shared memory"):
            table.add_column(head, justify="right")
        table.add_column("form")
        for form, facts, why in rows:
            own = list(facts.values()) if isinstance(facts, dict) else []
            most = [f"{max(x[name] for x in own):,}" if own else "" for name in ("registers", "spills", "shared")]
            table.add_row(*most, said(form) + (f": {why}" if why else ""), style="dim" if why else None)
        console = common.console()
        console.print(f"[bold]{task.rec.name}[/]: {task.shape}, {task.dtype_name}, compiled for {target}")
        console.print(table)
        fit = sum(not why for *_, why in rows)
        console.print(f"  {len(rows)} of {len(forms)} forms compiled, {fit} of them fit without spills")
    there = "no GPU is at hand" if not args.dry_run else "a dry run"
    print(f"{there}: nothing was timed, and nothing is kept", file=sys.stderr)
    return 130 if interrupted else 0
