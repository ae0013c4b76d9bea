"""The search of `recc tune`: forms are pruned, raced against the best so far, and verified before they take its place.

The best so far has always been verified, so a search can be left at any time: when its budget is spent, or by Ctrl-C.
What was tried is kept in a journal, so that a later search goes on where this one was left.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recc.runtime import cache
from recc.tuning import measure
from recc.tuning.space import FULL, Form, Space

ROUNDS = 5  # of a race, which is left early where a form is far behind
FAR, BEHIND = 3.0, 1.25  # times of the best so far: after two calls, after two rounds
AHEAD = 0.97  # and what is faster for certain
LAST = 9  # rounds of the winner against the first form

Run = Callable[[], object]


@dataclass
class Trial:
    """A form that was looked at. ratio: its time over that of the best so far; None if it was not timed, and why."""

    form: Form
    ratio: float | None = None
    why: str = ""


@dataclass
class Outcome:
    """best: verified; None where nothing could be verified. seconds: of the best and of the first form, in one race."""

    best: Form | None = None
    seconds: float | None = None
    first_seconds: float | None = None
    trials: list[Trial] = field(default_factory=list)
    interrupted: bool = False
    exhausted: bool = False  # nothing was left to try

    @property
    def timed(self) -> int:
        return sum(trial.ratio is not None for trial in self.trials)


@dataclass
class Search:
    """runner: a form to a call that runs it; it may raise. prune: of forms, why some of them need not be timed.

    verified: what is wrong with a form's numbers, or an empty text. report: called with the outcome so far and what is
    being done. deadline: by clock.now().
    """

    space: Space
    runner: Callable[[Form], Run]
    verified: Callable[[Form], str]
    clock: measure.Clock
    deadline: float
    effort: str
    seed: int = 0
    prune: Callable[[list[Form]], dict[str, str]] = lambda forms: {}
    journal: Path | None = None
    report: Callable[[Outcome, str], None] = lambda outcome, doing: None

    def run(self, resume: Form | None = None) -> Outcome:
        """resume: the best form of an earlier search, which is where this one begins."""
        outcome, self._best = Outcome(), None
        self._tried = self._read() if resume is not None else {}
        starts = self.space.starts(self.effort)
        try:
            self._first(starts, resume, outcome)
            if outcome.best is not None:
                self._all(starts, outcome)
        except KeyboardInterrupt:
            outcome.interrupted = True
        if outcome.best is not None and not outcome.interrupted:
            self._last(starts[0], outcome)
        return outcome

    # --- the order in which forms are tried --------------------------------------------------------------------------

    def _first(self, starts: list[Form], resume: Form | None, outcome: Outcome) -> None:
        """The first form that is right: that of the earlier search, or the first one of the space that serves."""
        for form in ([resume] if resume is not None else []) + starts:
            run = self._made(form, outcome)
            if run is not None and self._right(form, outcome):
                outcome.best, self._best = form, run
                outcome.trials.append(Trial(form, 1.0))
                self._note(form, 1.0)
                return

    def _all(self, starts: list[Form], outcome: Outcome) -> None:
        """The starts; then what is near the best form, again and again until nothing near it is better."""
        order, ahead = random.Random(self.seed), starts
        while forms := [form for form in ahead if name_of(form) not in self._tried]:
            if self.effort == FULL:
                order.shuffle(forms)
            self.report(outcome, f"compiling {len(forms)} forms to see what does not fit")
            gone = self.prune(forms)
            for form in forms:
                if self.clock.now() >= self.deadline:
                    return
                if name_of(form) in gone:
                    self._leave(form, gone[name_of(form)], outcome)
                else:
                    self._try(form, outcome)
            ahead = self.space.around(outcome.best, self.effort)
        outcome.exhausted = True

    # --- one form ---------------------------------------------------------------------------------------------------

    def _try(self, form: Form, outcome: Outcome) -> None:
        self.report(outcome, f"timing {said(form)}")
        run = self._made(form, outcome)
        if run is None:
            return
        ratio = self._race(run)
        if ratio < AHEAD:
            if not self._right(form, outcome):
                return
            outcome.best, self._best = form, run
        outcome.trials.append(Trial(form, ratio))
        self._note(form, ratio)
        self.report(outcome, "")

    def _race(self, run: Run) -> float:
        """The time of `run` over that of the best so far."""
        once = [min(self.clock.seconds(x) for _ in range(2)) for x in (run, self._best)]
        if once[0] > FAR * once[1]:
            return once[0] / once[1]
        cases = {"new": self._timed(run), "best": self._timed(self._best)}
        near = measure.ratio(measure.rounds(cases, 2), "new", "best")
        if near > BEHIND:
            return near
        near = measure.ratio(measure.rounds(cases, ROUNDS), "new", "best")
        # What looks faster must be so again, in most rounds: of many equal forms some are lucky once.
        return near if near >= AHEAD else measure.spread(self._ratios(cases))[1]

    def _ratios(self, cases: dict[str, Callable[[], measure.Parts]]) -> list[float]:
        return measure.ratios(measure.rounds(cases, 2 * ROUNDS), "new", "best")

    def _last(self, first: Form, outcome: Outcome) -> None:
        """How much the search has brought: beyond the budget, but short. Where it is nothing, the first form stays."""
        self.report(outcome, "timing the best form against the first one")
        cases = {"best": self._timed(self._best)}
        other = self._made(first, outcome) if first != outcome.best else None
        if other is not None:
            cases["first"] = self._timed(other)
        times = measure.rounds(cases, LAST)
        outcome.seconds = measure.median(times["best"])
        outcome.first_seconds = measure.median(times["first"]) if other is not None else outcome.seconds
        if other is not None and measure.ratio(times, "best", "first") > AHEAD and self._right(first, outcome):
            outcome.best, outcome.seconds = first, outcome.first_seconds

    def _timed(self, run: Run) -> Callable[[], measure.Parts]:
        return measure.whole(run, self.clock)

    def _made(self, form: Form, outcome: Outcome) -> Run | None:
        """A call of the form that has run once; None, with the reason noted, where it does not run here."""
        try:
            run = self.runner(form)
            run()
        except Exception as error:  # a form that cannot be built or does not fit is a finding, not an end
            self._leave(form, " ".join(f"{type(error).__name__}: {error}".split())[:200], outcome)
            return None
        return run

    def _right(self, form: Form, outcome: Outcome) -> bool:
        self.report(outcome, f"verifying {said(form)}")
        wrong = self.verified(form)
        if wrong:
            self._leave(form, f"wrong: {wrong}", outcome)
        return not wrong

    def _leave(self, form: Form, why: str, outcome: Outcome) -> None:
        outcome.trials.append(Trial(form, why=why))
        self._note(form, None, why)

    # --- the journal -------------------------------------------------------------------------------------------------

    def _note(self, form: Form, ratio: float | None, why: str = "") -> None:
        self._tried[name_of(form)] = {"ratio": ratio, "why": why}
        if self.journal is not None:
            cache.write(self.journal, json.dumps(self._tried, indent=1).encode())

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self.journal.read_bytes()) if self.journal is not None else {}
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def name_of(form: Form) -> str:
    return json.dumps(form, sort_keys=True)


def said(form: Form) -> str:
    """A form in a line: `triton, chunk 64, forward fused, forward_fused block 32 warps 8 stages 2`."""
    parts = [form["backend"]] + [f"{key} {value}" for key, value in form.items() if key not in ("backend", "tiles")]
    for kernel, tile in form.get("tiles", {}).items():
        parts.append(" ".join([kernel, *(f"{key} {value}" for key, value in tile.items())]))
    return ", ".join(parts)
