"""Write a commented spec to start from, as NAME.rec in the current folder; an existing file is never overwritten."""

from __future__ import annotations

import argparse
import keyword
import re
from pathlib import Path

STARTER = '''\
# A recurrence is written as its one-step equation. Check it with `recc check {name}.rec`,
# see what follows from it with `recc explain {name}.rec`, and prove it with `recc verify {name}.rec`.
recurrence {name}
"""What it is, and the paper that it comes from."""

dim    K, V                      # sizes are taken from the tensors; batch, time and heads are implicit
input  q, k : K                  # a vector per head and token
input  v    : V
input  g    <= 0                 # a scalar: no type; the domain says that exp(g) never grows
state  S    : K x V = 0          # its value before the first token
output o    : V

# S[t-1] is the state before this token, S[t] after it; operands meet by the names of their dims.
S[t] = exp(g) * S[t-1] + outer(k, v)
o    = q @ S[t] / sqrt(K)

example T = 33, heads = 2, K = 8, V = 8
'''


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of the recurrence; the file is NAME.rec")


def run(args: argparse.Namespace) -> int:
    from recc.cli import common

    name = args.name.removesuffix(".rec")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or keyword.iskeyword(name):
        raise common.Usage(f"`{args.name}` cannot name a recurrence", "use letters, digits and `_`, a letter first")
    path = Path(f"{name}.rec")
    try:
        with path.open("x", encoding="utf-8", newline="\n") as file:
            file.write(STARTER.format(name=name))
    except FileExistsError:
        raise common.Usage(f"`{path}` exists already", "choose another name, or remove it first") from None
    except OSError as error:
        raise common.Usage(f"cannot write `{path}`: {error.strerror}") from None
    print(f"wrote {path}; next: recc check {path}")
    return 0
