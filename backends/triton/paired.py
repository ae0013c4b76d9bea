"""Ops with others of the same recurrence beside them, which serve some calls better: by their shapes.

Beside kernels of chunks that is the walk over tokens, for single tokens, by one launch, and calls of few (see
`recc.strategies.few`). Beside either are chunks and tiles of other sizes where those of the default would spill
registers (see `fitted`). Beside the walk of a nonlinear recurrence it is Newton's method, for few channels and many
tokens, as long as it converges; see `recc.strategies.cost` and `watch`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from recc.backends.torch.layout import dim_of
from recc.backends.torch.passes import ArgumentError
from recc.backends.triton.launch import KernelOp, processors_of
from recc.backends.triton.tokens import TokenOp, TooLarge
from recc.backends.triton.watch import Watch

from recc.strategies.few import walks_tokens


class Sized:
    """An op with others for tensors of some sizes. fitted: ops with other configurations, and the sizes of dims and the
    dtype that each is for."""

    fitted: tuple[tuple[dict[str, int], torch.dtype, Any], ...] = ()

    @functools.cached_property
    def _places(self) -> list[tuple[str, int, int]]:
        """Of every dim, a tensor that has it, and where."""
        found = {}
        leads = [2] * len(self.inputs) + [0] * len(self.params) + [1] * len(self.states)
        for at, (item, lead) in enumerate(zip((*self.inputs, *self.params, *self.states), leads)):
            for axis, name in enumerate(item["axes"]):
                found.setdefault(dim_of(name), (at, lead + axis))
        return [(dim, *place) for dim, place in found.items()]

    def _of_sizes(self, tensors: Sequence[Any], time: bool = True) -> Any:
        """The op whose configuration is for tensors of these sizes: this one, unless there is another. time: whether
        inputs have that axis."""
        if self.fitted:
            known = [(dim, at, axis - (not time and at < len(self.inputs))) for dim, at, axis in self._places]
            there = [one for one in known if one[1] < len(tensors) and one[2] < tensors[one[1]].dim()]
            sizes = {dim: tensors[at].shape[axis] for dim, at, axis in there}
            for dims, dtype, other in self.fitted:
                if tensors[0].dtype == dtype and all(sizes.get(dim) == size for dim, size in dims.items()):
                    return other
        return self


class PairedOp(Sized, KernelOp):
    """An op in chunks. walking: makes the op that walks over tokens, None where these kernels cannot; few: whether that
    one serves calls of few tokens, too."""

    walking: Callable[[], TokenOp | None] | None = None
    few = False

    @functools.cached_property
    def walk(self) -> TokenOp | None:
        """The op that walks over tokens, made when it is first needed."""
        return self.walking() if self.walking is not None else None

    def step(self, *tensors: Any, state: Any = None, **named: Any) -> Any:
        """One token; see Op.step. By one launch, where the device has kernels."""
        some = next(iter((*tensors, *named.values())), None)
        if torch.is_tensor(some) and has_kernels(some) and self.walk is not None:
            try:
                return self.walk.step(*tensors, state=state, **named)
            except TooLarge:
                pass
        return super().step(*tensors, state=state, **named)

    def bind(self, *tensors: Any, state: Any, **named: Any) -> Any:
        """A decode step over fixed memory: a function without arguments; see TokenOp.bind."""
        if self.walk is None:
            raise ArgumentError(f"{self.name} has no kernel of one token")
        return self.walk.bind(*tensors, state=state, **named)

    def _forward_for(self, *tensors: Any) -> Any:
        """The registered forward pass for these tensors, by their shapes and dtype alone."""
        own = self._of_sizes(tensors)
        if not self.few or torch.compiler.is_compiling() or not has_kernels(tensors[0]):
            return own._forward
        heads = (x.shape[2] for x, item in zip(tensors, self.inputs) if "heads" in item["axes"])
        batch, time = tensors[0].shape[:2]
        chunks = (own.meta["inner"], own.rows), own.meta["launches"]
        wanted = walks_tokens(time, batch * next(heads, 1), *chunks, processors_of(tensors[0].device))
        return self.walk._forward_for(*tensors) if wanted and self.walk is not None else own._forward


class SolvedOp(Sized, TokenOp):
    """An op that walks over tokens. solving: makes the op whose forward pass is Newton's method; pays: of tokens in a
    sequence, channels and a device's architecture, whether that one is faster. None where there is none."""

    solving: Callable[[], TokenOp] | None = None
    pays: Callable[[int, int, str], bool] | None = None

    @functools.cached_property
    def solver(self) -> TokenOp:
        """The op that solves, made when it is first needed."""
        return self.solving()

    @functools.cached_property
    def watch(self) -> Watch:
        """Whether solving does as well as it was chosen for."""
        return Watch()

    def statistics(self) -> dict:
        """What Newton's method took where it was taken; see Op.statistics."""
        return self.solver.statistics() if "solver" in vars(self) else super().statistics()

    def step(self, *tensors: Any, state: Any = None, **named: Any) -> Any:
        """One token; see TokenOp.step."""
        return TokenOp.step(self._of_token(tensors, named), *tensors, state=state, **named)

    def bind(self, *tensors: Any, state: Any, **named: Any) -> Any:
        """A decode step over fixed memory: a function without arguments; see TokenOp.bind."""
        return TokenOp.bind(self._of_token(tensors, named), *tensors, state=state, **named)

    def _of_token(self, tensors: tuple[Any, ...], named: dict[str, Any]) -> TokenOp:
        """The op for a token of these sizes, which inputs and params tell."""
        if not self.fitted:
            return self
        items = (*self.inputs, *self.params)
        given = [*tensors[: len(items)], *(named.get(item["name"]) for item in items[len(tensors) :])]
        return self._of_sizes(given, time=False) if all(map(torch.is_tensor, given)) else self

    def _forward_for(self, *tensors: Any) -> Any:
        """The registered forward pass for these tensors: by their shapes, and by how many channels earlier calls had to
        finish token by token."""
        usual = self._of_sizes(tensors)._forward
        if self.pays is None or torch.compiler.is_compiling() or not has_kernels(tensors[0]):
            return usual
        batch, time = tensors[0].shape[:2]
        state = tensors[len(self.inputs) + len(self.params)]
        tokens = batch * time // max(state.shape[0], 1)
        wanted = state.numel() and self.pays(tokens, state.numel(), architecture(tensors[0].device))
        if not wanted or not self.watch.allows(self._counts):
            return usual
        return self.solver._forward_for(*tensors)

    @property
    def _counts(self) -> torch.Tensor | None:
        """What the solver's kernels have counted, on their device."""
        solver = vars(self).get("solver")
        names = solver.meta["solvers"].values() if solver else ()
        return next((getattr(solver.passes.functions[name], "counts", None) for name in names), None)


@functools.cache
def architecture(device: torch.device) -> str:
    """What the cost model calls a device."""
    if device.type == "cpu":
        return "cpu"
    if torch.version.hip:
        return torch.cuda.get_device_properties(device).gcnArchName.partition(":")[0]
    return "sm_{}{}".format(*torch.cuda.get_device_capability(device))


def present() -> str | None:
    """The architecture of the GPU that is there, if one is."""
    return architecture(torch.device("cuda")) if torch.cuda.is_available() else None


def has_kernels(x: torch.Tensor) -> bool:
    """Whether kernels run on a tensor's device: on a CPU's only in Triton's interpreter."""
    return x.device.type != "cpu" or triton.knobs.runtime.interpret
