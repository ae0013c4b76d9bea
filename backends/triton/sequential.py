"""The strategy `sequential` as Triton code: the kernels of all passes and the functions of torch that launch them.

Three functions: the forward pass, the backward pass, and one token with its states in place. Each is a walk, or several
where a state waits for what torch has to add up; see `walks`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from recc.backends.torch.emit import step_function
from recc.backends.torch.module import Generated, describe, finished, initial_function, saved_item
from recc.backends.triton.config import DEFAULT, Config
from recc.backends.triton.schedule import unserved
from recc.backends.triton.walks import Function

from recc.analysis.plan import Plan
from recc.ir.node import walk
from recc.strategies import Choice
from recc.tile.pairs import NoPair, declared
from recc.tile.program import finish, seed_key
from recc.tile.step import step_program, step_programs

# A program takes several sequences where they are multiplied with matrices, and all dims where their elements meet.
FORMS = {}, {"alone": True}, {"shared": True}, {"alone": True, "shared": True}


def generate(plan: Plan, choice: Choice, config: Config = DEFAULT, solver: Callable[..., Function] | None = None
             ) -> Generated:  # fmt: skip
    """Kernels and tile functions of a plan, token by token. config: has the tiles of walks; solver: of the forward
    pass. Raises Unserved."""
    meta, parts = functions(plan, choice, config, solver)
    whole, name = finish(step_program(plan)), plan.recurrence.name
    texts = [
        *(part.text for part in parts),
        step_function(whole, "step_tiles", f"One token of {name} in torch: outputs and new states."),
        initial_function(plan.recurrence, whole),
    ]
    return finished("\n\n".join(texts), meta)


def functions(plan: Plan, choice: Choice, config: Config = DEFAULT, solver: Callable[..., Function] | None = None
              ) -> tuple[dict[str, Any], tuple[Function, Function, Function]]:  # fmt: skip
    """What is said of the op, and the walks of the forward pass, of the backward pass and of one token. Raises
    Unserved."""
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
    forward_doc = f"The forward pass of {name}."
    fitting = functools.partial(_fitting, rec.dims, config=config)
    return meta, (
        (solver or fitting)(stored, "forward_tiles", forward_doc, saved=apart),
        fitting(back, "backward_tiles", back_doc, again=again if apart else None),
        fitting(step, "decode_tiles", decode_doc, single=True),
    )


def _fitting(dims: Mapping[str, int | None], *args: Any, **options: Any) -> Function:
    """A function: of the forms that it can have, the first whose tiles programs have room for, and where none does, the
    first of all. Programs share a second dim where registers are scarce and states have three. dims: the sizes of those
    that the spec fixes."""
    first = None
    for form in FORMS:
        function = Function(*args, **options, **form)
        first = first or function
        if function.fits(dims):
            twice = Function(*args, **options, **form, twice=True) if function.narrow else function
            return twice if len(twice.division.shared) > 1 else function
    return first
