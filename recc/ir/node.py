"""The one expression node of recc, used by the step IR and by the tile program.

A node is an operation on tensors whose axes have *labels*, not positions. A label is a dim's name
followed by as many primes as are needed to tell two axes of the same dim apart: a `K x K` matrix has
the axes ``K`` and ``K'``. Operands of an elementwise operation meet by label, so there is no implicit
transposition and no positional broadcasting anywhere below the front end.

Nodes are interned: two structurally equal expressions are one object, which makes common
subexpressions free and equality an identity test. So a node belongs to no spec: where it was written, each
recurrence knows for itself (`Spans`).
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Axis = str
REAL, COMPLEX, BOOL = "real", "complex", "bool"

# The axes that are not dims of a spec. In the step IR only `heads` occurs; lifting a step over time adds
# the grid of chunks `@n` and the rows of a chunk `@t` (`@s` where two row axes meet, as in a score).
# A leading @ keeps them apart from whatever a spec calls its dims.
GRID, HEADS, ROW, RANK, COL, RANK2 = "@n", "heads", "@t", "@r", "@s", "@r'"
SEQUENCES = "@b"  # the sequences that one task computes side by side
_ORDER = {axis: place for place, axis in enumerate((GRID, HEADS, SEQUENCES, ROW, RANK, COL, RANK2))}


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of source text: 1-based lines and columns, the end is exclusive."""

    line: int
    col: int
    end_line: int
    end_col: int


@dataclass(frozen=True)
class GradientOf(Span):
    """Where the value is written whose gradient a node is on the way to."""


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """op(args; attrs) with labelled axes. Built by `make`, never directly."""

    op: str
    args: tuple[Node, ...]
    attrs: tuple[tuple[str, Any], ...]
    axes: tuple[Axis, ...]
    dtype: str

    def __getitem__(self, key: str) -> Any:
        """The attribute `key`."""
        for name, value in self.attrs:
            if name == key:
                return value
        raise KeyError(key)

    def __repr__(self) -> str:
        from recc.ir.printer import show

        return f"<{show(self)} : {' x '.join(self.axes) or 'scalar'}>"


class Spans(dict[Node, Span]):
    """Where the nodes of one recurrence are written."""

    def inherit(self, node: Node, origin: Node) -> Node:
        """`node`, which is made from `origin`: unless it is written somewhere itself, that is its place, too."""
        if origin in self:
            self.setdefault(node, self[origin])
        return node


def dim_of(axis: Axis) -> str:
    """The dim that an axis label belongs to: ``dim_of("K''") == dim_of("K'7") == "K"``."""
    return axis.partition("'")[0]


def axis_key(axis: Axis) -> tuple[int, str]:
    return (_ORDER.get(axis, len(_ORDER)), axis)


_digests: weakref.WeakKeyDictionary[Node, str] = weakref.WeakKeyDictionary()


def digest(node: Node) -> str:
    """A name for the expression that is the same in every process: a hash of its structure."""
    for below in walk(node) if node not in _digests else ():
        if below not in _digests:
            parts = (below.op, str(below.attrs), below.axes, below.dtype, *(_digests[arg] for arg in below.args))
            _digests[below] = hashlib.blake2s(repr(parts).encode(), digest_size=12).hexdigest()
    return _digests[node]


def sort_axes(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    """The canonical order of axes: grid, heads, rows, then dims by name. It is also the memory layout."""
    return tuple(sorted(set(axes), key=axis_key))


_interned: weakref.WeakValueDictionary[tuple, Node] = weakref.WeakValueDictionary()


def make(
    op: str,
    args: tuple[Node, ...] = (),
    axes: Iterable[Axis] = (),
    dtype: str = REAL,
    **attrs: Any,
) -> Node:
    """The node for these parts, the same object each time. `axes` may come in any order."""
    items = tuple(sorted(attrs.items()))
    # Python holds 1 == 1.0 == True, and 0.0 == -0.0; constants must not be confused by that.
    key = (op, tuple(map(id, args)), items, str(items) if op == "const" else "", sort_axes(axes), dtype)
    node = _interned.get(key)
    if node is None:
        node = Node(op, args, items, sort_axes(axes), dtype)
        _interned[key] = node
    return node


def result_dtype(args: Iterable[Node]) -> str:
    """complex if any argument is, else real."""
    return COMPLEX if any(arg.dtype == COMPLEX for arg in args) else REAL


def walk(*roots: Node) -> Iterator[Node]:
    """Every node below `roots` once, arguments before their users."""
    seen: set[Node] = set()
    stack: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        node, ready = stack.pop()
        if ready:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack.extend((arg, False) for arg in reversed(node.args) if arg not in seen)


def invariant(*roots: Node) -> bool:
    """Whether no token changes these: they are made of params and constants alone."""
    return not any(node.op in ("input", "state") for node in walk(*roots))


def rebuild(roots: Iterable[Node], leaf: Callable[[Node], Node | None], spans: Spans | None = None) -> list[Node]:
    """`roots` with every node replaced for which `leaf` returns another; what lies above is rebuilt.

    Axes and dtypes are inferred anew, so replacing a leaf by one with more axes lifts the expression.
    spans: takes up what is rebuilt.
    """
    from recc.ir.ops import build

    roots, spans = list(roots), Spans() if spans is None else spans
    done: dict[Node, Node] = {}
    stack: list[tuple[Node, bool]] = [(root, False) for root in roots]
    while stack:
        node, ready = stack.pop()
        if node in done:
            continue
        if not ready:
            new = leaf(node)
            if new is not None:
                done[node] = new
            elif not node.args:
                done[node] = node
            else:
                stack.append((node, True))
                stack.extend((arg, False) for arg in node.args)
        else:
            args = tuple(done[arg] for arg in node.args)
            same = args == node.args
            done[node] = node if same else spans.inherit(build(node.op, *args, **dict(node.attrs)), node)
    return [done[root] for root in roots]


def substitute(roots: Iterable[Node], mapping: Mapping[Node, Node], spans: Spans | None = None) -> list[Node]:
    """`roots` with the nodes in `mapping` replaced; see `rebuild`."""
    return rebuild(roots, mapping.get, spans)
