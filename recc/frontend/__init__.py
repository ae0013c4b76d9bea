"""The front end: the text of a .rec file to recurrences in the step IR, or to diagnostics."""

from __future__ import annotations

from collections.abc import Mapping

from recc.frontend.diagnostics import Bag, Diagnostic, SpecError
from recc.ir.program import Recurrence

__all__ = ["Diagnostic", "SpecError", "check_text", "parse_text"]


def parse_text(text: str, path: str = "<spec>", dims: Mapping[str, int] | None = None) -> list[Recurrence]:
    """The recurrences of a spec, in the order of the text.

    dims: sizes that override those of the spec (``dim R = 2`` with ``{"R": 3}``).

    Raises SpecError with all diagnostics when the spec has any error.
    """
    found, bag = _compile(text, path, dims)
    if bag.has_errors:
        raise SpecError(bag.sorted(), text)
    return found


def check_text(text: str, path: str = "<spec>", dims: Mapping[str, int] | None = None) -> list[Diagnostic]:
    """All diagnostics of a spec, warnings too, in the order of the text."""
    return _compile(text, path, dims)[1].sorted()


def _compile(text: str, path: str, dims: Mapping[str, int] | None) -> tuple[list[Recurrence], Bag]:
    # Imported here: who only wants the diagnostics' classes need not wait for the parser.
    from recc.frontend import messages
    from recc.frontend.check import check
    from recc.frontend.lower import lower
    from recc.frontend.parse import parse
    from recc.frontend.scope import declare

    bag = Bag(path)
    found, first = [], {}
    for block in parse(text, bag):
        if block.name.text in first:
            bag.add(messages.defined_twice(block.name.text, block.name.span, first[block.name.text]))
        first.setdefault(block.name.text, block.name.span)
        scope = declare(block, bag, dims or {})
        recurrence = lower(scope, check(scope, bag), bag, text, path)
        if recurrence is not None:
            found.append(recurrence)
    return found, bag
