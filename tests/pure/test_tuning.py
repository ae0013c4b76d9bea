"""What `recc tune` keeps: the store, the order of lookup, the search, and that ops run as they were tuned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from recc.backends.c import build
from recc.backends.c.options import ALONE, Options

import recc
from recc import library
from recc.cli import main
from recc.frontend import parse_text
from recc.runtime import api, measure, tuning
from recc.runtime.search import Search, name_of
from recc.runtime.space import CpuSpace, GpuSpace

TEXT = """recurrence small
dim D
input x : D
input a : D in [0, 1]
state h : D = 0
output h
h[t] = a * h[t-1] + x
"""
needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C compiler")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """A cache of the test's own, and a spec in an empty folder."""
    monkeypatch.setenv("RECC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("small.rec").write_text(TEXT)
    api._compiled.cache_clear()
    yield
    api._compiled.cache_clear()


def small(text: str = TEXT):
    return parse_text(text, "small.rec")[0]


def entry(config, rec=None, passes="training", time=2048, rows=8, dtype="float32", arch=None, **dims):
    key = tuning.Key((rec or small()).fingerprint, "scan", passes, dtype, tuple(sorted((dims or {"D": 8}).items())),
                     tuning.bucket(time), tuning.bucket(rows), arch or tuning.arch_of("cpu"))  # fmt: skip
    return tuning.Entry(key, config)


def form_of(time=2048, batch=2, heads=4, grad=True, dtype=torch.float32, **options):
    """What an op that is loaded now takes for a call of this size; None: what the heuristics choose."""
    api._compiled.cache_clear()
    op = recc.load("small.rec", **options)
    x = torch.zeros(batch, time, heads, 8, dtype=dtype, requires_grad=grad)
    best = op.tuned and op.tuned([x, x], {"time": time, "batch": batch, "heads": heads, "D": 8})
    return best and best.meta["chunk"]


# --- the store --------------------------------------------------------------------------------------------------------


def test_fingerprint_is_of_the_meaning():
    renamed = TEXT.replace("h[t] =", "# a comment\nw = a * h[t-1]\nh[t] =").replace("a * h[t-1] + x\n", "w + x\n")
    assert "w + x" in renamed
    assert small(renamed).fingerprint == small().fingerprint
    assert small(TEXT.replace("+ x", "+ 2 * x")).fingerprint != small().fingerprint
    script = f"from recc.frontend import parse_text; print(parse_text({TEXT!r}, 's.rec')[0].fingerprint)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == small().fingerprint


def test_what_is_recorded_is_found_by_a_later_load():
    assert form_of() is None
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}))
    assert form_of() == 16


def test_an_entry_holds_near_its_size_and_nowhere_else():
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}))
    assert form_of(time=2048 * 4) == 16 and form_of(time=2048 * 8) is None
    assert form_of(heads=16) == 16 and form_of(heads=32) is None
    assert form_of(grad=False) == 16  # nothing was found for the forward pass alone
    assert form_of(dtype=torch.float64) is None
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 32}, passes="forward"))
    assert form_of(grad=False) == 32 and form_of() == 16
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 128}, time=8192))
    assert form_of(time=3000) == 16 and form_of(time=9000) == 128


def test_other_machines_and_dims_do_not_count():
    tuning.record(small(), entry({"backend": "torch"}, arch="sm_90"))
    tuning.record(small(), entry({"backend": "torch"}, D=16))
    assert form_of() is None


def test_order_of_lookup(monkeypatch, tmp_path):
    """What the caller says, the file beside the spec, the user's cache, what ships with recc, the heuristics."""

    def views(chunk):
        return json.dumps({"entries": [entry({"backend": "torch", "strategy": "scan", "chunk": chunk}).view()]})

    shipped = tmp_path / "shipped.json"
    shipped.write_text(views(256))
    monkeypatch.setattr(tuning, "packaged", lambda: shipped)
    assert form_of() == 256
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 128}))
    assert form_of() == 128
    Path("small.rec.tuned.json").write_text(views(32))
    assert form_of() == 32
    assert form_of(strategy="scan") is None and form_of(chunk=16) is None
    assert form_of(config={"backend": "torch", "strategy": "scan", "chunk": 64}) is None
    assert form_of(backend="torch") == 32


