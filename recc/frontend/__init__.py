"""The front end: the text of a .rec file becomes recurrences in the step IR, or a list of everything wrong with it.

The stages, each one function over the whole of a block: `parse` (text to tree), `declare` (names), `check` (references,
time, causality), `lower` (shapes, dtypes, nodes).
"""

from __future__ import annotations

from collections.abc import Mapping

from recc.frontend.check import check
from recc.frontend.diagnostics import Bag, Diagnostic, SpecError
from recc.frontend.lower import lower
from recc.frontend.parse import parse
from recc.frontend.scope import declare
from recc.ir.program import Recurrence

__all__ = ["Diagnostic", "SpecError", "check_text", "parse_text"]


def parse_text(text: str, path: str = "<spec>", dims: Mapping[str, int] | None = None) -> list[Recurrence]:
    """The recurrences of a .rec file's `text`. `dims` fixes the sizes of dims, whatever the spec says of them.

    Raises SpecError with every finding when there is an error among them.
    """
    found, bag = _compile(text, path, dims or {})
    if bag.has_errors:
        raise SpecError(bag.sorted(), text)
    return found


def check_text(text: str, path: str = "<spec>") -> list[Diagnostic]:
    """Everything there is to say about `text`: errors and warnings in the order of the text."""
    return _compile(text, path, {})[1].sorted()


def _compile(text: str, path: str, dims: Mapping[str, int]) -> tuple[list[Recurrence], Bag]:
    bag = Bag(path)
    found = []
    for block in parse(text, bag):
        scope = declare(block, bag, dims)
        facts = check(scope, bag)
        found.append(lower(scope, facts, bag, text, path))
    return [rec for rec in found if rec is not None], bag
