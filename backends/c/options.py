"""What may vary between native code that computes the same: heuristics choose it, and tuning searches it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

CHUNKS = (8, 16, 32, 64)
ALONE = 1 << 17
PORTABLE = "portable"


@dataclass(frozen=True)
class Options:
    """chunk: tokens between saved states; None: as many as keep a chunk's states in the second-level cache, 32 at most.
    vector: bytes of a vector, a power of two from 16 on; None: the machine's. alone: multiply-adds of a call below
    which one thread runs all of it, since a second one would cost more than it brings. deterministic: `portable` rounds
    each product and each sum, so that the bits do not depend on what a compiler fuses. sequences: that a task computes
    side by side, at most, where they share a matrix; None: as many as the machine's registers are good for."""

    chunk: int | None = None
    vector: int | None = None
    alone: int = ALONE
    deterministic: str | None = None
    sequences: int | None = None
    NEVER: ClassVar[int] = 1 << 62  # of `alone`: no call is as large

    def __post_init__(self) -> None:
        for name in ("chunk", "vector", "sequences"):
            value = getattr(self, name)
            if value is not None and (value < 1 or value & (value - 1)):
                raise ValueError(f"`{name}` must be a power of two, not {value}")
        if self.deterministic not in (None, PORTABLE):
            raise ValueError(f'`deterministic` may be "{PORTABLE}", not {self.deterministic!r}')

    def view(self) -> dict[str, Any]:
        """What differs from the default, as plain values."""
        usual = asdict(Options())
        return {name: value for name, value in asdict(self).items() if value != usual[name]}

    def around(self, widest: int) -> Iterator[Options]:
        """What differs in one choice. widest: bytes of the machine's vectors."""
        for chunk in (None, *CHUNKS):
            yield replace(self, chunk=chunk)
        for vector in (None, widest // 2):
            if vector is None or vector >= 16:
                yield replace(self, vector=vector)
        for alone in (ALONE >> 4, ALONE, ALONE << 4):
            yield replace(self, alone=alone)
