"""C text to a loaded library: built by the machine's compiler at first use, and kept for all later processes.

A library's folder in the cache is named by the sha256 of its source, flags, compiler and instruction set. In it lies
`kernel.c`, for reading, and the library, named by the sha256 of its own bytes, which is verified before it is
loaded: a file that was cut short or altered is built again. What is built appears under its final name in one step, so
processes may build the same library at once, or be killed at any time, and no other process sees a part of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import threading
import time
from pathlib import Path

from recc.backends.c import cache
from recc.backends.c.compiler import INSTALL, BuildError, Compiler, Target, find_compiler, target, usable

__all__ = [
    "MODES", "BuildError", "Compiler", "Target", "compile_file", "find_compiler", "flags", "library",
    "sanitizer_environment", "target", "usable",
]  # fmt: skip

# -std=c11 alone would turn off the fusing of products and sums, which gcc and clang do by default only in GNU C.
COMMON = ("-O2", "-fno-math-errno", "-std=c11", "-ffp-contract=fast", "-fPIC", "-shared")
MODES = {
    "native": (),
    # Each product and each sum is rounded: equal bits whatever the level of optimisation and the instruction set.
    "portable": ("-ffp-contract=off",),
    "sanitize": ("-g", "-fno-omit-frame-pointer", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
}
SHOWN = 12  # lines of a compiler's complaint in an error's message

_outcomes: dict[str, ctypes.CDLL | BuildError] = {}  # by key, failures too: a build is tried once in a process
_locks: dict[str, threading.Lock] = {}
_locks_lock = threading.Lock()


def flags(mode: str = "native", extra_flags: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The flags of a mode, without the names of files. Later ones win, so extra flags may change the others."""
    if mode not in MODES:
        raise ValueError(f"no build mode {mode!r}; there are {', '.join(MODES)}")
    return (*COMMON, *target().flags, *MODES[mode], *extra_flags)


def library(source: str, *, mode: str = "native", extra_flags: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The shared library of a C source, built if no process has built it before.

    mode: `native` for speed; `portable` for equal bits whatever the optimisation; `sanitize` to find errors of memory
    and undefined behaviour, which needs a process started with `sanitizer_environment()`.
    extra_flags: more for the compiler, such as ("-O3",). Raises BuildError. Calls release the GIL.
    """
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(f"no C compiler was found: {INSTALL}")
    used = flags(mode, extra_flags)
    if mode == "sanitize" and not hasattr(ctypes.CDLL(None), "__asan_init"):
        raise BuildError("address sanitizing needs a process that was started with build.sanitizer_environment()")
    text = "\0".join([source, *used, *compiler.command, compiler.version, target().isa])
    key = hashlib.sha256(text.encode()).hexdigest()
    with _locks_lock:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:
        if key not in _outcomes:
            try:
                _outcomes[key] = _load(key, source, compiler, used)
            except BuildError as error:
                _outcomes[key] = error
    outcome = _outcomes[key]
    if isinstance(outcome, BuildError):
        raise BuildError(*outcome.args)
    return outcome


def compile_file(source: Path, to: Path, mode: str = "native", extra_flags: tuple[str, ...] = ()) -> None:
    """Compiles a C file to a shared library. Raises BuildError with the first lines of what the compiler says."""
    compiler = find_compiler()
    if compiler is None:
        raise BuildError(f"no C compiler was found: {INSTALL}")
    _compile(compiler, flags(mode, extra_flags), source, to)


def sanitizer_environment() -> dict[str, str]:
    """Variables for a process that is to load libraries built with mode="sanitize"; {} where that is not possible.

    The sanitizer's runtime must be the first library of a process. Leaks are not reported: Python's own are many.
    """
    import subprocess

    compiler = find_compiler()
    if compiler is None:
        return {}
    runtime = f"libclang_rt.asan-{os.uname().machine}.so" if "clang" in compiler.version else "libasan.so"
    asked = subprocess.run([*compiler.command, f"-print-file-name={runtime}"], capture_output=True, text=True)
    place = asked.stdout.strip()
    if os.path.isabs(place) and os.path.isfile(place):
        return {"LD_PRELOAD": os.path.realpath(place), "ASAN_OPTIONS": "detect_leaks=0"}
    return {}


# --- from the cache, or by the compiler -----------------------------------------------------------------------------


def _load(key: str, source: str, compiler: Compiler, used: tuple[str, ...]) -> ctypes.CDLL:
    """From the cache; else built there; else, where that cannot be, built in a folder of this process."""
    shared = cache.folder() / key
    try:
        return _kept(shared) or ctypes.CDLL(str(_build(shared, source, compiler, used)))
    except OSError as error:  # no place to write, or one from which no library may be loaded
        cache.warn_once(
            f"recc cannot keep what it builds in {cache.folder()} ({error.strerror or error}), so every process builds "
            "it again; name a folder that can be written in the environment variable RECC_CACHE_DIR"
        )
    try:
        return ctypes.CDLL(str(_build(Path(cache.temporary().name) / key, source, compiler, used)))
    except OSError as error:
        raise BuildError(f"the library that {compiler.command[0]} built cannot be loaded: {error}") from None


def _kept(folder: Path) -> ctypes.CDLL | None:
    """The library in this folder whose bytes are what its name says, loaded."""
    try:
        names = os.listdir(folder)
    except OSError:
        return None
    for name in names:
        if name.endswith(".so"):
            path = folder / name
            if _digest(path) == name.removesuffix(".so"):
                return ctypes.CDLL(str(path))
            path.unlink(missing_ok=True)  # damaged
    return None


def _build(folder: Path, source: str, compiler: Compiler, used: tuple[str, ...]) -> Path:
    """Compiles the source; returns the library's final path. Raises OSError where the folder cannot be written."""
    import tempfile

    readable = folder / "kernel.c"
    cache.write(readable, source.encode())
    _sweep(folder)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=folder, ignore_cleanup_errors=True) as work:
        built = Path(work) / "kernel.so"
        _compile(compiler, used, readable, built)
        final = folder / f"{_digest(built)}.so"
        os.replace(built, final)
    return final


def _sweep(folder: Path) -> None:
    """Removes what builds that were killed have left; one of the last hour may be under way."""
    import shutil

    for left in folder.glob(".*"):
        with contextlib.suppress(OSError):  # another process has finished with it
            if time.time() - left.stat().st_mtime > 3600:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _compile(compiler: Compiler, used: tuple[str, ...], source: Path, to: Path) -> None:
    import subprocess

    command = [*compiler.command, *used, "-o", str(to), str(source)]
    # In English, since the message looks for the word "error".
    said = {"capture_output": True, "text": True, "errors": "replace", "env": os.environ | {"LC_ALL": "C"}}
    try:
        done = subprocess.run(command, **said)
    except OSError as error:
        raise BuildError(f"{command[0]} could not be started: {error.strerror}") from None
    if done.returncode == 0 and to.is_file():
        return
    lines = (done.stderr + done.stdout).splitlines()
    first = next((place for place, line in enumerate(lines) if "error" in line), 0)
    shown = "\n".join(f"  {line}" for line in lines[first : first + SHOWN])
    raise BuildError(
        f"{compiler.version} could not build {source} (exit status {done.returncode}):\n{shown}\n"
        f"command: {' '.join(command)}"
    )


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
