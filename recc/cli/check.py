"""Report everything that is wrong with specs: syntax, names, shapes, time. All errors of all files at once."""

from __future__ import annotations

import argparse
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("specs", nargs="+", metavar="SPEC")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing about specs that are right")


def run(args: argparse.Namespace) -> int:
    from recc.cli import common
    from recc.frontend import check_text
    from recc.frontend.diagnostics import ERROR

    missing, everything, parts = False, [], []
    for spec in args.specs:
        try:
            text, path = common.read(spec)
        except common.SpecNotFound as error:
            common.complain(error, "human" if args.message_format == "human" else "short")
            missing = True
            continue
        found = check_text(text, path)
        everything += found
        if found:
            parts.append(common.render(found, text, args.message_format))
        if args.message_format != "json" and not args.quiet and not any(item.severity == ERROR for item in found):
            print(f"{path}: ok")
    if args.message_format == "json":
        print(common.render(everything, "", "json"))
    elif parts:
        sys.stdout.flush()
        print(("\n\n" if args.message_format == "human" else "\n").join(parts), file=sys.stderr)
        if args.message_format == "human":
            print(f"\n{_count(everything)}", file=sys.stderr)
    if any(item.severity == ERROR for item in everything):
        return 1
    return 2 if missing else 0


def _count(found: list) -> str:
    """`2 errors, 1 warning`."""
    kinds = [item.severity for item in found]
    parts = [(kinds.count(kind), kind) for kind in dict.fromkeys(sorted(kinds))]
    return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for count, kind in parts)
