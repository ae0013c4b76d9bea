"""`recc compile --emit c` and `--emit so`: native code as files that C programs use without Python."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from recc.cli import common

if TYPE_CHECKING:
    from recc.backends.c.header import Interface
    from recc.backends.c.kernel import Kernel
    from recc.backends.c.vectors import Real
    from recc.ir.program import Recurrence

# Bytes of a vector by instruction set; `native` asks the compiler for those of this machine.
TARGETS = {"native": None, "x86-64-v4": 64, "x86-64-v3": 32, "x86-64-v2": 16, "generic": 16}
REALS = {"float32": ("float", 4), "float64": ("double", 8)}


def text(args: argparse.Namespace) -> str:
    """The C file."""
    return _interface(args).kernel.source


def write(args: argparse.Namespace) -> list[str]:
    """Writes the C file or the library, a header and an example beside it; returns what was written."""
    output = Path(args.output)
    stem = output.stem.removeprefix("lib") if args.emit == "so" else output.stem
    if args.emit == "c" and output.suffix != ".c":
        raise common.Usage(f"`{output}` is no name for a C file", f"write it as `-o {output.with_suffix('.c')}`")
    made = _interface(args, stem)
    example = made.example(output.name if args.emit == "so" else None)
    beside = {output.with_name(f"{stem}.h"): made.header(), output.with_name(f"{stem}_example.c"): example}
    if args.emit == "c":
        common.write(output, made.kernel.source)
    else:
        _library(made.kernel.source, output, args.target or "native")
    for path, content in beside.items():
        common.write(path, content)
    return [str(output), *map(str, beside)]


def _interface(args: argparse.Namespace, stem: str | None = None) -> Interface:
    from recc.backends.c.header import Interface

    rec = common.recurrence(args.spec, args)
    real, registers = _real(args)
    sizes = _sizes(rec)
    kernel = _kernel(rec, sizes, real, registers, args)
    return Interface(rec, kernel, real, sizes, stem or rec.name)


def _kernel(rec: Recurrence, sizes: dict[str, int], real: Real, registers: int, args: argparse.Namespace) -> Kernel:
    from recc.analysis import analyse
    from recc.backends.c.kernel import generate
    from recc.backends.c.limits import refusal
    from recc.frontend.diagnostics import Diagnostic

    common.check_strategy(args.strategy, args.chunk)
    if args.strategy not in (None, "sequential"):
        raise common.Usage(f"native code has no form for `--strategy {args.strategy}`",
                           "it is a loop over tokens; `--chunk` sets how many lie between saved states")  # fmt: skip
    plan = analyse(rec)
    if reason := refusal(plan):
        raise common.SpecError([Diagnostic(
            "E0601",
            f"native code does not serve `{rec.name}`",
            reason.span,
            notes=(reason.text,),
            helps=("`--emit torch` serves every spec",),
            path=rec.path,
        )], rec.text)  # fmt: skip
    return generate(plan, sizes, real, registers, args.chunk)


def _real(args: argparse.Namespace) -> tuple[Real, int]:
    """The working precision with the vectors of the target, and how many registers hold them."""
    from recc.backends.c import build
    from recc.backends.c.vectors import Real

    name, size = REALS[args.dtype]
    target = args.target or "native"
    if target not in TARGETS:
        raise common.Usage(f"`--target {target}` has no native code", f"there are {', '.join(TARGETS)}")
    width = TARGETS[target] or build.target().vector_bytes
    return Real(name, max(4, width // size)), 32 if width == 64 else 16


def _sizes(rec: Recurrence) -> dict[str, int]:
    """Those that the spec or `--dims` fix, else those of the spec's example."""
    sizes = {dim: size or rec.example.get(dim) for dim, size in rec.dims.items()}
    sizes["heads"] = rec.example.get("heads", 2)
    missing = [dim for dim, size in sizes.items() if size is None]
    if missing:
        named = ",".join(f"{dim}=64" for dim in missing)
        raise common.Usage(f"native code of `{rec.name}` needs a size for {', '.join(missing)}",
                           f"the spec has no example; give one as `--dims {named}`")  # fmt: skip
    return sizes


def _library(source: str, to: Path, target: str) -> None:
    """Builds the library, which appears under its name in one step."""
    from recc.backends.c import build

    flags = {"native": (), "generic": ("-march=x86-64",) if _is_x86() else ("-mcpu=generic",)}
    try:
        with tempfile.TemporaryDirectory(prefix=".recc-", dir=to.parent) as work:
            written, built = Path(work) / f"{to.stem}.c", Path(work) / to.name
            written.write_text(source, encoding="utf-8")
            build.compile_file(written, built, extra_flags=flags.get(target, (f"-march={target}",)))
            os.replace(built, to)
    except build.BuildError as error:
        problem, _, rest = str(error).partition("\n")
        raise common.Usage(f"the library cannot be built: {problem}", rest) from None
    except OSError as error:
        raise common.Usage(f"`{to}` cannot be written: {(error.strerror or str(error)).lower()}") from None


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64")
