"""Where specs come from: a path, or the name of one that ships with recc.

A name never shadows a file: what ends in `.rec` or holds a path separator is a path, the rest is a name.
"""

from __future__ import annotations

import difflib
import os
from importlib import resources
from pathlib import Path


class UnknownSpec(LookupError):
    """Neither a file nor the name of a spec that ships with recc."""

    def __init__(self, asked: str, near: list[str]):
        self.asked, self.near = asked, near
        super().__init__(f"{self.problem}; {self.help}")

    @property
    def problem(self) -> str:
        kind = "no such file" if looks_like_path(self.asked) else "no spec has this name"
        return f"{kind}: `{self.asked}`"

    @property
    def help(self) -> str:
        if self.near:
            return "did you mean " + " or ".join(f"`{name}`" for name in self.near) + "?"
        return "`recc list` shows the names; a path ends in `.rec`"


class UnreadableSpec(OSError):
    """A file that exists but isn't text that can be read."""


def folder() -> Path:
    """The folder of the specs that ship with recc."""
    return Path(str(resources.files("recc.specs")))


def names() -> list[str]:
    """The names of the specs that ship with recc, sorted."""
    return sorted(path.stem for path in folder().glob("*.rec"))


def looks_like_path(text: str) -> bool:
    return text.endswith(".rec") or os.sep in text or "/" in text


def locate(name_or_path: str | os.PathLike) -> Path:
    """The file that a name or path stands for; raises UnknownSpec with the nearest names."""
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
        raise UnknownSpec(text, _nearest(text, known))
    raise UnknownSpec(text, _nearest_files(Path(text)))


def find(name_or_path: str | os.PathLike) -> tuple[str, str]:
    """(text, path) of a spec given by name or path; the path is as short as the user may expect to see it."""
    path = locate(name_or_path)
    try:
        return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n"), shown(path)
    except UnicodeDecodeError as error:
        raise UnreadableSpec(f"`{shown(path)}` is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise UnreadableSpec(f"cannot read `{shown(path)}`: {error.strerror}") from None


def shown(path: Path) -> str:
    """The path relative to the current folder where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _nearest(word: str, known: list[str]) -> list[str]:
    squeezed = {name.replace("_", ""): name for name in known}
    close = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), squeezed, n=3, cutoff=0.6)
    return [squeezed[name] for name in close]


def _nearest_files(path: Path) -> list[str]:
    beside = [str(other) for other in path.parent.glob("*.rec")] if path.parent.is_dir() else []
    return difflib.get_close_matches(str(path), beside, n=3, cutoff=0.6) or _nearest(path.stem, names())
