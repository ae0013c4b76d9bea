"""Kernels compiled for GPUs that need not be there: they compile, and the binary says what they use."""

from __future__ import annotations

import re

import pytest

pytest.importorskip("triton")

import torch
from kernels import has_complex_state, parallel, recurrence
from recc.backends.triton import aot, module
from recc.backends.triton.config import DEFAULT, Config, Tile
from recc.backends.triton.nodes import inner

from recc.analysis import analyse
from recc.ir.node import ROW

SMALL = dict.fromkeys(("K", "V", "N", "P", "D"), 16)


def compiled(name: str, target: str, sizes: dict[str, int], chunk: int | None,
             config: Config = DEFAULT) -> dict[str, dict[str, int]]:  # fmt: skip
    """The facts of every launch of a forward and a backward pass in bfloat16, by the kernel's name."""
    plan = analyse(recurrence(name))
    generated = module.generate(plan, module.chosen(plan, chunk=chunk), config)
    launches = aot.launches(generated, sizes, torch.bfloat16)
    assert {launch.name.partition("_")[0] for launch in launches} == {"forward", "backward"}
    return {launch.name: aot.facts(aot.compile_launch(launch, target)) for launch in launches}


REAL = [name for name in parallel() if not has_complex_state(name)]


@pytest.mark.parametrize("name", [*REAL, "lru"])
def test_every_spec_compiles(name):
    """For Hopper; one of complex states, whose scans take long to compile. Chunks are contracted on tensor cores."""
    found = compiled(name, "sm_90", SMALL, 16)
    plan = analyse(recurrence(name))
    matrix = any(module.chosen(plan).name(component) == "chunk" for component in plan.components)
    assert (sum(facts["matrix"] for facts in found.values()) > 0) == matrix
    assert all(0 < facts["registers"] <= 255 for facts in found.values())


@pytest.mark.parametrize("target", sorted(aot.TARGETS))
@pytest.mark.parametrize("name", ["simple_gla", "hgrn"])
def test_every_target(name, target):
    found = compiled(name, target, SMALL, 16)
    assert all(facts["registers"] > 0 for facts in found.values())
    assert (sum(facts["matrix"] for facts in found.values()) > 0) == (name == "simple_gla")


SPILL_NOTHING = [("hgrn", 32, None), ("gdn2", 128, None), ("simple_gla", 32, None), ("delta_net", 32, None),
                 *((name, size, None) for name in ("simple_gla", "gla", "kda", "delta_net", "gated_delta_net")
                   for size in (64, 128)),
                 ("gated_delta_net", 32, None), ("comba", 64, None), ("mlstm_sig", 64, None), ("rwkv7", 64, None),
                 ("rwkv7", 128, None), ("liger", 64, None), ("lightnet", 64, None), ("swla", 128, None)]  # fmt: skip


HANDED = [("gated_delta_net_layer", 64, Config()), ("gated_delta_net_layer", 128, Config(apart=True)),
          ("mlstm", 128, Config(handed=True))]  # fmt: skip


@pytest.mark.parametrize("name, size, config", HANDED)
def test_what_follows_a_memory_spills_nothing(name, size, config):
    """Cotangents of delays and of a stabiliser: the products that lead to them are computed once."""
    found = compiled(name, "sm_90", dict.fromkeys(SMALL, size), None, config)
    assert {name: facts["spills"] for name, facts in found.items() if facts["spills"]} == {}


@pytest.mark.parametrize("name, size, chunk", SPILL_NOTHING)
def test_kernels_spill_nothing(name, size, chunk):
    """With the default configuration; docs/triton.md has what is known of others."""
    found = compiled(name, "sm_90", dict.fromkeys(SMALL, size), chunk)
    assert {name: facts["spills"] for name, facts in found.items() if facts["spills"]} == {}


TWO = """recurrence two
dim K, V
input q, k : K
input v : V
input g : K <= 0
input b in [0, 1]
param w : K
state S, M : K x V = 0
output o : V
S[t] = diag(exp(g)) @ S[t-1] + b * outer(k, v - k @ S[t-1])
M[t] = diag(sigmoid(w)) @ M[t-1] + outer(k, v)
o    = q @ S[t] - k @ M[t]
example T = 33, heads = 2, K = 6, V = 5
"""


