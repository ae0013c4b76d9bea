"""How states cross outer chunks, read off the plans of shipped specs; and when sequences are walked in outer chunks."""

from __future__ import annotations

import pytest
from recc.backends.torch.module import programs

from recc.analysis import analyse
from recc.frontend import parse_text
from recc.ir.node import dim_of
from recc.library import find
from recc.strategies import choose
from recc.strategies.outer import LEAST, outer_chunk
from recc.tile.outer import crossing, source_axis

# Of each state: None for no form, 1 for no change, the axes of a transition's factors, or of its matrix.
FORMS = {
    "linear_attention": [1, 1],
    "simple_gla": [()],
    "gla": [("K",)],
    "gsa": [("M",), ("M",)],
    "mlstm": [(), (), ()],
    "mamba": [("D", "N")],
    "gated_delta_net": [("K", "K_from")],
    "delta_product": [("K", "K_from")],
    "rwkv7": [("K", "K_from")],
}
BEGIN = {"mlstm": [0.0, 1.0, 1.0], "gla": [1.0], "gated_delta_net": [None]}


@pytest.mark.parametrize("name", FORMS)
def test_forms(name):
    """The same for the states' cotangents in the backward pass."""
    plan = analyse(parse_text(*find(name))[0])
    forward, backward, _ = programs(plan, choose(plan), keep=())
    for program in (forward, backward):
        found = [crossing(carry, program) for carry in program.carries]
        found = found[::-1] if program.reverse else found
        axes = [one and (one.total is None or tuple(map(dim_of, one.total.axes))) for one in found]
        tiles = [tuple(a for a in own if not a.startswith("@") and a != "heads") if own not in (None, True) else own
                 for own in axes]  # fmt: skip
        assert tiles == FORMS[name]
    found = [crossing(carry, forward) for carry in forward.carries]
    assert [one.begin for one in found] == BEGIN.get(name, [one.begin for one in found])


def test_states_that_depend_on_each_other_have_none():
    text = """recurrence coupled
dim K, V
input k, q : K
input v : V
state S, M : K x V = 0
output o : V
M[t] = 0.9 * M[t-1] + 0.1 * S[t-1] + outer(k, v)
S[t] = 0.8 * S[t-1] + M[t-1]
o = q @ S[t]
"""
    plan = analyse(parse_text(text, "spec.rec")[0])
    program = programs(plan, choose(plan, "sequential"), keep=())[0]
    assert [crossing(carry, program) for carry in program.carries] == [None, None]


def test_a_matrix_is_summed_over_the_entering_axis():
    plan = analyse(parse_text(*find("delta_net"))[0])
    program = programs(plan, choose(plan), keep=())[0]
    (one,) = (crossing(carry, program) for carry in program.carries)
    product = next(arg for arg in one.leaving.args if arg.op == "dot")
    assert product["over"] == (source_axis("K"),) and one.dense
    assert set(one.leaving.axes) == set(one.carry.old.axes)


def test_few_programs_of_long_sequences_take_outer_chunks():
    size = outer_chunk(4, 1024, 32, 132, 0.5)
    assert size and size * 32 >= LEAST
    assert outer_chunk(4, 4096, 32, 132, 0.5) >= size  # no more states than needed


@pytest.mark.parametrize(("programs", "chunks"), [(132, 1024), (1024, 4096), (4, 8), (1, 1), (4, 0)])
def test_many_programs_and_short_sequences_do_not(programs, chunks):
    assert outer_chunk(programs, chunks, 32, 132, 0.5) == 0
