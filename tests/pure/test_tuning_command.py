"""`recc tune` as users call it."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from tuned_spec import TEXT, small

import recc
from recc.cli import main
from recc.tuning import store
from recc.tuning.space import GpuSpace

pytestmark = pytest.mark.usefixtures("own_cache")


def run(*args, code=0):
    assert main(["tune", *args]) == code


def test_command_keeps_what_it_finds_and_ops_use_it(capsys):
    run("small.rec", "--time", "64", "--dim", "D=8", "--budget", "20s", "--json", "--save")
    views = json.loads(capsys.readouterr().out)
    assert [view["passes"] for view in views] == ["forward", "training"]
    assert all(view["config"] and view["seconds"] > 0 for view in views)
    known = list(store.entries(small()))
    assert {e.key.passes for e in known} == {"forward", "training"} and Path("small.rec.tuned.json").is_file()
    assert recc.load("small.rec").tuned is not None


def test_command_tells_what_came_out(capsys):
    run("small.rec", "--time", "64", "--dim", "D=8", "--budget", "20s", "--passes", "forward", "--backend", "torch")
    said = capsys.readouterr().out
    assert "small, forward: B=2 T=64 H=4 D=8, float32 on" in said and "verified and kept" in said


def test_interrupted_command_keeps_the_best(monkeypatch, capsys):
    from recc.tuning import tune

    calls = tune.calls

    def counted(task, passes):
        runner, made = calls(task, passes), []

        def run(form):
            made.append(form)
            if len(made) == 2:
                raise KeyboardInterrupt
            return runner(form)

        return run

    monkeypatch.setattr(tune, "calls", counted)
    run("small.rec", "--time", "64", "--dim", "D=8", "--passes", "training", code=130)
    assert "interrupted; the best form so far was verified and is kept" in capsys.readouterr().err
    (kept,) = store.entries(small())
    assert kept.facts["seconds"] is None


@pytest.mark.parametrize("args, words", [
    (["--budget", "soon"], "`--budget soon` is no length of time"),
    (["--budget", "0s"], "write it as 90s, 5m or 1h"),
    (["--device", "tpu"], "no device is called `tpu`"),
    (["--backend", "triton"], "no backend `triton` on cpu"),
    (["--time", "0"], "`--time 0` is no size"),
    (["--dim", "Q=3"], "`small` has no dim Q"),
    (["--target", "sm_90"], "`--target` is for a dry run"),
    (["--dry-run"], "a dry run compiles for GPUs"),
    (["--fit", "--dry-run"], "`--dry-run` does not go with `--fit`"),
    (["--fit", "--dtype", "float64"], "kernels compute in float32"),
    (["--fit", "--device", "tpu"], "no device is called `tpu`"),
    (["--fit", "--target", "sm_1"], "no GPU is called `sm_1`"),
])  # fmt: skip
def test_bad_usage(args, words, capsys):
    run("small.rec", *args, code=2)
    assert words in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    tmp_path.chmod(0o500)
    run("small.rec", "--time", "64", "--dim", "D=8", "--passes", "forward", "--backend", "torch", code=2)
    assert "RECC_CACHE_DIR" in capsys.readouterr().err


FACTS = {
    "plain": {"registers": 64, "spills": 0, "shared": 1 << 14, "matrix": 4},
    "spilling": {"registers": 255, "spills": 96, "shared": 1 << 14, "matrix": 4},
    "large": {"registers": 64, "spills": 0, "shared": 1 << 18, "matrix": 4},
}


def faked(subject, form):
    """In place of compiling: a form's chunk says what comes out."""
    chunk = json.loads(form).get("chunk", 0)
    if chunk == 99:
        raise RuntimeError("ptxas died")
    return {"forward_walk": FACTS["plain"], "forward_finish": FACTS[{32: "spilling", 64: "large"}.get(chunk, "plain")]}


