"""Memory for large results without the price of fresh pages, which is more than a diagonal recurrence's arithmetic.

The kernel hands out a large block page by page and clears each; glibc gives such a block back as soon as it is freed.
`keep_freed_memory` lets the process keep what it frees (RECC_KEEP_MEMORY=0 forbids it), and `empty` asks for large
pages, 2 MiB at a time instead of 4 KiB, where a block is new.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import torch

LARGE, ADVICE = 2 << 20, 14  # a large page's bytes; MADV_HUGEPAGE
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT = 1 << 28  # bytes: blocks up to this size come from the heap
FREE = (1 << 31) - 1  # bytes that may lie free at its top: gradients of one step wait there for those of the next


def _function(name: str, *types: Any) -> Any:
    """A function of the C library, or None where it has none."""
    try:
        function = getattr(ctypes.CDLL(None), name)
    except (AttributeError, OSError, TypeError):
        return None
    function.argtypes = types
    return function


@functools.cache
def keep_freed_memory() -> None:
    """Once in a process. Does nothing where the C library is not glibc."""
    set_option = _function("mallopt", ctypes.c_int, ctypes.c_int)
    if set_option is not None and os.environ.get("RECC_KEEP_MEMORY") != "0":
        set_option(M_MMAP_THRESHOLD, KEPT)
        set_option(M_TRIM_THRESHOLD, FREE)


@functools.cache
def _advise() -> Any:
    return _function("madvise", ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def empty(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """torch.empty, on large pages where it is large and the system has them. A refusal changes nothing."""
    x = torch.empty(*shape, dtype=dtype)
    size = x.numel() * x.element_size()
    if size >= 2 * LARGE and _advise() is not None:
        start = -(-x.data_ptr() // LARGE) * LARGE
        _advise()(start, (x.data_ptr() + size - start) // LARGE * LARGE, ADVICE)
    return x
