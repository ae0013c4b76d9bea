"""The folders of what was built: the one that all processes of a user share, and one of this process."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from recc.runtime import cache
from recc.runtime.cache import warn_once, write

__all__ = ["folder", "temporary", "warn_once", "write"]


def folder() -> Path:
    """Where built libraries are kept."""
    return cache.folder("c")


@functools.lru_cache(maxsize=1)
def temporary() -> tempfile.TemporaryDirectory:
    """A folder of this process, removed when it ends; what is loaded from it stays loaded."""
    return tempfile.TemporaryDirectory(prefix="recc-c-", ignore_cleanup_errors=True)
