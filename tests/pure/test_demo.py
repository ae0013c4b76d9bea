"""The demo on a small scale: it learns, decodes what it prefills, generates and times. `make demo` runs it in full."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

import recc

DEMO = Path(recc.__file__).parent.parent / "benchmarks" / "demo.py"
if not DEMO.is_file():
    pytest.skip("the demo lies in the checkout", allow_module_level=True)


def test_demo_learns_and_decodes(monkeypatch):
    spec = importlib.util.spec_from_file_location("demo", DEMO)
    demo = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "demo", demo)  # dataclasses look their module up
    spec.loader.exec_module(demo)
    demo.console = Console(file=io.StringIO(), width=100)
    config = demo.Config(
        layers=1, width=32, heads=2, length=64, batch=4, steps=12, seconds=60, peak_rate=1e-2,
        corpus_bytes=100_000, held_out_windows=8, timed_length=128, generated=20,
    )  # fmt: skip
    figures = demo.run(config)
    assert figures["steps"] == 12
    assert figures["end"] < figures["start"] - 0.5
    assert figures["difference"] < 1e-3
    printed = demo.console.file.getvalue()
    for words in ("held-out bits per byte, start", "chunked over sequential", "generated with step()"):
        assert words in printed
    times = demo.compare(config, 1)  # ends the program where backends do not learn the same
    assert [len(times[backend]) for backend in ("c", "torch")] == [1, 1]
