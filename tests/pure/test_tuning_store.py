"""What `recc tune` keeps: the store, the order of lookup, and that ops run as they were tuned."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch._dynamo.testing
from recc.backends.c import build
from recc.backends.c.options import Options
from tuned_spec import TEXT, small

import recc
from recc import library
from recc.frontend import parse_text
from recc.runtime import api
from recc.tuning import store
from recc.tuning.space import GpuSpace

needs_compiler = pytest.mark.skipif(build.find_compiler() is None, reason="there is no C compiler")


pytestmark = pytest.mark.usefixtures("own_cache")


def entry(config, rec=None, passes="training", time=2048, rows=8, dtype="float32", arch=None, **dims):
    key = store.Key((rec or small()).fingerprint, "scan", passes, dtype, tuple(sorted((dims or {"D": 8}).items())),
                     store.bucket(time), store.bucket(rows), arch or store.arch_of("cpu"))  # fmt: skip
    return store.Entry(key, config)


def form_of(time=2048, batch=2, heads=4, grad=True, dtype=torch.float32, **options):
    """What an op that is loaded now takes for a call of this size; None: what the heuristics choose."""
    api._compiled.cache_clear()
    op = recc.load("small.rec", **options)
    x = torch.zeros(batch, time, heads, 8, dtype=dtype, requires_grad=grad)
    best = op.tuned and op.tuned([x, x], {"time": time, "batch": batch, "heads": heads, "D": 8})
    return best and best.meta["chunk"]


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
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}))
    assert form_of() == 16


def test_an_entry_holds_near_its_size_and_nowhere_else():
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}))
    assert form_of(time=2048 * 4) == 16 and form_of(time=2048 * 8) is None
    assert form_of(heads=16) == 16 and form_of(heads=32) is None
    assert form_of(grad=False) == 16  # nothing was found for the forward pass alone
    assert form_of(dtype=torch.float64) is None
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 32}, passes="forward"))
    assert form_of(grad=False) == 32 and form_of() == 16
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 128}, time=8192))
    assert form_of(time=3000) == 16 and form_of(time=9000) == 128


def test_other_machines_and_dims_do_not_count():
    store.record(small(), entry({"backend": "torch"}, arch="sm_90"))
    store.record(small(), entry({"backend": "torch"}, D=16))
    assert form_of() is None


def test_order_of_lookup(monkeypatch, tmp_path):
    """What the caller says, the file beside the spec, the user's cache, what ships with recc, the heuristics."""

    def views(chunk):
        return json.dumps({"entries": [entry({"backend": "torch", "strategy": "scan", "chunk": chunk}).view()]})

    shipped = tmp_path / "shipped.json"
    shipped.write_text(views(256))
    monkeypatch.setattr(store, "packaged", lambda: shipped)
    assert form_of() == 256
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 128}))
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
    usual = {"backend": "triton", "chunk": 32, "inner": 16, "forward": "fused", "backward": "split", "apart": False}
    assert usual | {"chunk": 64} in quick and usual | {"forward": "split"} in quick
    assert usual not in full  # the default under another name
    assert usual | {"chunk": 16, "backward": "fused"} in full
    assert usual | {"chunk": 128} not in quick
    near = space.around(quick[0], "quick")
    assert all(len(form["tiles"]) == 1 for form in near) and len(near) < len(space.around(quick[0], "full"))


def test_walks_have_tiles_too():
    """Where there are only walks over tokens, what differs from the default in one choice is a tile of one of them."""
    pytest.importorskip("triton")
    from recc.analysis import analyse

    space = GpuSpace(analyse(parse_text(*library.find("lstm"))[0]), "triton", {"D": 64})
    first = space.starts("quick")[0]
    assert first == {"backend": "triton"}
    near = [dict(form["tiles"]) for form in space.around(first, "quick")]
    assert {kernel for tiles in near for kernel in tiles} == {"forward_walk", "backward_walk"}
    own = [tiles["backward_walk"] for tiles in near if "backward_walk" in tiles]
    assert sorted(tile["warps"] for tile in own if tile["warps"] != 8) == [1, 2, 4, 16]
    assert {tile.get("order") for tile in own} == {None, "widest", "least", "back"}
    assert [tile["warps"] for tile in own if tile.get("crowded")] == [8]


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
    where = store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}))
    (where.parent / "a.json").write_text(content, encoding="latin-1")
    assert form_of() == 16 and form_of() == 16
    said = [str(w.message) for w in recwarn if "damaged" in str(w.message)]
    assert len(said) == 1 and "a.json" in said[0]


def test_a_form_that_this_recc_does_not_know_is_ignored_with_a_warning():
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16, "wings": 2}))
    with pytest.warns(RuntimeWarning, match="no option wings"):
        assert form_of() is None


WRITER = """
from recc.frontend import parse_text
from recc.tuning import store
rec = parse_text(open("small.rec").read(), "small.rec")[0]
for turn in range(200):
    for time in ({time}, 4):
        key = store.Key(rec.fingerprint, "scan", "training", "float32", (("D", 8),), time, 3, "cpu")
        store.record(rec, store.Entry(key, {{"backend": "torch", "chunk": {chunk}}}))
    assert {chunk} in [e.config["chunk"] for e in store.entries(rec)]
"""


def test_two_processes_write_at_once():
    """None of them reads half a file, or loses what the other one wrote under another key."""
    texts = [WRITER.format(chunk=chunk, time=time) for chunk, time in ((16, 8), (32, 16))]
    started = [subprocess.Popen([sys.executable, "-W", "error", "-c", text], stderr=subprocess.PIPE) for text in texts]
    for process in started:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said.decode()
    found = {e.key.time: e.config["chunk"] for e in store.entries(small())}
    assert found[8] == 16 and found[16] == 32 and found[4] in (16, 32)


def test_export_keeps_what_the_file_had():
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}))
    store.export(small())
    other = entry({"backend": "torch", "strategy": "scan", "chunk": 64}, D=16)
    for file in store.folder(small()).glob("*.json"):
        file.unlink()
    store.record(small(), other)
    path = store.export(small())
    assert path == Path("small.rec.tuned.json")
    assert sorted(view["config"]["chunk"] for view in json.loads(path.read_text())["entries"]) == [16, 64]


def test_a_call_runs_the_form_that_was_found(monkeypatch):
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}, time=64, D=8))
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
    store.record(small(), entry({"backend": "c", "chunk": 8}, time=64))
    op = recc.load("small.rec")
    x, a = torch.randn(2, 50, 4, 8, requires_grad=True), torch.rand(2, 50, 4, 8)
    best = op.tuned([x, a], {"time": 50, "batch": 2, "heads": 4, "D": 8})
    assert best.chunk_of(D=8) == 8 and op.chunk_of(D=8) != 8
    y = op(x, a)
    assert y.grad_fn.saved_tensors[0].shape[0] == 2 * 7  # one state for each 8 tokens
    assert torch.equal(y, recc.load("small.rec", backend="c", chunk=16)(x, a))


def test_a_compiled_call_takes_one_form_for_all_lengths():
    store.record(small(), entry({"backend": "torch", "strategy": "scan", "chunk": 16}, time=64))
    op = recc.load("small.rec")
    count = torch._dynamo.testing.CompileCounter()
    run = torch.compile(lambda x, a: op(x, a), backend=count, fullgraph=True, dynamic=True)
    for time in (40, 100, 3000):
        x, a = torch.randn(2, time, 4, 8), torch.rand(2, time, 4, 8)
        assert torch.allclose(run(x, a), op(x, a), atol=1e-5)
    assert count.frame_count == 1
