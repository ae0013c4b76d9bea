"""Kernels that compute in another order than the one that is taken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kernels import recurrence
from recc.backends.triton import config, module, traffic
from recc.backends.triton.order import ORDERS, Order

from recc.analysis import analyse
from recc.runtime import verify
from recc.runtime.cases import Case

SPEC = "gated_delta_net"


def in_order(order: str | None) -> tuple[config.Config, str]:
    """Every launch in an order, and the text of the kernels."""
    plan, found = analyse(recurrence(SPEC)), config.DEFAULT
    choice = module.chosen(plan)
    for part in traffic.passes(plan, choice, found):
        for kernel in (*part.kernels, *part.outer_kernels):
            found = found.with_tile(kernel.name, replace(kernel.tile, order=order))
    return found, module.generate(plan, choice, found).functions


def wrong(order: str) -> tuple[list[str], int]:
    """What of values and gradients is beyond the budget, and how many were compared."""
    rec, plan = recurrence(SPEC), analyse(recurrence(SPEC))
    made = module.load(module.generate(plan, module.chosen(plan), in_order(order)[0]))
    rows = verify.compare(rec, Case(150, "plain"), ["float32"], {"kernels": made}, [])
    return [row.what for row in rows if not row.ok], len(rows)


@pytest.mark.parametrize("order", ORDERS)
def test_every_order_computes_the_same(order, interpreted):
    found, rows = interpreted(wrong, order)
    assert found == [] and rows > 5


def test_orders_differ():
    assert len({in_order(order)[1] for order in ORDERS}) > 2


@pytest.mark.parametrize("name", [None, *ORDERS])
def test_what_a_node_reads_is_there_before_it(name):
    plan = analyse(recurrence(SPEC))
    _, back = traffic.passes(plan, module.chosen(plan))
    for kernel in back.kernels:
        launch = kernel.launch
        order = Order(launch.nodes, launch.loads, [carry.old for carry in launch.walks])
        found, there = order.best(name), {*launch.loads, *(carry.old for carry in launch.walks)}
        assert name is not None or found in [order.best(other) for other in ORDERS[:-1]]
        assert sorted(map(id, found)) == sorted(map(id, launch.nodes))
        for node in found:
            assert {arg for arg in node.args if arg in set(launch.nodes)} <= there
            there.add(node)


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no order `sideways`; there are text, widest, least, back"):
        config.Tile(order="sideways")
