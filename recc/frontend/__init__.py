"""The front end: the text of a .rec file to recurrences in the step IR, or to diagnostics.

Each stage is one function over a whole block: `parse` (text to tree), `declare` (names), `check` (references, time,
causality), `lower` (shapes, dtypes, nodes). No stage stops at an error, so that all of a file come out at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recc.frontend.ast import Assign, Block, Declaration, Ident
from recc.frontend.diagnostics import Bag, Diagnostic, SpecError
from recc.frontend.messages import naming, shapes
from recc.ir.node import Span
from recc.ir.program import Recurrence

__all__ = ["Diagnostic", "SpecError", "check_text", "format_text", "parse_text"]


def parse_text(
    text: str, path: str = "<spec>", dims: Mapping[str, int] | None = None, export: tuple[str, ...] = ()
) -> list[Recurrence]:
    """The recurrences of a spec, in the order of the text.

    dims: sizes that override those of the spec (``dim R = 2`` with ``{"R": 3}``). export: states and locals that are
    outputs of the first one as well, behind those that it declares.

    Raises SpecError with all diagnostics when the spec has any error.
    """
    found, bag = _compile(text, path, dims or {}, export)
    if bag.has_errors:
        raise SpecError(bag.sorted(), text)
    return found


def check_text(text: str, path: str = "<spec>", dims: Mapping[str, int] | None = None) -> list[Diagnostic]:
    """All diagnostics of a spec, warnings too, in the order of the text."""
    return _compile(text, path, dims or {})[1].sorted()


def format_text(text: str, path: str = "<spec>") -> str:
    """`text` as `recc fmt` writes it: with the same tokens. Raises SpecError when it does not parse."""
    from recc.frontend.format import format_text

    return format_text(text, path)


def _compile(
    text: str, path: str, dims: Mapping[str, int], export: tuple[str, ...] = ()
) -> tuple[list[Recurrence], Bag]:
    # Imported here: who only wants the diagnostics' classes need not wait for the parser.
    from recc.analysis.stabilise import stabilised
    from recc.frontend.check import check, unused
    from recc.frontend.lower import lower
    from recc.frontend.parse import parse
    from recc.frontend.scope import MAX_SIZE, Scope, declare

    bag = Bag(path)
    found: list[Recurrence] = []
    scopes: list[Scope] = []
    first: dict[str, Span] = {}
    known: dict[str, None] = {}
    for block in parse(text, bag):
        name = block.name
        if name.text in first:
            bag.add(naming.defined_twice(name.text, name.span, first[name.text]))
        first.setdefault(name.text, name.span)
        scope = declare(block if scopes else _exporting(block, export, bag), bag, dims)
        known |= dict.fromkeys(scope.dims)
        recurrence = lower(scope, check(scope, bag), bag, text, path)
        if recurrence is not None:
            found.append(recurrence)
        scopes.append(scope)
    for scope in scopes if not bag.has_errors else ():
        unused(scope, bag)
    for dim, size in dims.items():
        if first and dim not in known:
            bag.add(naming.no_such_dim(dim, list(known)))
        elif type(size) is not int or not 1 <= size <= MAX_SIZE:
            bag.add(shapes.not_a_size(f"the size given for dim `{dim}`", 1, MAX_SIZE, None))
    return [stabilised(each) for each in found] if not bag.has_errors else [], bag


def _exporting(block: Block, names: tuple[str, ...], bag: Bag) -> Block:
    """`block` with a line `output names`, which stands at its heading as far as messages are concerned."""
    if not names:
        return block
    declared = [each for each in block.statements if isinstance(each, Declaration)]
    outputs = {name.text for each in declared if each.kind == "output" for name in each.names}
    found = [each.target.text for each in block.statements if isinstance(each, Assign)]
    known = [name for name in dict.fromkeys(found) if name not in outputs]
    for name in names:
        if name not in known:
            bag.add(naming.not_to_export(name, known))
    names = tuple(name for name in dict.fromkeys(names) if name in known)
    if not names:
        return block
    place = block.name.span
    more = Declaration("output", tuple(Ident(name, place) for name in names), None, (), None, None, place)
    return replace(block, statements=(*block.statements, more))