def test_kernels_begin_with_the_default():
    pytest.importorskip("triton")
    from recc.analysis import analyse

    space = GpuSpace(analyse(parse_text(*library.find("gla"))[0]), "triton")
    quick, full = space.starts("quick"), space.starts("full")
    assert quick[0] == {"backend": "triton"} and all(form["backend"] == "triton" for form in full)
    usual = {"backend": "triton", "chunk": 64, "inner": 16, "forward": "fused", "backward": "split"}
    assert usual | {"chunk": 32} in quick and usual | {"forward": "split"} in quick
    assert usual not in full  # the default under another name
    assert usual | {"chunk": 16, "backward": "fused"} in full
    assert usual | {"chunk": 16} not in quick
    near = space.around(quick[0], "quick")
    assert all(len(form["tiles"]) == 1 for form in near) and len(near) < len(space.around(quick[0], "full"))


def test_config_says_all_or_nothing():
    op = recc.load("small.rec", config={"backend": "torch", "strategy": "scan", "chunk": 64})
    assert op.rows == 64
    with pytest.raises(ValueError, match="`config` says all"):
        recc.load("small.rec", config={"backend": "torch"}, chunk=16)
    with pytest.raises(ValueError, match="`vector` must be a power of two"):
        Options(vector=24)
    with pytest.raises(ValueError, match="no option stages"):
        recc.load("small.rec", config={"backend": "torch", "stages": 2})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"entries": [{}]}', '{"entries": 3}', "\x00\xff",
                                     '{"entries": [{"key": {"dims": []}, "config": {"backend": "c"}}]}'])  # fmt: skip
def test_a_damaged_file_is_ignored_with_one_warning(content, recwarn):
    where = tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}))
    (where.parent / "a.json").write_text(content, encoding="latin-1")
    assert form_of() == 16 and form_of() == 16
    said = [str(w.message) for w in recwarn if "damaged" in str(w.message)]
    assert len(said) == 1 and "a.json" in said[0]


def test_a_form_that_this_recc_does_not_know_is_ignored_with_a_warning():
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16, "wings": 2}))
    with pytest.warns(RuntimeWarning, match="no option wings"):
        assert form_of() is None


WRITER = """
from recc.frontend import parse_text
from recc.runtime import tuning
rec = parse_text(open("small.rec").read(), "small.rec")[0]
for turn in range(200):
    for time in ({time}, 4):
        key = tuning.Key(rec.fingerprint, "scan", "training", "float32", (("D", 8),), time, 3, "cpu")
        tuning.record(rec, tuning.Entry(key, {{"backend": "torch", "chunk": {chunk}}}))
    assert {chunk} in [e.config["chunk"] for e in tuning.entries(rec)]
"""


def test_two_processes_write_at_once():
    """None of them reads half a file, or loses what the other one wrote under another key."""
    texts = [WRITER.format(chunk=chunk, time=time) for chunk, time in ((16, 8), (32, 16))]
    started = [subprocess.Popen([sys.executable, "-W", "error", "-c", text], stderr=subprocess.PIPE) for text in texts]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    found = {e.key.time: e.config["chunk"] for e in tuning.entries(small())}
    assert found[8] == 16 and found[16] == 32 and found[4] in (16, 32)


def test_export_keeps_what_the_file_had():
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}))
    tuning.export(small())
    other = entry({"backend": "torch", "strategy": "scan", "chunk": 64}, D=16)
    for file in tuning.folder(small()).glob("*.json"):
        file.unlink()
    tuning.record(small(), other)
    path = tuning.export(small())
    assert path == Path("small.rec.tuned.json")
    assert sorted(view["config"]["chunk"] for view in json.loads(path.read_text())["entries"]) == [16, 64]


# --- ops that were tuned ----------------------------------------------------------------------------------------------


def test_a_call_runs_the_form_that_was_found(monkeypatch):
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}, time=64, D=8))
    op = recc.load("small.rec")
    x, a = torch.randn(2, 50, 4, 8, requires_grad=True), torch.rand(2, 50, 4, 8)
    (form,) = {id(f): f for _, f in op.tuned.forms["cpu"]}.values()
    ran = []
    tiles = form.passes._forward_tiles
    monkeypatch.setattr(form.passes, "_forward_tiles", lambda *x: ran.append(1) or tiles(*x))
    y, state = op(x, a, return_final_state=True)
    assert ran and form.rows == 16
    (grad,) = torch.autograd.grad(y.sum(), x)
    plain = recc.load("small.rec", strategy="scan")
    want, last = plain(x, a, return_final_state=True)
    assert torch.allclose(y, want, atol=1e-6) and torch.allclose(state["h"], last["h"], atol=1e-6)
    assert torch.allclose(grad, torch.autograd.grad(want.sum(), x)[0], atol=1e-6)


