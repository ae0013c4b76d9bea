"""Show how a spec is derived: what leaves the recurrence, what each state is and why, the strategy that follows and
the ones refused, work and bytes per token, the loops of native code. With an error code such as E0402, show what that
error means."""

from __future__ import annotations

import argparse
import json
import re
import sys

from recc.cli import options


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("spec", metavar="SPEC|CODE")
    parser.add_argument("--json", action="store_true", help="the machine's view")
    parser.add_argument("--target", metavar="ARCH", help="also compile the Triton kernels for a GPU, which need not be "
                        "there, and show what they use: sm_90, sm_80, sm_100, gfx942")  # fmt: skip
    for name, default, words in (("batch", 2, "sequences"), ("time", 4096, "tokens"), ("heads", 8, "heads")):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N",
                            help=f"with --target: {words} of a call (default: {default})")  # fmt: skip
    options.compiling(parser)


def run(args: argparse.Namespace) -> int:
    if re.fullmatch(r"[eE]\d+", args.spec):
        return _page(args.spec.upper())
    from recc.analysis.explain import explain, explain_json
    from recc.backends.c.explain import Section, view
    from recc.cli import common, kernels

    asked = args.strategy, args.chunk, args.target, args.batch, args.time, args.heads
    found = [(rec, *common.choice(rec, args)) for rec in common.recurrences(args.spec, args)]
    if args.json:
        views = [explain_json(*parts) | {"native": view(parts[1])} for parts in found]
        for own, parts in zip(views, found):
            own |= {"kernels": kernels.view(parts[1], *asked)} if args.target else {}
        print(json.dumps(views[0] if len(views) == 1 else views, indent=2))
    else:
        for place, parts in enumerate(found):
            if place:
                print()
            console = common.console()
            console.print(explain(*parts))
            console.print()
            console.print(Section(view(parts[1])))
            if args.target:
                console.print()
                console.print(kernels.Section(kernels.view(parts[1], *asked)))
    return 0


def _page(code: str) -> int:
    """Prints the long form of an error code."""
    from recc.cli import common
    from recc.frontend.codes import TITLES, page

    if code not in TITLES:
        near = [known for known in TITLES if known[:3] == code[:3]] or list(TITLES)
        raise common.Usage(f"no error has the code {code}", f"there are {', '.join(near)}")
    if sys.stdout.isatty():
        from rich.markdown import Markdown

        common.console().print(Markdown(page(code)))
    else:
        print(page(code).rstrip())
    return 0
