"""Which C compiler this machine has, and which vectors it makes for this processor.

Both are asked of the compiler itself. That takes some 10 ms, so the answers are kept in a small file whose name is a
hash of the compiler's path, time and size and of the processor: a later process reads it and starts no compiler.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import re
import shlex
import shutil
import sys
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from recc.backends.c import cache

INSTALL = (
    "install one (Debian and Ubuntu: `apt install gcc`; Fedora: `dnf install gcc`; macOS: `xcode-select --install`; "
    "anywhere: `pip install ziglang`), or name one in the environment variable CC"
)
NATIVE = (("-march=native",), ("-mcpu=native",), ())  # clang knows only the second for some processors


class BuildError(RuntimeError):
    """C code could not be built or loaded; the message says why and what can be done."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler that was found to work.

    command: the words that start it, such as ("/usr/bin/cc",) or (python, "-m", "ziglang", "cc").
    version: the first line of what it says of itself.
    """

    command: tuple[str, ...]
    version: str


@dataclass(frozen=True)
class Target:
    """What the compiler builds for.

    isa: the architecture, its vector extensions and a hash of all that the compiler predefines for it.
    vector_bytes: bytes of a vector register: 64 with AVX-512F, 32 with AVX2, else 16 (SSE2, NEON).
    flags: how to ask for it.
    """

    isa: str
    vector_bytes: int
    flags: tuple[str, ...]


def find_compiler() -> Compiler | None:
    """The first that works of $CC, cc, gcc and clang on the PATH, and zig's clang from the `ziglang` package."""
    found = _found()
    return found[0] if found else None


def target() -> Target:
    """What the compiler builds for on this machine; without a compiler, the least that every machine has."""
    found = _found()
    return found[1] if found else Target(platform.machine().lower() or "unknown", 16, ())


def usable() -> bool:
    """Whether there is a C compiler. The first time that there is none, a warning says what to install."""
    if find_compiler() is not None:
        return True
    cache.warn_once(f"recc found no C compiler: {INSTALL}. Until then the torch backend serves, which is slower.")
    return False


# --- the search -----------------------------------------------------------------------------------------------------


def _found() -> tuple[Compiler, Target] | None:
    """Searched again only if what the search depends on changes."""
    return _search(os.environ.get("CC", ""), os.environ.get("PATH", os.defpath), cache.folder())


@functools.lru_cache(maxsize=16)
def _search(cc: str, path: str, folder: Path) -> tuple[Compiler, Target] | None:
    for words in ([*shlex.split(cc)], ["cc"], ["gcc"], ["clang"]):
        program = shutil.which(words[0], path=path) if words else None
        if program and (answers := _answers((program, *words[1:]), _stamps([program, *words[1:]], path), folder)):
            return answers
    if (zig := util.find_spec("ziglang")) and zig.origin:
        return _answers((sys.executable, "-m", "ziglang", "cc"), _stamps([sys.executable, zig.origin], path), folder)
    return None


def _stamps(words: list[str], path: str) -> list[list]:
    """Path, time and size of each word that names a program, such as both of `ccache gcc`; other words as they are."""
    stamps: list[list] = []
    for word in words:
        program = shutil.which(word, path=path) or (word if os.path.isfile(word) else None)
        if program is None:
            stamps.append([word])
            continue
        real = os.path.realpath(program)
        status = os.stat(real)
        stamps.append([word, real, status.st_mtime_ns, status.st_size])
    return stamps


def _processor() -> str:
    """Text that differs between processors, since machines may share a home folder. Nothing is read out of it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read(8192).partition("\n\n")[0]
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    kept = ("vendor", "cpu family", "model", "stepping", "flags", "Features", "CPU", "isa", "uarch")
    return platform.machine() + "".join(line for line in first.splitlines() if line.startswith(kept))


def _answers(command: tuple[str, ...], stamps: list[list], folder: Path) -> tuple[Compiler, Target] | None:
    """What the compiler says, from the file that keeps it or from the compiler; None if it does not work."""
    known = hashlib.sha256(json.dumps([command, stamps, _processor()]).encode()).hexdigest()
    file = folder / f"compiler-{known[:32]}.json"
    try:
        kept = json.loads(file.read_bytes())
        return Compiler(command, kept["version"]), Target(kept["isa"], kept["vector_bytes"], tuple(kept["flags"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # not asked yet, or the file is damaged
    said = _run(command, "--version")
    if said is None or not said.strip():
        return None
    for flags in NATIVE:
        macros = _run(command, *flags, "-dM", "-E", "-x", "c", os.devnull)
        if macros is not None:
            break
    else:
        return None
    compiler, aim = Compiler(command, said.strip().splitlines()[0]), _target_of(macros, flags)
    content = {"version": compiler.version, "isa": aim.isa, "vector_bytes": aim.vector_bytes, "flags": aim.flags}
    try:
        cache.write(file, json.dumps(content).encode())
    except OSError:
        pass  # asked again next time; `library` says that the folder cannot be written
    return compiler, aim


def _target_of(macros: str, flags: tuple[str, ...]) -> Target:
    defined = set(re.findall(r"^#define (\w+)", macros, re.MULTILINE))
    extensions = sorted(
        name.strip("_").lower() for name in defined if re.match(r"__(AVX|FMA|F16C|ARM_NEON|ARM_FEATURE_SVE)", name)
    )
    all_of_it = hashlib.sha256("\n".join(sorted(macros.splitlines())).encode()).hexdigest()[:12]
    width = 64 if "__AVX512F__" in defined else 32 if "__AVX2__" in defined else 16
    return Target(" ".join([platform.machine().lower(), *extensions, all_of_it]), width, flags)


def _run(command: tuple[str, ...], *arguments: str) -> str | None:
    """What the compiler prints, or None if it fails."""
    import subprocess

    try:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
