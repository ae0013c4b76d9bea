"""Proof by numbers: every lowering of a recurrence against the float64 sequential reference.

What is compared, for every strategy that can serve the recurrence, for native code and for the standalone file:
outputs, final states and every gradient (inputs, params, initial states), over odd lengths, packed sequences, both
directions, split sequences, grouped heads, decoding with `step`, and inputs at the hard corners of their domains
(`cases.CALLS`, `samples.CORNERS`). A random probe confirms what the analysis says of each component (`probe`).

An error is a largest absolute difference divided by the quantity's scale: the largest magnitude of the reference's
own tensor, plus `SHARE` of the largest of its kind (among all outputs, all final states, or all gradients), since a
gradient that is zero in theory is rounding noise of the others.

- float64: the error may be `LIMIT`.
- float32: it may be `TIMES` the error that the sequential reference itself has in float32, plus `FLOOR` ulps of the
  largest of its kind. A small tensor's error may be nothing by luck, so before a comparison fails the reference's error
  is drawn `DRAWS` times more, with its inputs moved by less than an ulp, and the largest one counts.
- float16, bfloat16: twice the error of the sequential reference in that dtype, and an ulp of it. Where the loop
  overflows float16, which an op with states in float32 need not do: the loop in bfloat16.
- Shapes and dtypes must be the reference's. Where the reference is not finite there is nothing to compare with.
"""

from __future__ import annotations

import ast
import contextlib
import itertools
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recc.analysis import analyse
from recc.analysis.plan import Plan, Reason
from recc.ir.program import Recurrence
from recc.runtime import probe
from recc.runtime.api import compile_recurrence, source
from recc.runtime.cases import Case, Problem, cases, moved, problem, run_op, run_reference
from recc.strategies import STRATEGIES, Refused, choose

LIMIT, SHARE = 1e-9, 1e-3
TIMES, FLOOR, DRAWS = 4.0, 8.0, 4
DTYPES = {"float64": torch.float64, "float32": torch.float32}
HALVES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
NATIVE, STANDALONE, ANALYSIS, DEFAULT = "native", "standalone", "analysis", "default"
_MANY = {"output": "outputs", "final": "final states", "gradient": "gradients"}
Progress = Callable[[int, int, str], None]
Results = dict[str, Tensor]


@dataclass(frozen=True)
class Row:
    """One comparison. error, limit: in units of the quantity's scale; `note` says what went wrong beyond numbers."""

    strategy: str
    what: str  # `output o`, `final S`, `gradient q`, `gradient initial S`; or what the analysis says
    dtype: str
    case: str
    error: float
    limit: float
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.error <= self.limit


@dataclass
class Report:
    """All comparisons of one recurrence. refused: the strategies that cannot serve it, with the reason."""

    name: str
    path: str
    rows: list[Row] = field(default_factory=list)
    refused: dict[str, Reason] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.rows) and all(row.ok for row in self.rows)

    @property
    def failures(self) -> list[Row]:
        return [row for row in self.rows if not row.ok]

    @property
    def repro(self) -> str | None:
        """The command that repeats the first failure, or None."""
        if not self.failures:
            return None
        row = self.failures[0]
        return f'recc verify {self.path} --strategy {row.strategy} --case "{row.case}"'

    def table(self) -> Any:
        """A rich table: a line for each strategy and kind of quantity, with the worst of its comparisons."""
        from rich.table import Table

        table = Table(title=f"{self.name}: {self.path}", title_justify="left")
        for name in ("strategy", "quantity", "compared"):
            table.add_column(name, justify="right" if name == "compared" else "left")
        for name in ("worst error", "allowed"):
            table.add_column(name, justify="right")
        table.add_column("where")
        table.add_column("")
        for (strategy, kind, dtype), group in self._groups():
            worst = max(group, key=lambda row: (not row.ok, _ratio(row)))
            style = None if all(row.ok for row in group) else "bold red"
            where = f"{worst.what}, {worst.case}" + (f": {worst.note}" if worst.note else "")
            label = f"{kind} ({dtype})" if strategy != ANALYSIS else kind
            cells = [strategy, label, str(len(group)), f"{worst.error:.1e}", f"{worst.limit:.1e}", where]
            table.add_row(*cells, "ok" if style is None else "FAILED", style=style)
        return table

    def _groups(self) -> Iterable[tuple[tuple[str, str, str], list[Row]]]:
        groups: dict[tuple[str, str, str], list[Row]] = {}
        for row in self.rows:
            kind = row.what if row.strategy == ANALYSIS else _MANY[_kind(row.what)]
            groups.setdefault((row.strategy, kind, row.dtype), []).append(row)
        return groups.items()


