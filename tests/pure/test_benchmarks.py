"""The CPU benchmark on a small scale: its rivals compute what the specs say, and its report says what was measured."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import types
from pathlib import Path

import pytest
import torch

import recc

FOLDER = Path(recc.__file__).parent.parent / "benchmarks"
if not (FOLDER / "native.py").is_file():
    pytest.skip("the benchmarks lie in the checkout", allow_module_level=True)
sys.path.insert(0, str(FOLDER))

import candidates  # noqa: E402
import fallbacks  # noqa: E402
import floors  # noqa: E402
import layers  # noqa: E402
import native  # noqa: E402
import native_report  # noqa: E402
import rivals  # noqa: E402
import sweep  # noqa: E402
import workloads  # noqa: E402
from recc.backends.c import build  # noqa: E402

SMALL = {"K": 8, "V": 16, "D": 32, "N": 4, "P": 16}


def small(spec: str) -> workloads.Workload:
    w = workloads.WORKLOADS[spec]
    return dataclasses.replace(w, batch=2, time=64, sizes={name: SMALL[name] for name in w.sizes})


@pytest.mark.parametrize("spec", workloads.WORKLOADS)
def test_rivals_compute_what_the_spec_says(spec):
    w = small(spec)
    tensors = workloads.draw(w)
    dy = torch.randn(native.output_of(w, tensors).shape, generator=torch.Generator().manual_seed(0))
    want = candidates.reference(w, tensors, dy)
    found, missing = candidates.candidates(w, tensors, dy, compiled=(), jax=False)
    if rivals.installed("jax"):
        found += candidates.candidates(w, tensors, dy, compiled=(), jax=True)[0]
    for candidate in found:
        assert candidates.difference(candidate.results(), want) < 1e-5, candidate.name
    assert {candidates.TORCH, rivals.LOOP} <= {candidate.name for candidate in found}
    timed_or_named = {*missing, *(candidate.name for candidate in found)}
    assert rivals.JAX in timed_or_named and (spec not in fallbacks.FALLBACKS or fallbacks.NAME in timed_or_named)


def test_what_another_version_of_transformers_lacks_is_a_line_in_the_table(monkeypatch):
    model = types.ModuleType("transformers.models.mamba2.modeling_mamba2")
    model.mamba2_chunk_scan = lambda x, dt, A, B, C, chunk, D: x
    for name in ("transformers", "transformers.models", "transformers.models.mamba2"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, model.__name__, model)
    monkeypatch.setattr(rivals, "installed", lambda package: package == "transformers")
    monkeypatch.setattr(fallbacks.metadata, "version", lambda package: "0.1")
    rivals.missing_fallback.cache_clear()
    try:
        assert fallbacks.NAME not in rivals.absent("mamba2")
        assert fallbacks.NAME in [rival.name for rival in rivals.rivals("mamba2", compiled=())]
        for spec, path in (("gated_delta_net", "qwen3_next.torch_chunk"), ("mlstm", "xlstm.mlstm_chunkwise")):
            assert rivals.absent(spec)[fallbacks.NAME].startswith(f"transformers 0.1 has no {path}")
            assert fallbacks.NAME not in [rival.name for rival in rivals.rivals(spec, compiled=())]
    finally:
        rivals.missing_fallback.cache_clear()


@pytest.mark.skipif(build.find_compiler() is None, reason="the floors are C")
def test_a_report_from_measurements(monkeypatch, tmp_path):
    args = argparse.Namespace(compile=[], rounds=2, jax=False)
    machine = {"cpu": "a processor", "python": "3", "torch": torch.__version__, "load": 0.0, **rivals.versions()}
    found = {spec: native.workload(small(spec), floors.Floors(1), args) for spec in ("gla", "hgrn")}
    for entry in found.values():
        assert {candidates.TORCH, rivals.LOOP} <= set(entry["seconds"]["both"])
        assert all(error < 1e-5 for error in entry["agreement"].values())
    process = {"machine": machine, "workloads": found, "machine_floors": {"copy, GB/s": 10.0}}
    results = {"threads": {"1": process}, "first_use": {"gla": {"build": 0.2, "load": 1e-3}}}
    results["figures"] = native_report.figures(results)
    found["gla"] |= {"about": {"a rival": "forward alone"}, "missing": {"another": "not installed"}}
    text = native_report.markdown(results)
    assert "\na rival: forward alone.\n" in text and "\nanother: not installed.\n" in text
    assert "| gla: first use, library built | 200.00 ms | at most 600 ms | yes |" in text
    assert "| W1 hgrn: plain torch loop over native, forward + backward |" in text
    assert "## gla (W2)" in text and "B=2 T=64 H=4 K=8 V=16" in text


def test_others_are_compared_on_all_cores_too():
    """Floors are not."""
    both = {candidates.NATIVE: [1.0], rivals.LOOP: [9.0]}
    slow, fast = ({"forward": {}, "both": {**both, rivals.LOOP: [time]}, "decode": {}} for time in (9.0, 12.0))
    threads = {count: {"workloads": {"hgrn": {"seconds": x}}} for count, x in (("1", slow), ("2", fast))}
    rows = native_report.figures({"threads": threads, "first_use": {}})
    plain = {row["what"]: row["met"] for row in rows if "plain torch loop" in row["what"]}
    what = "W1 hgrn: plain torch loop over native, forward + backward"
    assert plain == {what: False, f"{what}, 2 threads": True}
    assert not any("floor" in row["what"] for row in rows)


def test_a_ratio_is_taken_within_rounds():
    times = {"a": [2.0, 9.0, None], "b": [1.0, 3.0, 1.0]}
    assert native_report.over(times, "a", "b") == 2.5
    assert native_report.over(times, "c", "b") is None


def test_jax_is_compared_with_the_native_code_of_its_own_process():
    beside = rivals.BESIDE[rivals.JAX]
    times = {candidates.NATIVE: [1.0], beside: [2.0], rivals.JAX: [6.0], rivals.LOOP: [6.0]}
    cells = {name: native_report._cell(times, name, "").partition("**")[2] for name in times}
    assert cells == {candidates.NATIVE: "", beside: "", rivals.JAX: "3.00x**", rivals.LOOP: "6.00x**"}


@pytest.mark.skipif(build.find_compiler() is None, reason="the floors are C")
def test_memories_of_other_sizes_and_layers_are_measured(monkeypatch):
    found = sweep._one(small("gla"), floors.Floors(1), 1)
    assert found["agreement"][candidates.NATIVE] < 1e-5
    assert {candidates.NATIVE, "floor: multiply-adds"} <= set(found["seconds"]["forward"])
    monkeypatch.setattr(layers, "TIME", 16)
    monkeypatch.setattr(layers, "WIDTH", 8)
    found = layers._one("gla_layer", {"heads": 2, "D": 8, "K": 4, "V": 4}, 1)
    assert found["agreement"] < 1e-5 and set(found["seconds"]["both"]) == {candidates.NATIVE, candidates.TORCH}


def test_memories_of_other_sizes_are_held_to_their_floors():
    """With about as much work as the workload, and 1.6 times as far from the floors."""
    own = workloads.WORKLOADS["gated_delta_net"]
    large, small = (sweep.swept(own, size) for size in (256, 32))
    assert large.sizes == {"K": 256, "V": 256} and large.time * 16 == own.time and small.time == own.time
    assert large.time * large.multiply_adds == own.time * own.multiply_adds == 4 * small.time * small.multiply_adds
    native, floor = candidates.NATIVE, "floor: multiply-adds"
    both = {native: [0.5], native + native_report.BACKWARD: [0.4], floor: [0.1]}
    entry = {"shape": large.shape(), "seconds": {"forward": {native: [0.3], floor: [0.1]}, "both": both}}
    swept = {"workloads": {}, "sweep": {"gated_delta_net": {"256": entry}}}
    rows = native_report.figures({"threads": {"1": swept}, "first_use": {}})
    assert [(row["met"], round(row["target"], 2)) for row in rows] == [(True, 3.2), (True, 4.48)], rows
    table = "\n".join(native_report._sizes_section({"1": swept}))
    assert "| gated_delta_net, B=2 T=128 H=4 K=256 V=256, 1 thread |" in table and "**3.00x**" in table
