"""Configurations that spill nothing: the search for them, and those that ship with recc."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import torch
from kernels import recurrence
from recc.backends.triton import aot, config, fit, fitted, module

from recc.analysis import analyse

SIZES = {"K": 64, "V": 64}
TARGET = "sm_90"
# One for each kind of choice: chunks, results apart, a pass that is not fused, tiles.
SHIPPED = {frozenset(config.view(entry.config)): entry for entry in fitted.everything() if entry.target == TARGET}


def plan_of(name):
    return analyse(recurrence(name))


def faked(spills):
    """A compiler that says of a launch what `spills` does: of its name, its tokens in a chunk and its options."""

    def compile(launch):
        options = launch.options
        return {"registers": 99, "shared": 0, "matrix": 0,
                "spills": spills(launch.name, launch.arguments["ROWS"], options["num_warps"])}  # fmt: skip

    return compile


def test_what_spills_nothing_is_left_alone():
    found = fit.fit(plan_of("simple_gla"), SIZES, TARGET, compile=faked(lambda *launch: 0))
    assert found.config == config.DEFAULT and found.spilled == {} and found.moved == found.usual


def test_of_what_fits_the_fewest_bytes_are_moved():
    plan = plan_of("simple_gla")
    found = fit.fit(plan, SIZES, TARGET, compile=faked(lambda name, rows, warps: 600 * (rows > 32)))
    assert {"backward_walk", "backward_finish"} <= found.spilled.keys() and found.config.chunk == 32
    for other in (config.Config(chunk=16), config.Config(chunk=32, apart=True)):
        assert fit._Search(plan, SIZES, TARGET, torch.bfloat16).form(other).total >= found.moved


def test_a_tile_alone_is_changed_where_little_spills():
    few = faked(lambda name, rows, warps: 16 * (name == "backward_finish" and warps > 4))
    found = fit.fit(plan_of("simple_gla"), SIZES, TARGET, compile=few)
    ((kernel, tile),) = found.config.tiles
    assert (kernel, tile.warps, found.config.chunk) == ("backward_finish", 4, None) and found.moved == found.usual


def test_what_does_not_compile_does_not_fit():
    def compile(launch):
        if launch.arguments["ROWS"] > 16:
            raise RuntimeError("ptxas fatal")
        return faked(lambda *launch: 0)(launch)

    assert fit.fit(plan_of("gla"), SIZES, TARGET, compile=compile).config.chunk == 16
    nothing = fit.fit(plan_of("gla"), SIZES, TARGET, compile=faked(lambda *launch: 9000))
    assert nothing.config is None and set(nothing.spilled.values()) == {9000}


def test_entries_are_found_by_equation_sizes_dtype_and_device():
    for entry in fitted.everything():
        rec = recurrence(entry.name)
        assert rec.fingerprint == entry.specs[0], "`make fitted` writes the file anew"
        sizes = dict(entry.dims)
        assert fitted.config_of(rec, sizes, entry.target, entry.dtype) == entry.config != config.DEFAULT
        assert fitted.config_of(rec, sizes, entry.target, "float32") == config.DEFAULT
        assert fitted.config_of(rec, sizes, "sm_37", entry.dtype) == config.DEFAULT
        assert fitted.config_of(rec, {dim: 24 for dim in sizes}, entry.target, entry.dtype) == config.DEFAULT


@pytest.mark.parametrize("entry", SHIPPED.values(), ids=[entry.name for entry in SHIPPED.values()])
def test_what_ships_spills_nothing(entry):
    plan = plan_of(entry.name)
    generated = module.generate(plan, module.chosen(plan, None, entry.config.chunk), entry.config)
    launches = aot.every_launch(generated, dict(entry.dims), getattr(torch, entry.dtype))
    found = {
        f"{launch.name} {launch.arguments.get('OUTER')}": aot.facts(aot.compile_launch(launch, entry.target))
        for launch in launches
    }
    assert {name: facts["spills"] for name, facts in found.items() if facts["spills"]} == {}
    assert max(facts["shared"] for facts in found.values()) <= aot.SHARED[entry.target]


def test_an_op_has_them_for_its_sizes():
    rec = recurrence("retnet")
    op, own = module.op(analyse(rec), target=TARGET), fitted.entries(rec, TARGET)
    assert own and [dims for dims, _, _ in op.fitted] == [dict(entry.dims) for entry in own]
    for dims, dtype, other in op.fitted:
        assert other.rows != op.rows
        assert op._of_sizes(tensors(op, dims, dtype)) is other
        assert op._of_sizes(tensors(op, dims, torch.float32)) is op
        assert op._of_sizes(tensors(op, {**dims, "V": 24}, dtype)) is op


def tensors(op, dims, dtype):
    """Inputs, params and states without values."""
    sizes = {**dims, "heads": 2}
    items = [(item, 2) for item in op.inputs] + [(item, 0) for item in op.params] + [(item, 1) for item in op.states]
    shapes = [((1, 300)[:lead], [sizes[axis] for axis in item["axes"]]) for item, lead in items]
    return tuple(torch.empty(*lead, *own, dtype=dtype, device="meta") for lead, own in shapes)


def test_nothing_is_fitted_where_something_was_asked_for():
    plan = plan_of("retnet")
    assert module.op(plan, config=config.Config(chunk=64), target=TARGET).fitted == ()
    assert module.op(plan, "chunk", target=TARGET).fitted == ()
    assert module.op(plan, target="sm_37").fitted == ()
