"""Compile a spec: write a standalone, readable PyTorch file that imports torch alone, or another stage.

ast     the syntax tree         ir     the step after name, shape and time checks
plan    what the analysis found, as JSON (`recc explain` shows it for people)
torch   the generated file (default)
triton  a file with GPU kernels, which imports torch and triton alone
ptx, sass, amdgcn  the assembly of those kernels in bfloat16 for `--target`, with their registers and spills
c, so   native code for CPUs as a C file or a library; beside it a header and an example that calls it from C"""

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

NVIDIA = ("sm_90", "sm_80", "sm_100")  # the first is the default
TARGETS = {"ptx": NVIDIA, "sass": NVIDIA, "amdgcn": ("gfx942",), "triton": (*NVIDIA, "gfx942")}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC")
    parser.add_argument("-o", "--output", metavar="FILE", help="where to write; standard output without it")
    parser.add_argument("--emit", choices=EMITTERS, default="torch")
    parser.add_argument("--target", metavar="ARCH",
                        help="for ptx and sass: sm_80, sm_90, sm_100; for amdgcn: gfx942; for triton: any of these; "
                             "for c and so: native, x86-64-v2, x86-64-v3, x86-64-v4, generic")  # fmt: skip
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of the state, for c and so")
    options.compiling(parser)


def run(args: argparse.Namespace) -> int:
    from recc.cli import common

    if args.output and os.path.exists(args.output) and os.path.samefile(args.output, _source(args.spec)):
        raise common.Usage(f"`{args.output}` is the spec itself", "write the generated code to another file")
    alone = args.output in (None, "-")
    if args.emit == "so" and alone:
        raise common.Usage("a library has no form as text", "name its file, as in `-o libname.so`")
    if args.emit in ("c", "so") and not alone:
        from recc.cli import native

        print(f"wrote {', '.join(native.write(args))}")
        return 0
    text = EMITTERS[args.emit](args)
    if alone:
        sys.stdout.write(text)
    else:
        common.write(args.output, text)
        print(f"wrote {args.output} ({text.count(chr(10))} lines)")
    return 0


def _source(spec: str) -> str:
    """The file that a spec is read from; the null device for standard input."""
    from recc.library import locate

    return os.devnull if spec == "-" else str(locate(spec))


# --- the stages -----------------------------------------------------------------------------------------------------


def _ast(args: argparse.Namespace) -> str:
    from recc.cli import common, dump

    return dump.tree(*common.read(args.spec))


def _ir(args: argparse.Namespace) -> str:
    from recc.cli import common, dump

    return "\n".join(dump.program(rec) for rec in common.recurrences(args.spec, args))


def _derived(args: argparse.Namespace) -> tuple[Recurrence, Plan, Choice]:
    from recc.cli import common

    rec = common.recurrence(args.spec, args)
    return (rec, *common.choice(rec, args))


def _plan(args: argparse.Namespace) -> str:
    from recc.analysis.explain import explain_json

    return json.dumps(explain_json(*_derived(args)), indent=2) + "\n"


def _torch(args: argparse.Namespace) -> str:
    from recc.runtime.api import source

    rec, *_ = _derived(args)
    return source(rec, strategy=args.strategy, chunk=args.chunk)


def _native(args: argparse.Namespace) -> str:
    from recc.cli import native

    return native.text(args)


def _kernels(args: argparse.Namespace) -> str:
    """The kernels of a recurrence, as a file of Python or as assembly."""
    from recc.cli import common

    rec, plan, _ = _derived(args)
    try:
        from recc.backends.triton import fitted
        from recc.backends.triton.config import DEFAULT
        from recc.backends.triton.module import chosen, generate, standalone
        from recc.backends.triton.room import TYPICAL
        from recc.backends.triton.schedule import Unserved
    except ImportError as error:
        raise common.Usage(f"`--emit {args.emit}` needs `{error.name}`", "pip install 'recc[triton]'") from None
    target, config = _target(args), DEFAULT
    if target is not None and args.strategy is None and args.chunk is None:
        config = fitted.config_of(rec, {dim: size or TYPICAL for dim, size in rec.dims.items()}, target)
    try:
        generated = generate(plan, chosen(plan, args.strategy, args.chunk or config.chunk), config)
    except Unserved as error:
        raise common.Usage(error.problem, error.help) from None
    if args.emit == "triton":
        return standalone(generated, rec)
    from recc.backends.triton.aot import assembly

    return assembly(generated, target, args.emit)


def _target(args: argparse.Namespace) -> str | None:
    """The GPU that kernels are compiled for; None for a file of Python that is for none in particular."""
    from recc.cli import common

    if args.emit == "triton" and args.target is None:
        return None
    targets = TARGETS[args.emit]
    target = args.target or targets[0]
    if target not in targets:
        raise common.Usage(f"`--target {target}` has no {args.emit}", f"there are {', '.join(targets)}")
    return target


EMITTERS = {
    "ast": _ast,
    "ir": _ir,
    "plan": _plan,
    "torch": _torch,
    "triton": _kernels,
    "ptx": _kernels,
    "sass": _kernels,
    "amdgcn": _kernels,
    "c": _native,
    "so": _native,
}
