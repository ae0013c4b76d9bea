"""One token at a time: seconds of a decode step on each backend and as one writes it in torch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import loops
import torch
from candidates import NATIVE, TORCH
from rivals import LOOP
from torch import Tensor
from workloads import GATES, PARAMS, Tensors, Workload, first_token, folded, projected

import recc

IN_PLACE, BOUND, STEPS = "torch in place", "recc native, bound", 50
Step = Callable[[], Any]


def steps(w: Workload, tensors: Tensors) -> tuple[dict[str, Step], dict[str, str]]:
    """Calls that each take one step from the state that the one before left; and for what is missing the reason."""
    token, found, missing = first_token(w, tensors), {}, {}
    for name, backend in ((NATIVE, "c"), (TORCH, "torch")):
        try:
            found[name] = _op_step(w, recc.load(w.spec, backend=backend), token)
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    if NATIVE in found and w.spec not in GATES:  # a gated cell's gates are new tensors at every step
        found[BOUND] = _bound_step(w, recc.load(w.spec, backend="c"), token)
    found[LOOP] = _loop_step(w, token)
    if w.spec in ("gla", "simple_gla", "gated_delta_net", "delta_net"):
        found[IN_PLACE] = _in_place(token)
    return found, missing


def _op_step(w: Workload, op: Any, token: Tensors) -> Step:
    given = projected(w.spec, token)
    names = [item["name"] for item in (*op.inputs, *op.params)]
    params = [given[item["name"]] for item in op.params]
    held = [op.initial_state(w.batch, heads=w.heads, sizes=dict(w.sizes), params=params)]

    def step() -> Tensor:
        x = projected(w.spec, token)
        output, held[0] = op.step(*(x[name] for name in names), state=held[0])
        return folded(w.spec, output)

    return step


def _bound_step(w: Workload, op: Any, token: Tensors) -> Step:
    """The step over fixed memory: the state is updated in place."""
    x = projected(w.spec, token)
    params = [x[item["name"]] for item in op.params]
    held = op.initial_state(w.batch, heads=w.heads, sizes=dict(w.sizes), params=params)
    bound = op.bind(*(x[item["name"]] for item in (*op.inputs, *op.params)), state=held)
    return lambda: folded(w.spec, bound())


def _loop_step(w: Workload, token: Tensors) -> Step:
    shapes = {name: x if name in PARAMS.get(w.spec, ()) else x[:, None] for name, x in token.items()}
    held = [loops.LOOPS[w.spec](shapes).start()]

    def step() -> Tensor:
        loop = loops.LOOPS[w.spec](shapes)
        held[0], output = loop.step(held[0], *(x[:, 0] for x in loop.tokens))
        return output

    return step


def _in_place(x: Tensors) -> Step:
    """The least that eager torch can do: the state is updated where it lies."""
    S = x["k"].new_zeros(*x["k"].shape, x["v"].shape[-1])
    scale = x["q"].shape[-1] ** -0.5

    def step() -> Tensor:
        if "g" in x:
            S.mul_(x["g"].exp().reshape(*x["k"].shape[:2], -1, 1))
        v = x["v"]
        if "beta" in x:
            v = x["beta"][..., None] * (v - loops.read(x["k"], S))
        S.addcmul_(x["k"][..., None], v[..., None, :])
        return loops.read(x["q"] * scale, S)

    return step


def timed(step: Step) -> float:
    """Seconds of a step, in a row of them."""
    with torch.no_grad():
        began = time.perf_counter()
        for _ in range(STEPS):
            step()
        return (time.perf_counter() - began) / STEPS
