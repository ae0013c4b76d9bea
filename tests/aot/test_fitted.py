"""Configurations that spill nothing: the search for them, and those that ship with recc."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

import torch
from kernels import recurrence
from recc.backends.torch.layout import dim_of
from recc.backends.triton import aot, config, fit, fitted, module

from recc.analysis import analyse


def plan_of(name):
    return analyse(recurrence(name))


def is_walk(entry):
    """Whether an entry is of walks over tokens, which have tiles alone."""
    alone = config.view(entry.config).keys() == {"tiles"}
    return alone and not module.chosen(plan_of(entry.name), entry.strategy).parallel


SIZES = {"K": 64, "V": 64}
TARGET = "sm_90"
# One for each kind of choice: chunks, results apart, a pass that is not fused, tiles; of kernels of chunks, and of
# walks over tokens, by themselves and beside those.
SHIPPED = {(frozenset(config.view(entry.config)), entry.strategy, is_walk(entry)): entry
           for entry in fitted.everything() if entry.target == TARGET}  # fmt: skip


def faked(spills):
    """A compiler that says of a launch what `spills` does: of its name, its rows and its warps."""

    def compile(launch):
        options, rows = launch.options, launch.arguments.get("ROWS")
        return {"registers": 99, "shared": 0, "matrix": 0, "spills": spills(launch.name, rows, options["num_warps"])}

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


def test_a_walk_takes_the_tile_that_changes_least():
    """Of those that move the fewest bytes, which smaller blocks of a dim that programs share do not."""

    def compile(launch):
        return {"shared": 0, "spills": 16 * (launch.name == "backward_walk" and launch.arguments["BLOCK_V"] > 8)}

    found = fit.fit(plan_of("delta_net"), SIZES, TARGET, compile=compile, strategy="sequential")
    ((kernel, tile),) = found.config.tiles
    assert (kernel, tile.block, tile.order, tile.crowded) == ("backward_walk", 8, None, None)
    assert found.moved > found.usual and found.spilled == {"backward_walk": 16}


def test_a_walk_that_no_tile_mends_is_left():
    """Where more spills than a thread has registers, nothing more is compiled."""
    much = faked(lambda name, rows, warps: 2000 * (name == "backward_walk"))
    found = fit.fit(plan_of("lstm"), {"D": 64}, TARGET, compile=much)
    assert found.config is None and found.compiled == 3 and found.moved == found.usual > 0
    few = faked(lambda name, rows, warps: 8 * (name == "backward_walk" and warps > 4))
    found = fit.fit(plan_of("lstm"), {"D": 64}, TARGET, compile=few)
    assert found.config.tile("backward_walk").warps == 4 and found.moved == found.usual


def test_entries_are_found_by_equation_sizes_dtype_and_device():
    for entry in fitted.everything():
        rec = recurrence(entry.name)
        assert rec.fingerprint == entry.specs[0], "`make fitted` writes the file anew"
        sizes = dict(entry.dims)
        kind = {"strategy": entry.strategy}
        assert fitted.config_of(rec, sizes, entry.target, entry.dtype, **kind) == entry.config != config.DEFAULT
        assert fitted.config_of(rec, sizes, entry.target, "float32", **kind) == config.DEFAULT
        assert fitted.config_of(rec, sizes, "sm_37", entry.dtype, **kind) == config.DEFAULT
        assert fitted.config_of(rec, {dim: 24 for dim in sizes}, entry.target, entry.dtype, **kind) == config.DEFAULT


@pytest.mark.parametrize("entry", SHIPPED.values(), ids=[entry.name for entry in SHIPPED.values()])
def test_what_ships_spills_nothing(entry):
    plan = plan_of(entry.name)
    generated = module.generate(plan, module.chosen(plan, entry.strategy, entry.config.chunk), entry.config)
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


@pytest.mark.parametrize(("name", "target"), [("lstm", "gfx942"), ("omega_net", TARGET)])
def test_a_walk_has_them_for_its_sizes(name, target):
    """Alone, and beside kernels of chunks; also for single tokens."""
    op = module.op(plan_of(name), target=target)
    walk = op if name == "lstm" else op.walk
    (dims, dtype, other), *_ = walk.fitted
    config_of = fitted.config_of(recurrence(name), dims, target, strategy=None if walk is op else "sequential")
    ((_, tile),) = config_of.tiles
    assert f"warps={tile.warps})" in other.source and "warps=" not in walk.source
    assert walk._forward_for(*tensors(walk, dims, dtype)) is other._forward
    assert walk._forward_for(*tensors(walk, dims, torch.float32)) is walk._forward
    token = tensors(walk, dims, dtype, time=())
    assert walk._of_token(token, {}) is other and walk._of_token((), {}) is walk
    assert walk._of_token((), {item["name"]: x for item, x in zip((*walk.inputs, *walk.params), token)}) is other
    assert walk._of_token(tensors(walk, {**dims, next(iter(dims)): 24}, dtype, time=()), {}) is walk


def tensors(op, dims, dtype, time=(300,)):
    """Inputs, params and states without values."""
    sizes = {**dims, "heads": 2}
    items = [(item, 2) for item in op.inputs] + [(item, 0) for item in op.params] + [(item, 1) for item in op.states]
    shapes = [((1, *time)[:lead], [sizes[dim_of(axis)] for axis in item["axes"]]) for item, lead in items]
    return tuple(torch.empty(*lead, *own, dtype=dtype, device="meta") for lead, own in shapes)


def test_nothing_is_fitted_where_something_was_asked_for():
    plan = plan_of("retnet")
    assert module.op(plan, config=config.Config(chunk=64), target=TARGET).fitted == ()
    assert module.op(plan, "chunk", target=TARGET).fitted == ()
    assert module.op(plan, target="sm_37").fitted == ()
