"""Memories of which one reads another whole and is not read by it: a memory and its momentum, a fast and a slow one.

Solved one after the other, the first would have to be formed for every token. Together they may have the form of
coupled memories, whose chunks form none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from recc.analysis import cascade
from recc.analysis.plan import Affine, Component
from recc.ir.node import Node
from recc.ir.program import Recurrence

Classify = Callable[[Recurrence, tuple[str, ...], dict[str, Node], int], Component]


def components(
    rec: Recurrence, names: tuple[str, ...], classify: Classify, wanted: Callable[[Component], bool]
) -> list[tuple[str, ...]]:
    """The strongly connected components of `names`, sources first. Those that read each other are one where they have
    the form of coupled memories and one of them, were it alone, is `wanted` to be joined."""
    near, whole = _near(rec, names), []
    for parts in near:
        if len(parts) > 1 and any(wanted(_alone(rec, part, classify)) for part in parts):
            group = tuple(name for part in parts for name in part)
            kind = (together := _alone(rec, group, classify)).kind
            if isinstance(kind, Affine) and kind.coupled is not None and None not in together.reads:
                whole.append(parts)
    if not whole:
        return [part for part in cascade.components(rec) if set(part) <= set(names)]
    found: list[tuple[str, ...]] = []
    for parts in near:
        found += [tuple(sorted(_names(parts), key=names.index))] if parts in whole else parts
    return found


def _alone(rec: Recurrence, group: tuple[str, ...], classify: Classify) -> Component:
    return classify(rec, group, cascade.own_terms(rec, group), 0)


def _near(rec: Recurrence, names: tuple[str, ...]) -> list[list[tuple[str, ...]]]:
    """The components of `names`, those of one type together that read each other, unless another one reads those
    that come first: it may have to come between."""
    groups: list[list[tuple[str, ...]]] = []
    for part in cascade.components(rec):
        if not set(part) <= set(names):
            continue
        axes = rec.state(part[0]).axes
        near = [g for g in groups if _reads(rec, [part]) & _names(g) and rec.state(g[0][0]).axes == axes]
        own = _names(part for g in near for part in g)
        if any(_reads(rec, g) & own for g in groups if g not in near):
            near = []
        groups = [g for g in groups if g not in near] + [[p for g in near for p in g] + [part]]
    return groups


def _names(parts: Iterable[tuple[str, ...]]) -> set[str]:
    return {name for part in parts for name in part}


def _reads(rec: Recurrence, parts: Iterable[tuple[str, ...]]) -> set[str]:
    return {name for member in _names(parts) for name in cascade.state_leaves(rec.updates[member])}
