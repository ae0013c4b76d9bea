"""What the launches of configurations spill, each compiled once for a device that need not be there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from recc.backends.triton import aot
from recc.backends.triton.config import Config
from recc.backends.triton.module import chosen, generate

from recc.analysis.plan import Plan

REGISTERS = 4 * 255  # bytes that a thread has
UNFIT = 3 * REGISTERS  # in place of what is spilled, where a launch does not compile, or not fit in shared memory

Compile = Callable[[aot.Recorded], dict[str, int]]
Report = Callable[[int, float], None]  # launches compiled, and the bytes that the form at hand moves


@dataclass(frozen=True)
class Found:
    """config: the first that fits, None where none does. moved: bytes per token and head of both passes, and usual:
    those of the default. spilled: by launch, what the default spills. compiled: how many launches were compiled; all:
    whether that was all there is to try."""

    config: Config | None
    moved: float
    usual: float
    spilled: dict[str, int]
    compiled: int
    all: bool = False


class Spilled:
    """What a plan's launches spill where dims have `sizes`. strategy: the one that was asked for, if any; suspects: by
    launch, the most that it has spilled so far."""

    def __init__(self, plan: Plan, sizes: Mapping[str, int], target: str, dtype: torch.dtype,
                 compile: Compile | None = None, report: Report | None = None,
                 strategy: str | None = None) -> None:  # fmt: skip
        self.report = report or (lambda compiled, moved: None)
        self.plan, self.sizes, self.dtype, self.strategy = plan, dict(sizes), dtype, strategy
        self.compile = compile or (lambda launch: aot.facts(aot.compile_launch(launch, target)))
        self.room = aot.SHARED.get(target, aot.LEAST)
        self.recorded: dict[Config, list[aot.Recorded]] = {}
        self.facts: dict[tuple, int] = {}  # by what is compiled, what it spills
        self.suspects: dict[str, int] = {}

    def unfit(self, config: Config) -> dict[str, int]:
        """By launch, what it spills."""
        bad: dict[str, int] = {}
        for launch in self.launches(config):
            spilled = self.spills(launch)
            if spilled:
                bad[launch.name] = max(spilled, bad.get(launch.name, 0))
        self.suspects |= {name: max(spilled, self.suspects.get(name, 0)) for name, spilled in bad.items()}
        return bad

    def launches(self, config: Config) -> list[aot.Recorded]:
        if config not in self.recorded:
            generated = generate(self.plan, chosen(self.plan, self.strategy, config.chunk), config)
            self.recorded[config] = aot.every_launch(generated, self.sizes, self.dtype)
        return self.recorded[config]

    def spills(self, launch: aot.Recorded) -> int:
        """Bytes a thread."""
        key = launch.identity
        if key not in self.facts:
            try:
                facts = self.compile(launch)
                self.facts[key] = facts["spills"] if facts["shared"] <= self.room else UNFIT
            except Exception:  # Triton's and ptxas's own errors: what does not compile does not fit
                self.facts[key] = UNFIT
        return self.facts[key]