def test_a_launch_of_products_shares_a_dim_and_loops_over_another():
    """Both are sides of products, which need 16 places of each."""
    plan = analyse(recurrence(TWO))
    launches = aot.launches(module.generate(plan, module.chosen(plan)), {"K": 128, "V": 128}, torch.bfloat16)
    (finish,) = (launch for launch in launches if launch.name == "forward_finish")
    assert finish.arguments["BLOCK_K"] == 16 and finish.arguments["BLOCK_V"] == 128
    assert aot.facts(aot.compile_launch(finish, "sm_90"))["matrix"] > 0


@pytest.mark.parametrize("name, size", [("mamba", 64), ("mamba_signed", 16), ("s4d", 16), ("s4d", 64), ("dss", 16),
                                        ("gss", 64), ("lru", 64), ("min_gru", 64), ("ema", 64), ("mamba", 128),
                                        ("quamba", 128), ("s4d", 128), ("plstm_1d", 128)])  # fmt: skip
def test_scans_spill_nothing(name, size):
    """Their tiles are as wide as `pressure` says that registers hold."""
    found = compiled(name, "sm_90", dict.fromkeys(SMALL, size), None)
    assert {name: facts["spills"] for name, facts in found.items() if facts["spills"]} == {}


def test_what_spills_is_told_from_other_stack():
    """In a tile that is far too wide: numbers of 4 bytes, in no array."""
    plan = analyse(recurrence("mamba"))
    config = Config(tiles=(("backward_prepare", Tile(block=256, warps=2)),))
    launches = aot.launches(module.generate(plan, module.chosen(plan), config), {"N": 128}, torch.bfloat16)
    (wide,) = (launch for launch in launches if launch.name == "backward_prepare")
    found = aot.facts(aot.compile_launch(wide, "sm_90"))
    assert found["spills"] > 1000 and found["stack"] == 0


@pytest.mark.parametrize("name", ["mamba", "s4d", "liquid_s4"])
def test_scans_launch_where_shared_memory_is_least(name):
    found = compiled(name, "gfx942", SMALL, None)
    assert max(facts["shared"] for facts in found.values()) <= aot.SHARED["gfx942"]
    assert not any(facts["spills"] for facts in found.values())


@pytest.mark.parametrize("name, kernel, tile", [
    ("hgrn", "forward_prepare", (64, 4)), ("hgrn", "backward_finish", (64, 4)),
    ("mamba", "forward_finish", (128, 4)), ("mamba", "backward_prepare", (128, 4)),  # from row to row
    ("mamba", "backward_finish", (128, 8)),  # scans both ways: one waits for the other
    ("s4d", "forward_finish", (64, 2)), ("s4d", "backward_finish", (64, 8)),  # two tiles each
    ("rwkv4", "backward_prepare", (32, 8)),
])  # fmt: skip
def test_the_tile_of_a_scan_follows_from_what_its_launch_holds(name, kernel, tile):
    plan = analyse(recurrence(name))
    forward, backward, _ = module.functions(plan, module.chosen(plan))
    (found,) = (one.tile for one in (*forward.kernels, *backward.kernels) if one.name == kernel)
    assert (found.block, found.warps) == tile


@pytest.mark.parametrize("name", ["simple_gla", "gla", "delta_net", "gated_delta_net", "kda", "rwkv7"])
def test_forward_kernels_spill_nothing_at_128(name):
    plan = analyse(recurrence(name))
    launches = aot.launches(module.generate(plan, module.chosen(plan)), dict.fromkeys(SMALL, 128), torch.bfloat16)
    forward = [launch for launch in launches if launch.name.startswith("forward")]
    assert forward
    assert {x.name: aot.facts(aot.compile_launch(x, "sm_90"))["spills"] for x in forward} == dict.fromkeys(
        [x.name for x in forward], 0
    )


@pytest.mark.parametrize("name", ["delta_net", "kda", "delta_product", "mom"])
def test_a_system_is_solved_once_for_its_values_and_once_for_their_cotangents(name):
    """Its derivative is made of these two: the backward pass multiplies with an inverse nowhere else, and the launches
    after the walk read what the walk has solved. With a decay of each channel the values are the forward pass's."""
    plan = analyse(recurrence(name))
    forward, backward, _ = module.functions(plan, module.chosen(plan))
    ranks = 2 if name == "delta_product" else 1
    solved = backward.schedule.solved
    sums = [node for node in solved if not any(node in user.args for user in solved)]  # of products for each rank
    assert len(sums) == ranks * (2 - len(forward.program.kept)) and len(forward.program.kept) == (name == "kda")
    (walk,) = (kernel.launch for kernel in backward.kernels if kernel.launch.walks)
    left = [node for node in walk.stores if node in sums]
    after = backward.kernels[-1].launch
    assert len(left) == ranks and set(left) <= set(after.loads) - set(after.nodes)


