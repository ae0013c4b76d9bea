"""A recurrence's Triton code: the kernels and the functions that launch them, and the standalone file around them."""

from __future__ import annotations

import functools
import linecache
from dataclasses import replace
from typing import Any

import torch
from recc.backends.torch.emit import step_function
from recc.backends.torch.module import (
    TILES,
    Generated,
    called,
    describe,
    finished,
    initial_function,
    one_file,
    programs,
    saved_item,
    support_text,
)
from recc.backends.triton import fitted, newton, room, sequential
from recc.backends.triton.config import DEFAULT, Config, default, default_chunk, kept
from recc.backends.triton.emit import Function
from recc.backends.triton.paired import PairedOp, SolvedOp, present
from recc.backends.triton.schedule import Schedule, Unserved, in_reals
from recc.backends.triton.split import split_axis

from recc.analysis import analyse
from recc.analysis.plan import Plan, Reason
from recc.ir.node import HEADS
from recc.ir.program import Recurrence
from recc.strategies import STRATEGIES, Choice, choose, cost
from recc.tile.by_rank import by_rank
from recc.tile.first_rows import first_rows
from recc.tile.outside import outside
from recc.tile.pairs import declared
from recc.tile.program import TileProgram

IMPORTS = "import functools\nimport math\n\nimport torch\nimport triton\nimport triton.language as tl\n"
KERNELS = ("primitives", "scans", "solve", "places", "pairs")  # libraries of which a file has what its kernels call
SERVED = ("chunk", "scan", "sequential")  # strategies; the last for what has no other


def chosen(plan: Plan, strategy: str | None = None, chunk: int | None = None) -> Choice:
    """The choice among the strategies that have kernels, or the one asked for. Raises Refused."""
    choice = choose(plan, strategy, chunk, among=STRATEGIES if strategy is not None else SERVED)
    if not choice.parallel or "newton" in map(choice.name, plan.components):
        return choice
    choice = replace(choice, chunk=default_chunk(plan, choice)) if chunk is None else choice
    return choice if strategy is not None else _with_room(plan, choice)


def _with_room(plan: Plan, choice: Choice) -> Choice:
    """The choice, or walks over tokens where tiles are too large: scans have one of a whole state for each token."""
    scanned = [c for c in plan.components if choice.name(c) == "scan"]
    wide = [c for c in scanned if len(set(plan.recurrence.state(c.states[0]).axes) - {HEADS}) > 1]
    try:
        if wide:
            functions(plan, choice)
    except Unserved as error:
        walks, reason = choose(plan, "sequential"), Reason(error.problem, None, error.help)
        more = {c.states: (*choice.refused[c.states], (choice.name(c), reason)) for c in wide}
        return replace(walks, refused={**choice.refused, **more})
    return choice


def generate(plan: Plan, choice: Choice, config: Config = DEFAULT) -> Generated:
    """Kernels and tile functions of a plan under a choice of strategies. Raises Unserved.

    config: schedules and tiles. `split` runs chunks in parallel but for the walk of the state; `fused` computes a pass
    in one launch that walks the chunks of a sequence, with less traffic and less parallelism.
    """
    rec = plan.recurrence
    names = {choice.name(component) for component in plan.components}
    if names == {"sequential"}:
        return sequential.generate(plan, choice, config)
    if "newton" in names:
        return newton.generate(plan, choice, config.chunk)
    forward, backward, step = functions(plan, choice, config)
    program = declared(forward.program)
    parts = [
        forward.text,
        backward.text,
        step_function(step, "step_tiles", f"One token of {rec.name}: outputs and new states."),
        initial_function(rec, program),
    ]
    meta = describe(plan, replace(choice, chunk=backward.rows), program, declared(backward.program))
    saved = [saved_item(x) for x in (*(c.old for c in forward.program.carries), *forward.program.kept.values())]
    launches = [len(forward.kernels), len(backward.kernels)]
    return finished("\n\n".join(parts), {**meta, "saved": saved, "inner": forward.rows, "launches": launches})


def functions(plan: Plan, choice: Choice, config: Config = DEFAULT) -> tuple[Function, Function, TileProgram]:
    """The kernels of the forward and of the backward pass, and the program of one token. Raises Unserved."""
    rec = plan.recurrence
    names = dict.fromkeys(choice.name(c) for c in plan.components)
    if "convolution" in names:
        raise Unserved(
            f"{rec.name} runs by the strategy convolution, which has no Triton kernels: they have no FFT",
            "use the torch backend, or drop `--strategy`",
        )
    if not choice.parallel:
        names = ", ".join(names)
        raise Unserved(
            f"{rec.name} runs by the strategy {names}, which has no Triton kernels",
            f"use the torch backend; `recc explain {rec.name}` says what keeps it from `chunk` and `scan`",
        )
    program, backward, step = programs(plan, choice, keep=kept(plan))
    program, backward = in_reals(outside(by_rank(program))), first_rows(in_reals(outside(by_rank(backward))))
    config, split = default(program, choice, config), split_axis(program)
    first, second = (
        Schedule(part, split, kind == "fused", bool(config.apart), config.handed, rec.dims)
        for part, kind in ((program, config.forward), (backward, config.backward))
    )
    forward = Function(first, "forward_tiles", f"The forward pass of {rec.name}.", config)
    doc = f"The backward pass of {rec.name}; returns the params' gradients."
    backward = Function(second, "backward_tiles", doc, config)
    for function in (forward, backward):
        room.check(function, rec.dims, " and ".join(names))
    return forward, backward, step


