"""What several commands share: reading specs, printing diagnostics, writing files."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recc.frontend.diagnostics import SpecError, render
from recc.library import UnknownSpec, find

if TYPE_CHECKING:
    from recc.ir.program import Recurrence

__all__ = ["SpecError", "UnknownSpec", "Usage", "complain", "console", "read", "recurrence", "recurrences", "report", "write"]


class Usage(Exception):
    """The command was asked for something that makes no sense; exit code 2."""

    def __init__(self, message: str, help: str = ""):
        super().__init__(message)
        self.help = help


def read(spec: str) -> tuple[str, str]:
    """(text, path) of a spec: a path, a name, or `-`."""
    if spec == "-":
        return sys.stdin.read(), "<stdin>"
    return find(spec)


def recurrences(spec: str) -> list[Recurrence]:
    """All recurrences of a spec, checked; raises SpecError."""
    from recc.frontend import check_text

    text, path = read(spec)
    return check_text(text, path)


def recurrence(spec: str, name: str | None) -> Recurrence:
    """The recurrence called `name`, or the only one of the spec."""
    found = recurrences(spec)
    if name is None and len(found) == 1:
        return found[0]
    names = ", ".join(f"`{rec.name}`" for rec in found)
    if name is None:
        raise Usage(f"`{spec}` holds {len(found)} recurrences: {names}", "pick one with `--recurrence NAME`")
    for rec in found:
        if rec.name == name:
            return rec
    raise Usage(f"`{spec}` has no recurrence `{name}`", f"it has {names}")


def report(error: SpecError, message_format: str) -> None:
    """Prints the diagnostics: json on standard output, the forms for people on standard error."""
    text = render(error.diagnostics, error.text, message_format)
    print(text, file=sys.stdout if message_format == "json" else sys.stderr)


def complain(message: str, help: str = "") -> None:
    print(f"error: {message}", file=sys.stderr)
    if help:
        print(f"  = help: {help}", file=sys.stderr)


def write(path: str | os.PathLike, text: str) -> None:
    """Writes a file in one step: a reader sees the old text or the new one, never half of it."""
    path = Path(os.path.realpath(path))
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise Usage(f"cannot write `{path}`: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def console(**options: Any):
    """A rich console on standard output, at least 100 columns wide where the output is not a terminal."""
    from rich.console import Console

    wide = {} if sys.stdout.isatty() else {"width": 120}
    return Console(file=sys.stdout, highlight=False, **(wide | options))
