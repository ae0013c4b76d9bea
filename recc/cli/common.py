"""What several commands share: reading specs, choosing strategies, printing diagnostics, writing files."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recc.frontend.diagnostics import Diagnostic, SpecError, render
from recc.library import SpecNotFound, decode, find

if TYPE_CHECKING:
    from recc.analysis.plan import Plan
    from recc.ir.program import Recurrence
    from recc.strategies import Choice, Refused

__all__ = ["SpecError", "SpecNotFound", "Usage", "choice", "complain", "console", "dim_sizes", "read", "read_file"]
__all__ += ["recurrence", "recurrences", "render", "report", "write"]


class Usage(Exception):
    """The command was asked for something that makes no sense; exit code 2."""

    def __init__(self, problem: str, help: str = ""):
        super().__init__(problem)
        self.problem, self.help = problem, help


# --- specs --------------------------------------------------------------------------------------------------


def read(spec: str) -> tuple[str, str]:
    """(text, path) of a spec: a path, a name, or `-`."""
    if spec == "-":
        return decode(sys.stdin.buffer.read(), "<stdin>"), "<stdin>"
    return find(spec)


def recurrences(spec: str, args: argparse.Namespace) -> list[Recurrence]:
    """The recurrences of a spec, or the one that `--recurrence` names; raises SpecError."""
    from recc.frontend import parse_text

    text, path = read(spec)
    found = parse_text(text, path, dims=dim_sizes(args.dim))
    names = [rec.name for rec in found]
    if args.recurrence is None:
        return found
    if args.recurrence not in names:
        raise Usage(f"`{path}` has no recurrence `{args.recurrence}`", f"it has {', '.join(names)}")
    return [found[names.index(args.recurrence)]]


def recurrence(spec: str, args: argparse.Namespace) -> Recurrence:
    """The only recurrence of a spec, or the one that `--recurrence` names."""
    found = recurrences(spec, args)
    if len(found) > 1:
        names = ", ".join(rec.name for rec in found)
        raise Usage(f"`{spec}` holds {len(found)} recurrences: {names}", "pick one with `--recurrence NAME`")
    return found[0]


def dim_sizes(settings: list[str]) -> dict[str, int]:
    """What `--dim` says; raises Usage."""
    sizes = {}
    for setting in ",".join(settings).split(",") if settings else ():
        name, _, size = setting.strip().partition("=")
        if not name.isidentifier() or not size.isdecimal() or int(size) < 1:
            raise Usage(f"`--dim {setting}` is not a dim and its size", "write it as `--dim R=3`")
        sizes[name] = int(size)
    return sizes


# --- strategies ---------------------------------------------------------------------------------------------


def check_strategy(name: str | None, chunk: int | None) -> None:
    """Raises Usage for a strategy that does not exist and a chunk that is no power of two."""
    from recc.strategies import STRATEGIES

    if name is not None and name not in STRATEGIES:
        near = difflib.get_close_matches(name, STRATEGIES, n=1)
        raise Usage(f"no strategy is called `{name}`",
                    f"did you mean `{near[0]}`?" if near else f"there are {', '.join(STRATEGIES)}")  # fmt: skip
    if chunk is not None and (chunk < 1 or chunk & (chunk - 1)):
        raise Usage(f"`--chunk {chunk}` is not a power of two", "16, 32, 64 and 128 are usual")


def choice(rec: Recurrence, args: argparse.Namespace) -> tuple[Plan, Choice]:
    """What the analysis finds and the strategies that follow; raises SpecError where one asked for is refused."""
    from recc.analysis import analyse
    from recc.strategies import Refused, choose

    check_strategy(args.strategy, args.chunk)
    plan = analyse(rec)
    try:
        return plan, choose(plan, args.strategy, args.chunk)
    except Refused as refused:
        raise SpecError([refusal(rec, refused)], rec.text) from None


def refusal(rec: Recurrence, refused: Refused) -> Diagnostic:
    """A refused strategy as a diagnostic."""
    reason = refused.reason
    return Diagnostic(
        "E0501",
        f"strategy `{refused.strategy}` cannot run `{rec.name}`",
        reason.span,
        notes=(reason.text, f"`{refused.strategy}` was asked for by `--strategy {refused.strategy}`"),
        helps=(reason.help or "drop `--strategy`; `recc explain` lists what can run it",),
        path=rec.path,
    )


# --- output -------------------------------------------------------------------------------------------------


def report(error: SpecError, message_format: str) -> None:
    """Prints the diagnostics: json on standard output, the forms for people on standard error."""
    text = render(error.diagnostics, error.text, message_format)
    print(text, file=sys.stdout if message_format == "json" else sys.stderr)


def complain(error: Usage | SpecNotFound, message_format: str) -> None:
    """Prints an error that has no place in a spec."""
    if message_format == "json":
        view = {"severity": "error", "message": error.problem} | ({"helps": [error.help]} if error.help else {})
        print(json.dumps([view], indent=2))
        return
    print(f"error: {error.problem}", file=sys.stderr)
    if error.help and message_format == "human":
        print(f"  = help: {error.help}", file=sys.stderr)


def console(**options: Any):
    """A rich console on standard output, of a fixed width where that is not a terminal."""
    from rich.console import Console

    wide = {} if sys.stdout.isatty() else {"width": 120}
    return Console(file=sys.stdout, highlight=False, **(wide | options))


def read_file(path: str) -> str:
    """The text of a file that is no spec."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(f"`{path}` cannot be read: {getattr(error, 'strerror', None) or error}") from None


def write(path: str | os.PathLike, text: str) -> None:
    """Writes a file in one step: a reader sees the old text or the new one, never half of it."""
    path = Path(path)
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():  # a device or a pipe, such as /dev/stdout
            target.write_text(text, encoding="utf-8")
            return
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask()
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(text)
            os.chmod(name, mode)
            os.replace(name, target)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise Usage(f"`{path}` cannot be written: {(error.strerror or str(error)).lower()}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
