"""Format specs in place, as `recc check` and a reader expect them; the meaning stays the same."""

from __future__ import annotations

import argparse
import difflib
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("specs", nargs="+", metavar="SPEC", help="`-` formats standard input to standard output")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file would change")
    parser.add_argument("--diff", action="store_true", help="write nothing; show what would change")


def run(args: argparse.Namespace) -> int:
    from recc.cli import common

    code = 0
    for spec in args.specs:
        try:
            changed = _format(spec, args)
        except common.SpecError as error:
            common.report(error, args.message_format)
            code = 1
        else:
            code = max(code, int(changed and args.check))
    return code


def _format(spec: str, args: argparse.Namespace) -> bool:
    """Formats one spec; whether that changed it."""
    from recc.cli import common
    from recc.frontend import format_text
    from recc.library import locate

    text, path = common.read(spec)
    new = format_text(text, path)
    changed = new != text
    if args.diff:
        sys.stdout.writelines(
            difflib.unified_diff(text.splitlines(True), new.splitlines(True), path, f"{path} (formatted)")
        )
    elif args.check:
        if changed:
            print(f"{path}: would change")
    elif spec == "-":
        sys.stdout.write(new)
    elif changed:
        common.write(locate(spec), new)
        print(f"{path}: formatted")
    return changed
