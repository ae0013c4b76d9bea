"""The wheel: what it holds, and that recc works from it where no checkout is near."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import recc

ROOT = Path(recc.__file__).parent.parent
FOLDERS = ("recc", "grammar", "backends", "specs")
if not (ROOT / "pyproject.toml").is_file():
    pytest.skip("the tests of the packaging need a checkout", allow_module_level=True)


def quiet(*command: object, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: `build/` in a checkout may hold files of an older state, which would land in the wheel."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    quiet(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", out, copy)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A folder with what the wheel holds, as pip would lay it out."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def run(installed: Path, cwd: Path, *args: str) -> str:
    # An editable install of the checkout may be in this environment: what stands first in the path wins.
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"PYTHONPATH": str(installed)}
    return quiet(sys.executable, *args, cwd=cwd, env=env)


def sources() -> set[str]:
    """The files of the checkout that belong into the wheel, under their installed names."""
    found = set()
    for name in FOLDERS:
        for path in (ROOT / name).rglob("*"):
            if (
                path.suffix in (".py", ".rec", ".lark", ".json")
                or path.name == "py.typed"
                or path.parent.name == "pages"
            ):
                inside = path.relative_to(ROOT).as_posix()
                found.add(inside if name == "recc" else f"recc/{inside}")
    return {path for path in found if "__pycache__" not in path}


def test_wheel_holds_every_source_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert held - sources() == set()
    assert sources() - held == set(), "add new packages to [tool.setuptools] in pyproject.toml"


def test_wheel_runs_outside_the_checkout(installed, tmp_path):
    script = """
import recc, recc.grammar, recc.specs, recc.backends.torch, torch
from pathlib import Path
for module in (recc, recc.grammar, recc.specs, recc.backends.torch):
    assert Path(module.__file__).is_relative_to(PLACE), module.__file__
    assert len(module.__path__) == 1
op = recc.load("simple_gla")
q = torch.ones(1, 5, 2, 4)
o = op(q, q, torch.ones(1, 5, 2, 3), -torch.ones(1, 5, 2))
assert o.shape == (1, 5, 2, 3)
""".replace("PLACE", repr(str(installed)))
    run(installed, tmp_path, "-c", script)


def test_command_works_from_the_wheel(installed, tmp_path):
    assert run(installed, tmp_path, "-m", "recc", "--version") == f"recc {recc.__version__}\n"
    assert "ok" in run(installed, tmp_path, "-m", "recc", "check", "gla")
    run(installed, tmp_path, "-m", "recc", "compile", "gla", "-o", "gla.py")
    assert "import torch" in (tmp_path / "gla.py").read_text()
    points = next(installed.glob("*.dist-info")).joinpath("entry_points.txt").read_text()
    assert "recc = recc.cli:main" in points


def test_version_is_the_same_everywhere():
    text = (ROOT / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', text, re.MULTILINE).group(1) == recc.__version__


def test_pins_lie_within_the_declared_ranges():
    """Every direct dependency of pyproject.toml is pinned, and torch and triton at what continuous integration uses."""
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    text = (ROOT / "pyproject.toml").read_text()
    wanted = re.findall(r'"([a-z][\w-]*)>=([\d.]+)"', text)
    assert {"torch", "sympy", "lark", "numpy", "rich", "platformdirs", "triton"} <= {name for name, _ in wanted}
    for name, lowest in wanted:
        assert _version(pins[name]) >= _version(lowest), name
    assert (pins["torch"], pins["triton"]) == ("2.13.0", "3.7.1")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


def test_checkout_finds_its_own_folders():
    assert Path(recc.__path__[0]) == ROOT / "recc"
    for name in ("grammar", "specs", "backends"):
        assert Path(__import__(f"recc.{name}", fromlist=["x"]).__file__) == ROOT / name / "__init__.py"