@needs_compiler
def test_tokens_between_saved_states_of_native_code():
    tuning.record(small(), entry({"backend": "c", "chunk": 8}, time=64))
    op = recc.load("small.rec")
    x, a = torch.randn(2, 50, 4, 8, requires_grad=True), torch.rand(2, 50, 4, 8)
    best = op.tuned([x, a], {"time": 50, "batch": 2, "heads": 4, "D": 8})
    assert best.chunk_of(D=8) == 8 and op.chunk_of(D=8) != 8
    y = op(x, a)
    assert y.grad_fn.saved_tensors[0].shape[0] == 2 * 7  # one state for each 8 tokens
    assert torch.equal(y, recc.load("small.rec", backend="c", chunk=16)(x, a))


def test_a_compiled_call_takes_one_form_for_all_lengths():
    tuning.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}, time=64))
    op = recc.load("small.rec")
    count = torch._dynamo.testing.CompileCounter()
    run = torch.compile(lambda x, a: op(x, a), backend=count, fullgraph=True, dynamic=True)
    for time in (40, 100, 3000):
        x, a = torch.randn(2, time, 4, 8), torch.rand(2, time, 4, 8)
        assert torch.allclose(run(x, a), op(x, a), atol=1e-5)
    assert count.frame_count == 1


# --- the search -------------------------------------------------------------------------------------------------------


