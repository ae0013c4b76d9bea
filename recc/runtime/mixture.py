"""Mixtures of memories: a router sends each token to some of several memories, each a run of one recurrence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recc.backends.torch.op import check_offsets
from recc.backends.torch.passes import check_once


class Mixture(nn.Module):
    """`memories` runs of one recurrence, of which each token steps only those that a router chose for it.
    Du, Sun, Lan, Hu, Cheng, 2025, arXiv:2502.13685, with any recurrence in the place of theirs.

        mixture = recc.Mixture(recc.load("gated_delta_net"), memories=4, top_k=2)
        o = mixture(logits, q, k, v, g, beta)                   # logits: [batch, time, memories]
        o, state = mixture(..., initial_state=state, return_final_state=True)
        o, state = mixture.step(..., state=state)               # one token, without the time axis

    inner: an op of `recc.load`, or a `recc.Module`, whose params all memories share. Its inputs are those of the
    recurrence; an input that differs between memories, such as keys of a projection each, has an axis of memories
    behind time: [batch, time, memories, heads, dims]. The tokens of a memory are gathered, in order, into one sequence
    of one packed call, so a token costs top_k steps, not `memories`. A memory that is not chosen keeps its state.

    A token goes to the top_k memories with the largest logits (of equals, to those that torch.topk takes), and its
    output is the sum of theirs, weighted by the softmax over the chosen logits; with `normalise=False` by the softmax
    over all logits, which top_k = 1 needs if the router is to learn. Gradients reach the router through these weights.
    shared: one more memory, the last along the axis of memories, which takes in every token with the weight 1.

    States are those of the recurrence with an axis of memories behind batch, [batch, memories, heads, dims]. Packed
    sequences (cu_seqlens), `reverse`, `truncate` and other options of a call are as for the op. Raises ValueError where
    the logits do not fit.
    """

    def __init__(self, inner: Any, *, memories: int, top_k: int = 2, shared: bool = False,
                 normalise: bool = True) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= top_k <= memories:
            raise ValueError(f"top_k = {top_k} of {memories} memories: it is at least 1 and at most their number")
        if not hasattr(getattr(inner, "op", inner), "inputs"):
            raise ValueError("`inner` is an op or a recc.Module of one recurrence, without `hidden`")
        self.inner, self.memories, self.top_k = inner, memories, top_k
        self.shared, self.normalise = shared, normalise

    def forward(self, logits: Tensor, *inputs: Tensor, initial_state: Any = None, return_final_state: bool = False,
                cu_seqlens: Tensor | None = None, **options: Any) -> Any:  # fmt: skip
        weights, chosen = self.route(logits, "batch, time")
        sequence, count = _sequences(logits, cu_seqlens)
        memory = (chosen + self._states * sequence[..., None]).flatten()
        order = memory.argsort(stable=True)
        lengths = memory.new_zeros(count * self._states + 1).scatter_add(0, memory + 1, torch.ones_like(memory))

        def gathered(x: Tensor) -> Tensor:
            return x.flatten(0, 2)[order][None]

        found = self.inner(
            *self._given(inputs, chosen, gathered),
            cu_seqlens=lengths.cumsum(0),
            initial_state=_each(lambda x: x.flatten(0, 1), initial_state),
            return_final_state=True,
            **options,
        )
        place = order.argsort()
        outputs = _each(lambda x: _weighted(x[0, place].unflatten(0, chosen.shape), weights), found[0])
        if not return_final_state:
            return outputs
        return outputs, _each(lambda x: x.unflatten(0, (count, self._states)), found[1])

    def step(self, logits: Tensor, *inputs: Tensor, state: Any) -> tuple[Any, Any]:
        """One token: logits [batch, memories] and inputs without the time axis. Steps the chosen memories alone."""
        weights, chosen = self.route(logits, "batch")
        row = torch.arange(chosen.shape[0], device=chosen.device)[:, None]
        held = _each(lambda x: x[row, chosen].flatten(0, 1), state)
        given = self._given(inputs, chosen, lambda x: x.flatten(0, 1))
        outputs, new = self.inner.step(*given, state=held)
        outputs = _each(lambda x: _weighted(x.unflatten(0, chosen.shape), weights), outputs)
        return outputs, _each(
            lambda x, y: x.to(y.dtype).index_put((row, chosen), y.unflatten(0, chosen.shape)), state, new
        )

    def route(self, logits: Tensor, axes: str = "...") -> tuple[Tensor, Tensor]:
        """The weights and the numbers of each token's memories, [..., top_k], with one more where one is shared."""
        if logits.shape[-1:] != (self.memories,) or logits.dim() != 1 + len(axes.split(",")) and axes != "...":
            raise ValueError(f"`logits` is {list(logits.shape)} but must be [{axes}, memories = {self.memories}]")
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        top, chosen = logits.topk(self.top_k)
        weights = top.softmax(-1) if self.normalise else logits.softmax(-1).gather(-1, chosen)
        if self.shared:
            weights = torch.cat([weights, torch.ones_like(weights[..., :1])], -1)
            chosen = torch.cat([chosen, torch.full_like(chosen[..., :1], self.memories)], -1)
        return weights, chosen

    def init_state(self, batch: int, **options: Any) -> Any:
        """The states before the first token, [batch, memories, heads, dims]. options: as for `Module.init_state`, or,
        where `inner` is an op, for `Op.initial_state`."""
        make = getattr(self.inner, "init_state", None) or self.inner.initial_state
        return _each(lambda x: x.unflatten(0, (batch, self._states)), make(batch * self._states, **options))

    @property
    def _states(self) -> int:
        return self.memories + self.shared

    def _given(self, tensors: tuple[Tensor, ...], chosen: Tensor, arranged: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """The arguments of `inner`: what each chosen memory of each token takes in, arranged; then the params."""
        op = getattr(self.inner, "op", self.inner)
        lead, given = chosen.dim() - 1, list(tensors)
        for place, (x, item) in enumerate(zip(tensors, op.inputs, strict=False)):
            if x.shape[:lead] != chosen.shape[:lead]:
                raise ValueError(
                    f"`{item['name']}` is {list(x.shape)}, and the logits begin {list(chosen.shape[:lead])}"
                )
            own = x.dim() == lead + 1 + len(item["axes"])
            if own and x.shape[lead] != self._states:
                raise ValueError(f"`{item['name']}` is {list(x.shape)}, which has no axis of {self._states} memories")
            index = chosen.reshape(*chosen.shape, *[1] * (x.dim() - lead - 1))
            x = x.take_along_dim(index, lead) if own else x.unsqueeze(lead).expand(*chosen.shape, *x.shape[lead:])
            given[place] = arranged(x)
        return given

    def extra_repr(self) -> str:
        return f"memories={self.memories}, top_k={self.top_k}, shared={self.shared}, normalise={self.normalise}"


def _sequences(logits: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, int]:
    """The number of each token's sequence, [batch, time], and how many sequences there are."""
    batch, time = logits.shape[:2]
    if cu_seqlens is None:
        return torch.arange(batch, device=logits.device)[:, None].expand(batch, time), batch
    starts = check_offsets(cu_seqlens, batch).to(logits.device)
    if not torch.compiler.is_compiling():
        check_once(cu_seqlens, time)
    tokens = torch.arange(time, device=logits.device, dtype=starts.dtype)
    return (torch.searchsorted(starts, tokens, right=True) - 1)[None], len(starts) - 1


def _weighted(x: Tensor, weights: Tensor) -> Tensor:
    """The outputs of a token's memories, added up."""
    lead = weights.dim()
    return (x * weights.reshape(*weights.shape, *[1] * (x.dim() - lead))).sum(lead - 1).to(x.dtype)


def _each(function: Callable[..., Tensor], *values: Any) -> Any:
    """`function` on each tensor of a state or of outputs."""
    if isinstance(values[0], dict):
        return {name: function(*(value[name] for value in values)) for name in values[0]}
    if isinstance(values[0], tuple):
        return tuple(function(*parts) for parts in zip(*values, strict=True))
    return None if values[0] is None else function(*values)
