"""Lines of generated code that fit in 120 columns."""

from __future__ import annotations


def wrapped(head: str, parts: list[str], tail: str) -> list[str]:
    """`head`, the parts, `tail` on as many lines as they need."""
    line = head + ", ".join(parts) + tail
    if len(line) <= 120:
        return [line]
    indent = " " * (len(head) - len(head.lstrip()) + 4)
    lines, current = [head], indent
    for part in parts:
        if len(current) + len(part) > 116 and current.strip():
            lines.append(current.rstrip())
            current = indent
        current += f"{part}, "
    return [*lines, current.rstrip(), " " * (len(indent) - 4) + tail]


def folded(line: str) -> list[str]:
    """A statement on as many lines as it needs: calls are broken at their arguments, sums at their terms."""
    if len(line) <= 120 or "(" not in line or line.lstrip().startswith(("#", "@", "def")):
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    start = line.index("(")
    stop = _closing(line, start)
    if stop - start < 40 and "(" in line[stop:]:
        start = line.index("(", stop)
        stop = _closing(line, start)
    parts = _split_at(line[start + 1 : stop], ", ")
    called = line[start - 1].isalnum() or line[start - 1] == "_"
    comma = "," if called or len(parts) > 1 else ""  # else a pair of parentheses alone
    inside: list[str] = []
    for part in parts:
        inside += _broken(f"{indent}    {part}{comma}")
    return [line[: start + 1], *inside, *folded(indent + line[stop:])]


def _broken(line: str) -> list[str]:
    """An argument of a call, which is broken itself where it is too long."""
    if len(line) <= 120:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    terms = _split_at(line.strip(), " + ")
    if len(terms) == 1:
        return folded(line)
    lines, current = [], indent + terms[0]
    for term in terms[1:]:
        if len(current) + len(term) > 114:
            lines.append(current)
            current = f"{indent}+ {term}"
        else:
            current += f" + {term}"
    return [*lines, current]


def _closing(text: str, start: int) -> int:
    depth = 0
    for place in range(start, len(text)):
        depth += (text[place] in "([") - (text[place] in ")]")
        if depth == 0:
            return place
    raise ValueError(text)


def _split_at(text: str, mark: str) -> list[str]:
    """`text` in parts at the marks that stand in no parentheses."""
    parts, depth, last = [], 0, 0
    for place, char in enumerate(text):
        depth += (char in "([") - (char in ")]")
        if depth == 0 and text.startswith(mark, place):
            parts.append(text[last:place])
            last = place + len(mark)
    return [*parts, text[last:]]
