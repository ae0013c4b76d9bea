"""The grammar's tokens, and what is made from them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import recc.grammar.highlight as highlight

from recc.frontend.parse import terminals
from recc.frontend.words import KEYWORDS

SPECS = Path(__file__).parents[2] / "specs"


def test_keywords_are_those_of_the_grammar():
    words = {pattern for pattern in terminals().values() if pattern.isalpha()}
    assert words == {*KEYWORDS, "in", "x"}


def test_the_highlighting_is_current():
    assert highlight.FILE.read_text("utf-8") == highlight.text(), "run `python -m recc.grammar`"


def test_the_highlighting_colours_a_spec():
    rules = json.loads(highlight.text())["patterns"]
    text = re.sub(r'"""(?:.|\n)*?"""', "", (SPECS / "lru.rec").read_text("utf-8"))
    found: dict[str, set[str]] = {}
    for line in text.split("\n"):
        at = 0
        while at < len(line):
            # As an editor does it: the first match from here on, the first rule among equals.
            hits = [
                (m.start(), n, m, r)
                for n, r in enumerate(rules)
                if "match" in r
                if (m := re.compile(r["match"]).search(line, at))
            ]
            if not hits:
                break
            _, _, match, rule = min(hits, key=lambda hit: hit[:2])
            for group, scope in rule.get("captures", {"0": rule}).items():
                found.setdefault(scope["name"].removesuffix(".recc"), set()).add(match[int(group)].strip())
            at = match.end()
    assert found["keyword.other"] == {"recurrence", "dim", "input", "param", "state", "output", "example"}
    assert found["entity.name.type"] == {"lru"} and found["storage.modifier"] == {"complex"}
    assert found["support.function"] == {"log", "uniform", "exp", "complex", "sqrt", "real", "normal"}
    assert found["constant.language"] == {"pi", "t", "heads"} and found["keyword.operator.type"] == {"x"}
    assert {"-", "*", "@", "=", "/", "+"} == found["keyword.operator"] and "0.998" in found["constant.numeric"]


def test_the_front_end_needs_no_heavy_library():
    code = (
        "import sys, recc.frontend as f\n"
        "text = open(sys.argv[1]).read()\n"
        "f.parse_text(text), f.check_text(text), f.format_text(text)\n"
        "print([m for m in ('torch', 'sympy', 'numpy', 'triton') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code, SPECS / "gru.rec"], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
