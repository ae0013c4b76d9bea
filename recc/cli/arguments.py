"""What the command line accepts. It imports the command modules, and those import nothing heavy at the top."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from recc import __version__

# command: its line in `recc --help`
COMMANDS = {
    "check": "report everything that is wrong with specs",
    "fmt": "format specs in place",
    "explain": "show how a spec is derived, or what an error code means",
    "compile": "write the generated code, or an earlier stage, of a spec",
    "verify": "compare every lowering of specs with the float64 sequential loop",
    "tune": "find the fastest form for tensors of a size, and keep it",
    "bench": "time every form of a spec on this machine",
    "list": "list the specs that ship with recc",
    "new": "write a commented spec to start from",
}
FORMATS = ("human", "short", "json")

_EPILOG = """\
SPEC is a path to a .rec file, `-` for standard input, or a name from `recc list`.
exit codes: 0 fine, 1 bad spec or failed verification, 2 bad usage, 3 an error in recc itself
"""


class _Parser(argparse.ArgumentParser):
    """argparse with errors in recc's form, and never an abbreviated option."""

    def __init__(self, **options) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}\n  = help: `{self.prog} --help` shows the usage", file=sys.stderr)
        raise SystemExit(2)


def command(name: str) -> ModuleType:
    """The module of a command: `arguments(parser)` and `run(args) -> exit code`."""
    return import_module(f"recc.cli.{name}")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = _Parser(
        prog="recc",
        description="A compiler for recurrences: one-step equations in, parallel PyTorch training code out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"recc {__version__}")
    _message_format(top, "human")
    commands = top.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, line in COMMANDS.items():
        module = command(name)
        sub = commands.add_parser(
            name, help=line, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.arguments(sub)
        _message_format(sub, argparse.SUPPRESS)
    return top


def _message_format(to: argparse.ArgumentParser, default: str) -> None:
    to.add_argument(
        "--message-format", choices=FORMATS, default=default, help="form of diagnostics (json: on standard output)"
    )


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments; exits 2 with the nearest command where one is mistyped."""
    name = _first_word(argv)
    if name is not None and name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"did you mean `{near[0]}`?" if near else f"the commands are {', '.join(COMMANDS)}"
        print(f"error: no command is called `{name}`\n  = help: {hint}", file=sys.stderr)
        raise SystemExit(2)
    return parser().parse_args(argv)


def _first_word(argv: Sequence[str]) -> str | None:
    """The first argument that is neither an option nor the value of `--message-format`."""
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word == "--message-format":
            skip = True
        elif not word.startswith("-"):
            return word
    return None
