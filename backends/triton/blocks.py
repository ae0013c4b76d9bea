"""How much of a dim a program takes, or a turn of its loop: the variables of a generated function, and their lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from recc.backends.triton.config import Tile
from recc.backends.triton.pressure import beside
from recc.backends.triton.schedule import Schedule
from recc.backends.triton.steps import Launch

# Dims beside another, each with the most places of it that a program takes at a time, if it does not take all.
Beside = tuple[tuple[str, int | None], ...]


class Blocks:
    """The variables of a schedule's function. claim: gives a name that is free."""

    def __init__(self, schedule: Schedule, claim: Callable[[str], str]) -> None:
        self.schedule, self.claim = schedule, claim
        self.names: dict[tuple[str, str, int, Beside], str] = {}  # by the dim and what is called for it

    def of(self, step: Launch, tile: Tile) -> tuple[str | None, str | None]:
        """The variables for how much of the split dim a program takes, and of the dim of its loop at a time: where both
        stand in a tile that is scanned, that is for both to share."""
        along = beside(self.schedule, step.split) if step.split and step.loop else []
        if step.loop not in along:
            part = self.part(step.split, tile.block) if step.split else None
            return part, self.part(step.loop, tile.step) if step.loop else None
        rest = [(dim, tile.step if dim == step.loop else None) for dim in along]
        part = self._name((step.split, "part", tile.block, tuple(rest)))
        return part, self._name((step.loop, "turn", tile.step, ()))

    def part(self, dim: str, block: int) -> str:
        """The variable for how many places of `dim` a program takes: with those of the dims beside it `block` at
        most."""
        return self._name((dim, "part", block, tuple((other, None) for other in beside(self.schedule, dim))))

    def lines(self, dim: str, known: Iterable[str]) -> list[str]:
        """The lines that compute the variables of `dim`. known: the dims whose sizes are."""
        found = []
        for (own, call, most, rest), name in self.names.items():
            if own == dim:
                here = [(other, least) for other, least in rest if other in known]
                others = [other if least is None else f"min({other}, {least})" for other, least in here]
                found.append(f"    {name} = chunks.{call}({', '.join([f'block_{dim}', str(most), *others])})")
        return found

    def _name(self, key: tuple[str, str, int, Beside]) -> str:
        if key not in self.names:
            self.names[key] = self.claim(f"part_{key[0]}")
        return self.names[key]
