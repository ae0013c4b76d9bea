"""The spec of the tests of tuning."""

from __future__ import annotations

from recc.frontend import parse_text

TEXT = """recurrence small
dim D
input x : D
input a : D in [0, 1]
state h : D = 0
output h
h[t] = a * h[t-1] + x
"""


def small(text: str = TEXT):
    return parse_text(text, "small.rec")[0]