@pytest.mark.parametrize("name", ["delta_product", "omega_net"])
def test_ranks_have_tiles_of_their_own(name):
    """But for the inverse and what it is made of: what a launch reads of it are the blocks of two ranks. Tiles of pairs
    are computed before the gradients of keys."""
    plan = analyse(recurrence(name))
    _, backward, _ = module.functions(plan, module.chosen(plan))
    launches = [kernel.launch for kernel in backward.kernels]
    for launch in launches:
        ranked = [node for node in (*launch.loads, *launch.nodes) if any(axis.startswith("@r") for axis in node.axes)]
        assert not ranked or any(node.op == "inverse" for node in launch.nodes)
    assert backward.schedule.pairs and not backward.schedule.pairs & set(launches[-1].nodes)


@pytest.mark.parametrize("name", ["linear_attention", "gla_layer", "gated_delta_net_layer", "mlstm"])
def test_a_walk_computes_no_products_with_states_that_are_there_before_it(name):
    """The forward pass has kept them: what follows runs over all chunks at once, and programs share the walk."""
    plan = analyse(recurrence(name))
    _, backward, _ = module.functions(plan, module.chosen(plan))
    walks = [kernel.launch for kernel in backward.kernels if kernel.launch.walks]
    memory = next(walk for walk in walks if any(len(inner(carry.old.axes)) > 1 for carry in walk.walks))
    assert memory.split and not [node for node in memory.loads if len(inner(node.axes)) > 1 and ROW not in node.axes]


@pytest.mark.parametrize("name", ["mamba2_window", "gated_delta_net_layer", "mlstm"])
def test_a_walk_of_vectors_after_that_of_a_memory_computes_no_products(name):
    """What it reads of them is a vector for each chunk: no rows pass through memory for a delay of a delay."""
    plan = analyse(recurrence(name))
    _, backward, _ = module.functions(plan, module.chosen(plan))
    walks = [kernel.launch for kernel in backward.kernels if kernel.launch.walks]
    after = [walk for walk in walks[1:] if not any(len(inner(carry.old.axes)) > 1 for carry in walk.walks)]
    assert after and not any(node.op == "dot" for walk in after for node in walk.nodes)
    assert not any(ROW in node.axes for walk in after for node in walk.loads)


def test_products_over_a_loop_add_up_in_one_tile():
    """In the last launch of a delta rule two products with states make the key's cotangent, one the query's."""
    plan = analyse(recurrence("gated_delta_net"))
    _, backward, _ = module.functions(plan, module.chosen(plan))
    finish = backward.text[backward.text.index("def backward_finish") :]
    assert finish.count("tl.zeros((ROWS, BLOCK_K), tl.float32)") == 2


def test_products_of_delays_with_one_side_are_one():
    """Of a window of four tokens: what the state's cotangent and the output's lead to is moved before the product."""
    plan = analyse(recurrence("swla"))
    _, backward, _ = module.functions(plan, module.chosen(plan))
    finish = backward.text[backward.text.index("def backward_finish") :]
    assert finish.count("tl.zeros((ROWS, BLOCK_V), tl.float32)") == 1
    for side in ("d_o", "q"):
        assert len(re.findall(rf"tile_dot\(.*, {side}, DOT\)", finish)) == 1


def test_after_a_loop_without_stores_no_load_says_what_one_before_it_said():
    """Else the compiler takes both for one, and what follows from it stays in registers throughout the loop."""
    plan = analyse(recurrence("mlstm"))
    _, backward, _ = module.functions(plan, module.chosen(plan))
    text = backward.text[backward.text.index("def backward_prepare_2(") :].partition("\n\n\n")[0]
    before, _, after = text.partition("    for at_V in")
    again = re.findall(r"(?m)^    (\w+ = tl\.load\(.*)$", after)
    assert again and not set(again) & set(re.findall(r"(?m)^    (\w+ = tl\.load\(.*)$", before))


def test_a_state_that_is_divided_needs_no_mask_in_a_loop_over_chunks():
    """Zero over what has no such dim is zero. Where a loop carries a masked product Triton 3.7 does not compile it for
    sm_100."""
    plan = analyse(recurrence("linear_attention"))
    launches = aot.every_launch(module.generate(plan, module.chosen(plan)), {"K": 64, "V": 64}, torch.bfloat16)
    (own,) = (launch for launch in launches if launch.name == "backward_own")
    assert aot.facts(aot.compile_launch(own, "sm_100"))["matrix"] > 0
