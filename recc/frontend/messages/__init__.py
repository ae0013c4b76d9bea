"""The texts of all diagnostics of the front end: one function for each cause, which says what is wrong, why, and
what to write instead. Lower case, no full stop at the end; a note says why, a help what to write.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from recc.frontend.diagnostics import ERROR, Diagnostic, Label
from recc.ir.node import Span

_LONGEST = 48  # characters of a name in a message
_CROWD = 200  # names; among more of them no guess is made, since it takes as long as there are names


def diagnostic(
    code: str,
    message: str,
    span: Span | None,
    label: str = "",
    *,
    labels: Sequence[Label] = (),
    note: str | Sequence[str] = (),
    help: str | Sequence[str] = (),
    severity: str = ERROR,
) -> Diagnostic:
    """A Diagnostic; `note` and `help` are one text or several, empty ones are left out."""
    return Diagnostic(code, message, span, label, tuple(labels), _texts(note), _texts(help), severity)


def _texts(texts: str | Sequence[str]) -> tuple[str, ...]:
    return tuple(text for text in ([texts] if isinstance(texts, str) else texts) if text)


def quote(name: str) -> str:
    """`name` in backticks, cut when it is absurdly long."""
    return f"`{name if len(name) <= _LONGEST else name[: _LONGEST - 3] + '...'}`"


def a(kind: str) -> str:
    """``an input``, ``a state``.

    >>> a("output"), a("dim")
    ('an output', 'a dim')
    """
    return ("an " if kind[0] in "aeiou" else "a ") + kind


def listing(names: Iterable[str], word: str = "and") -> str:
    """`a`, `b` and `c`."""
    quoted = [quote(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {word} {quoted[-1]}" if quoted else "none"


def nearest(name: str, known: Iterable[str]) -> str:
    """``did you mean `x`?`` for the names that resemble `name`; empty when none does."""
    known = [other for other in known if other != name]
    if len(name) > _LONGEST or len(known) > _CROWD:
        return ""
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)  # before those that differ in upper and lower case
    lower = {other.lower(): other for other in reversed(known)}
    close += [lower[word] for word in difflib.get_close_matches(name.lower(), lower, n=2, cutoff=0.6)]
    close = list(dict.fromkeys(close))[:2]
    return f"did you mean {listing(close, 'or')}?" if close else ""
