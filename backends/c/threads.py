"""Work spread over threads, which sleep while they wait."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pools.clear)  # a child has none of its parent's threads


def _pool(threads: int) -> ThreadPoolExecutor:
    """ctypes lets go of the interpreter's lock, so Python threads are enough."""
    with _lock:
        if threads not in _pools:
            _pools[threads] = ThreadPoolExecutor(threads - 1, thread_name_prefix="recc")
        return _pools[threads]


def in_threads(run: Callable[[int], Any], count: int) -> list:
    """The results of run(0), run(1), ... on as many threads as torch has."""
    threads = min(torch.get_num_threads(), count)
    if threads < 2:
        return [run(place) for place in range(count)]
    waiting = [_pool(threads).submit(run, place) for place in range(1, count)]
    return [run(0), *(done.result() for done in waiting)]
