"""Options that several commands share. It imports nothing heavy: `recc --help` reads it."""

from __future__ import annotations

import argparse


def spec(parser: argparse.ArgumentParser) -> None:
    """What part of a spec file is meant, and in which sizes."""
    parser.add_argument("--recurrence", metavar="NAME", help="only this recurrence of the spec")
    parser.add_argument("--dim", "--dims", dest="dim", metavar="NAME=SIZE", action="append", default=[],
                        help="fix the sizes of dims, as R=3 or K=64,V=64")  # fmt: skip


def compiling(parser: argparse.ArgumentParser) -> None:
    """The options of commands that compile a spec."""
    spec(parser)
    parser.add_argument("--strategy", metavar="NAME", help="chunk, scan, sequential, ...: instead of the cheapest")
    parser.add_argument("--chunk", metavar="TOKENS", type=int, help="tokens in a chunk, a power of two")


def sized(parser: argparse.ArgumentParser) -> None:
    """The options of commands that run a spec on tensors of a size."""
    spec(parser)
    parser.add_argument("--device", metavar="NAME", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16", "float64"),
                        help="of the tensors (default: float32, bfloat16 on a GPU)")  # fmt: skip
    for name, default, words in (("batch", 2, "sequences"), ("time", 2048, "tokens"), ("heads", 4, "heads")):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{words} (default: {default})")
