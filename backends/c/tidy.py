"""What makes a generated C file readable: only the definitions that it needs, comments, lines of a fair length."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

from recc.backends.c.loops import Loops

from recc.ir.node import Node
from recc.tile.cores import INVARIANT, Core
from recc.tile.pairs import whole_name
from recc.tile.program import TileProgram
from recc.tile.words import Words

LONGEST, USUAL = 160, 120  # a line may be as long as this; one that is longer is broken near the second

_NAMED = (
    r"(?:LANES|ONCE) \w+ (\w+)\(",
    r"typedef (?:long long|\w+) (\w+)",
    r"#define (\w+)",
    r"enum \{ (\w+)",
)


def tidied(head: str, prelude: str, body: str) -> str:
    """The file: the head, what the body needs of the prelude, and the body, without lines that are too long."""
    return wrapped(f"{head}{needed(prelude, body)}\n{body}")


def needed(prelude: str, body: str) -> str:
    """The definitions of the prelude that the body needs, directly or for others that it needs, in their order."""
    parts = [(_names(part), part, _words(part)) for part in _definitions(prelude)]
    words, kept = _words(body), set()
    while True:
        more = {n for n, (names, _, _) in enumerate(parts) if n not in kept and (not names or names & words)}
        if not more:
            return "".join(parts[n][1] for n in sorted(kept))
        kept |= more
        words = words.union(*(parts[n][2] for n in more))


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", "\n".join(line.partition("//")[0] for line in text.splitlines())))


def _names(part: str) -> set[str]:
    return {name for pattern in _NAMED for name in re.findall(rf"^{pattern}", part, re.MULTILINE)}


def _definitions(text: str) -> Iterator[str]:
    """The definitions at the top level, each with the comments above it; what stands in an `#if` is one."""
    part, whole, depth = "", False, 0
    for line in text.splitlines(keepends=True):
        starts = line[0] not in " }\n" and not depth
        if starts and whole:
            yield part
            part, whole = "", False
        depth += line.startswith("#if") - line.startswith("#endif")
        part += line
        whole |= line[0] not in "/\n"
    yield part


def wrapped(text: str) -> str:
    """The text without lines that are too long."""
    return "".join(
        line if len(line) <= LONGEST + 1 else "\n".join(_broken(line.rstrip("\n"))) + "\n"
        for line in text.splitlines(keepends=True)
    )


def _broken(line: str) -> Iterator[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    if line.lstrip().startswith("//"):
        words = line.lstrip().removeprefix("//").strip()
        yield from textwrap.wrap(words, USUAL, initial_indent=f"{indent}// ", subsequent_indent=f"{indent}//     ")
        return
    code, slashes, comment = line.partition("  // ")
    if slashes:
        yield f"{indent}// {comment}"
    rest, margin = code.rstrip(), ""
    while len(margin + rest) > LONGEST:
        room = USUAL - len(margin)
        place = max(
            rest.rfind(", ", 0, room) + 1, *(rest.rfind(mark, 0, room) + 2 for mark in (" { ", " + ", " : ", "; "))
        )
        if place <= len(indent) + 2:  # nowhere to break it
            break
        yield (margin + rest[:place]).rstrip()
        rest, margin = rest[place:].lstrip(), indent + "    "
    yield margin + rest


# --- comments ---------------------------------------------------------------------------------------------------------


def stage_comment(number: int, cores: list[Core], backwards: bool) -> str:
    """What a stage is, by its place among the cores."""
    if number == INVARIANT:
        return "// once: what is the same at every token"
    if number < len(cores):
        return f"// before the loop that carries {_states(cores[number], backwards)}: what does not wait for it"
    return f"// after the loop{'s' * (len(cores) > 1)}: what no state waits for" if cores else "// at every token"


def core_comment(core: Core, loops: Loops, backwards: bool) -> str:
    """What a core is, and what of its states stays where."""
    order = ", last to first," if backwards else ""
    return f"// the loop over tokens{order} that carries {_states(core, backwards)}: {_kept(loops)}"


def _states(core: Core, backwards: bool) -> str:
    names = state_names(core)
    return f"the cotangent{'s' * (len(names) > 1)} of {', '.join(names)}" if backwards else ", ".join(names)


def state_names(core: Core) -> list[str]:
    """What the spec calls the states of a core, the parts of a complex one together."""
    return list(dict.fromkeys(whole_name(carry.name) for carry in core.carries))


def _kept(loops: Loops) -> str:
    if loops.lane is None:
        return "one number"
    vectors = f"{loops.vectors} vector{'s' * (loops.vectors > 1)}"
    tile = f"{loops.rows} x {vectors}" if loops.row is not None else vectors
    return {
        "tile": f"a tile of {tile} stays in registers",
        "strip": f"a strip of {vectors} stays in the first-level cache, {loops.rows} of its rows at a time",
        "whole": f"each token passes over the whole state, {tile} at a time",
    }[loops.shape]


def notes(program: TileProgram, nodes: Iterable[Node]) -> list[str]:
    """The lines of the spec that nodes are written on, each once."""
    words = Words(program)
    return [f"// {note}" for node in nodes if node.args for note in words.notes(node)]
