"""Walks over tokens with tiles of a configuration: other blocks, orders, and walks that hold as little as they can."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernels import recurrence
from recc.backends.triton import config, module, sequential

from recc.analysis import analyse
from recc.runtime import verify
from recc.runtime.cases import PACKED, Case

CHUNK = 16
TILES = {
    "crowded": config.Tile(block=2, warps=2, order="least", crowded=True),
    "not crowded": config.Tile(block=1, warps=4, order="back", crowded=False),
}
# Rows of sequences; params that are vectors; channels; walks that share a dim; matrices among the states.
CASES = [("lstm", "crowded", "packed_reverse"), ("peephole_lstm", "crowded", "packed_reverse"),
         ("ema", "crowded", "plain"), ("mlstm", "crowded", "plain"),
         ("titans_mlp", "not crowded", "plain"),
         ("rhn", "crowded", "step"), ("omega_net", "crowded", "step")]  # fmt: skip


def tiled(name: str, tile: config.Tile) -> config.Config:
    """Every walk with a tile."""
    plan, found = analyse(recurrence(name)), config.DEFAULT
    for part in sequential.functions(plan, module.chosen(plan, "sequential"))[1]:
        for kernel in part.kernels:
            found = found.with_tile(kernel.name, tile)
    return found


def text(name: str, own: config.Config = config.DEFAULT) -> str:
    plan = analyse(recurrence(name))
    return module.generate(plan, module.chosen(plan, "sequential"), own).functions


def wrong(name: str, tile: config.Tile, variant: str) -> tuple[list[str], int]:
    """What of values, gradients and single tokens is beyond the budget, and how many were compared."""
    rec, plan = recurrence(name), analyse(recurrence(name))
    made = module.generate(plan, module.chosen(plan, "sequential"), tiled(name, tile))
    meta = dict(made.meta)
    if meta["checkpoint"] > 1:
        meta |= {"checkpoint": CHUNK, "digest": f"{meta['digest']}_{CHUNK}"}
    op = module.load(replace(made, meta=meta))
    time = {"packed_reverse": sum(PACKED), "plain": CHUNK + 3, "step": 3}[variant]
    rows = verify.compare(rec, Case(time, variant), ["float32"], {"kernels": op}, [])
    return [row.what for row in rows if not row.ok], len(rows)


@pytest.mark.parametrize(("name", "tile", "variant"), CASES)
def test_every_tile_computes_the_same(name, tile, variant, interpreted):
    found, rows = interpreted(wrong, name, TILES[tile], variant)
    assert found == [] and rows > 1


@pytest.mark.parametrize("name", dict.fromkeys(name for name, *_ in CASES))
def test_tiles_change_the_text(name):
    assert len({text(name), *(text(name, tiled(name, tile)) for tile in TILES.values())}) == 3


def test_what_a_configuration_says_is_launched():
    own = text("omega_net", tiled("omega_net", TILES["crowded"]))
    assert "part_V_2 = call.most(block_V, 2)" in own and "part_V =" not in own
    assert own.count("BLOCK_V=part_V_2") > 2 and own.count("warps=2") == own.count("call.options(")
    assert "parts_V" in text("omega_net") and "warps=" not in text("omega_net")


def test_what_is_neither_yes_nor_no_is_refused():
    for fields in ({"apart": "yes"}, {"handed": 1}, {"tiles": {"forward_walk": {"crowded": "no"}}}):
        with pytest.raises(ValueError, match="must be True, False or None"):
            config.of(**fields)


def test_fields_that_there_are_not_are_named():
    with pytest.raises(ValueError, match="a configuration has no field `chunck`; there are chunk, "):
        config.of(chunck=16)
    with pytest.raises(ValueError, match="the tile of `forward_walk` has no field `warp`; there are block, "):
        config.of(tiles={"forward_walk": {"warp": 4}})


def test_one_walk_alone_may_have_a_tile():
    usual, own = text("omega_net"), text("omega_net", config.DEFAULT.with_tile("backward_walk_1", TILES["crowded"]))
    assert "part_V = " in own and "parts_V_2 = triton.cdiv(V, part_V_2)" in own
    assert own.partition("def backward_walk_2(")[2].partition("def ")[0] in usual
    assert own.partition("def backward_walk_1(")[0] == usual.partition("def backward_walk_1(")[0]
