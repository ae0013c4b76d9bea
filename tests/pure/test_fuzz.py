"""Broken specs by the thousand: each ends in recurrences or in a SpecError, soon, and nothing in it is executed."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import pytest

from recc.frontend import SpecError, check_text, format_text, parse_text
from recc.frontend.codes import TITLES
from recc.frontend.diagnostics import render

SPECS = [path.read_text("utf-8") for path in sorted((Path(__file__).parents[2] / "specs").glob("*.rec"))]
TOKEN = re.compile(r'"""(?:.|\n)*?"""|#[^\n]*|[\w.]+|\*\*|[<>=!]=|\s+|.')
ODD = [
    "\0",
    "\t",
    "\r",
    "\f",
    "\x1b[31m",
    "\ufeff",
    "\u202e",
    "\u2028",
    "é",
    "𝛼",
    "'",
    '"',
    '"""',
    "#",
    "\\",
    "$",
    "{}",
]
NUMBERS = [
    "1e999",
    "-1e-999",
    "9" * 400,
    "0x1f",
    "1_000",
    "1.2.3",
    "1e",
    "00",
    "10 ** 10 ** 10",
    "0/0",
    "2 ** 1024",
    "64",
    "-1",
]
WORDS = [
    "recurrence r",
    "dim",
    "dim K",
    "input",
    "param",
    "state",
    "output",
    "steps r : R",
    "def f(a) = f(a)",
    "example",
    "x",
    "t",
    "heads",
    "K",
    "S[t]",
    "S[t-1]",
    "S[t+1]",
    "S",
    "over=K",
    "sum",
    "eye(K)",
    "uniform(0, 1)",
    ".T",
    "complex",
    "unit",
    "shared",
    "in [1, 0]",
    "<= 0",
    "a < b < c",
    "__import__('os').system('false')",
    "exec",
    "lambda: 0",
    "{0.__class__}",
]


def flip_characters(text: str, draw: random.Random) -> str:
    chars = list(text)
    for _ in range(draw.randint(1, 8)):
        chars[draw.randrange(len(chars))] = draw.choice([chr(draw.randrange(128)), draw.choice(ODD), ""])
    return "".join(chars)


def change_tokens(text: str, draw: random.Random) -> str:
    tokens = TOKEN.findall(text)
    for _ in range(draw.randint(1, 6)):
        at, other = draw.randrange(len(tokens)), draw.randrange(len(tokens))
        kind = draw.randrange(5)
        if kind == 0:
            tokens[at] = ""
        elif kind == 1:
            tokens[at] *= 2
        elif kind == 2:
            tokens[at], tokens[other] = tokens[other], tokens[at]
        elif kind == 3:
            tokens[at] = f" {draw.choice(WORDS)} "
        else:
            tokens[at] = draw.choice(NUMBERS)
    return "".join(tokens)


def change_lines(text: str, draw: random.Random) -> str:
    lines = text.split("\n")
    for _ in range(draw.randint(1, 4)):
        at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        kind = draw.randrange(5)
        if kind == 0:
            lines[at] = ""
        elif kind == 1:
            lines.insert(at, lines[other])
        elif kind == 2:
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == 3:
            lines.insert(at, draw.choice(draw.choice(SPECS).split("\n")))
        else:
            lines[at] = f"{lines[at]}{draw.choice(WORDS)} {draw.choice(ODD)}"
    return "\n".join(lines)


def cut(text: str, draw: random.Random) -> str:
    start = draw.randrange(len(text))
    return text[:start] if draw.random() < 0.5 else text[:start] + text[start + draw.randrange(40) :]


def nest(text: str, draw: random.Random) -> str:
    depth = draw.choice([3, 49, 51, 300])
    opening, closing = draw.choice(
        [("(", ")"), ("-", ""), ("tanh(", ")"), ("x[", "]"), ("1 + ", ""), ("2 ** ", ""), ("(", "")]
    )
    at = draw.choice([match.start() for match in re.finditer(r"\b[a-zA-Z]\b", text)])
    return text[:at] + opening * depth + text[at] + closing * depth + text[at + 1 :]


MUTATIONS = [flip_characters, change_tokens, change_tokens, change_lines, cut, nest]


def survives(text: str) -> str:
    """What became of `text`; any exception other than a SpecError is the test's failure."""
    try:
        parse_text(text)
        return "right"
    except SpecError as error:
        assert error.diagnostics and all(item.code in TITLES for item in error.diagnostics)
        places = [(item.code, item.span, item.message) for item in error.diagnostics]
        assert len(set(places)) == len(places)
        return "wrong"


@pytest.mark.parametrize("part", range(4))
def test_ten_thousand_broken_specs(part: int):
    draw = random.Random(part)
    fates, slowest = {"right": 0, "wrong": 0}, 0.0
    for _ in range(2500):
        text = draw.choice(SPECS)
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            if text:
                text = (
                    draw.choice(MUTATIONS)(text, draw)
                    if re.search(r"\b[a-zA-Z]\b", text)
                    else text + draw.choice(WORDS)
                )
        start = time.process_time()
        fates[survives(text)] += 1
        slowest = max(slowest, time.process_time() - start)
    assert fates["right"] > 100 and fates["wrong"] > 1000, fates
    assert slowest < 5


