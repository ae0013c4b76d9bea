"""The forms that `recc tune` chooses from on a device: what strategies, native code and schedules of kernels declare.

A form is a configuration as `recc.load(config=...)` takes it. The first of the starts is what the heuristics choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    """Native code as its options say, and the forms of torch."""

    def __init__(self, plan: Plan, backend: str | None = None) -> None:
        self.plan, self.backend = plan, backend

    def starts(self, effort: str) -> list[Form]:
        from recc.backends.c import build
        from recc.backends.c.limits import refusal

        native = self.backend != "torch" and refusal(self.plan) is None and build.find_compiler() is not None
        forms: list[Form] = [{"backend": "c"}] if native else []
        return forms + (torch_forms(self.plan, effort) if self.backend != "c" else [])

    def around(self, form: Form, effort: str) -> list[Form]:
        if form["backend"] != "c":
            return []
        from recc.backends.c import build
        from recc.backends.c.options import Options

        own = Options(**{key: value for key, value in form.items() if key != "backend"})
        forms = [{"backend": "c", **near.view()} for near in own.around(build.target().vector_bytes)]
        return [x for place, x in enumerate(forms) if x not in forms[:place]]


class GpuSpace:
    """Kernels in each schedule, then each kernel's tile; and the forms of torch.

    Without the kernels where the spec has none, or where Triton is not installed. Where kernels walk over tokens alone,
    there are no schedules, and tiles are those of walks at `sizes` of dims, 64 for others.
    """

    def __init__(self, plan: Plan, backend: str | None = None, sizes: Mapping[str, int] | None = None) -> None:
        self.plan, self.backend, self.sizes = plan, backend, dict(sizes or {})

    def starts(self, effort: str) -> list[Form]:
        forms = [] if self.backend == "torch" else list(self._schedules(effort))
        return forms + ([] if self.backend == "triton" else torch_forms(self.plan, QUICK))

    def _schedules(self, effort: str) -> Iterator[Form]:
        try:
            from recc.backends.triton import config, fitted, sequential
            from recc.backends.triton.module import chosen, functions
            from recc.backends.triton.schedule import Unserved

            choice = chosen(self.plan)
            usual = functions(self.plan, choice)[0].config if choice.parallel else None
            walks = () if choice.parallel else sequential.functions(self.plan, choice)
        except (ImportError, Unserved):
            return
        yield {"backend": "triton"}
        known = dict.fromkeys(entry.config for entry in fitted.entries(self.plan.recurrence))
        if walks:
            yield from ({"backend": "triton", **config.view(found)} for found in known)
            return
        if known:  # the first form takes one of them at its sizes, not the emitter's own default
            yield {"backend": "triton", "chunk": usual.chunk}
        yield from ({"backend": "triton", **config.view(found)} for found in known)
        near = (usual.chunk // 2, usual.chunk, 2 * usual.chunk)
        yield from ({"backend": "triton", "outer": outer} for outer in config.OUTERS)
        yield from ({"backend": "triton", "handed": handed} for handed in self._handed())
        for found in config.schedules():
            differ = sum(value != getattr(usual, name) for name, value in vars(found).items())
            if differ and (effort == FULL or (differ == 1 and found.chunk in near)):
                yield {"backend": "triton", **config.view(found)}

    def _handed(self) -> list[bool]:
        """Whether tiles pass from launch to launch or are computed again, where the two differ."""
        from recc.backends.triton import config, traffic
        from recc.backends.triton.module import chosen

        choice = chosen(self.plan)
        texts = {value: [part.text for part in traffic.passes(self.plan, choice, config.Config(handed=value))]
                 for value in (False, True)}  # fmt: skip
        return list(texts) if texts[False] != texts[True] else []

    def around(self, form: Form, effort: str) -> list[Form]:
        if form["backend"] != "triton":
            return []
        from recc.backends.triton import config

        own = config.of(**{key: value for key, value in form.items() if key != "backend"})
        found = []
        for kernel, (now, tiles) in self.kernels(own).items():
            for tile in tiles:
                differ = sum(value != getattr(now, name) for name, value in vars(tile).items())
                if differ and (effort == FULL or differ == 1):
                    found.append({"backend": "triton", **config.view(own.with_tile(kernel, tile))})
        return found

    def kernels(self, own: Any) -> dict[str, tuple[Any, Iterator[Any]]]:
        """The kernels of a configuration, each with its tile and those that it may have."""
        from recc.backends.triton import config
        from recc.backends.triton.module import chosen, functions

        choice = chosen(self.plan)
        if not choice.parallel:
            return self._walks(own)
        parts = functions(self.plan, choice, own)[:2]
        return {kernel.name: (kernel.tile, config.tiles(kernel.tile)) for part in parts for kernel in part.kernels}

    def _walks(self, own: Any) -> dict[str, tuple[Any, Iterator[Any]]]:
        """The walks over tokens of both passes."""
        import torch

        from recc.backends.triton import config
        from recc.backends.triton.fit_walks import Walks
        from recc.backends.triton.tokens import TooLarge

        sizes = {dim: size or self.sizes.get(dim, 64) for dim, size in self.plan.recurrence.dims.items()}
        search, found = Walks(self.plan, sizes, "sm_90", torch.float32), {}
        try:
            for name, kernel in search.kernels(own).items():
                if not kernel.walk.single:
                    now = own.tile(name) or search.usual(name)
                    found[name] = now, config.walk_tiles(now, bool(kernel.walk.shared), not kernel.crowded)
        except TooLarge:
            return {}
        return found


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


def space_of(device: str, plan: Plan, backend: str | None = None, sizes: Mapping[str, int] | None = None) -> Space:
    """What can be chosen from on a device. backend: only forms of this one. sizes: of dims."""
    return GpuSpace(plan, backend, sizes) if device == "cuda" else CpuSpace(plan, backend)
