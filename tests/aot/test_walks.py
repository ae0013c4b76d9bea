"""Kernels that walk over tokens, compiled for GPUs that need not be there."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("triton")

import torch
from kernels import has_complex_state, recurrence
from recc.backends.torch.passes import ArgumentError
from recc.backends.triton import aot, fitted, module

from recc import library
from recc.analysis import analyse
from recc.strategies import choose

# Known to spill in the backward pass: conv_gru has nine matrices on the way of its state, mdlstm ten, and a memory that
# is trained its gradients' states.
SPILLS = ("atlas", "conv_gru", "mdlstm")
# Tiles of three dims, of which programs cannot share one, are larger than a program has room for at dims of 64.
REFUSED = ("chimera", "ssm_2d")
PASSES = ("forward", "backward", "decode")
MATRICES = ("gru", "lstm", "elman")  # on the way of a state


def compiled(name: str, target: str, only: tuple[str, ...] = PASSES, size: int = 64):
    """The facts of the launches of one token and of both passes in bfloat16, by the kernel's name, with the
    configuration that a call takes."""
    plan = analyse(recurrence(name))
    sizes = {dim: own or size for dim, own in plan.recurrence.dims.items()}
    beside = "sequential" if module.chosen(plan).parallel else None  # a walk beside kernels of chunks
    config = fitted.config_of(plan.recurrence, sizes, target, strategy=beside)
    generated = module.generate(plan, choose(plan, "sequential"), config)
    launches = aot.launches(generated, sizes, torch.bfloat16)
    assert {launch.name.partition("_")[0] for launch in launches} == set(PASSES)
    wanted = [launch for launch in launches if launch.name.partition("_")[0] in only]
    return {launch.name: aot.facts(aot.compile_launch(launch, target)) for launch in wanted}


def walks(name: str) -> str:
    """The text of the kernels and of their launches."""
    plan = analyse(recurrence(name))
    return module.generate(plan, choose(plan, "sequential")).functions


@pytest.mark.parametrize(
    "name", [name for name in library.names() if name not in (*SPILLS, *REFUSED) and not has_complex_state(name)]
)
def test_every_backward_pass_without_spills(name):
    """For Hopper, at the spec's own dims and 64 for the others: what keeps the most values of all kernels."""
    found = compiled(name, "sm_90", ("backward",))
    assert {name: facts["spills"] for name, facts in found.items() if facts["spills"]} == {}


@pytest.mark.parametrize("name", [name for name in library.names() if has_complex_state(name) and name not in REFUSED])
def test_every_backward_pass_of_complex_states(name):
    """Two tiles each: more warps share them, or a program takes fewer channels. That cos and sin reduce a large
    argument in an array is no spill."""
    found = compiled(name, "sm_90", ("backward",))
    assert {facts["spills"] for facts in found.values()} == {0}
    assert {facts["stack"] for facts in found.values()} <= {0, 32}


def test_crowded_walks_read_tiles_again():
    """What lies in memory waits there for its next reader, and matrices are read at every token."""
    text = {name: walks(name).partition("def backward_walk")[2] for name in ("conv_gru", "titans_mlp", "gla")}
    loop = text["conv_gru"].partition("for i in range(steps):")[2].partition("def backward_tiles")[0]
    assert loop.count("Mr = tl.load(") == 1 and "Mr_ahead" not in text["conv_gru"]
    assert text["titans_mlp"].count("S_M1_chunk = tl.load(") > 1
    assert text["gla"].count("S_S_chunk = tl.load(") == 1


def test_crowded_walks_keep_in_memory_what_registers_do_not_hold():
    """Matrices among the states lie in memory from token to token, as their tiles do, and sums between blocks."""
    text = walks("ttt_linear").partition("def backward_walk")[2]
    inside = text.partition("for j in range(count):")[2].partition("def backward_tiles")[0]
    assert inside.count("d_S_W_C_kept_ptr") > 1 and "tile_elements(BLOCK_D, BLOCK_D, D)" in inside
    assert "x_parts_sum" not in text and "_ahead" not in inside and "tl.trans" not in inside
    assert not any("_kept_ptr" in walks(name) for name in ("gla", "conv_gru", "gated_delta_net"))


def test_terms_of_sums_wait_in_memory_for_the_end_of_their_chunk():
    """Where matrices in memory leave too few registers, vectors lie there, too: states, and terms of sums."""
    text = walks("gated_delta_net_layer").partition("def backward_walk")[2].partition("def backward_tiles")[0]
    token, _, after = text.partition("for j in range(count):")[2].partition("    d_q0_parts_part = tl.load(")
    assert "x_parts_part += " in token and "d_q1_parts_part" not in token and after.count("_part, 0)") == 13
    assert re.search(r"tl\.store\(\s+\w+_kept_ptr [^,]*,\s+d_S_xq_3_next,", token)
    assert token.count("S_xq_1_chunk = tl.load(") == 2 and "still = (t * 2 & " in token
    assert "_part += " in walks("ttt_linear")


