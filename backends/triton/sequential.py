"""The strategy `sequential` as Triton code: the kernels of all passes and the functions of torch that launch them.

Three functions: the forward pass, the backward pass, and one token with its states in place. Each is a walk, or several
where a state waits for what torch has to add up; see `walks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from recc.backends.torch.emit import step_function
from recc.backends.torch.module import Generated, describe, finished, initial_function, saved_item
from recc.backends.triton.schedule import unserved
from recc.backends.triton.walks import Function

from recc.analysis.plan import Plan
from recc.ir.node import walk
from recc.strategies import Choice
from recc.tile.pairs import NoPair, declared
from recc.tile.program import finish, seed_key
from recc.tile.step import step_program, step_programs


def generate(plan: Plan, choice: Choice, solver: Callable[..., Function] | None = None) -> Generated:
    """Kernels and tile functions of a plan, token by token. solver: of the forward pass. Raises Unserved."""
    rec, name = plan.recurrence, plan.recurrence.name
    whole = finish(step_program(plan))
    try:
        step, again, back = step_programs(plan, terms=False)
    except NoPair as error:
        raise unserved(name, error) from None
    meta = describe(plan, choice, whole, declared(back))
    apart = meta["checkpoint"] > 1  # states are saved for each chunk, and run again in between
    used = {node["name"] for node in walk(*back.roots) if node.op == "tile"}
    kept = {key: node for key, node in again.stores.items() if apart or key in used}
    given = {*step.loads, *map(seed_key, step.stores), *kept}
    back = replace(back, loads={key: node for key, node in back.loads.items() if key in given})
    meta["saved"] = [saved_item(node) for node in ([c.old for c in step.carries] if apart else kept.values())]
    stored = step if apart else replace(step, stores={**step.stores, **kept})
    back_doc = f"The backward pass of {name}; returns the params' gradients."
    decode_doc = f"One token of {name}; the states may be updated in place."
    parts = [
        (solver or Function)(stored, "forward_tiles", f"The forward pass of {name}.", saved=apart).text(),
        Function(back, "backward_tiles", back_doc, again=again if apart else None).text(),
        Function(step, "decode_tiles", decode_doc, single=True).text(),
        step_function(whole, "step_tiles", f"One token of {name} in torch: outputs and new states."),
        initial_function(rec, whole),
    ]
    return finished("\n\n".join(parts), meta)