def test_what_is_printed_of_broken_specs():
    draw = random.Random(0)
    for _ in range(300):
        text = change_lines(flip_characters(draw.choice(SPECS), draw), draw)
        found = check_text(text)
        for form in ("human", "short", "json"):
            shown = render(found, text, form)
            assert "\x1b" not in shown and "\0" not in shown
        try:
            once = format_text(text)
        except SpecError:
            continue
        assert format_text(once) == once


BODY = "recurrence r\ninput x\nstate h = 0\noutput h\n"
EXTREMES = {
    "brackets": "h[t] = " + "(" * 100_000 + "x" + ")" * 100_000,
    "open brackets": "h[t] = " + "(" * 1_000_000,
    "signs": "h[t] = " + "-" * 19_000 + "x",
    "calls": "h[t] = " + "exp(" * 5_000 + "x" + ")" * 5_000,
    "powers": "h[t] = " + "2 ** " * 3_000 + "x",
    "a sum": "h[t] = " + " + ".join(["x"] * 4_000),
    "indices": "h[t] = x" + "[t]" * 5_000,
    "attributes": "h[t] = x" + ".T" * 5_000,
    "a digit string": "h[t] = x + " + "9" * 15_000,
    "digits in a place": "h[t] = x[t-" + "9" * 5_000 + "]",
    "a size of digits": "dim K = " + "9" * 5_000,
    "a long line": "h[t] = " + "x + " * 500_000 + "x",
    "a long name": "h[t] = " + "n" * 19_000,
    "a long file": "\n".join(f"u{i} = x" for i in range(200_000)),
    "many locals": "\n".join(f"u{i} = {'x' if i == 0 else f'u{i - 1} + x'}" for i in range(5_000)) + "\nh[t] = u4999",
    "locals in reverse": "\n".join(f"u{i} = u{i + 1} + x" for i in range(5_000)) + "\nu5000 = x\nh[t] = u0",
    "many errors": "\n".join(f"u{i} = y{i} + " for i in range(3_000)),
    "many unknown names": "\n".join(f"some{i} = x + name{i}" for i in range(3_000)),
    "many functions": "\n".join(f"def f{i}(a) = f{i - 1}(a) + f{i - 1}(a)" if i else "def f0(a) = a" for i in range(60))
    + "\nh[t] = f59(x)",
    "functions of functions": "\n".join(f"def f{i}(a) = f{i + 1}(f{i + 1}(a)) * x" for i in range(40))
    + "\ndef f40(a) = a\nh[t] = f0(x)",
    "deep functions": "\n".join(f"def f{i}(a) = 1 + (2 * f{i - 1}(a))" if i else "def f0(a) = a" for i in range(900))
    + "\nh[t] = f899(x)",
    "wide functions": "def f(" + ", ".join(f"a{i}" for i in range(2_000)) + ") = a0\nh[t] = f(" + "x, " * 1_999 + "x)",
    "many dims": "dim "
    + ", ".join(f"D{i}" for i in range(3_000))
    + "\ninput y : "
    + " x ".join(f"D{i}" for i in range(3_000)),
    "one dim often": "dim D\ninput y : " + " x ".join(["D"] * 4_000) + "\nh[t] = sum(y)",
    "many delays": "\n".join(f"u{i} = x[t-64] * {i}" for i in range(300)),
    "delays of delays": "\n".join(f"u{i} = {'x' if i == 0 else f'u{i - 1}'}[t-64]" for i in range(200))
    + "\nh[t] = u199",
    "micro-steps": "dim R = 64\ninput k : R\nsteps r : R\nstate S = 0\n"
    + "\n".join(f"u{i}[r] = k[r] * {i}" for i in range(1_000))
    + "\nS[t,r] = S[t,r-1] + k[r]",
    "a growing product": "dim R = 64\nsteps r : R\nstate S = 1\nS[t,r] = S[t,r-1] * S[t,r-1] + S[t,r-1]\nh[t] = S[t]",
    "nested docstrings": '"""' * 10_001,
    "comments": "#" * 500_000,
    "blank lines": "\n" * 500_000,
    "many recurrences": "\n".join(f"recurrence r{i}" for i in range(3_000)),
    "numbers": "\n".join(f"u{i} = {i} ** {i} ** {i}" for i in range(300)),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_extremes(name: str):
    start = time.process_time()
    survives(BODY + EXTREMES[name])
    survives(EXTREMES[name])
    assert time.process_time() - start < 10


def test_nothing_is_executed(tmp_path: Path):
    mark = tmp_path / "mark"
    for text in (f"__import__('pathlib').Path({str(mark)!r}).touch()", f"open({str(mark)!r}, 'w')", f"{{{mark}}}"):
        for place in (
            "h[t] = {}",
            "param p = {}",
            "dim K = {}",
            "input a in [{}, 1]",
            "def f(a) = {}",
            '"""{}"""',
            "example T = {}",
        ):
            survives(BODY + place.replace("{}", text))
    assert not mark.exists()


def test_random_bytes():
    draw = random.Random(1)
    for _ in range(300):
        survives(draw.randbytes(draw.randint(0, 400)).decode("latin-1"))
        survives(
            "".join(
                chr(draw.choice([draw.randrange(128), draw.randrange(0x10FFFF)])) for _ in range(draw.randint(0, 200))
            )
        )
