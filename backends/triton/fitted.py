"""Configurations that spill no registers, by the sizes of dims, the dtype and the device: what `recc tune --fit` has
kept in the user's cache, and what ships with recc.

`fit.py` finds them by compiling; nothing is timed. Where the emitter's own default spills nothing, there is no entry;
for a recurrence without one its default stands.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recc.backends.triton import config
from recc.backends.triton.config import DEFAULT, Config

from recc.ir.program import Recurrence
from recc.runtime import cache

FILE = Path(__file__).with_name("fitted.json")


@dataclass(frozen=True)
class Fitted:
    """name: what the recurrence is called; specs: its fingerprints, with dims of any size and with `dims` fixed.
    dims: of every dim, its size. moved: bytes that both passes move per token and head; usual: with the emitter's
    default, which spills. strategy: of kernels that are not those which a spec has by default: `sequential`, of walks
    over tokens beside kernels of chunks."""

    name: str
    specs: tuple[str, ...]
    target: str
    dtype: str
    dims: tuple[tuple[str, int], ...]
    config: Config
    moved: int
    usual: int
    strategy: str | None = None

    def view(self) -> dict[str, Any]:
        own = {**vars(self), "specs": list(self.specs), "dims": dict(self.dims), "config": config.view(self.config)}
        return {key: value for key, value in own.items() if value is not None}

    @staticmethod
    def of(view: Mapping[str, Any]) -> Fitted:
        dims, own = tuple(sorted(view["dims"].items())), config.of(**view["config"])
        return Fitted(**{**view, "specs": tuple(view["specs"]), "dims": dims, "config": own})

    def fits(self, sizes: Mapping[str, Any], dtype: str) -> bool:
        """Whether it holds for tensors of these sizes, which may have more than the dims'."""
        return self.dtype == dtype and all(sizes.get(dim) == size for dim, size in self.dims)


@functools.cache
def everything(path: Path = FILE) -> tuple[Fitted, ...]:
    """All entries of a file."""
    return tuple(map(Fitted.of, json.loads(path.read_text(encoding="utf-8"))))


def folder(rec: Recurrence) -> Path:
    """Where the user's cache keeps what was found for a recurrence."""
    return cache.folder("fitted") / f"{rec.name}-{rec.fingerprint}"


def keep(rec: Recurrence, entry: Fitted) -> Path:
    """Keeps an entry in the user's cache, in place of the one for its target, dtype and sizes. Raises OSError."""
    key = repr((entry.target, entry.dtype, entry.dims, *([entry.strategy] if entry.strategy else [])))
    path = folder(rec) / f"{hashlib.blake2s(key.encode(), digest_size=12).hexdigest()}.json"
    cache.write(path, (json.dumps(entry.view()) + "\n").encode())
    return path


def _kept(rec: Recurrence) -> list[Fitted]:
    """What the user's cache has; of a file that is damaged nothing, and a warning."""
    found = (cache.read(path, Fitted.of, "recc tune --fit") for path in sorted(folder(rec).glob("*.json")))
    return [entry for entry in found if entry is not None]


def entries(rec: Recurrence, target: str | None = None, strategy: str | None = None) -> list[Fitted]:
    """What is known of a recurrence on a device, or on any; what counts most is first."""
    own = [entry for entry in (*_kept(rec), *everything()) if rec.fingerprint in entry.specs]
    return [entry for entry in own if target in (None, entry.target) and entry.strategy == strategy]


def config_of(rec: Recurrence, sizes: Mapping[str, int], target: str, dtype: str = "bfloat16",
              strategy: str | None = None) -> Config:  # fmt: skip
    """The configuration that a call takes where nothing was asked for and nothing tuned. sizes: of every dim; strategy:
    see `Fitted`."""
    return next((entry.config for entry in entries(rec, target, strategy) if entry.fits(sizes, dtype)), DEFAULT)
