"""`recc bench`: what it times, what it says, what it draws."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recc.cli import main
from recc.tuning import bench, measure

SPEC = """recurrence small
dim K, V
input q, k : K
input v : V
input g <= 0
state S : K x V = 0
output o : V
S[t] = exp(g) * S[t-1] + outer(k, v)
o = q @ S[t]
"""
SIZE = ["--time", "40", "--dim", "K=8,V=16", "--rounds", "2"]


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RECC_CACHE_DIR", str(tmp_path / "cache"))
    Path("small.rec").write_text(SPEC)


def run(*args, code=0):
    assert main(["bench", "small.rec", *args]) == code


def test_every_way_is_timed_in_every_pass(capsys):
    run(*SIZE, "--json")
    found = json.loads(capsys.readouterr().out)
    assert found["shape"] == "B=2 T=40 H=4 K=8 V=16" and found["machine"]["torch"] == torch.__version__
    assert set(found["seconds"]) == set(bench.PASSES)
    for passes in (bench.FORWARD, bench.TRAINING):
        times = found["seconds"][passes]
        assert {"recc torch, chunk", "recc torch, scan", "recc torch, sequential", "torch loop"} <= set(times)
        assert all(min(measure.taken(row)) > 0 for row in times.values())
    # A step is the same for all strategies of torch: it is timed once.
    assert [name for name in found["seconds"][bench.DECODE] if "recc torch" in name] == ["recc torch, chunk"]
    assert found["missing"] == {}


def test_table_and_chart(capsys):
    pytest.importorskip("matplotlib")
    run(*SIZE, "--passes", "forward", "--passes", "decode", "--plot", "out.png")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("small: B=2 T=40 H=4 K=8 V=16, float32; ")
    assert "decode step" in lines[1] and "backward" not in lines[1]
    assert [line.split()[:2] for line in lines[-2:]] == [["torch", "loop"], ["torch", "copy"]]
    assert Path("out.png").read_bytes()[:4] == b"\x89PNG"


def test_what_differs_from_the_loop_is_not_timed(monkeypatch, capsys):
    compile_recurrence = bench.compile_recurrence

    def broken(rec, **form):
        op = compile_recurrence(rec, **form)
        return (lambda *x: 2 * op(*x)) if form == {"backend": "torch", "strategy": "scan"} else op

    monkeypatch.setattr(bench, "compile_recurrence", broken)
    run(*SIZE, "--passes", "forward", "--json")
    found = json.loads(capsys.readouterr().out)
    assert "recc torch, scan" not in found["seconds"][bench.FORWARD]
    assert found["missing"]["recc torch, scan"].startswith("differs from the loop by 1.0")


def test_a_slow_clock_and_a_budget():
    class Clock:
        def __init__(self):
            self.time = 0.0

        def now(self):
            return self.time

        def seconds(self, call):
            call()
            self.time += 1.0
            return 1.0

    from recc.frontend import parse_text
    from recc.tuning.tune import Task

    rec, sized = (parse_text(SPEC, "small.rec", dims=dims)[0] for dims in ({}, {"K": 8, "V": 8}))
    task = Task(rec, sized, {"K": 8, "V": 8}, 1, 5, 1, torch.float32, "cpu")
    found = bench.run(task, clock=Clock(), count=50, budget=30, wanted=(bench.FORWARD, bench.TRAINING))
    counts = {len(row) for times in found.times.values() for row in times.values()}
    assert max(counts) <= 4 and all(found.times.values())


def test_an_output_without_a_gradient(capsys):
    """The positions that viterbi gives are no function that could be derived."""
    args = ["--time", "5", "--batch", "1", "--heads", "1", "--rounds", "1", "--budget", "1s", "--passes", "training"]
    assert main(["bench", "viterbi", *args, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert "torch loop" in found["seconds"][bench.TRAINING] and found["missing"] == {}


@pytest.mark.parametrize("args, words", [
    (["--rounds", "0"], "`--rounds 0` times nothing"),
    (["--plot", "out.bmp"], "`--plot out.bmp` names no picture"),
    (["--plot", "none/out.png"], "there is no folder `none`"),
    (["--budget", "x"], "is no length of time"),
    *([(["--device", "cuda"], "so nothing was timed")] if not torch.cuda.is_available() else []),
])  # fmt: skip
def test_bad_usage(args, words, capsys):
    run(*args, code=2)
    assert words in capsys.readouterr().err
