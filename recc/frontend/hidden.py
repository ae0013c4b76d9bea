"""The states that a spec needs and does not declare: past values, and states as they were when their chunk began."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from recc.frontend.check import Ref
from recc.frontend.types import Value, axes_of
from recc.ir.node import HEADS, REAL, Node, Span
from recc.ir.ops import add, build, const, leaf, mul
from recc.ir.program import State


class Hidden:
    """Hidden states by name, in the order in which they are met; their updates go to `updates`. mark: notes where a
    node is written."""

    def __init__(self, updates: dict[str, Node], mark: Callable[[Node, Span], None]) -> None:
        self.states: dict[str, State] = {}
        self.updates, self.mark = updates, mark

    def delayed(self, ref: Ref, value: Value) -> Value:
        """The value `ref.lag` steps ago: ``x[t-1]`` is fed by x, ``x[t-2]`` by ``x[t-1]``."""
        axes = axes_of(value.dims, not value.heads)
        node = value.node
        for lag in range(1, ref.lag + 1):
            name = f"{ref.name}[t-{lag}]"
            if name not in self.states:
                self.states[name] = State(name, axes, value.dtype, const(0), ref.span, delay=True)
                self.updates[name] = node
            node = leaf("state", axes, value.dtype, name=name, when="old")
            self.mark(node, ref.span)
        return Value(node, value.dims, value.heads)

    def at_chunk(self, state: State, ref: Ref, kept: Value, size: Node) -> Value:
        """A state before the first token of its chunk of `size` tokens: a copy that a count of tokens renews. kept: the
        state before this token."""
        name = f"{state.name}[{ref.chunk}]"
        own, new = (leaf("state", state.axes, state.dtype, name=name, when=when) for when in ("old", "new"))
        if name not in self.states:
            count = self._tokens(HEADS not in state.axes, ref.span)
            start = build("eq", count, mul(size, build("floor", build("div", count, size))))
            self.states[name] = replace(state, name=name, span=ref.span)
            self.updates[name] = build("where", start, kept.node, own)
            self.mark(self.updates[name], ref.span)
        self.mark(new, ref.span)
        return Value(new, kept.dims, kept.heads)

    def _tokens(self, shared: bool, span: Span) -> Node:
        """The number of tokens before this one."""
        name, axes = "t'" if shared else "t", axes_of((), shared)
        count = leaf("state", axes, REAL, name=name, when="old")
        if name not in self.states:
            self.states[name] = State(name, axes, REAL, const(0), span)
            self.updates[name] = add(count, const(1))
        return count
