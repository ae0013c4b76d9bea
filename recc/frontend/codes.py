"""Every error code with its title, in one table. The long form of each is `pages/<code>.md`.

A code names a cause, not a place in the compiler: E01 syntax, E02 names, E03 shapes and dtypes, E04 time and
causality, E05 strategies, E06 backends and compiled ops, E07 verification.
"""

from __future__ import annotations

from pathlib import Path

FAMILIES = {
    "E01": "syntax",
    "E02": "names",
    "E03": "shapes and dtypes",
    "E04": "time and causality",
    "E05": "strategies",
    "E06": "backends and compiled ops",
    "E07": "verification",
}

TITLES = {
    "E0101": "something else was expected here",
    "E0102": "a character that the language does not have",
    "E0103": "a bracket without its partner",
    "E0104": "a docstring that does not end, or stands in the wrong place",
    "E0105": "no `recurrence`, or a statement outside of one",
    "E0106": "comparisons in a chain",
    "E0107": "a number that is too large",
    "E0108": "an expression that nests too deeply",
    "E0109": "a line, a type or a file that is too long",
    "E0110": "an index of something that has none",
    "E0111": "a tuple as a value",
    "E0201": "an unknown name",
    "E0202": "a name that is defined twice",
    "E0203": "a name that nothing reads (a warning)",
    "E0204": "an unknown function",
    "E0205": "an unknown dim",
    "E0206": "a reserved name",
    "E0207": "a name of the wrong kind",
    "E0208": "an assignment to something that is given",
    "E0209": "an unknown attribute",
    "E0210": "arguments that a function does not take",
    "E0211": "an output that is never defined",
    "E0212": "a recurrence without an output",
    "E0213": "an initialiser where none belongs, or one that reads what is not known yet",
    "E0214": "a function that calls itself",
    "E0215": "a value where the name of a dim belongs",
    "E0216": "a spec that unfolds into too much",
    "E0301": "a value of another type than declared",
    "E0302": "a matrix product whose dims do not meet",
    "E0303": "operands that meet in more than one way",
    "E0304": "a vector or a matrix was expected",
    "E0305": "a reduction over a dim that is not there",
    "E0306": "a complex value where a real one is needed",
    "E0307": "a truth value where a number is needed",
    "E0308": "a condition that is not a comparison",
    "E0309": "a per-head value in a shared place",
    "E0310": "a domain that makes no sense",
    "E0311": "`unit` on something that is not a real vector",
    "E0312": "an expression of constants that has no value",
    "E0313": "a size that is not a whole number",
    "E0314": "random numbers outside of a param's initialiser",
    "E0315": "a gradient that cannot be taken",
    "E0316": "`contraction` on something that is not a matrix that is learned",
    "E0401": "a state that is never updated",
    "E0402": "a name that is assigned twice",
    "E0403": "a state without a time",
    "E0404": "a value from the future",
    "E0405": "a state further back than one step",
    "E0406": "locals that need each other",
    "E0407": "a state whose new value needs itself",
    "E0408": "the past of a value that depends on a state",
    "E0409": "an index that names no time",
    "E0410": "an assignment to a time other than now",
    "E0411": "a micro-step where there is none",
    "E0412": "micro-steps without a number",
    "E0413": "a look too far into the past",
    "E0414": "a value that needs its own past",
    "E0501": "a strategy that cannot run this spec",
    "E0502": "an unknown strategy",
    "E0601": "a backend that is not available",
    "E0602": "an argument that a compiled op does not take",
    "E0701": "a lowering that differs from the reference",
}


def page(code: str) -> str:
    """The long form of `code`, as Markdown."""
    return (Path(__file__).parent / "pages" / f"{code}.md").read_text("utf-8")
