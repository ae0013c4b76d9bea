"""The command line: `recc COMMAND ...`. One file a command; what is heavy is imported when a command needs it.

Exit codes: 0 fine, 1 a bad spec or a failed verification, 2 bad usage, 3 an error in recc itself, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from recc.cli import arguments

INTERNAL_ERROR, INTERRUPTED, PIPE_CLOSED = 3, 130, 141


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; never lets an exception out."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a character that the terminal does not have is no reason to fail
    try:
        # The submodules `list` and `compile` are names of this module: the builtins are out of reach here.
        code = _run(sys.argv[1:] if argv is None else [*argv])
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`recc list | head -1`): nothing to say, and nothing to say it to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except Exception as error:
        return _internal_error(error)


def _run(argv: list[str]) -> int:
    try:
        args = arguments.parse(argv)
    except SystemExit as stop:  # argparse: 0 after --help, 2 after bad usage
        return stop.code if isinstance(stop.code, int) else 2
    if args.command is None:
        arguments.parser().print_help()
        return 2
    from recc.cli import common

    try:
        return arguments.command(args.command).run(args)
    except common.SpecError as error:
        common.report(error, args.message_format)
        return 1
    except (common.Usage, common.SpecNotFound) as error:
        common.complain(error, args.message_format)
        return 2


def _internal_error(error: Exception) -> int:
    if os.environ.get("RECC_DEBUG"):
        import traceback

        traceback.print_exc()
    else:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        print(
            f"error: recc itself failed ({text[:300]}); please report it with the spec and the output of RECC_DEBUG=1",
            file=sys.stderr,
        )
    return INTERNAL_ERROR