def test_what_waits_in_memory_is_read_in_one_place_and_written_in_another():
    """So no thread waits for the others before it writes, and no address is the same at every token."""
    text = walks("titans_mlp").partition("def backward_walk")[2]
    inside = text.partition("for j in range(count):")[2].partition("def backward_tiles")[0]
    token = inside.partition("        tl.debug_barrier()\n    tl.store(")[0]
    assert token.count("tl.debug_barrier()") == 1 and "(t % 2) *" in token and "((t + 1) % 2) *" in token


def test_numbers_come_as_soon_as_their_vectors_are_there():
    """The gradients of gates are written last; the products of vectors that are their terms are summed before."""
    text = walks("titans_mlp").partition("for j in range(count):")[2]
    terms = re.compile(r"tl\.sum\(x_\d+ \* x_\d+, 0\)")
    before, _, after = text.partition("d_k_ptr +")
    assert len(terms.findall(before)) > 4 and not terms.search(after.partition("for j in range")[0])


@pytest.mark.parametrize("name", ["fernn", "conv_gru", "plstm_2d", "plstm_2d_diffusive", "ttt_mlp"])
def test_forward_passes_without_spills(name):
    """Four operands of one matrix, turned and masked, would spill in 4 warps; products that feed each other, in warps
    that share rows alone; states of three dims, and two matrices, where inputs are loaded early."""
    found = compiled(name, "sm_90", ("forward",))
    assert {facts["spills"] for facts in found.values()} == {0}


def test_crowded_walks_compute_places_and_products_apart():
    """Places are computed at every token, and a product stands in a loop of its own where it feeds another."""
    text = {name: walks(name).partition("def backward_walk")[2] for name in ("conv_gru", "plstm_2d", "gla")}
    assert "tile_dot_apart(" in text["conv_gru"] and "tile_dot_apart(" not in text["plstm_2d"]
    assert text["plstm_2d"].count("still = ") == 2 and "_ahead" not in text["plstm_2d"]
    assert "still" not in text["gla"]
    last = text["conv_gru"].partition("d_S_h_next = ")[2].partition("\n")[0]
    assert re.fullmatch(r"x_\d+ \+ x_\d+", last)  # six terms, most of which were added before


def test_a_warp_holds_less_where_more_is_there_at_a_time():
    found = {name: walks(name) for name in ("gla", "hgrn", "ema", "s4d", "s4")}
    assert not any("share=" in found[name] for name in ("gla", "hgrn", "ema"))
    assert found["s4d"].count("share=256") == 1 and "room=" not in found["s4d"]
    assert "call.part(block_D, block_N, room=512)" in found["s4"]


@pytest.mark.parametrize("name", REFUSED)
def test_tiles_too_large_are_refused(name):
    """Before a compiler sees them, with the sizes that are too large; at dims of 16 there is room."""
    plan = analyse(recurrence(name))
    generated = module.generate(plan, choose(plan, "sequential"))
    with pytest.raises(ArgumentError, match=rf"{name} with .*\w+ = 64.* has room for"):
        aot.launches(generated, {}, torch.bfloat16)
    free = [dim for dim, size in plan.recurrence.dims.items() if not size]
    assert aot.launches(generated, dict.fromkeys(free, 16), torch.bfloat16)


def test_what_has_room_is_shared_or_taken_alone():
    """One column of a state of three dims, or blocks of two where registers are scarce, and one sequence where a unit
    of each sums many rectifiers."""
    plan = analyse(recurrence("plstm_2d"))
    launches = aot.launches(module.generate(plan, choose(plan, "sequential")), {}, torch.bfloat16)
    blocks = {launch.name: (launch.arguments["BLOCK_K"], launch.arguments["BLOCK_V"]) for launch in launches}
    assert blocks == {"forward_walk": (64, 1), "backward_walk": (16, 2), "decode_walk": (64, 1)}
    assert "ROWS" not in walks("dend_plrnn") and "ROWS" in walks("mdlstm")


@pytest.mark.parametrize("target", sorted(aot.TARGETS))
@pytest.mark.parametrize("name", ["gla", "hgrn", "lstm"])
def test_every_target(name, target):
    found = compiled(name, target)
    assert {name: facts["spills"] for name, facts in found.items() if facts["spills"]} == {}
    assert all((facts["matrix"] > 0) == (name in MATRICES) for facts in found.values())


@pytest.mark.parametrize("name", ["gated_delta_net", "gla", "gru"])
def test_wide_heads(name):
    """At dims of 128 programs share one, so that registers do, or hold matrices in half as many warps."""
    found = compiled(name, "sm_90", ("forward", "backward"), 128)
    assert {name: facts["spills"] for name, facts in found.items() if facts["spills"]} == {}
