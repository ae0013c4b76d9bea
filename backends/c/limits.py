"""Why native code does not serve a recurrence, in the spec's own names."""

from __future__ import annotations

from recc.backends.c.part import unserved

from recc.analysis.plan import Plan, Reason
from recc.ir.node import Node, walk
from recc.tile.cores import Core, Phases, dims
from recc.tile.pairs import NoPair
from recc.tile.step import step_programs


def refusal(plan: Plan) -> Reason | None:
    """What native code has no form for and where the spec says it, or None where it serves."""
    rec = plan.recurrence
    try:
        programs = step_programs(plan)
    except NoPair as problem:
        return Reason(f"`{problem.node.op}` has no form for complex values", rec.spans.get(problem.node))
    except AssertionError as problem:
        return Reason(f"recc cannot derive its step for native code, which is a fault of recc ({problem})")
    for program in programs:
        node = unserved(program)
        if node is not None:
            return Reason(f"`{node.op}` has no form in C", program.spans.get(node))
    return None


MOST = 256  # operations of a step: a C compiler takes 8 s for 300 of a grid, more than 50 s for 450


def unfolds(plan: Plan) -> bool:
    """Whether a step has so many operations, as micro-steps unfold into, that a C compiler takes minutes for it."""
    return sum(bool(node.args) for node in walk(*plan.updates.values())) > MOST


def projects(plan: Plan) -> bool:
    """Whether values of tokens are multiplied by matrices of params outside of the loops that carry states. That is a
    product of matrices over all tokens, in which the library behind torch is several times as fast."""
    phases = Phases(step_programs(plan)[0])

    def matrix(node: Node) -> bool:
        leaves = [below for below in walk(node) if not below.args]
        return len(dims(node)) > 1 and all(leaf.op != "tile" and leaf not in phases.homes for leaf in leaves)

    products = [node for node in phases.nodes if node.op == "dot" and not isinstance(phases.owner(node), Core)]
    return any(matrix(one) and not matrix(other) for node in products for one, other in (node.args, node.args[::-1]))
