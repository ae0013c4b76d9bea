"""Kernels on a GPU that need not be there: the table of `recc explain --target`, and `recc tune --dry-run`."""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from typing import TYPE_CHECKING, Any

from recc.cli import common

if TYPE_CHECKING:
    from rich.console import RenderableType

    from recc.analysis.plan import Plan
    from recc.backends.triton.aot import Decided
    from recc.backends.triton.config import Config
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


def view(plan: Plan, strategy: str | None, chunk: int | None, target: str, batch: int, time: int, heads: int
         ) -> dict[str, Any]:  # fmt: skip
    """The machine's view of a recurrence's kernels in bfloat16, compiled for `target`, and of what is decided for calls
    of this size; dims without a size are 64. strategy, chunk: what was asked for, if anything."""
    needed(f"--target {target}")
    import torch

    from recc.analysis.work import TYPICAL
    from recc.backends.triton import fitted, traffic
    from recc.backends.triton.aot import compile_launch, facts, launches
    from recc.backends.triton.config import DEFAULT
    from recc.backends.triton.module import chosen
    from recc.backends.triton.schedule import Unserved
    from recc.strategies.outer import PROCESSORS

    checked(target)
    processors = PROCESSORS.get(target, PROCESSORS["sm_90"])
    sizes = {dim: size or TYPICAL for dim, size in plan.recurrence.dims.items()}
    usual = strategy is None and chunk is None
    config = fitted.config_of(plan.recurrence, sizes, target) if usual else DEFAULT
    walking = fitted.config_of(plan.recurrence, sizes, target, strategy="sequential")
    try:
        size = target, time, batch * heads, processors
        choice, generated, decided = _taken(plan, strategy, chunk, config, walking, *size)
        parts = traffic.passes(plan, choice, config) if generated.meta["chunk"] > 1 else ()
    except Unserved as error:
        return {"target": target, "served": False, "reason": f"{error.problem}; {error.help}"}
    noted: list[Decided] = []
    made = launches(generated, {}, torch.bfloat16, batch, time, heads, processors, noted)
    walks = [kernel for part in parts for kernel in part.kernels if kernel.launch.walks]
    outers = dict(zip([kernel.name for kernel in walks if kernel.launch.outer], noted, strict=True))
    moved = {}
    for part in parts:
        each = max(
            (one.outer for name, one in outers.items() if part.name.startswith(name.partition("_")[0])), default=0
        )
        moved |= {one.kernel: one.total for one in traffic.moved(part, sizes, outer=each)}
    rows = []
    for launch in made:
        found = facts(compile_launch(launch, target))
        rows.append({"kernel": launch.name, **found, "warps": launch.options["num_warps"],
                     "bytes": moved.get(launch.name)})  # fmt: skip
    open_to_fit = usual and config == DEFAULT and (generated.meta["chunk"] > 1 or not chosen(plan).parallel)
    may_fit = open_to_fit and any(row["spills"] for row in rows)
    return {"target": target, "served": True, "dtype": "bfloat16", "sizes": sizes,
            "chunk": generated.meta["chunk"], "may_fit": may_fit, "strategies": _strategies(plan, choice), **decided,
            "call": {"batch": batch, "time": time, "heads": heads},
            "walks": [{"kernel": kernel.name, **decision(outers.get(kernel.name), processors)} for kernel in walks],
            "launches": rows}  # fmt: skip


def _taken(plan: Plan, strategy: str | None, chunk: int | None, config: Config, walking: Config, target: str, time: int,
           programs: int, processors: int) -> tuple[Choice, Any, dict[str, Any]]:  # fmt: skip
    """The kernels that serve a call: the choice, what is generated, and what was decided by the call's size. walking:
    the configuration of the walk over few tokens."""
    from recc.backends.triton.config import DEFAULT
    from recc.backends.triton.module import chosen, generate, solvable
    from recc.strategies import choose

    choice, other, decided = chosen(plan, strategy, chunk or config.chunk), None, {"few": None, "newton": None}
    generated = generate(plan, choice, config)
    if strategy is None and chunk is None and choice.parallel:
        decided["few"] = _few(generated.meta, time, programs, processors)
        other = "sequential" if decided["few"]["walks"] else None
    elif strategy is None and solvable(plan):
        decided["newton"] = _solved(plan, target, time, programs)
        other = "newton" if decided["newton"]["newton"] else None
    if other is not None:
        choice = choose(plan, other)
        generated = generate(plan, choice, walking if other == "sequential" else DEFAULT)
    return choice, generated, decided


def _strategies(plan: Plan, choice: Choice) -> list[dict[str, Any]]:
    """The strategy of each component, and why a cheaper one is not taken by kernels alone."""
    from recc.strategies import choose

    usual, found = choose(plan), []
    for component in plan.components:
        before = {name for name, _ in usual.refused[component.states]}
        why = {name: reason.text for name, reason in choice.refused[component.states] if name not in before}
        found.append({"states": list(component.states), "strategy": choice.name(component), "refused": why})
    return found


