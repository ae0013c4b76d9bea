"""The forms of an op that `recc tune` has found best, by the sizes of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recc.ir.program import Recurrence
from recc.runtime import cache
from recc.runtime.api import compile_recurrence
from recc.tuning import store


class Tuned:
    """Called with a call's inputs and sizes, gives the op of the form found for them, or None.

    The forms are made when the op is loaded, so a call looks up and makes nothing; a traced one, whose sizes are
    symbols, takes the form found for the longest sequences.
    """

    def __init__(self, forms: dict[str, list[tuple[store.Entry, Any]]]) -> None:
        self.forms = forms  # by the type of device, in the order in which they count
        self.longest = {kind: sorted(found, key=lambda pair: -pair[0].key.time) for kind, found in forms.items()}
        self.found: dict[tuple, Any] = {}

    @staticmethod
    def of(rec: Recurrence, backend: str | None = None) -> Tuned | None:
        """What was found for a recurrence on this machine's devices; None if nothing was.

        backend: only forms of this one, if the caller asked for it.
        """
        known = [e for e in store.entries(rec) if backend in (None, e.config["backend"])]
        if not known:
            return None
        kinds = {store.arch_of(kind): kind for kind in ("cpu", *(["cuda"] if torch.cuda.is_available() else []))}
        forms: dict[str, list[tuple[store.Entry, Any]]] = {}
        strategy = store.strategy_of(rec)
        for entry in known:
            kind = kinds.get(entry.key.arch)
            if kind is not None and entry.key.strategy == strategy:
                made = _made(rec, entry)
                forms.setdefault(kind, []).extend([(entry, made)] if made is not None else [])
        return Tuned(forms) if any(forms.values()) else None

    def __call__(self, inputs: Sequence[Tensor], sizes: dict[str, Any]) -> Any:
        kind = inputs[0].device.type
        if kind not in self.forms:
            return None
        differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in inputs)
        passes = store.TRAINING if differentiated else store.FORWARD
        if torch.compiler.is_compiling():
            return self._traced(kind, passes, inputs[0].dtype, sizes)
        key = (kind, passes, inputs[0].dtype, *sizes.values())
        if key not in self.found:
            time, rows = sizes["time"], sizes["batch"] * (sizes["heads"] or 1)
            self.found[key] = self._find(kind, passes, inputs[0].dtype, sizes, time, rows)
        return self.found[key]

    def _traced(self, kind: str, passes: str, dtype: torch.dtype, sizes: dict[str, Any]) -> Any:
        """The sizes of a call that is traced are symbols: the form for the longest sequences."""
        for wanted in (passes, store.TRAINING):
            for entry, op in self.longest[kind]:
                key = entry.key
                dims = [sizes[name] == size for name, size in key.dims]
                if key.passes == wanted and getattr(torch, key.dtype) == dtype and all(dims):
                    return op
        return None

    def _find(self, kind: str, passes: str, dtype: torch.dtype, sizes: dict[str, Any], time: int, rows: int) -> Any:
        forms = self.forms[kind]
        name = str(dtype).removeprefix("torch.")
        best = store.nearest([entry for entry, _ in forms], passes, name, sizes, time, rows)
        return None if best is None else next(op for entry, op in forms if entry is best)


def _made(rec: Recurrence, entry: store.Entry) -> Any:
    """The op of an entry; None, with a warning, where this recc or machine has no such form."""
    try:
        return compile_recurrence(rec, **entry.config)
    except Exception as error:  # whatever a stale file asks for must not keep an op from being loaded
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        cache.warn_once(f"recc cannot make the form of {rec.name} that was tuned, {dict(entry.config)}: {why}")
        return None
