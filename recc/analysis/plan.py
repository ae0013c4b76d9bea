"""What the analysis finds out about a recurrence: facts, each with the reason for it."""

from __future__ import annotations

from dataclasses import dataclass, field

from recc.analysis.moved import Named
from recc.ir.node import Axis, Node, Span
from recc.ir.program import Recurrence


@dataclass(frozen=True)
class Reason:
    """Why something holds or is refused, in the spec's own names, and where. Errors and `explain` print this object."""

    text: str
    span: Span | None = None
    help: str = ""


@dataclass(frozen=True)
class Write:
    """An outer product added to a memory: key[mixing axis] times value[the other axes].

    value = `const` + sum over r of `of_read[r]` * y_r, with y_r the r-th rank read of the old state.
    """

    key: Node
    const: Node
    of_read: tuple[tuple[int, Node], ...] = ()


@dataclass(frozen=True)
class CoupledWrite:
    """An outer product added to coupled memories: `key` times `const` + sum over r of `of_read[r]` * y_r, to each state
    of `scales` with its scale, which has no axis but heads."""

    key: Node
    scales: tuple[tuple[str, Node], ...]
    const: Node
    of_read: tuple[tuple[int, Node], ...] = ()


@dataclass(frozen=True)
class Coupled:
    """Memories of one type that depend on each other; see recc.analysis.coupled.

    factors[a][b]: what state a takes of state b, one number a head. ranks: (state, w) of each read y = w . state[t-1].
    """

    mixing: Axis
    factors: tuple[tuple[Node, ...], ...]
    ranks: tuple[tuple[str, Node], ...]
    writes: tuple[CoupledWrite, ...]


@dataclass(frozen=True)
class Affine:
    """state' = decay * state + sum_r u_r (w_r . state) + writes + bias; see docs/derivation.md.

    decay: elementwise factor; log_decay: its logarithm where the factor is known to be positive, else None.
    mixing: the axis that the rank terms (or, without those, the reads) contract; None if nothing does.
    writes hold the keys of both the rank terms' u and of what is added, merged where they share a key.
    matrix: whether everything added is such a product (then a chunk form exists); else `bias` holds all that is added.
    coupled: of several states that depend on each other, their normal form, where they have one.
    """

    structure: str  # zero, identity, scalar, diagonal, diagonal+rank, dense
    decay: Node
    log_decay: Node | None
    mixing: Axis | None = None
    ranks: tuple[Node, ...] = ()
    writes: tuple[Write, ...] = ()
    bias: Node | None = None
    not_matrix: Reason | None = None
    time_invariant: bool = False
    coupled: Coupled | None = None


@dataclass(frozen=True)
class Semiring:
    """state' = (+)(gain (x) state, bias) over (max, +) or (logsumexp, +).

    column: of a gain that is a matrix, the axis for the elements of the state before, over which the sum runs; nothing
    is added then (bias is None).
    """

    kind: str  # max, logsumexp
    gain: Node
    bias: Node | None
    column: Axis | None = None


@dataclass(frozen=True)
class Frozen:
    """States that are affine once copies of some of them, renewed every `period` tokens, are given; see
    recc.analysis.frozen.

    start: the condition of a renewal, which holds where `counter` before the token is `offset` modulo `period`.
    copies: (copy, the state that it takes at a start). given: (leaf, the expression of copies and inputs that it stands
    for). inner: the other states as components of their own, in terms of those leaves.
    """

    counter: str
    period: int
    offset: int
    start: Node
    copies: tuple[tuple[str, str], ...]
    given: tuple[tuple[Node, Node], ...]
    inner: Plan


@dataclass(frozen=True)
class Nonlinear:
    """jacobian: diagonal, block-k (k states coupled elementwise), head-block-dense or dense. frozen: what is found of
    copies that are held for a number of tokens, or why that does not help."""

    jacobian: str
    reason: Reason
    frozen: Frozen | Reason | None = None


@dataclass(frozen=True)
class Component:
    """States that must be solved together: a strongly connected component of the step's dependencies."""

    states: tuple[str, ...]
    kind: Affine | Semiring | Nonlinear
    reads: tuple[Axis | None, ...]  # axes that readers contract; None among them: the whole state is read
    reasons: tuple[Reason, ...] = ()
    level: int = 0  # how many components must be solved before

    @property
    def class_name(self) -> str:
        match self.kind:
            case Affine():
                return "affine"
            case Semiring(kind):
                return f"semiring ({kind}, +)"
            case Nonlinear():
                return "nonlinear"

    @property
    def structure(self) -> str:
        match self.kind:
            case Affine(structure):
                return structure
            case Semiring(column=column) if column is not None:
                return "dense"
            case Semiring():
                return "scalar" if not set(self.kind.gain.axes) - {"heads"} else "diagonal"
            case Nonlinear(jacobian):
                return jacobian


@dataclass(frozen=True)
class Plan:
    """The recurrence with its components in the order in which they are solved."""

    recurrence: Recurrence
    components: tuple[Component, ...]
    hoisted: Named
    sunk: Named
    updates: dict[str, Node] = field(default_factory=dict)  # in terms of old states of the own component
