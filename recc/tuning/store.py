"""What `recc tune` has found: how it is kept, and what of it holds for a call. Nothing is timed here.

A choice is looked for, in this order, in what the caller asks for (`strategy=`, `chunk=`, `config=`), in
`SPEC.tuned.json` beside the spec, in the user's cache, and in the file that ships with recc; without any, heuristics
choose. The cache has one file for each key, which appears in one step: processes may write it at once, and what one of
them writes under another key is never lost.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from recc.ir.program import Recurrence
from recc.runtime import cache

# Raise it when generated code has changed so much that what was timed before says nothing.
CODEGEN = 1
FORWARD, TRAINING = "forward", "training"  # one pass alone, and both
NEAR = 2  # buckets between what was timed and a call for which it still holds: a factor of 4 in T and in B * H
SUFFIX = ".tuned.json"


@dataclass(frozen=True)
class Key:
    """What a timing is about. spec: the recurrence's fingerprint. strategy: what serves it, by the analysis.

    time, rows: buckets of T and of B * H (see `bucket`). arch: see `arch_of`.
    """

    spec: str
    strategy: str
    passes: str
    dtype: str
    dims: tuple[tuple[str, int], ...]
    time: int
    rows: int
    arch: str
    codegen: int = CODEGEN

    @property
    def digest(self) -> str:
        return hashlib.blake2s(repr(self).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Entry:
    """config: the arguments of `recc.load(config=...)`. facts: what was measured, and on what."""

    key: Key
    config: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def view(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def of(view: Mapping[str, Any]) -> Entry:
        """Of what `view` gave. Raises ValueError, KeyError or TypeError for anything else."""
        key, config, facts = dict(view["key"]), view["config"], view.get("facts", {})
        if not isinstance(config, dict) or not isinstance(config.get("backend"), str) or not isinstance(facts, dict):
            raise ValueError("no configuration")
        key["dims"] = tuple((str(name), int(size)) for name, size in key["dims"])
        return Entry(Key(**key), config, facts)


def bucket(count: int) -> int:
    """The power of two up to `count`, as its exponent."""
    return max(int(count), 1).bit_length() - 1


def strategy_of(rec: Recurrence) -> str:
    """What the heuristics choose for a recurrence, as a key names it."""
    from recc.analysis import analyse
    from recc.strategies import choose

    plan = analyse(rec)
    choice = choose(plan)
    return ", ".join(dict.fromkeys(choice.name(component) for component in plan.components)) or "parallel"


def arch_of(device: str) -> str:
    """What timings on a device hold for: `sm_90`, `gfx942`; on a CPU its kind, vector width and the threads in use."""
    import torch

    if device == "cuda":
        if torch.version.hip:
            return torch.cuda.get_device_properties().gcnArchName.partition(":")[0]
        return "sm_{}{}".format(*torch.cuda.get_device_capability())
    from recc.backends.c import build

    machine = platform.machine().lower() or "cpu"
    return f"{machine}-{8 * build.target().vector_bytes}bit-{torch.get_num_threads()}threads"


# --- stores ---------------------------------------------------------------------------------------------------------


def folder(rec: Recurrence) -> Path:
    """Where the user's cache keeps what was found for a recurrence."""
    return cache.folder("tuned") / f"{rec.name}-{rec.fingerprint}"


def beside(rec: Recurrence) -> Path | None:
    """The file beside the spec; None for one that is no file."""
    path = Path(rec.path)
    return path.with_name(path.name + SUFFIX) if path.suffix == ".rec" else None


def packaged() -> Path:
    """The file that ships with recc."""
    return Path(str(resources.files("recc.specs").joinpath(f"recc{SUFFIX}")))


def entries(rec: Recurrence) -> Iterator[Entry]:
    """Everything that was found for a recurrence, in the order in which it counts."""
    sources = [path for path in (beside(rec),) if path is not None]
    sources += [*sorted(folder(rec).glob("*.json")), packaged()]
    for path in sources:
        for entry in _read(path):
            if entry.key.spec == rec.fingerprint and entry.key.codegen == CODEGEN:
                yield entry


def record(rec: Recurrence, entry: Entry) -> Path:
    """Keeps an entry in the user's cache, in place of the one with its key. Raises OSError."""
    path = folder(rec) / f"{entry.key.digest}.json"
    cache.write(path, (json.dumps({"entries": [entry.view()]}, indent=1) + "\n").encode())
    return path


def export(rec: Recurrence) -> Path | None:
    """Writes what is known for a recurrence to the file beside its spec; None where that is no file. Raises OSError.

    What the cache has comes before what the file had. Of two processes that do this at once the last one wins, and
    nothing is lost: both have their entries in the cache.
    """
    path = beside(rec)
    if path is None:
        return None
    known = {entry.key: entry for file in (path, *sorted(folder(rec).glob("*.json"))) for entry in _read(file)}
    views = [entry.view() for entry in known.values()]
    cache.write(path, (json.dumps({"entries": views}, indent=1) + "\n").encode())
    return path


def _read(path: Path) -> list[Entry]:
    """The entries of a file; of one that is damaged none, and a warning."""
    return cache.read(path, lambda view: [Entry.of(one) for one in view["entries"]], "recc tune") or []


# --- lookup ---------------------------------------------------------------------------------------------------------


def nearest(
    known: Iterable[Entry], passes: str, dtype: str, dims: Mapping[str, int], time: int, rows: int
) -> Entry | None:
    """The first entry of the nearest size, at most NEAR buckets away; None if there is none.

    time, rows: T and B * H. What was found for both passes serves the forward pass too, where nothing was found for it
    alone.
    """
    fits = [entry for entry in known if entry.key.dtype == dtype and _same(entry.key.dims, dims)]
    for wanted in dict.fromkeys((passes, TRAINING)):
        here = [entry for entry in fits if entry.key.passes == wanted]
        far = {id(e): (abs(e.key.time - bucket(time)), abs(e.key.rows - bucket(rows))) for e in here}
        near = [entry for entry in here if max(far[id(entry)]) <= NEAR]
        found = min(near, key=lambda entry: sum(far[id(entry)]), default=None)
        if found is not None:
            return found
    return None


def _same(dims: tuple[tuple[str, int], ...], sizes: Mapping[str, int]) -> bool:
    return all(sizes.get(name) == size for name, size in dims)
