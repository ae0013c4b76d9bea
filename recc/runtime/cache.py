"""The folder of what recc keeps for a user, which all processes share, and what a process says once about it."""

from __future__ import annotations

import functools
import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def folder(kind: str) -> Path:
    """Where things of one kind are kept: below $RECC_CACHE_DIR, or in the user's cache folder of recc."""
    chosen = os.environ.get("RECC_CACHE_DIR")
    if chosen:
        return Path(chosen) / kind
    import platformdirs

    return platformdirs.user_cache_path("recc") / kind


def write(path: Path, content: bytes) -> None:
    """All of the content under that name, or nothing: readers never see a part of it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(part, path)
    except BaseException:
        os.unlink(part)
        raise


def read(path: Path, of: Callable[[Any], Any], anew: str) -> Any:
    """What `of` makes of a file of JSON; None where it is not there and, with a warning, where it is damaged.

    anew: the command that writes it."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    try:
        return of(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = " ".join(f"{type(error).__name__}: {error}".split())[:100]
        warn_once(f"recc ignores {path}, which is damaged ({why}); `{anew}` writes it anew")
        return None


@functools.cache
def warn_once(message: str) -> None:
    """A warning that a process gives once, whatever asks for it again."""
    warnings.warn(message, RuntimeWarning, stacklevel=3)
