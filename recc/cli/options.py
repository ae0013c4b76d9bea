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
    parser.add_argument("--strategy", metavar="NAME", help="chunk, scan or sequential, instead of the cheapest")
    parser.add_argument("--chunk", metavar="TOKENS", type=int, help="tokens in a chunk, a power of two")
