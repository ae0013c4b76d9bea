"""The forms that `recc tune` chooses from on a device: what strategies, native code and schedules of kernels declare.

A form is a configuration as `recc.load(config=...)` takes it. The first of the starts is what the heuristics choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Protocol

from recc.analysis.plan import Plan
from recc.strategies import STRATEGIES, Refused, choose

Form = dict[str, Any]
QUICK, FULL = "quick", "full"
EFFORTS = (QUICK, FULL)


class Space(Protocol):
    """starts: forms that differ in kind. around: those that differ from a form in one choice."""

    def starts(self, effort: str) -> list[Form]: ...

    def around(self, form: Form, effort: str) -> list[Form]: ...


class CpuSpace:
    """Native code with each number of tokens between saved states, and the forms of torch."""

    def __init__(self, plan: Plan, backend: str | None = None) -> None:
        self.plan, self.backend = plan, backend

    def starts(self, effort: str) -> list[Form]:
        from recc.backends.c import build
        from recc.backends.c.kernel import CHUNKS
        from recc.backends.c.limits import refusal

        forms: list[Form] = []
        if self.backend != "torch" and refusal(self.plan) is None and build.find_compiler() is not None:
            forms += [{"backend": "c"}, *({"backend": "c", "chunk": chunk} for chunk in CHUNKS)]
        if self.backend != "c":
            forms += torch_forms(self.plan, effort)
        return forms

    def around(self, form: Form, effort: str) -> list[Form]:
        return []


class GpuSpace:
    """Kernels in each schedule, then each kernel's tile; and the forms of torch.

    Without the kernels where the spec has none, or where Triton is not installed.
    """

    def __init__(self, plan: Plan, backend: str | None = None) -> None:
        self.plan, self.backend = plan, backend

    def starts(self, effort: str) -> list[Form]:
        forms = [] if self.backend == "torch" else list(self._schedules(effort))
        return forms + ([] if self.backend == "triton" else torch_forms(self.plan, QUICK))

    def _schedules(self, effort: str) -> Iterator[Form]:
        try:
            from recc.backends.triton import config
            from recc.backends.triton.module import generate
            from recc.backends.triton.schedule import Unserved

            choice = choose(self.plan)
            generate(self.plan, choice)
        except (ImportError, Unserved):
            return
        default = config.Config()
        yield {"backend": "triton", **config.view(default)}
        # Quick: chunks of half and of twice the default's length, and other schedules for the default's.
        near = (choice.chunk // 2, choice.chunk, 2 * choice.chunk)
        for found in config.schedules():
            usual = replace(found, chunk=None) == default
            same = found.chunk == choice.chunk
            if (effort == FULL or same or (usual and found.chunk in near)) and not (same and usual):
                yield {"backend": "triton", **config.view(found)}

    def around(self, form: Form, effort: str) -> list[Form]:
        if form["backend"] != "triton":
            return []
        from recc.backends.triton import config

        own = config.of(**{key: value for key, value in form.items() if key != "backend"})
        found = []
        for kernel, now in self.kernels(own).items():
            for tile in config.tiles():
                differ = sum(getattr(tile, name) != getattr(now, name) for name in ("block", "warps", "stages"))
                if differ and (effort == FULL or differ == 1):
                    found.append({"backend": "triton", **config.view(own.with_tile(kernel, tile))})
        return found

    def kernels(self, own: Any) -> dict[str, Any]:
        """The kernels of a configuration and their tiles."""
        import torch

        from recc.backends.triton.aot import launches
        from recc.backends.triton.config import Tile
        from recc.backends.triton.module import generate

        found = launches(generate(self.plan, choose(self.plan), own), {}, torch.bfloat16)
        return {x.name: own.tile(x.name, Tile(warps=x.options["num_warps"], stages=x.options["num_stages"]))
                for x in found}  # fmt: skip


def torch_forms(plan: Plan, effort: str) -> list[Form]:
    """The strategies that serve, each with the chunks that it declares; quick: what is chosen by default alone."""
    forms: list[Form] = [{"backend": "torch"}]
    default = choose(plan)
    taken = [(default.strategies, default.chunk)]
    for name, strategy in STRATEGIES.items() if effort == FULL else ():
        for chunk in (None, *strategy.chunks):
            try:
                choice = choose(plan, name, chunk)
            except Refused:
                continue
            if (choice.strategies, choice.chunk) not in taken:
                taken.append((choice.strategies, choice.chunk))
                forms.append({"backend": "torch", "strategy": name} | ({"chunk": chunk} if chunk else {}))
    return forms


def space_of(device: str, plan: Plan, backend: str | None = None) -> Space:
    """What can be chosen from on a device. backend: only forms of this one."""
    return (GpuSpace if device == "cuda" else CpuSpace)(plan, backend)
