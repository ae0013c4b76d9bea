"""The lines by which a task points at the caller's tensors."""

from __future__ import annotations


def point_tokens(field: str) -> list[str]:
    """The tokens of a chunk in a tensor [batch, time, ...]: backwards in time if the call is reversed."""
    return [
        f"long {field}_time = a->reverse ? -a->{field}.time : a->{field}.time;",
        f"real *restrict {field}_at = a->{field}.data + batch * a->{field}.batch + head * a->{field}.head"
        f" + token * a->{field}.time;",
    ]


def point_fixed(field: str, row: str) -> str:
    return f"real *restrict {field}_at = a->{field}.data + ({row}) * a->{field}.batch + head * a->{field}.head;"
