"""The words of the language that are not functions."""

from __future__ import annotations

KEYWORDS = ("recurrence", "dim", "input", "param", "state", "output", "steps", "def", "example")
ATTRIBUTES = ("unit", "contraction", "shared", "complex")
