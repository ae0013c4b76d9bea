"""Compile a spec: write a standalone, readable PyTorch file that imports torch alone, or another stage.

ast     the syntax tree         ir     the step after name, shape and time checks
plan    what the analysis found, as JSON (`recc explain` shows it for people)
torch   the generated file (default)
triton  a file with GPU kernels, which imports torch and triton alone
ptx, amdgcn  the assembly of those kernels in bfloat16 for `--target`, with their registers and spills"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING

from recc.cli import options

if TYPE_CHECKING:
    from recc.analysis.plan import Plan
    from recc.ir.program import Recurrence
    from recc.strategies import Choice

STAGES = ("ast", "ir", "plan", "torch", "triton", "ptx", "amdgcn")
TARGETS = {"ptx": ("sm_90", "sm_80", "sm_100"), "amdgcn": ("gfx942",)}  # the first is the default


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write; standard output without it")
    parser.add_argument("--emit", choices=STAGES, default="torch")
    parser.add_argument("--target", metavar="ARCH", help="the device for ptx or amdgcn: sm_80, sm_90, sm_100, gfx942")
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
    if args.emit in ("triton", *TARGETS):
        return _kernels(rec, plan, choice, args)
    from recc.runtime.api import source

    return source(rec, strategy=args.strategy, chunk=args.chunk)


def _kernels(rec: Recurrence, plan: Plan, choice: Choice, args: argparse.Namespace) -> str:
    """The kernels of a recurrence, as a file of Python or as assembly."""
    from recc.cli import common

    try:
        from recc.backends.triton.module import generate, standalone
        from recc.backends.triton.schedule import Unserved
    except ImportError as error:
        raise common.Usage(f"`--emit {args.emit}` needs `{error.name}`", "pip install 'recc[triton]'") from None
    try:
        generated = generate(plan, choice)
    except Unserved as error:
        raise common.Usage(error.problem, error.help) from None
    if args.emit == "triton":
        return standalone(generated, rec)
    targets = TARGETS[args.emit]
    target = args.target or targets[0]
    if target not in targets:
        raise common.Usage(f"`--target {target}` has no {args.emit}", f"there are {', '.join(targets)}")
    from recc.backends.triton.aot import assembly

    return assembly(generated, target, args.emit)