def _few(meta: dict[str, Any], time: int, programs: int, processors: int) -> dict[str, Any]:
    """Whether a call has so few tokens that it is walked token by token, as `recc.strategies.few` decides, and why."""
    from recc.strategies.few import by_chunks, by_tokens, walks_tokens

    chunks = (meta["inner"], meta["chunk"]), meta["launches"], processors
    walked, chunked = by_tokens(time, programs, processors), by_chunks(time, programs, *chunks)
    return {"walks": walks_tokens(time, programs, *chunks), "why": f"{time:,} tokens one by one take {walked:,.0f} "
            f"dependent steps, in chunks {chunked:,.0f}"}  # fmt: skip


def _solved(plan: Plan, target: str, time: int, programs: int) -> dict[str, Any]:
    """Whether Newton's method is taken for a call, as `recc.strategies.cost` decides, and why."""
    from recc.analysis.work import TYPICAL
    from recc.ir.node import HEADS, dim_of
    from recc.strategies import cost
    from recc.strategies.devices import devices

    component, rec = plan.components[0], plan.recurrence
    axes = [dim_of(axis) for axis in rec.state(component.states[0]).axes if axis != HEADS]
    channels = programs * math.prod(rec.dims.get(dim) or TYPICAL for dim in axes)
    known = target if target in devices() else "h100"
    seconds = cost.seconds(cost.cell_of(component, plan), cost.Shape(time, channels, known))
    said = ", ".join(f"{1e6 * value:,.0f} us by {name}" for name, value in seconds.items())
    return {"newton": cost.solves(component, plan, time, channels, target), "channels": channels,
            "why": f"{channels:,} channels, predicted {said} ({devices()[known].source})"}  # fmt: skip


def decision(found: Decided | None, processors: int) -> dict[str, Any]:
    """Whether a walk takes outer chunks, and why, as `recc.strategies.outer` decides."""
    from recc.strategies.outer import LEAST, one_walk, two_level

    if found is None:
        return {"outer": 0, "why": "its states have no transition that many chunks could share"}
    steps = one_walk(found.programs, found.chunks, processors)
    whole = f"{found.programs} programs on {processors} multiprocessors, {steps:,.0f} dependent steps"
    sizes, size = {}, max(LEAST // found.rows, 1)
    while size < found.chunks:
        sizes[size] = two_level(found.programs, found.chunks, size, processors, found.more)
        size *= 2
    view = {"outer": found.outer * found.rows, "programs": found.programs, "processors": processors, "steps": steps}
    if found.outer:
        outers = -(-found.chunks // found.outer)
        return {**view, "steps": sizes[found.outer], "why": f"{found.programs * outers} programs, "
                f"{sizes[found.outer]:,.0f} dependent steps; each sequence in one walk: {whole}"}  # fmt: skip
    least = f"{min(sizes.values()):,.0f} steps at the least" if sizes else f"none of {LEAST} tokens fits in"
    return {**view, "why": f"{whole}; with outer chunks: {least}"}


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
            cells.append("" if row["bytes"] is None else f"{row['bytes']:,.0f}")
            table.add_row(f"  {row['kernel']}", str(row["warps"]), *cells, style=style)
        for passes in ("forward", "backward"):
            own = [row for row in found["launches"] if row["kernel"].startswith(passes)]
            known = [row["bytes"] for row in own if row["bytes"] is not None]
            empty = [""] * (len(COLUMNS) + 1)
            launches = f"{len(own)} launch{'es' * (len(own) != 1)}"
            table.add_row(f"  {passes}: {launches}", *empty, f"{sum(known):,.0f}" if known else "", style="dim")
        return Group(
            Text(f"kernels for {found['target']}", "bold"),
            Text(f"  {sizes}{found['dtype']}, {self._form()}; bytes: {BYTES}", "dim"),
            *(Text(f"  not {name}: {why}") for one in found["strategies"] for name, why in one["refused"].items()),
            table,
            *([Text(f"  `recc tune SPEC --fit --target {found['target']}` searches for a configuration without spills")]
              if found["may_fit"] else []),
            *([Text("  for batch {batch:,}, time {time:,} and {heads:,} heads:".format(**found["call"]), "dim")]
              if found["walks"] or found["few"] else []),
            *([Text(f"  {'one by one' if found['few']['walks'] else 'in chunks'}: {found['few']['why']}")]
              if found["few"] else []),
            *([Text(f"  {'Newton' if found['newton']['newton'] else 'one by one'}: {found['newton']['why']}")]
              if found["newton"] else []),
            *(Text(f"  {walk['kernel']}: {_way(walk)}: {walk['why']}") for walk in found["walks"]),
        )  # fmt: skip

    def _form(self) -> str:
        names = ", ".join(dict.fromkeys(one["strategy"] for one in self.found["strategies"]))
        return f"{names}, {self.found['chunk']} tokens in a chunk" if self.found["chunk"] > 1 else names


def _way(walk: dict[str, Any]) -> str:
    return f"outer chunks of {walk['outer']:,} tokens" if walk["outer"] else "each sequence in one walk"


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
    space = GpuSpace(analyse(task.rec), "triton", task.sizes)
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
