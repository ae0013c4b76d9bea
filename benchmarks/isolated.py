"""Work in a process of its own, which is ended, with the compilers that it has started, after a time limit."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any


def isolated(work: Callable[[Any], Any], case: Any, limit: float) -> Any:
    """What `work` gives for a case, or, as a text, why there is nothing. limit: seconds."""
    started = multiprocessing.get_context("spawn")
    ours, theirs = started.Pipe(duplex=False)
    process = started.Process(target=_answer, args=(work, case, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        return ours.recv() if ours.poll(limit) else f"not compiled within {limit:.0f} s"
    except EOFError:
        return "the process ended"
    finally:
        if process.is_alive():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.kill()
        process.join()


def _answer(work: Callable[[Any], Any], case: Any, answer: Connection) -> None:
    os.setsid()  # with the compilers that it starts
    try:
        answer.send(work(case))
    except Exception as error:  # a compiler's own words are the finding
        answer.send(" ".join(f"{type(error).__name__}: {error}".split())[-160:])


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on standard error, where that is a terminal; called with what has been done last."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        row = bar.add_task("compiling", total=total)
        yield lambda done: bar.update(row, advance=1, description=done[:40])
