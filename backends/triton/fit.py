"""A configuration that spills no registers, found by compiling for a device that need not be there.

Of all configurations that spill nothing and fit in shared memory it is the one that moves the fewest bytes. A form is
one choice of everything but tiles. Within it each launch takes its tile on its own, since it changes no other launch:
the next tile is that which moves fewest bytes, of those small enough for what has spilled. The form whose launches move
the fewest bytes goes on, by one launch that is compiled. Nothing is timed.
"""

from __future__ import annotations

import heapq
import itertools
import math
import signal
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from recc.backends.triton import aot, traffic
from recc.backends.triton.config import CHUNKS, DEFAULT, Config, Tile, tiles
from recc.backends.triton.emit import Function
from recc.backends.triton.fit_walks import Walks
from recc.backends.triton.fitted import Fitted
from recc.backends.triton.kernel import Kernel
from recc.backends.triton.module import chosen
from recc.backends.triton.order import ORDERS
from recc.backends.triton.schedule import Unserved
from recc.backends.triton.spilled import REGISTERS, Compile, Found, Report, Spilled

from recc.analysis.plan import Plan
from recc.ir.program import Recurrence
from recc.strategies import Refused

NEAR = 256  # bytes a thread that other warps or a tile of the same size may do away with
TRIED = 24  # tiles of one launch
KERNEL = 60  # seconds that one kernel may take to compile


def fit(plan: Plan, sizes: Mapping[str, int], target: str, seconds: float = 600.0, dtype: torch.dtype = torch.bfloat16,
        compile: Compile | None = None, first: Config | None = None, report: Report | None = None,
        strategy: str | None = None) -> Found:  # fmt: skip
    """What fits for `target` where dims have `sizes`. seconds: after which nothing more is tried. first: what is taken
    where the default spills, if it fits. strategy: the one that is asked for, if any. Raises Unserved."""
    kind = _Search if chosen(plan, strategy).parallel else Walks
    return kind(plan, sizes, target, dtype, compile, report, strategy).run(time.monotonic() + seconds, first)


def entry_of(found: Found, recs: Iterable[Recurrence], sizes: Mapping[str, int], target: str, dtype: str
             ) -> Fitted | None:  # fmt: skip
    """What is kept of a search: nothing where the default fits, or nothing does. recs: the recurrence with dims of any
    size, and with `sizes`."""
    if found.config is None or found.config == DEFAULT:
        return None
    names, specs = zip(*((rec.name, rec.fingerprint) for rec in recs))
    dims = tuple(sorted(sizes.items()))
    moved = round(found.moved), round(found.usual)
    return Fitted(names[0], tuple(dict.fromkeys(specs)), target, dtype, dims, found.config, *moved)


def within(target: str, seconds: int = KERNEL) -> Compile:
    """Compiles a launch for `target`, and raises TimeoutError where that takes longer. In the main thread alone."""

    def compile(launch: aot.Recorded) -> dict[str, int]:
        with _limited(seconds):
            return aot.facts(aot.compile_launch(launch, target))

    return compile


