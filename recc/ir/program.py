"""A recurrence in the step IR: what the front end makes and everything after it reads."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field

from recc.ir.node import Axis, Node, Span, Spans, digest


@dataclass(frozen=True)
class Domain:
    """Values that an input or a param may take: bounds (None: unbounded), `unit` for a vector of L2 norm 1,
    `contraction` for a matrix of spectral norm at most 1."""

    low: float | None = None
    high: float | None = None
    unit: bool = False
    contraction: bool = False

    def missed_by(self, number: float) -> float | None:
        """The bound beyond which a number lies; None where it lies within."""
        if self.low is not None and number < self.low:
            return self.low
        return self.high if self.high is not None and number > self.high else None


@dataclass(frozen=True)
class Input:
    """A sequence [batch, time, heads, *dims]; without heads when `shared`. `axes` in declared order, heads first."""

    name: str
    axes: tuple[Axis, ...]
    dtype: str
    domain: Domain
    span: Span


@dataclass(frozen=True)
class Param:
    """A tensor that does not change over time, [heads, *dims] or [*dims] when shared. `init` is an expression
    over constants, sizes, iota and the random ops `uniform` and `normal`."""

    name: str
    axes: tuple[Axis, ...]
    dtype: str
    init: Node | None
    domain: Domain
    span: Span


@dataclass(frozen=True)
class State:
    """What is carried from step to step. `init` is its value before the first step (None: must be passed in).

    delay: this state is a past value that a spec read with ``x[t-n]``; `name` is then spelled like that.
    """

    name: str
    axes: tuple[Axis, ...]
    dtype: str
    init: Node | None
    span: Span
    delay: bool = False


@dataclass(frozen=True)
class Output:
    name: str
    axes: tuple[Axis, ...]
    dtype: str
    value: Node
    span: Span


@dataclass(frozen=True)
class Recurrence:
    """One `recurrence` block. `dims` maps each dim to its fixed size, or None where the tensors decide.

    `updates[s]` is the value of state s after the step, in terms of `state(s, when="old")` leaves (before the
    step), `state(s', when="new")` leaves (another state after its update), inputs and params. Outputs likewise.
    `names` tells what a node was called in the spec and `spans` where it was written, for messages and generated code.
    """

    name: str
    doc: str
    dims: dict[str, int | None]
    inputs: tuple[Input, ...]
    params: tuple[Param, ...]
    states: tuple[State, ...]
    outputs: tuple[Output, ...]
    updates: dict[str, Node]
    names: dict[Node, str] = field(default_factory=dict)
    spans: Spans = field(default_factory=Spans)
    example: dict[str, int] = field(default_factory=dict)
    text: str = ""
    path: str = "<spec>"
    scales: dict[str, str] = field(default_factory=dict)  # of the states that are carried as a mantissa, by name
    origin: Recurrence | None = None  # the recurrence as it is written, where states are carried in another way

    def state(self, name: str) -> State:
        return next(state for state in self.states if state.name == name)

    @functools.cached_property
    def fingerprint(self) -> str:
        """The same for specs that differ only in comments, formatting and names of locals, in every process."""
        declared = [(x.name, x.axes, x.dtype, x.domain) for x in (*self.inputs, *self.params)]
        declared += [(x.name, x.axes, x.dtype, x.init and digest(x.init)) for x in self.states]
        values = [digest(x) for x in (*self.updates.values(), *(output.value for output in self.outputs))]
        text = repr((self.name, declared, [(x.name, x.axes, x.dtype) for x in self.outputs], values))
        return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()

    def place(self, name: str) -> Span:
        """Where the update of a state is written; where the state is declared if that is a number, which is nowhere."""
        return self.spans.get(self.updates[name], self.state(name).span)
