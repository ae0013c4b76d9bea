"""Names that nothing else has."""

from __future__ import annotations

from collections.abc import Container


def free_name(wish: str, taken: Container[str], mark: str = "_") -> str:
    """`wish`, or where that is taken the first of `wish_2`, `wish_3` and so on that is not. mark: before the number."""
    name, count = wish, 2
    while name in taken:
        name, count = f"{wish}{mark}{count}", count + 1
    return name
