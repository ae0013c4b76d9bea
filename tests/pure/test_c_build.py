"""Building C at first use: what is kept, what is verified, and what happens where something is missing."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from recc.backends.c import build, cache, compiler

ANSWER = "int answer(void) { return 42; }"
LOAD = "import sys; from recc.backends.c import build; print(build.library(sys.argv[1]).answer())"

if build.find_compiler() is None:
    pytest.skip(f"no C compiler: {compiler.INSTALL}", allow_module_level=True)
REAL = shlex.join(build.find_compiler().command)


def forget() -> None:
    """What a new process does not know."""
    compiler._search.cache_clear()
    cache.warn_once.cache_clear()
    build._outcomes.clear()


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty cache for each test."""
    monkeypatch.setenv("RECC_CACHE_DIR", str(tmp_path / "cache"))
    forget()
    yield tmp_path / "cache" / "c"
    forget()


def compiler_that(does: str, tmp_path: Path, monkeypatch) -> Path:
    """Makes $CC a shell script that counts its calls in the file returned and then does that."""
    script, calls = tmp_path / "compiler", tmp_path / "calls"
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n{does.replace("REAL", REAL)}\n')
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    forget()
    return calls


def process(*arguments: str, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", LOAD, *arguments], **pipes | options)


def libraries(folder: Path) -> list[Path]:
    return list(folder.glob("*/*.so"))


# --- built once -----------------------------------------------------------------------------------------------------


def test_builds_and_keeps_the_source_beside_the_library(folder):
    assert build.library(ANSWER).answer() == 42
    (made,) = libraries(folder)
    assert (made.parent / "kernel.c").read_text() == ANSWER
    assert sorted(path.suffix for path in made.parent.iterdir()) == [".c", ".so"]


def test_a_process_loads_a_library_once(folder):
    assert build.library(ANSWER) is build.library(ANSWER)
    assert build.library(ANSWER) is not build.library(ANSWER, mode="portable")


def test_a_new_process_starts_no_compiler(tmp_path, monkeypatch, folder):
    calls = compiler_that('exec REAL "$@"', tmp_path, monkeypatch)
    build.library(ANSWER)
    asked = calls.read_text()
    assert "kernel.c" in asked and "--version" in asked
    forget()
    assert build.library(ANSWER).answer() == 42
    assert calls.read_text() == asked


@pytest.mark.parametrize("change", [{"mode": "portable"}, {"extra_flags": ("-O3",)}])
def test_other_flags_are_another_library(folder, change):
    build.library(ANSWER)
    build.library(ANSWER, **change)
    assert len(libraries(folder)) == 2


def test_another_compiler_is_another_library(tmp_path, monkeypatch, folder):
    build.library(ANSWER)
    compiler_that('[ "$1" = --version ] && echo "other 1.0" || exec REAL "$@"', tmp_path, monkeypatch)
    assert build.find_compiler().version == "other 1.0"
    build.library(ANSWER)
    assert len(libraries(folder)) == 2


def test_an_upgraded_compiler_is_asked_again(tmp_path, monkeypatch):
    compiler_that("echo version 1", tmp_path, monkeypatch)
    assert build.find_compiler().version == "version 1"
    compiler_that("echo version 2; # longer", tmp_path, monkeypatch)
    assert build.find_compiler().version == "version 2"


def test_processes_at_once(folder):
    others = [process(ANSWER) for _ in range(3)]
    for other in others:
        printed, complaint = other.communicate(timeout=60)
        assert (printed, complaint) == ("42\n", "")
    (place,) = (path for path in folder.iterdir() if path.is_dir())
    assert {path.suffix for path in place.iterdir()} == {".c", ".so"}, "temporary files stay behind"


# --- damage ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b[:-1] + b"\1", lambda b: b""])
def test_a_damaged_library_is_built_again(folder, damage):
    assert process(ANSWER).wait(60) == 0
    (made,) = libraries(folder)
    whole = made.read_bytes()
    made.write_bytes(damage(whole))
    assert build.library(ANSWER).answer() == 42
    (again,) = libraries(folder)
    assert again.read_bytes() == whole


def test_a_damaged_note_about_the_compiler_is_written_again(folder):
    right = build.target()
    (note,) = folder.glob("compiler-*.json")
    for content in ("", "{}", '{"version": 3'):
        note.write_text(content)
        forget()
        assert build.target() == right
        assert len(note.read_text()) > 20


def test_killed_half_way_leaves_nothing_that_loads(tmp_path, monkeypatch, folder):
    """The compiler has written a part of its output when its process group dies."""
    hang = (
        """case "$*" in *kernel.so*) while [ "$1" != -o ]; do shift; done; printf '\\177ELF' > "$2"; sleep 60;; esac"""
    )
    calls = compiler_that(f'{hang}\nexec REAL "$@"', tmp_path, monkeypatch)
    victim = process(ANSWER, start_new_session=True)
    limit = time.monotonic() + 30
    while not list(folder.glob("*/.build-*/kernel.so")):
        assert time.monotonic() < limit, f"no build began; {calls.read_text()}"
        time.sleep(0.01)
    os.killpg(victim.pid, signal.SIGKILL)
    victim.communicate()
    assert libraries(folder) == []

    compiler_that('exec REAL "$@"', tmp_path, monkeypatch)
    assert build.library(ANSWER).answer() == 42
    assert len(libraries(folder)) == 1


def test_what_killed_builds_left_is_removed_once_it_is_old(folder):
    build.library(ANSWER)
    (made,) = libraries(folder)
    made.unlink()
    old, young = made.parent / ".build-old", made.parent / ".build-young"
    old.mkdir(), young.mkdir()
    os.utime(old, (0, 0))
    forget()
    build.library(ANSWER)
    assert not old.exists() and young.exists()


# --- what is missing ------------------------------------------------------------------------------------------------


def test_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(compiler.util, "find_spec", lambda name: None)
    forget()
    with pytest.warns(RuntimeWarning, match="apt install gcc.*torch backend serves"):
        assert not build.usable()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not build.usable()  # says it once
    assert build.find_compiler() is None and build.target().vector_bytes == 16
    with pytest.raises(build.BuildError, match="pip install ziglang"):
        build.library(ANSWER)


def test_a_broken_compiler_is_passed_over(tmp_path, monkeypatch):
    compiler_that("exit 1", tmp_path, monkeypatch)
    assert build.usable() and build.find_compiler().command[0] != os.environ["CC"]


@pytest.mark.skipif("ziglang" in REAL, reason="zig is the compiler here")
def test_zig_is_the_last_resort(tmp_path, monkeypatch):
    """A package that answers as ziglang does: `python -m ziglang cc ...`."""
    (tmp_path / "ziglang").mkdir()
    (tmp_path / "ziglang" / "__init__.py").touch()
    words = f"real = {shlex.split(REAL)}; assert sys.argv[1] == 'cc'; os.execv(real[0], real + sys.argv[2:])"
    (tmp_path / "ziglang" / "__main__.py").write_text(f"import os, sys; {words}")
    place = os.path.dirname(shutil.which("ld") or "/usr/bin/ld")
    monkeypatch.setattr(compiler.shutil, "which", lambda name, path=None: None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", place)
    monkeypatch.delenv("CC", raising=False)
    forget()
    assert build.find_compiler().command == (sys.executable, "-m", "ziglang", "cc")
    assert build.library(ANSWER).answer() == 42


def test_a_failing_build_shows_the_error_and_is_tried_once(tmp_path, monkeypatch, folder):
    calls = compiler_that('exec REAL "$@"', tmp_path, monkeypatch)
    with pytest.raises(
        build.BuildError, match=r"kernel.c:2:10: error: .*undefined_name.*\n(.*\n)*command: .*-O2"
    ) as info:
        build.library("int f(void) {\n  return undefined_name;\n}")
    assert "exit status 1" in str(info.value) and libraries(folder) == []
    asked = calls.read_text()
    with pytest.raises(build.BuildError, match="undefined_name"):
        build.library("int f(void) {\n  return undefined_name;\n}")
    assert calls.read_text() == asked


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    """Below a file there is no folder, whoever asks: file modes do not stop the superuser."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("RECC_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="cannot keep what it builds in .*file.*RECC_CACHE_DIR"):
        assert build.library(ANSWER).answer() == 42
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert build.library(ANSWER + " ").answer() == 42  # says it once


def test_a_filled_cache_serves_where_it_cannot_be_written(folder):
    build.library(ANSWER)
    forget()
    places = [folder, *folder.iterdir()]
    try:
        for place in places:
            place.chmod(0o555 if place.is_dir() else 0o444)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert build.library(ANSWER).answer() == 42
    finally:
        for place in places:
            place.chmod(0o755)


# --- modes ----------------------------------------------------------------------------------------------------------


def test_portable_rounds_each_operation():
    """a*b - round(a*b) is 0 where both products are rounded, and the rounding error where one is fused."""
    source = "double rest(double a) { volatile double p = a * a, b = a; return b * b - p; }"
    fused = 2.0**-60 if "avx2" in build.target().isa or "arm" in build.target().isa else 0.0
    for mode, expected in (("native", fused), ("portable", 0.0)):
        rest = build.library(source, mode=mode).rest
        rest.restype, rest.argtypes = ctypes.c_double, [ctypes.c_double]
        assert rest(1 + 2**-30) == expected, mode


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'fast'.*native, portable, sanitize"):
        build.library(ANSWER, mode="fast")


def test_sanitizers_find_a_write_past_the_end_and_an_overflow():
    environment = build.sanitizer_environment()
    if not environment:
        pytest.skip("this compiler has no address sanitizer")
    bad = """#include <stdlib.h>
    int answer(void) { volatile int n = 8; char *p = malloc(n); p[n] = 1; n = p[n]; free(p); return n; }
    """
    overflow = "int answer(void) { volatile int n = 2147483647; n = n + 1; return n; }"
    code = LOAD.replace("sys.argv[1]", "sys.argv[1], mode='sanitize'")
    with pytest.raises(build.BuildError, match="sanitizer_environment"):
        build.library(bad, mode="sanitize")
    for source, expected in (
        (bad, "heap-buffer-overflow"),
        (overflow, "signed integer overflow"),
        (ANSWER, None),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code, source], capture_output=True, text=True, env=os.environ | environment
        )
        assert expected in done.stderr if expected else done.stdout == "42\n", done.stderr


def test_vector_width_is_the_compilers(tmp_path, monkeypatch):
    for macro, width in (("__AVX512F__", 64), ("__AVX2__", 32), ("__ARM_NEON", 16)):
        compiler_that(f'[ "$1" = --version ] && echo {macro} || echo "#define {macro} 1"', tmp_path, monkeypatch)
        assert build.target().vector_bytes == width
        assert macro.strip("_").lower() in build.target().isa
