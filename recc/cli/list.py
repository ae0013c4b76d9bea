"""List the specs that ship with recc, with what the analysis finds in each: its class and the strategy that follows."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from typing import Any

BEGIN, END = "<!-- recc list: begin -->", "<!-- recc list: end -->"


def arguments(parser: argparse.ArgumentParser) -> None:
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--names", action="store_true", help="only the names")
    form.add_argument("--json", action="store_true", help="the machine's view")
    form.add_argument("--markdown", action="store_true", help="as a Markdown table")
    form.add_argument("--readme", metavar="FILE", help="put that table between its markers in FILE")


def run(args: argparse.Namespace) -> int:
    from recc.cli import common
    from recc.library import names

    if args.names:
        print("\n".join(names()))
        return 0
    rows = table()
    if args.json:
        print(json.dumps(rows, indent=2))
    elif args.markdown:
        print(markdown(rows))
    elif args.readme:
        old = common.read_file(args.readme)
        new = between_markers(old, markdown(rows), args.readme)
        if new != old:
            common.write(args.readme, new)
            print(f"{args.readme}: table updated")
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(plain(rows, width))
    return 0


def table() -> list[dict[str, Any]]:
    """One row a spec: its name, what it is, where it is from, the class of its memories, the strategy chosen, what
    stands in the way of a parallel form (None where it has one), whether native code serves it, and its length."""
    from recc.analysis import analyse
    from recc.analysis.explain import class_of
    from recc.backends.c.limits import refusal
    from recc.frontend import parse_text
    from recc.library import find, names
    from recc.strategies import choose
    from recc.strategies.hindrance import hindrance

    rows = []
    for name in names():
        text, path = find(name)
        rec = parse_text(text, path)[0]
        plan = analyse(rec)
        choice = choose(plan)
        # Past values that a spec reads are states too, but say nothing about the architecture.
        memories = [part for part in plan.components if not all(rec.state(state).delay for state in part.states)]
        memories = memories or list(plan.components)
        title, source = _title(rec.doc)
        slow = [part for part in memories if choice.name(part) == "sequential"]
        rows.append({
            "spec": name,
            "title": title,
            "source": source,
            "class": "; ".join(dict.fromkeys(class_of(part) for part in memories)),
            "strategy": " and ".join(dict.fromkeys(choice.name(part) for part in memories)),
            "parallel": choice.parallel,
            "hindrance": None if choice.parallel else hindrance(slow[0], plan).text,
            "native": refusal(plan) is None,
            "lines": len(text.splitlines()),
        })  # fmt: skip
    return rows


def _title(doc: str) -> tuple[str, str]:
    """(what it is, its source) from a docstring: its first sentence, and what follows up to the end of a line."""
    first, _, rest = doc.strip().partition("\n")
    title, _, source = first.partition(". ")
    return title.strip().rstrip("."), (source or rest.partition("\n")[0]).strip().rstrip(".")


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table."""
    lines = ["| spec | what it is | class | strategy | native |", "|---|---|---|---|---|"]
    for row in rows:
        name, native = row["spec"], "yes" if row["native"] else "no"
        cells = (f"[`{name}`](specs/{name}.rec)", row["title"], row["class"], row["strategy"], native)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def between_markers(text: str, table: str, path: str) -> str:
    """`text` with what stands between the markers replaced; raises Usage where they are missing."""
    from recc.cli import common

    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise common.Usage(f"`{path}` has no markers for the table", f"put `{BEGIN}` and `{END}` on lines of their own")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def plain(rows: list[dict[str, Any]], width: int | None) -> str:
    """The rows as aligned columns; the last one is cut at `width`."""
    head = {"spec": "spec", "class": "class", "strategy": "strategy", "title": "what it is"}
    wide = {key: max(len(row[key]) for row in (head, *rows)) for key in ("spec", "class", "strategy")}
    lines = ["   ".join([*(row[key].ljust(size) for key, size in wide.items()), row["title"]]) for row in (head, *rows)]
    return "\n".join(line if width is None or len(line) <= width else line[: width - 3] + "..." for line in lines)