class Fake:
    """A clock on which calls take what they say, and the forms of a search by their times."""

    def __init__(self, times, wrong=(), broken=(), stop=None):
        self.times, self.wrong, self.broken, self.stop = times, wrong, broken, stop
        self.clock, self.made = 0.0, []

    def now(self):
        return self.clock

    def seconds(self, run):
        took = run()
        self.clock += took
        return took

    def starts(self, effort):
        return [{"backend": "f", "n": n} for n in self.times if n < 10]

    def around(self, form, effort):
        return [{"backend": "f", "n": n} for n in self.times if n // 10 == form["n"]]

    def runner(self, form):
        n = form["n"]
        if n in self.broken:
            raise RuntimeError("out of resource: shared memory")
        self.made.append(n)
        if n == self.stop:
            raise KeyboardInterrupt
        return lambda: self.times[n]

    def search(self, **options):
        given = {"deadline": 1e9, "effort": "quick"} | options
        return Search(self, self.runner, lambda form: "output o" if form["n"] in self.wrong else "", self, **given)


def test_search_goes_on_around_the_best():
    fake = Fake({1: 3.0, 2: 2.0, 3: 2.5, 21: 2.1, 22: 1.0, 31: 0.1})
    found = fake.search().run()
    assert found.best == {"backend": "f", "n": 22} and found.exhausted
    assert 31 not in fake.made  # near a form that was not the best
    assert found.seconds == 1.0 and found.first_seconds == 3.0


def test_what_is_wrong_is_never_best():
    found = Fake({1: 3.0, 2: 1.0, 3: 2.0}, wrong=(2,)).search().run()
    assert found.best["n"] == 3
    assert [t.why for t in found.trials if t.form["n"] == 2] == ["wrong: output o"]
    assert Fake({1: 3.0}, wrong=(1,)).search().run().best is None


def test_what_does_not_run_is_left_out_with_its_reason():
    found = Fake({1: 3.0, 2: 1.0}, broken=(2,)).search().run()
    assert found.best["n"] == 1
    assert "shared memory" in next(t.why for t in found.trials if t.form["n"] == 2)


def test_what_is_pruned_is_not_built():
    fake = Fake({1: 3.0, 2: 1.0, 3: 2.0})
    found = fake.search(prune=lambda forms: {name_of(f): "spills 96 bytes" for f in forms if f["n"] == 2}).run()
    assert found.best["n"] == 3 and 2 not in fake.made
    assert [t.why for t in found.trials if t.form["n"] == 2] == ["spills 96 bytes"]


def test_a_budget_ends_a_search():
    fake = Fake({n: 4.0 - n / 10 for n in range(1, 10)})
    found = fake.search(deadline=50.0).run()
    assert not found.exhausted and 1 < len(set(fake.made)) < 9 and found.best is not None


def test_ctrl_c_keeps_the_best():
    found = Fake({1: 3.0, 2: 1.0, 3: 0.5, 4: 0.1}, stop=3).search().run()
    assert found.interrupted and found.best["n"] == 2


def test_a_search_goes_on_where_one_was_left(tmp_path):
    times = {1: 3.0, 2: 1.0, 3: 0.5, 4: 0.1}
    first = Fake(times, stop=3).search(journal=tmp_path / "j.tried").run()
    fake = Fake(times)
    found = fake.search(journal=tmp_path / "j.tried").run(resume=first.best)
    assert found.best["n"] == 4 and 1 not in fake.made[:-1]  # 1 only in the last race
    again = Fake(times)
    assert again.search(journal=tmp_path / "j.tried").run(resume=found.best).exhausted
    assert set(again.made) == {4, 1}
    (tmp_path / "j.tried").write_text("half of it")
    assert Fake(times).search(journal=tmp_path / "j.tried").run(resume=found.best).best["n"] == 4


def test_the_same_seed_gives_the_same_order():
    times = {n: 3.0 for n in range(1, 9)}
    orders = []
    for seed in (1, 1, 2):
        fake = Fake(times)
        fake.search(effort="full", seed=seed).run()
        orders.append(fake.made)
    assert orders[0] == orders[1] != orders[2]


def test_spaces_begin_with_the_default():
    from recc.analysis import analyse

    plan = analyse(small())
    forms = CpuSpace(plan).starts("full")
    assert {"backend": "torch", "strategy": "scan", "chunk": 64} not in forms  # the default under another name
    assert {"backend": "torch", "strategy": "scan", "chunk": 128} in forms
    assert len(CpuSpace(plan).starts("quick")) < len(forms)
    if build.find_compiler() is not None:
        assert CpuSpace(plan).starts("quick")[0] == {"backend": "c"}
        near = CpuSpace(plan).around({"backend": "c", "chunk": 8}, "quick")
        assert {"backend": "c"} in near and {"backend": "c", "chunk": 8, "alone": ALONE << 4} in near
        assert all(len(form) <= 3 for form in near) and len(near) == len({str(form) for form in near})
    assert all(form["backend"] == "torch" for form in CpuSpace(plan, "torch").starts("full"))
    assert GpuSpace(plan, "torch").starts("quick") == [{"backend": "torch"}]


# --- the measure ------------------------------------------------------------------------------------------------------


def test_rounds_interleave_and_leave_slow_cases_out():
    order = []

    def case(name, seconds):
        def run():
            order.append(name)
            return {"": seconds, ", backward": seconds / 2}

        return run

    times = measure.rounds({"a": case("a", 0.1), "b": case("b", 1.0)}, 4)
    assert order[:4] == ["a", "a", "b", "b"]  # the first of two is not counted
    assert times["a"] == [0.1] * 4 and times["b"] == [1.0, None, None, 1.0]
    assert times["b, backward"] == [0.5, None, None, 0.5]
    assert measure.ratio(times, "b", "a") == 10 and measure.median(times["b"]) == 1.0
    assert measure.spread([1.0, 2.0, None, 3.0]) == (1.5, 2.5)


# --- the command ------------------------------------------------------------------------------------------------------


def run(*args, code=0):
    assert main(["tune", *args]) == code


def test_command_keeps_what_it_finds_and_ops_use_it(capsys):
    run("small.rec", "--time", "64", "--dim", "D=8", "--budget", "20s", "--json", "--save")
    views = json.loads(capsys.readouterr().out)
    assert [view["passes"] for view in views] == ["forward", "training"]
    assert all(view["config"] and view["seconds"] > 0 for view in views)
    known = list(tuning.entries(small()))
    assert {e.key.passes for e in known} == {"forward", "training"} and Path("small.rec.tuned.json").is_file()
    assert recc.load("small.rec").tuned is not None


def test_command_tells_what_came_out(capsys):
    run("small.rec", "--time", "64", "--dim", "D=8", "--budget", "20s", "--passes", "forward", "--backend", "torch")
    said = capsys.readouterr().out
    assert "small, forward: B=2 T=64 H=4 D=8, float32 on" in said and "verified and kept" in said


def test_interrupted_command_keeps_the_best(monkeypatch, capsys):
    from recc.runtime import tune

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
    (kept,) = tuning.entries(small())
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
])  # fmt: skip
def test_bad_usage(args, words, capsys):
    run("small.rec", *args, code=2)
    assert words in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    tmp_path.chmod(0o500)
    run("small.rec", "--time", "64", "--dim", "D=8", "--passes", "forward", "--backend", "torch", code=2)
    assert "RECC_CACHE_DIR" in capsys.readouterr().err


# --- kernels, without a GPU -------------------------------------------------------------------------------------------

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
    from recc.runtime.space import GpuSpace

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
    assert not list(tuning.entries(small()))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_the_device_nothing_is_timed(capsys, monkeypatch):
    pytest.importorskip("triton")
    from recc.cli import kernels

    monkeypatch.setattr(kernels, "dry_run", lambda task, args: print("compiled alone") or 0)
    run("small.rec", "--device", "cuda")
    assert "compiled alone" in capsys.readouterr().out
    run("small.rec", "--device", "cuda", "--target", "sm_90", code=2)
