"""A search among kernels: built, raced and verified in Triton's interpreter, where no GPU is."""

from __future__ import annotations

import pytest

from recc.tuning import store

FORMS = [{"backend": "triton", "chunk": 16}, {"backend": "triton", "chunk": 16, "forward": "fused"}]


def searched(folder: str) -> tuple:
    """Best form, what was timed, what was left out with its reason, what is kept, and what a call then takes."""
    import torch
    from kernels import recurrence

    import recc
    from recc.runtime.cases import Case
    from recc.tuning import measure, search, tune
    from recc.tuning.space import GpuSpace

    class Few(GpuSpace):
        def starts(self, effort):
            return FORMS

        def around(self, form, effort):
            return [{"backend": "triton", "tiles": {"forward_walk": {"wings": 2}}}]

    class Clock(measure.WallClock):
        """Calls are not made again and again: the interpreter takes seconds for each."""

        def seconds(self, run):
            return 1.0

    rec = recurrence("simple_gla")
    task = tune.Task(rec, rec, {"K": 8, "V": 4}, 1, 20, 1, torch.float32, "cpu")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECC_CACHE_DIR", folder)
        patch.setattr(tune, "space_of", lambda device, plan, *more: Few(plan))
        patch.setattr(tune, "CASES", (Case(20, "plain"),))
        patch.setattr(search, "AHEAD", 1.1)  # a form that is as fast counts as faster, so that it must be verified
        found, entry = tune.search(task, store.FORWARD, clock=Clock(), budget=600, effort="quick")
        op = recc.loads(rec.text, path="tuned.rec")
        with torch.no_grad():
            best = op.tuned(task.tensors(), {"batch": 1, "time": 20, "heads": 1, "K": 8, "V": 4})
    timed = [trial.form for trial in found.trials if trial.ratio is not None]
    left = [trial.why for trial in found.trials if trial.ratio is None]
    return found.best, timed, left, dict(entry.config), best.rows


def test_kernels_are_searched_verified_and_used(interpreted, tmp_path):
    best, timed, left, kept, rows = interpreted(searched, str(tmp_path))
    assert best == kept == FORMS[1] and timed == FORMS
    assert rows == 16 and len(left) == 1 and "wings" in left[0]
