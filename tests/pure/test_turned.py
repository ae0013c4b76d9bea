"""Renames of wide values in step programs: moved to narrow ones, with the same values."""

from __future__ import annotations

import pytest

from recc import library
from recc.analysis import analyse
from recc.frontend import parse_text
from recc.ir.node import GRID, HEADS, Spans, walk
from recc.ir.ops import add, dot, leaf, mul, rename, total
from recc.tile.step import step_programs
from recc.tile.turned import turned

SWAP = {"D": "D'", "D'": "D"}


def tile(name, *axes):
    return leaf("tile", (GRID, HEADS, *axes), name=name)


def of(node):
    return turned([node], Spans({}))[0]


def test_a_matrix_is_multiplied_as_it_lies():
    w, x = tile("w", "D", "D'"), tile("x", "D'")
    assert of(dot(x, rename(w, SWAP), ("D'",))) == rename(dot(rename(x, SWAP), w, ("D",)), SWAP)
    assert of(total(rename(w, SWAP), ("D'",))) == rename(total(w, ("D",)), SWAP)


def test_what_vectors_make_is_made_of_renamed_ones():
    x, y = tile("x", "D"), tile("y", "D'")
    assert of(rename(mul(x, y), SWAP)) == mul(rename(x, SWAP), rename(y, SWAP))
    wide = rename(add(tile("w", "D", "D'"), mul(x, y)), SWAP)
    assert of(wide) == wide


@pytest.mark.parametrize("name", ["ttt_linear"])
def test_no_matrix_of_a_memory_is_transposed(name):
    text, path = library.find(name)
    for program in step_programs(analyse(parse_text(text, str(path))[0]), terms=False):
        nodes = walk(*program.roots)
        assert not [n for n in nodes if n.op == "rename" and len(set(n.axes) - {GRID, HEADS}) > 1]