def standalone(generated: Generated, rec: Recurrence) -> str:
    """One file that imports torch and triton alone: kernels, support text, and the op under the recurrence's name."""
    libraries = [*(support_text("triton", part) for part in KERNELS), support_text("torch", "primitives")]
    support = [support_text("torch", part) for part in ("layout", "passes", "op")]
    if generated.meta["chunk"] == 1:
        support.append(support_text("triton", "tokens"))
        return one_file(generated, rec, IMPORTS, libraries, support, "TokenOp", (*TILES, "decode_tiles"))
    support += [support_text("recc.strategies", "outer"), support_text("triton", "launch")]
    return one_file(generated, rec, IMPORTS, libraries, support, "KernelOp")


def load(generated: Generated) -> Any:
    """The op of generated code. TRITON_INTERPRET decides, when this is called, whether kernels run interpreted."""
    space = namespace(generated)
    functions = [space[name] for name in TILES]
    if generated.meta["chunk"] == 1:
        op = SolvedOp(generated.meta, *functions, space["decode_tiles"])
    else:
        op = PairedOp(generated.meta, *functions)
    op.source = generated.functions
    return op


def op(plan: Plan, strategy: str | None = None, config: Config = DEFAULT, target: str | None = None) -> Any:
    """The op of a plan, and beside it, where nothing was asked for, others for the calls that they serve better; see
    `paired`. target: the device that it is for, by default the one that is there. Raises Unserved and
    strategies.Refused."""
    choice = chosen(plan, strategy, config.chunk)
    made = load(generate(plan, choice, config))
    asked = strategy is not None or config != DEFAULT
    made.fitted = () if asked else _fitted(plan, target or present())
    if isinstance(made, PairedOp):
        made.walking, made.few = lambda: _walking(plan, target or present()), not asked
    elif not asked and isinstance(made, SolvedOp) and solvable(plan):
        made.solving = lambda: load(newton.generate(plan, choose(plan, "newton")))
        made.pays = functools.lru_cache(maxsize=4096)(functools.partial(cost.solves, plan.components[0], plan))
    return made


def solvable(plan: Plan) -> bool:
    """Whether one launch of Newton's method serves a plan."""
    if len(plan.components) != 1 or STRATEGIES["newton"].refuses(plan.components[0], plan) is not None:
        return False
    try:
        newton.generate(plan, choose(plan, "newton"))
    except Unserved:
        return False
    return True


def _fitted(plan: Plan, target: str | None, strategy: str | None = None
            ) -> tuple[tuple[dict[str, int], torch.dtype, Any], ...]:  # fmt: skip
    """The ops of the configurations that ship with recc for a plan on a device, with the sizes and dtype of each."""
    made: dict[Config, Any] = {}
    entries = fitted.entries(plan.recurrence, target, strategy) if target is not None else []
    for entry in entries:
        if entry.config not in made:
            made[entry.config] = load(generate(plan, chosen(plan, strategy, entry.config.chunk), entry.config))
    return tuple((dict(entry.dims), getattr(torch, entry.dtype), made[entry.config]) for entry in entries)


def _walking(plan: Plan, target: str | None) -> Any:
    """The op that walks over tokens, None where these kernels cannot."""
    try:
        made = load(sequential.generate(plan, choose(plan, "sequential")))
    except Unserved:
        return None
    made.fitted = _fitted(plan, target, "sequential")
    return made


def text_of(generated: Generated) -> str:
    """The text that is executed: the generated functions, and what they call of the libraries."""
    users = [generated.functions]
    for part in reversed(KERNELS):  # a library may call those before it
        users = [called(support_text("triton", part), users), *users]
    return "\n\n".join([IMPORTS, *users])


def namespace(generated: Generated) -> dict[str, Any]:
    """What the generated functions and kernels are called, by name."""
    from recc.backends.torch import primitives

    digest, text = generated.meta["digest"], text_of(generated)
    name = f"<recc {generated.meta['name']} {digest}>"
    linecache.cache[name] = len(text), None, text.splitlines(True), name  # Triton reads the source of its kernels
    space = {**vars(primitives), "__name__": f"recc_triton_{digest}"}
    exec(compile(text, name, "exec"), space)  # our own text: a spec holds no code
    return space


def source(rec: Recurrence, *, strategy: str | None = None, chunk: int | None = None) -> str:
    """A standalone file for `rec`, which imports torch and triton alone. Raises Unserved and strategies.Refused."""
    plan = analyse(rec)
    return standalone(generate(plan, chosen(plan, strategy, chunk)), rec)
