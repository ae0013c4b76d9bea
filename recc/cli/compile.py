"""Compile a spec: write a standalone, readable PyTorch file that imports torch alone, or an earlier stage.

ast    the syntax tree         ir     the step after name, shape and time checks
plan   what the analysis found, as JSON (`recc explain` shows it for people)
torch  the generated file (default)"""

from __future__ import annotations

import argparse
import json
import os
import sys

from recc.cli import options

STAGES = ("ast", "ir", "plan", "torch")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write; standard output without it")
    parser.add_argument("--emit", choices=STAGES, default="torch")
    options.compiling(parser)


def run(args: argparse.Namespace) -> int:
    from recc.cli import common

    if args.output and os.path.exists(args.output) and os.path.samefile(args.output, _source(args.spec)):
        raise common.Usage(f"`{args.output}` is the spec itself", "write the generated code to another file")
    text = _emit(args)
    if args.output in (None, "-"):
        sys.stdout.write(text)
    else:
        common.write(args.output, text)
        print(f"wrote {args.output} ({text.count(chr(10))} lines)")
    return 0


def _source(spec: str) -> str:
    """The file that a spec is read from; the null device for standard input."""
    from recc.library import locate

    return os.devnull if spec == "-" else str(locate(spec))


def _emit(args: argparse.Namespace) -> str:
    from recc.cli import common, dump

    if args.emit == "ast":
        return dump.tree(*common.read(args.spec))
    if args.emit == "ir":
        return "\n".join(dump.program(rec) for rec in common.recurrences(args.spec, args))
    rec = common.recurrence(args.spec, args)
    plan, choice = common.choice(rec, args)
    if args.emit == "plan":
        from recc.analysis.explain import explain_json

        return json.dumps(explain_json(rec, plan, choice), indent=2) + "\n"
    from recc.runtime.api import source

    return source(rec, strategy=args.strategy, chunk=args.chunk)
