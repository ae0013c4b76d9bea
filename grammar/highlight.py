"""Syntax highlighting for editors, made from the grammar's own tokens: ``python -m recc.grammar`` writes it.

`recc.tmLanguage.json` is a TextMate grammar, which VS Code, Sublime Text, JetBrains editors and GitHub's linguist read.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from recc.frontend.parse import terminals
from recc.frontend.prelude import CONSTANTS, FUNCTIONS
from recc.frontend.words import ATTRIBUTES, KEYWORDS

FILE = Path(__file__).parent / "recc.tmLanguage.json"
_OPERATORS = ("POWER", "LE", "GE", "EQ", "NE", "LT", "GT", "PLUS", "MINUS", "TIMES", "OVER", "AT", "EQUAL")
_NAMED = {"recurrence": "entity.name.type", "def": "entity.name.function"}


def tm_language() -> dict[str, Any]:
    """The TextMate grammar."""
    table = terminals()
    name = table["NAME"]
    plain = [word for word in KEYWORDS if word not in _NAMED]
    headings = [
        {
            "match": rf"^\s*({word})\s+({name})",
            "captures": {"1": {"name": "keyword.other.recc"}, "2": {"name": f"{scope}.recc"}},
        }
        for word, scope in _NAMED.items()
    ]
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "recc",
        "scopeName": "source.recc",
        "fileTypes": ["rec"],
        "patterns": [
            {"name": "string.quoted.triple.recc", "begin": '"""', "end": '"""'},
            _rule("comment.line.number-sign", table["COMMENT"]),
            *headings,
            _rule("keyword.other", rf"^\s*{_words(plain)}"),
            _rule("storage.modifier", rf"{_words(ATTRIBUTES)}(?!\s*\()"),
            _rule("keyword.operator.type", rf"(?<=\w )({table['X']}|{table['IN']})(?= [\w\[])"),
            _rule("support.function", rf"{_words(sorted(FUNCTIONS))}(?=\s*\()"),
            _rule("constant.language", _words([*CONSTANTS, "heads", "t"])),
            _rule("entity.name.function", rf"{name}(?=\s*\()"),
            _rule("constant.numeric", rf"(?<![\w.]){table['NUMBER']}"),
            _rule("keyword.operator", "|".join(table[sign] for sign in _OPERATORS)),
        ],
    }


def _rule(scope: str, pattern: str) -> dict[str, str]:
    return {"name": f"{scope}.recc", "match": pattern}


def _words(words: Any) -> str:
    return rf"\b({'|'.join(words)})\b"


def text() -> str:
    """What belongs in `FILE`."""
    return json.dumps(tm_language(), indent=2) + "\n"
