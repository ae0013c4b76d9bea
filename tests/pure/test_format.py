"""The formatter: one form, reached from any spacing, with the same tokens, comments and meaning."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from recc.frontend import SpecError, format_text, parse_text

SPECS = {path.stem: path.read_text("utf-8") for path in sorted((Path(__file__).parents[2] / "specs").glob("*.rec"))}
PIECE = re.compile(r'"""(?:.|\n)*?"""|#[^\n]*|\d[\w.]*(?:(?<=e)-\d+)?|\w+|\*\*|[<>=!]=|\n|[^\s]')


def pieces(text: str) -> list[str]:
    return [piece.rstrip() or piece for piece in PIECE.findall(text)]


def meaning(text: str) -> list[tuple]:
    """All that a spec says, without where it says it. Expressions are interned: equal ones are one object."""
    return [
        (rec.name, rec.doc, rec.dims, rec.updates, rec.example, list(rec.names.items()),
         [(x.name, x.axes, x.dtype, x.domain) for x in rec.inputs],
         [(x.name, x.axes, x.dtype, x.init, x.domain) for x in rec.params],
         [(x.name, x.axes, x.dtype, x.init, x.delay) for x in rec.states],
         [(x.name, x.axes, x.dtype, x.value) for x in rec.outputs])
        for rec in parse_text(text)
    ]  # fmt: skip


def loosen(text: str, draw: random.Random) -> str:
    """`text` with other space between its tokens, and line breaks inside its brackets."""
    out, last, depth = [], "\n", 0
    for piece in pieces(text):
        depth += (piece in "([") - (piece in ")]")
        words = (last[-1].isalnum() or last[-1] in "_.") and (piece[0].isalnum() or piece[0] in "_.")
        needed = words or (last + piece in ("**", "<=", ">=", "==", "!=")) or last == "." or piece.startswith("#")
        breaks = depth > (piece in "([") and draw.random() < 0.05 and piece not in "\n"
        margin = last == "\n"  # what stands at the margin starts a statement; there is no space before it
        out.append("" if margin else "\n      " if breaks else " " * draw.randint(int(needed), 3))
        out.append(piece)
        last = piece
    return "".join(out)


@pytest.mark.parametrize("name", SPECS)
def test_specs(name: str):
    text = SPECS[name]
    once = format_text(text)
    assert format_text(once) == once
    assert pieces(once) == pieces(text) and meaning(once) == meaning(text)


@pytest.mark.parametrize("name", SPECS)
def test_any_spacing_comes_to_one_form(name: str):
    draw = random.Random(name)
    for _ in range(8):
        text = loosen(SPECS[name], draw)
        once = format_text(text)
        assert format_text(once) == once and meaning(once) == meaning(SPECS[name])
        assert pieces(once) == pieces(text)
        if "\n      " not in text:
            assert once == format_text(SPECS[name])


def expression(draw: random.Random, depth: int) -> str:
    """A random expression over scalars `a`, `b` and the state `s`, with more brackets than it needs."""
    kind = draw.choice("leaf unary binary binary binary call bracket".split()) if depth else "leaf"
    sub = lambda: expression(draw, depth - 1)  # noqa: E731
    if kind == "leaf":
        return draw.choice(["a", "b", "s[t-1]", "a[t-2]", "1", "2.5", ".5", "1e-3", "pi"])
    if kind == "unary":
        return draw.choice("-+") + sub()
    if kind == "binary":
        return f"{sub()}{draw.choice([' + ', '-', '*', ' /', '** ', '  -  '])}{sub()}"
    if kind == "call":
        return draw.choice(["tanh(%s)", "max( %s ,1)", "where(%s<0, a,b)", "sum(x,over=K)+%s"]) % sub()
    return f"({sub()})"


def test_random_equations():
    draw, kept = random.Random(0), 0
    for _ in range(300):
        lines = "\n".join(f"{name}={expression(draw, 4)}" for name in ("u", "s[t]", "long_name"))
        text = f"recurrence r\ndim K\ninput a,b\ninput x:K\nstate s=0\noutput u,long_name\n{lines}\n"
        once = format_text(text)
        assert format_text(once) == once and pieces(once) == pieces(text)
        try:
            expected = meaning(text)
        except SpecError:  # such as a constant that is not finite
            continue
        kept += 1
        assert meaning(once) == expected
    assert kept > 150


LOOSE = '''

# a file
recurrence   r
"""Kept   as it is.
  Every line."""


dim K,V
input x:K   unit   #note
input   longer,y : K x V   in[ -1,1 ]# another
output o
param w:K=-1/sqrt( K )  shared
steps r:R
state S : K x V  complex


# about
S[ t ]=x*S[t - 1]# here
o_long=where( a<=-1,sum(x,over=(K , V)),- S[t,r-1].T@x ** -2)   # there
f= (x +   # first

        y)# second
def g(a,b)=a+b
example T=33,K=8
recurrence second
'''

STRICT = '''# a file
recurrence r
"""Kept   as it is.
  Every line."""

dim    K, V
input  x         : K unit            # note
input  longer, y : K x V in [-1, 1]  # another
output o
param  w         : K = -1 / sqrt(K) shared
steps  r         : R
state  S         : K x V complex

# about
S[t]   = x * S[t-1]                                                  # here
o_long = where(a <= -1, sum(x, over=(K, V)), -S[t,r-1].T @ x ** -2)  # there
f      = (x +                                                        # first
    y)                                                               # second
def g(a, b) = a + b
example T = 33, K = 8

recurrence second
'''


def test_one_form():
    assert format_text(LOOSE) == STRICT


def test_a_spec_with_syntax_errors_is_left_alone():
    with pytest.raises(SpecError, match="E0101"):
        format_text("recurrence r\ninput x :\n")
    assert format_text("recurrence r\ny = unknown\n") == "recurrence r\ny = unknown\n"