def verify(
    rec: Recurrence,
    *,
    strategies: Iterable[str] | None = None,
    quick: bool = False,
    case: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compares every lowering of `rec` with the float64 sequential reference.

    strategies: only these, of the strategies' names, `default` (what is chosen when none is asked for), `native` (C
        code for the CPU), `standalone` (its torch file, run by itself) and `analysis` (the probe). Raises
        strategies.Refused for one that cannot serve.
    quick: without the longest length and the smaller chunk.
    case: only the cases whose name holds each of these words, such as "T=17 float32 decay_strong".
    progress: called with (cases done, cases in all, the case's name).
    """
    report = Report(rec.name, rec.path)
    plan = analyse(rec)
    small = quick and case is None
    ops = _lowerings(rec, plan, None if strategies is None else list(strategies), small, report)
    todo = _selected(rec, small, case) if ops else []
    for done, (which, dtypes) in enumerate(todo):
        if progress is not None:
            progress(done, len(todo), f"{rec.name} T={which.time} {which.variant}")
        report.rows += compare(rec, which, dtypes, ops, report.notes)
    if (strategies is None or ANALYSIS in strategies) and case in (None, probe.CASE):
        report.rows += [Row(ANALYSIS, *finding) for finding in probe.findings(plan)]
    if progress is not None:
        progress(len(todo), len(todo), rec.name)
    return report


# --- what is compared -------------------------------------------------------------------------------------------


def _lowerings(rec: Recurrence, plan: Plan, wanted: list[str] | None, quick: bool, report: Report) -> dict[str, Any]:
    """The ops to verify, by the name of their strategy. Equal ones are taken once."""
    known = [*STRATEGIES, *([] if quick else ["chunk/16"]), DEFAULT, NATIVE, STANDALONE, ANALYSIS]
    for name in wanted or ():
        if name not in (*known, "chunk/16"):
            raise ValueError(f"no strategy is called `{name}`; there are {', '.join(known)}")
    ops: dict[str, Any] = {}
    taken = []
    for name in wanted or known:
        if name == ANALYSIS:
            continue
        if name == NATIVE:
            if _native_serves(plan, wanted is not None, report):
                ops[name] = compile_recurrence(rec, backend="c")
            continue
        if name == STANDALONE:
            try:
                ops[name] = standalone_op(rec)
            except Exception as error:  # a file that does not run is a finding about it
                report.rows.append(Row(name, "output (file)", "", "", math.inf, 0.0, _said(error)))
            continue
        strategy, _, rows = name.partition("/")
        asked, chunk = None if strategy == DEFAULT else strategy, int(rows) if rows else None
        try:
            choice = choose(plan, asked, chunk)
        except Refused as refused:
            if wanted is not None:
                raise
            if not chunk:
                report.refused[name] = refused.reason
            continue
        if (choice.strategies, choice.chunk) not in taken:
            taken.append((choice.strategies, choice.chunk))
            ops[name] = compile_recurrence(rec, strategy=asked, chunk=chunk, backend="torch")
    return ops


def _native_serves(plan: Plan, asked: bool, report: Report) -> bool:
    """Whether there is native code to verify; the report says why not, or, if asked for, a ValueError."""
    from recc.backends.c import build
    from recc.backends.c.limits import refusal

    why, compiler = refusal(plan), build.find_compiler()
    if why is None and compiler is not None:
        return True
    if asked:
        raise ValueError(f"`{NATIVE}` cannot be verified: {why.text if why else 'no C compiler was found'}")
    if why is not None:
        report.refused[NATIVE] = why
    else:
        report.notes.append(f"`{NATIVE}` is not verified, since no C compiler was found: {build.INSTALL}")
    return False


_copies = itertools.count()


def standalone_op(rec: Recurrence, text: str | None = None) -> Any:
    """The op of the standalone file of `rec` (or of `text`), executed by itself. Raises ImportError if it needs more
    than torch and the standard library."""
    text = source(rec) if text is None else text
    for node in ast.walk(ast.parse(text)):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or "."] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.partition(".")[0] not in (*sys.stdlib_module_names, "torch"):
                raise ImportError(f"the standalone file of {rec.name} imports {name}")
    # torch holds one op per name, and the file's may be there already, from a file with other support code.
    marker = "'digest': '"
    text = text.replace(marker, f"{marker}verify{next(_copies)}_", 1)
    space: dict[str, Any] = {"__name__": f"{rec.name}_standalone"}
    exec(compile(text, f"<standalone {rec.name}>", "exec"), space)  # our own text: a spec holds no code
    (op,) = [value for value in space.values() if type(value) is space["Op"]]
    return op


def _selected(rec: Recurrence, quick: bool, wanted: str | None) -> list[tuple[Case, list[str]]]:
    words = set((wanted or "").split())
    found = []
    for case in cases(rec, quick=quick):
        dtypes = [dtype for dtype in DTYPES if words <= set(case.name(dtype).split())]
        if dtypes:
            found.append((case, dtypes))
    return found


def compare(rec: Recurrence, case: Case, dtypes: list[str], ops: dict[str, Any], notes: list[str]) -> list[Row]:
    """Every quantity of one case by each op beside the float64 reference, with what its error may be.

    dtypes: of DTYPES and HALVES.
    """
    given, rows = problem(rec, case), []
    truth = run_reference(given, torch.float64)
    scales, most = _scales(truth)
    notes += [f"T={case.time} {case.variant}: the reference's {name} is not finite everywhere"
              for name, x in truth.items() if not bool(torch.isfinite(x).all())]  # fmt: skip
    for dtype in dtypes:
        if dtype in HALVES:
            own = _half(given, HALVES[dtype])
            ulp = torch.finfo(HALVES[dtype]).eps
            limits = {name: 2 * _error(own[name], truth[name], scales[name]) + ulp for name in truth}
        else:
            own = truth if dtype == "float64" else run_reference(given, DTYPES[dtype])
            limits = dict.fromkeys(truth, LIMIT)
        if dtype == "float32":
            limits = _limits([own], [truth], scales, most)
        found = [row for strategy, op in ops.items() for row in _run(strategy, op, given, dtype, truth, own, scales)]
        if dtype == "float32" and any(limits.get(row["what"], math.inf) < row["error"] < math.inf for row in found):
            more = [moved(given, draw) for draw in range(DRAWS)]
            owns = [own, *(run_reference(each, DTYPES[dtype]) for each in more)]
            limits = _limits(owns, [truth, *(run_reference(each, torch.float64) for each in more)], scales, most)
        rows += [Row(limit=limits.get(row["what"], 0.0), **row) for row in found]
    return rows


def _half(given: Problem, dtype: torch.dtype) -> Results:
    """The loop in a dtype of 16 bits; its final states are float32, as an op's are."""
    own = run_reference(given, dtype)
    if dtype == torch.float16 and not all(bool(x.isfinite().all()) for x in own.values()):
        wide = run_reference(given, torch.bfloat16)
        own = {name: x if bool(x.isfinite().all()) else wide[name].to(x.dtype) for name, x in own.items()}
    return {name: x.float() if _kind(name) == "final" else x for name, x in own.items()}


def _run(
    strategy: str, op: Any, given: Problem, dtype: str, truth: Results, own: Results, scales: dict[str, float]
) -> list[dict[str, Any]]:
    """The fields of a row, its limit aside, for each quantity of one run of one op."""
    facts = {"strategy": strategy, "dtype": dtype, "case": given.case.name(dtype)}
    try:
        with _limited(op, given.case.variant.endswith("segments")):
            got = run_op(given, op, (DTYPES | HALVES)[dtype])
    except Exception as error:  # whatever an op raises is a finding about it
        return [{"what": "output (all)", "error": math.inf, "note": _said(error), **facts}]
    found = []
    for name, value in truth.items():
        note = _misfit(got[name], own[name])
        error = math.inf if note else _error(got[name], value, scales[name])
        found.append({"what": name, "error": error, "note": note, **facts})
    return found


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextlib.contextmanager
def _limited(op: Any, wanted: bool) -> Iterator[None]:
    """Holds the op's working set to one chunk, so that short sequences are worked on in segments as long ones are."""
    before = op.passes.budget
    op.passes.budget = dict.fromkeys(before, 1) if wanted else before
    try:
        yield
    finally:
        op.passes.budget = before


# --- errors -----------------------------------------------------------------------------------------------------


def _kind(what: str) -> str:
    return what.partition(" ")[0]


def _ratio(row: Row) -> float:
    return row.error / row.limit if row.limit else row.error


def _largest(x: Tensor) -> float:
    x = x[torch.isfinite(x)]
    return float(x.abs().max()) if x.numel() else 0.0


def _scales(truth: Results) -> tuple[dict[str, float], dict[str, float]]:
    """What errors are divided by; and the largest magnitude of a quantity's kind, over the same."""
    own = {name: _largest(x) for name, x in truth.items()}
    kinds: dict[str, float] = {}
    for name, size in own.items():
        kinds[_kind(name)] = max(size, kinds.get(_kind(name), 0.0))
    scales = {name: size + SHARE * kinds[_kind(name)] for name, size in own.items()}
    return scales, {name: kinds[_kind(name)] / scales[name] if scales[name] else 0.0 for name in own}


def _limits(
    owns: list[Results], truths: list[Results], scales: dict[str, float], most: dict[str, float]
) -> dict[str, float]:
    """What a float32 error may be, from the reference's own in float32."""
    ulp = torch.finfo(torch.float32).eps
    worst = {name: max(_error(own[name], truth[name], scales[name]) for own, truth in zip(owns, truths, strict=True))
             for name in scales}  # fmt: skip
    return {name: TIMES * worst[name] + FLOOR * ulp * most[name] for name in scales}


def _error(got: Tensor, truth: Tensor, scale: float) -> float:
    """The largest difference where the truth is finite, over the scale; inf for what should be finite and is not."""
    gap = (got.to(truth.dtype) - truth).abs()[torch.isfinite(truth)]
    if not gap.numel():
        return 0.0
    worst = float(gap.max())
    if not math.isfinite(worst):
        return math.inf
    return worst / scale if scale else (0.0 if worst == 0 else math.inf)


def _misfit(got: Tensor, own: Tensor) -> str:
    if got.shape != own.shape:
        return f"is {list(got.shape)}, must be {list(own.shape)}"
    return f"is {got.dtype}, must be {own.dtype}" if got.dtype != own.dtype else ""
