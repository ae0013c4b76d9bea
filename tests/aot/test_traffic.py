"""Bytes that kernels move, counted without a GPU, beside what flash-linear-attention's kernels move."""

from __future__ import annotations

import pytest

pytest.importorskip("triton")

from kernels import parallel, recurrence
from recc.backends.triton import traffic
from recc.backends.triton.module import chosen

from benchmarks.traffic import PAGE, ROWS, Row, page, row
from recc.analysis import analyse


def test_table(capsys):
    """Every pass of the default kernels moves less than FLA's, and no more than its goal."""
    rows = [row(name) for name in ROWS]
    with capsys.disabled():
        print("\n" + page(rows))
    assert all(moved < fla for found in rows for moved, fla in zip(found.moved, found.fla))
    assert [(x.name, place) for x in rows for place in range(2) if x.moved[place] > x.goal[place]] == []


def test_page_is_that_of_today():
    assert PAGE.read_text(encoding="utf-8") == page([row(name) for name in ROWS])


@pytest.mark.parametrize("name", parallel())
def test_counts_are_at_least_the_inputs_and_outputs(name):
    """Whatever the schedule, each input is read once and each output is written once."""
    rec = recurrence(name)
    plan = analyse(rec)
    sizes = {dim: 32 for dim in rec.dims} | {dim: size for dim, size in rec.dims.items() if size}

    def bytes_of(items):
        count = 0
        for item in items:
            size = 2
            for axis in item.axes:
                size *= sizes.get(axis.partition("'")[0], 1)
            count += size
        return count

    forward, _ = (sum(x.total for x in traffic.moved(part, sizes)) for part in traffic.passes(plan, chosen(plan)))
    read = [i for i in rec.inputs if any(leaf["name"] == i.name for leaf in _leaves(plan))]
    assert forward >= bytes_of(read) + bytes_of(rec.outputs)


def _leaves(plan):
    from recc.backends.torch.module import programs

    from recc.ir.node import walk

    program, _, _ = programs(plan, chosen(plan), keep=())
    return [node for node in walk(*program.stores.values()) if node.op == "tile"]


@pytest.mark.parametrize("name", ["rwkv7", "kda", "delta_net"])
def test_the_walk_reads_all_that_it_is_handed(name):
    """The score that an inverse alone is made of is not written."""
    plan = analyse(recurrence(name))
    prepare, walk = traffic.passes(plan, chosen(plan))[0].kernels
    assert set(prepare.launch.stores) <= set(walk.launch.loads)


def test_what_is_read_again_counts_again():
    plan = analyse(recurrence("simple_gla"))
    (narrow,), (wide,) = (traffic.moved(traffic.passes(plan, chosen(plan), _blocks(size))[0], {}) for size in (64, 128))
    assert narrow.read == wide.read + 2 * 128 * 2 + 2  # q, k and g for a second block of V
    assert narrow.written == wide.written


def _blocks(size):
    from recc.backends.triton.config import Config, Tile

    return Config(tiles=(("forward_fused", Tile(block=size)),))


def test_a_row_says_by_how_much():
    assert Row("x", (10.0, 30.0), (20, 20), (40, 40)).cells() == ["x", "10 / 30", "20 / 20", "40 / 40", "0.25 / 0.75"]