@contextmanager
def _limited(seconds: int) -> Iterator[None]:
    """Raises TimeoutError after so many seconds; a compiler that was started is ended."""

    def late(*_: Any) -> None:
        raise TimeoutError(f"not compiled within {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


Launches = dict[str, tuple[Function, Kernel]]  # by the kernel's name, with the pass that it is of


@dataclass
class _Form:
    """Kernels of which all but the tiles is chosen. tiles: of each launch, the one that fits, or is tried next;
    settled: those that fit; left: of those that spilled, the tiles that may yet be tried, what moves least first;
    tried: what others spill."""

    config: Config
    usual: Launches
    sizes: Mapping[str, int]
    tiles: dict[str, Tile] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)
    left: dict[str, list[Tile]] = field(default_factory=dict)
    tried: dict[str, dict[Tile, int]] = field(default_factory=dict)
    moved: dict[tuple[str, Tile], float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.tiles = {name: kernel.tile for name, (_, kernel) in self.usual.items()}
        self.most = max(1 << (size - 1).bit_length() for size in self.sizes.values())
        for name, tile in self.tiles.items():
            self.moved[name, tile] = self.of_launch(self.usual, name, tile)

    @property
    def open(self) -> list[str]:
        return [name for name in self.usual if name not in self.settled]

    @property
    def full(self) -> Config:
        """With the tiles that are not the emitter's own."""
        config = self.config
        for name, (_, kernel) in self.usual.items():
            config = config if self.tiles[name] == kernel.tile else config.with_tile(name, self.tiles[name])
        return config

    @property
    def total(self) -> float:
        """Bytes that are moved per token and head."""
        return sum(self.moved[name, tile] for name, tile in self.tiles.items())

    def of_launch(self, launches: Launches, name: str, tile: Tile) -> float:
        """Bytes that a launch moves; what only calls with outer chunks launch is not counted."""
        function, kernel = launches[name]
        return traffic.of_launch(function, kernel, self.sizes, tile).total if kernel in function.kernels else 0.0

    def offer(self, name: str, looped: Iterable[Launches]) -> None:
        """Takes what a launch may try: for each dim of a loop, blocks that are no larger than its own, and steps: a
        compiler may make less of a larger one."""
        own, found = self.usual[name][1].tile, []
        for launches in looped:
            now, launch = launches[name][1].tile, launches[name][1].launch
            block = min(now.block, self.most)
            orders = (None, *ORDERS) if launch.loop or launch.walks else (None,)
            for tile in (replace(tile, order=order) for tile in tiles(now) for order in orders):
                fits = tile.step <= max(now.step, self.most) and (
                    tile.block <= block if launch.split else tile.block == now.block
                )
                if fits and tile.stages == now.stages and tile != own:
                    self.moved[name, tile] = self.of_launch(launches, name, tile)
                    found.append(tile)
        self.left[name] = sorted(found, key=lambda tile: (self.moved[name, tile], _steps(tile, own)))

    def goes_on(self, name: str, spilled: int) -> bool:
        """Takes the next tile for a launch; whether there is one."""
        tried = self.tried.setdefault(name, {})
        tried[self.tiles[name]] = spilled
        for tile in self.left[name] if len(tried) < TRIED else ():
            if tile not in tried and all(self._may(tile, other, much) for other, much in tried.items()):
                self.tiles[name] = tile
                return True
        return False

    def _may(self, tile: Tile, other: Tile, spilled: int) -> bool:
        """Whether a tile is as much smaller than another of its loop as would keep what that one spills."""
        keeps = self._numbers(tile) * (REGISTERS + spilled) <= self._numbers(other) * REGISTERS
        return tile.loop != other.loop or spilled <= NEAR or keeps

    def _numbers(self, tile: Tile) -> float:
        """In proportion, the numbers that a thread has of a tile."""
        return min(tile.block, self.most) * (min(tile.step, self.most) if tile.loop else 1) / tile.warps


class _Search(Spilled):
    def run(self, deadline: float, first: Config | None) -> Found:
        """Best first: by the bytes that a form moves."""
        heap: list[tuple[float, int, Iterator[_Form] | _Form]] = []
        usual = self.form(DEFAULT)
        moved, spilled = usual.total, self.unfit(DEFAULT)

        def found(config: Config | None, total: float = moved) -> Found:
            return Found(config, total, moved, spilled, len(self.facts), not heap)

        if not spilled:
            return found(DEFAULT)
        if first is not None and not self.unfit(first):
            return found(first, self.form(first).total)
        order = itertools.count()
        heap.append((0.0, next(order), self.forms(usual)))
        while heap and time.monotonic() < deadline:
            least, _, best = heapq.heappop(heap)
            if isinstance(best, _Form):
                if not best.open:
                    return found(best.full, best.total)
                if self.goes_on(best):
                    heapq.heappush(heap, (best.total, next(order), best))
            elif (
                forms := next(best, None)
            ) is not None:  # a shorter chunk is unlikely to move less than the one before it
                for form in forms:
                    heapq.heappush(heap, (form.total, next(order), form))
                heapq.heappush(heap, (min((form.total for form in forms), default=least), next(order), best))
        return found(None)

    def goes_on(self, form: _Form) -> bool:
        """Compiles one more launch of a form, the likeliest to spill; whether the form may yet fit."""
        self.report(len(self.facts), form.total)
        name = max(form.open, key=lambda name: self.suspects.get(name, 0))
        spilled = max((self.spills(one) for one in self.launches(form.full) if one.name == name), default=0)
        if not spilled:
            form.settled.add(name)
            return True
        self.suspects[name] = max(spilled, self.suspects.get(name, 0))
        if name not in form.left:
            form.offer(name, self.looped(form, name))
        return form.goes_on(name, spilled)

    # --- what may be taken --------------------------------------------------------------------------------

    def forms(self, usual: _Form) -> Iterator[list[_Form]]:
        """For each chunk no longer than the default's, the longest first: shorter ones inside a fused pass, a pass that
        is not fused, results apart, tiles that pass from launch to launch; kernels that are the same but once."""
        own, seen = next(iter(usual.usual.values()))[0].config, set()
        for chunk in sorted((chunk for chunk in CHUNKS if chunk <= own.chunk), reverse=True):
            found = []
            for config in self.ways(own, chunk):
                try:
                    form = self.form(config)
                except (Unserved, Refused):
                    continue
                functions = dict.fromkeys(function for function, _ in form.usual.values())
                texts = tuple((function.text, function.rows, function.every) for function in functions)
                found += [] if texts in seen else [form]
                seen.add(texts)
            yield found

    @staticmethod
    def ways(own: Config, chunk: int) -> Iterator[Config]:
        """What there is to choose from beside tiles. own: what the default stands for."""
        short = CHUNKS[0] if CHUNKS[0] < min(own.inner, chunk) else None
        passes = [(None, None), (None, short), ("split", None)] if own.forward == "fused" else [(None, None)]
        choices = itertools.product((None, not own.apart), (None, True, False), dict.fromkeys(passes))
        for apart, handed, (forward, inner) in choices:
            yield Config(None if chunk == own.chunk else chunk, inner, forward, apart=apart, handed=handed)

    def form(self, config: Config) -> _Form:
        return _Form(config, self.kernels(config), self.sizes)

    def kernels(self, config: Config) -> Launches:
        passes = traffic.passes(self.plan, chosen(self.plan, None, config.chunk), config)
        every = [(part, kernel) for part in passes for kernel in (*part.kernels, *part.outer_kernels)]
        return {kernel.name: (part, kernel) for part, kernel in every}

    def looped(self, form: _Form, name: str) -> Iterable[Launches]:
        """The kernels with each dim that a launch may take block by block; its own choice, or none, is the first."""
        kernel = form.usual[name][1]
        found = {kernel.launch.loop: form.usual}
        for dim in () if kernel.launch.walks else kernel.launch.dims:
            if dim not in found:
                stages = kernel.tile.stages if kernel.tile.loop else 1  # what is loaded ahead waits, too
                other = self.kernels(form.config.with_tile(name, replace(kernel.tile, loop=dim, stages=stages)))
                found |= {dim: other} if other[name][1].launch.loop == dim else {}
        return found.values()


def _steps(tile: Tile, now: Tile) -> float:
    """How often tile and `now` differ by a factor of two; another order counts as half of one."""
    pairs = (tile.block, now.block), (tile.step, now.step), (tile.warps, now.warps)
    return sum(abs(math.log2(a / b)) for a, b in pairs) + (tile.order is not None) / 2
