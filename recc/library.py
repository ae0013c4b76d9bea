"""Where specs come from: a path, or the name of one that ships with recc.

A name never shadows a file: what ends in `.rec` or holds a path separator is a path, the rest is a name.
"""

from __future__ import annotations

import difflib
import os
from importlib import resources
from pathlib import Path


class SpecNotFound(LookupError):
    """No readable spec stands at this path or has this name; `problem` says so, `help` what to try."""

    def __init__(self, problem: str, help: str = ""):
        self.problem, self.help = problem, help
        super().__init__(f"{problem}; {help}" if help else problem)


def folder() -> Path:
    """The folder of the specs that ship with recc."""
    return Path(str(resources.files("recc.specs")))


def names() -> list[str]:
    """The names of the specs that ship with recc, sorted."""
    return sorted(path.stem for path in folder().glob("*.rec"))


def looks_like_path(text: str) -> bool:
    return text.endswith(".rec") or os.sep in text or "/" in text


def locate(name_or_path: str | os.PathLike) -> Path:
    """The file that a name or path stands for; raises SpecNotFound with the nearest names."""
    text = os.fspath(name_or_path)
    if looks_like_path(text):
        path = Path(text)
        if path.exists():
            return path
    elif text in (known := names()):
        return folder() / f"{text}.rec"
    elif Path(text).is_file():  # a spec kept under another suffix
        return Path(text)
    else:
        raise SpecNotFound(f"no spec is called `{text}`", _hint(_nearest(text, known)))
    raise SpecNotFound(f"there is no file `{text}`", _hint(_nearest_files(Path(text))))


def find(name_or_path: str | os.PathLike) -> tuple[str, str]:
    """(text, path) of a spec given by name or path; the path is as short as the user may expect to see it."""
    path = locate(name_or_path)
    try:
        return decode(path.read_bytes(), shown(path)), shown(path)
    except OSError as error:
        raise SpecNotFound(f"`{shown(path)}` cannot be read: {(error.strerror or str(error)).lower()}") from None


def decode(content: bytes, path: str) -> str:
    """The text of a spec file: UTF-8, with or without a byte order mark, lines ended as on any system."""
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise SpecNotFound(f"`{path}` is not UTF-8 text: byte {error.start} begins no character") from None


def shown(path: Path) -> str:
    """The path relative to the current folder where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _hint(near: list[str]) -> str:
    if near:
        return "did you mean " + " or ".join(f"`{name}`" for name in near) + "?"
    return "`recc list` shows the names; a path ends in `.rec`"


def _nearest(word: str, known: list[str]) -> list[str]:
    squeezed = {name.replace("_", ""): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), squeezed, n=3, cutoff=0.6)
    return [squeezed[name] for name in close]


def _nearest_files(path: Path) -> list[str]:
    beside = [str(other) for other in path.parent.glob("*.rec")] if path.parent.is_dir() else []
    return difflib.get_close_matches(str(path), beside, n=3, cutoff=0.6) or _nearest(path.stem, names())