def test_pruning_drops_what_spills_or_does_not_fit():
    prune = pytest.importorskip("recc.backends.triton.prune")
    subject = prune.Subject(TEXT, "small.rec", "small", (), (("D", 8),), "bfloat16", 2, 2048, 4, "sm_90")
    forms = [{"backend": "triton", "chunk": chunk} for chunk in (16, 32, 64, 99)] + [{"backend": "torch"}]
    pruner = prune.Pruner(subject, {"backend": "triton"}, 1, faked, ThreadPoolExecutor(1))
    try:
        gone = {json.loads(name)["chunk"]: why for name, why in pruner(forms).items()}
        assert gone[32] == "forward_finish spills 96 bytes a thread"
        assert gone[64].startswith("forward_finish needs 262144 bytes of shared memory")
        assert "ptxas died" in gone[99] and sorted(gone) == [32, 64, 99]
        # Where what the heuristics choose spills itself, as much is allowed.
        pruner.first = json.dumps(forms[1], sort_keys=True)
        assert sorted(json.loads(name)["chunk"] for name in pruner(forms)) == [64, 99]
    finally:
        pruner.close()


def test_dry_run_compiles_and_times_nothing(capsys, monkeypatch):
    pytest.importorskip("triton")

    forms = [{"backend": "triton", "chunk": 16, "forward": "fused", "backward": "split"}]
    monkeypatch.setattr(GpuSpace, "starts", lambda self, effort: forms)
    monkeypatch.setattr(GpuSpace, "around", lambda self, form, effort: [])
    run("small.rec", "--device", "cuda", "--dim", "D=16", "--jobs", "1", "--dry-run", "--json")
    said = capsys.readouterr()
    view = json.loads(said.out)
    assert view["target"] == "sm_90" and view["timed"] is False and len(view["compiled"]) == view["forms"] == 1
    assert all(x["facts"]["forward_fused" in x["facts"] and "forward_fused" or "forward_walk"]["registers"] > 0
               for x in view["compiled"])  # fmt: skip
    assert "nothing was timed, and nothing is kept" in said.err
    assert not list(store.entries(small()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_the_device_nothing_is_timed(capsys, monkeypatch):
    pytest.importorskip("triton")
    from recc.cli import kernels

    monkeypatch.setattr(kernels, "dry_run", lambda task, args: print("compiled alone") or 0)
    run("small.rec", "--device", "cuda")
    assert "compiled alone" in capsys.readouterr().out
    run("small.rec", "--device", "cuda", "--target", "sm_90", code=2)


# --- a fit ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def spilling(monkeypatch):
    """In place of compiling: what spills is a launch with more tokens in a chunk than are in the list."""
    fit = pytest.importorskip("recc.backends.triton.fit")
    most = [16]

    def within(target):
        return lambda launch: {**FACTS["plain"], "spills": 9000 * (launch.arguments["ROWS"] > most[0])}

    monkeypatch.setattr(fit, "within", within)
    return most


def test_a_fit_is_kept_for_the_calls_that_it_fits(spilling, capsys):
    from recc.backends.triton import fitted, module
    from recc.backends.triton.config import Config

    from recc.analysis import analyse

    run("small.rec", "--fit", "--dim", "D=32", "--target", "sm_80")
    said = " ".join(capsys.readouterr().out.split())
    assert "the default's forward_finish does not fit: 9,000 bytes a thread spill" in said
    assert "kept for bfloat16 tensors of these sizes on sm_80" in said
    for text in (TEXT, TEXT.replace("dim D", "dim D = 32")):
        assert fitted.config_of(small(text), {"D": 32}, "sm_80") == Config(chunk=16)
    assert fitted.config_of(small(), {"D": 64}, "sm_80") == fitted.config_of(small(), {"D": 32}, "sm_90") == Config()
    assert main(["compile", "small.rec", "--emit", "triton", "--target", "sm_80", "--dim", "D=32"]) == 0
    assert "'chunk': 16" in capsys.readouterr().out
    (made,) = module.op(analyse(small()), target="sm_80").fitted
    assert made[0] == {"D": 32} and made[2].rows == 16
    (kept,) = fitted.folder(small()).iterdir()
    kept.write_text("{")
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert fitted.config_of(small(), {"D": 32}, "sm_80") == Config()


def test_a_fit_that_keeps_nothing(spilling, capsys, monkeypatch):
    from recc.backends.triton import fit, fitted

    spilling[0] = 1024
    run("small.rec", "--fit", "--json")
    view = json.loads(capsys.readouterr().out)
    assert view["config"] == {"backend": "triton"} and view["default_spills"] == {} and view["dims"] == {"D": 64}
    spilling[0] = 0
    run("small.rec", "--fit", code=1)
    assert "which are all that there are to try" in capsys.readouterr().out

    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(fit, "fit", interrupted)
    run("small.rec", "--fit", code=130)
    assert "interrupted; nothing is kept" in capsys.readouterr().err and not fitted.folder(small()).exists()
