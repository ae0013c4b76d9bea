"""Report everything that is wrong with specs: syntax, names, shapes, time. All errors of all files at once."""

from __future__ import annotations

import argparse


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("specs", nargs="+", metavar="SPEC")
    parser.add_argument("-q", "--quiet", action="store_true", help="print nothing about specs that are right")


def run(args: argparse.Namespace) -> int:
    from recc.cli import common

    bad, missing, findings = 0, 0, []
    for spec in args.specs:
        try:
            found = common.recurrences(spec)
        except common.SpecError as error:
            missing += isinstance(error, common.UnknownSpec)
            if args.message_format == "json":
                findings += error.diagnostics
            else:
                common.report(error, args.message_format)
            bad += 1
        else:
            if args.message_format != "json" and not args.quiet:
                print(f"{found[0].path if found else spec}: ok ({', '.join(rec.name for rec in found)})")
    if args.message_format == "json":
        print(common.render(findings, "", "json"))
    return (2 if missing == bad else 1) if bad else 0
