"""Show how a spec is derived: what leaves the recurrence, what each state is and why, the strategy that follows and
the ones refused, work and bytes per token. With an error code such as E0402, show what that error means."""

from __future__ import annotations

import argparse
import json
import re


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC|CODE")
    parser.add_argument("--json", action="store_true", help="the machine's view, stable")
    parser.add_argument("--strategy", help="explain this strategy instead of the one that is chosen")
    parser.add_argument("--recurrence", metavar="NAME", help="only this recurrence of the spec")


def run(args: argparse.Namespace) -> int:
    if re.fullmatch(r"[eEwW]\d+", args.spec):
        return _page(args.spec.upper())
    from recc.analysis import analyse
    from recc.analysis.explain import explain, explain_json
    from recc.cli import common

    if args.recurrence:
        found = [common.recurrence(args.spec, args.recurrence)]
    else:
        found = common.recurrences(args.spec)
    plans = [analyse(rec, strategy=args.strategy) for rec in found]
    if args.json:
        views = [explain_json(plan) for plan in plans]
        print(json.dumps(views[0] if len(views) == 1 else views, indent=2))
    else:
        for plan in plans:
            common.console().print(explain(plan))
    return 0


def _page(code: str) -> int:
    """Prints the long form of an error code."""
    from importlib import resources

    from recc.cli import common

    pages = {page.name.removesuffix(".md"): page for page in resources.files("recc.frontend").joinpath("pages").iterdir()}
    if code not in pages:
        near = [known for known in sorted(pages) if known[:3] == code[:3]] or sorted(pages)
        raise common.Usage(f"no error has the code {code}", f"there are {', '.join(near)}")
    text = pages[code].read_text("utf-8")
    import sys

    if sys.stdout.isatty():
        from rich.markdown import Markdown

        common.console().print(Markdown(text))
    else:
        print(text.rstrip())
    return 0
