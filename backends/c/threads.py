"""Work spread over threads: those that torch's own operations run on, where they can be had.

Between two operations of torch its threads do not sleep at once: for a while they wait busily for the next. Other
threads beside them would have to share the cores with them, and torch's with those: on two cores, each then took as
long as on one. They are had from GNU's OpenMP, which torch uses on Linux, with Python functions as their work.
"""

from __future__ import annotations

import ctypes
import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()
_forked = threading.Event()  # a child has none of its parent's threads, and OpenMP would wait for them


def _in_child() -> None:
    _pools.clear()
    _forked.set()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def _pool(threads: int) -> ThreadPoolExecutor:
    """ctypes lets go of the interpreter's lock, so Python threads are enough."""
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="recc")
        return _pools[threads]


@functools.cache
def _openmp() -> ctypes.CDLL | None:
    """GNU's OpenMP, if it has been loaded."""
    folder = Path(torch.__file__).parent
    names = ["libgomp.so.1", *map(str, (*folder.glob("lib/libgomp*"), *folder.parent.glob("torch.libs/libgomp*")))]
    for name in names if hasattr(os, "RTLD_NOLOAD") else ():
        try:
            library = ctypes.CDLL(name, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
            library.GOMP_parallel.argtypes = [WORK, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
            library.GOMP_parallel.restype = None
        except (OSError, AttributeError):
            continue
        return library
    return None


def in_threads(run: Callable[[int], Any], count: int) -> list:
    """The results of run(0), run(1), ... on as many threads as torch has. Raises what one of them raises."""
    threads = torch.get_num_threads()
    if min(threads, count) < 2:
        return [run(place) for place in range(count)]
    openmp = None if _forked.is_set() else _openmp()
    if openmp is not None and not openmp.omp_in_parallel():
        return _in_team(openmp, run, count, threads)
    waiting = [_pool(min(threads, count)).submit(run, place) for place in range(1, count)]
    return [run(0), *(done.result() for done in waiting)]


def _in_team(openmp: ctypes.CDLL, run: Callable[[int], Any], count: int, threads: int) -> list:
    """By all of torch's threads, even where there is work for fewer: OpenMP ends those that a call leaves out."""
    left, found, problems = list(range(count))[::-1], {}, []

    def work(_: Any) -> None:
        while left:
            try:
                place = left.pop()
            except IndexError:
                return
            try:
                found[place] = run(place)
            except BaseException as problem:
                problems.append(problem)

    openmp.GOMP_parallel(WORK(work), None, threads, 0)
    if problems:
        raise problems[0]
    return [found[place] for place in range(count)]
