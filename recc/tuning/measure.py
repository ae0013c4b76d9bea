"""Seconds of calls that are compared: in one process, in interleaved rounds, on a CPU or a GPU.

Nothing here runs by itself: only `recc tune`, `recc bench` and the benchmarks measure.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch

SLOW = 0.6  # seconds of a call, above which it is in every third round only
Parts = dict[str, float]  # of one timed call: its seconds under "", and those of parts of it under their names
Times = dict[str, list[float | None]]  # by case: seconds in each round; None where the case was left out


class Clock(Protocol):
    """Times one call. `now` is the time by which budgets are kept."""

    def seconds(self, run: Callable[[], object]) -> float: ...

    def now(self) -> float: ...


class WallClock:
    """Wall time, for what is done when the call returns."""

    now = staticmethod(time.perf_counter)

    def seconds(self, run: Callable[[], object]) -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began


class GpuClock:
    """Time between two events on the GPU's stream, its caches flushed before, as a layer's neighbours would do.

    AHEAD cycles lie between, in which the host launches: in a model it is ahead of the GPU, too. What waits for the GPU
    on the way is timed with its launches.
    """

    AHEAD = 2_000_000  # about a millisecond
    now = staticmethod(time.perf_counter)

    def __init__(self) -> None:
        self.flush = torch.empty(1 << 26, dtype=torch.int32, device="cuda")  # 256 MiB: more than any cache holds

    def seconds(self, run: Callable[[], object]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self.flush.zero_()
        torch.cuda._sleep(self.AHEAD)
        begin.record()
        run()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3


def clock_of(device: str) -> Clock:
    """The clock for tensors on `device`, a torch device type."""
    return GpuClock() if device == "cuda" else WallClock()


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    """A call on the GPU as the replay of a CUDA graph, so that the host's work is not measured; the call as it is where
    it cannot be captured, since it waits for the GPU."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    try:
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
    except RuntimeError:
        torch.cuda.synchronize()
        return run
    return graph.replay


# --- rounds ---------------------------------------------------------------------------------------------------------


def whole(run: Callable[[], object], clock: Clock | None = None) -> Callable[[], Parts]:
    """A call as a case of `rounds`."""
    clock = clock or WallClock()
    return lambda: {"": clock.seconds(run)}


def rounds(cases: Mapping[str, Callable[[], Parts]], count: int, until: float | None = None,
           now: Callable[[], float] = time.perf_counter) -> Times:  # fmt: skip
    """Seconds of every case in `count` interleaved rounds, fewer where the time `until` has come after the first.

    Each timed call follows an untimed one of the same case, so that what the case before it left in caches and in the
    heap is not part of it. A part of a case is listed under the case's name followed by its own.
    """
    times: Times = {}
    least: dict[str, float] = {}
    known: dict[str, list[str]] = {}
    for place in range(count):
        for name, case in cases.items():
            if least.get(name, 0) > SLOW and place % 3:
                parts: dict[str, Any] = dict.fromkeys(known[name])
            else:
                untimed = case()[""]
                parts = case()
                least[name] = min(untimed, parts[""], least.get(name, untimed))
                known[name] = list(parts)
            for key, seconds in parts.items():
                times.setdefault(name + key, []).append(seconds)
        if until is not None and now() >= until:
            break
    return times


def taken(row: Sequence[float | None]) -> list[float]:
    """The rounds of a case in which it was timed."""
    return [x for x in row if x is not None]


def median(row: Sequence[float | None]) -> float:
    return statistics.median(taken(row))


def spread(row: Sequence[float | None]) -> tuple[float, float]:
    """The first and the third quartile."""
    values = taken(row)
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def ratios(times: Mapping[str, Sequence[float | None]], above: str, below: str) -> list[float]:
    """What one case took over what another took in the same round."""
    pairs = zip(times[above], times[below], strict=True)
    return [a / b for a, b in pairs if a is not None and b is not None]


def ratio(times: Mapping[str, Sequence[float | None]], above: str, below: str) -> float:
    """The median of `ratios`."""
    return statistics.median(ratios(times, above, below))


# --- where ----------------------------------------------------------------------------------------------------------


def machine(device: str = "cpu") -> dict[str, Any]:
    """What figures were measured on: the processor, the GPU if one is meant, versions, and how busy the machine was."""
    import recc

    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    found: dict[str, Any] = {"cpu": cpu, "threads": torch.get_num_threads()}
    if hasattr(os, "getloadavg"):
        found["load"] = round(os.getloadavg()[0], 1)
    if device == "cuda":
        found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda or torch.version.hip}
        found["triton"] = _version("triton")
    return found | {"torch": torch.__version__, "python": platform.python_version(), "recc": recc.__version__}


def _version(module: str) -> str:
    """Of a module that may come in a distribution of another name."""
    try:
        return import_module(module).__version__
    except ImportError:
        return "not installed"
