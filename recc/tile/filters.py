"""The operations of a tile program for transitions that are the same at every token: powers, convolutions, and rows
counted from the end of a chunk. Each one's derivative is made of ops of this list and of recc.tile.ops.
"""

from __future__ import annotations

from recc.ir.node import GRID, ROW, Axis, Node, make, result_dtype
from recc.ir.ops import build as _build
from recc.ir.ops import conj, dot, is_zero, rename
from recc.tile.ops import _along_rows, _register

# A is elementwise, or (with `axis` and `column`) a matrix A[axis, column]; its adjoint is conj(A) or conj(A)^T.


def _krylov(a: Node, v: Node, *, axis: Axis | None = None, column: Axis | None = None) -> Node:
    """A^t v on row t."""
    axes = [x for x in (*a.axes, *v.axes, ROW) if x != column]
    return make("krylov", (a, v), axes, result_dtype((a, v)), axis=axis, column=column)


def _gather(a: Node, g: Node, *, axis: Axis | None = None, column: Axis | None = None) -> Node:
    """The sum of A^(s-t) g[s] over s >= t, on row t."""
    axes = [x for x in (*a.axes, *g.axes, ROW) if x != column]
    return make("gather", (a, g), axes, result_dtype((a, g)), axis=axis, column=column)


def _vjp_krylov(y: Node, g: Node) -> tuple:
    a, axis, column = y.args[0], y["axis"], y["column"]
    swap = {axis: column, column: axis} if axis else {}
    flow = _build("gather", rename(conj(a), swap), g, axis=axis, column=column)
    powers = conj(y) if axis is None else rename(conj(y), {axis: column})
    over = tuple(x for x in y.axes if x not in a.axes and x != axis)
    return dot(_build("unshift", flow), powers, over), _build("first", flow)


def _convolve(k: Node, u: Node, *, over: tuple[Axis, ...] = ()) -> Node:
    """The sum of k[t-s] u[s] over s <= t, on row t, and over the axes `over`."""
    return _joined("convolve", k, u, over)


def _correlate(x: Node, g: Node, *, over: tuple[Axis, ...] = ()) -> Node:
    """The sum of conj(x[s-t]) g[s] over s >= t, on row t, and over the axes `over`: the transpose of `convolve`."""
    return _joined("correlate", x, g, over)


def _joined(name: str, a: Node, b: Node, over: tuple[Axis, ...]) -> Node:
    axes = [x for x in (*a.axes, *b.axes, ROW) if x not in over]
    return make(name, (a, b), axes, result_dtype((a, b)), over=tuple(sorted(over)))


def _vjp_convolve(y: Node, g: Node) -> tuple:
    k, u = y.args

    def to(target: Node, other: Node) -> Node:
        axes = {*other.axes, *g.axes} - {*target.axes, ROW}
        return _build("correlate", other, g, over=tuple(sorted(axes)))

    return to(k, u), to(u, k)


def _pick(a: Node) -> Node:
    """Of rows that are the same for every chunk, that of each chunk's end."""
    return make("pick", (a,), [GRID, *(x for x in a.axes if x != ROW)], a.dtype)


def _unpick(g: Node) -> Node:
    """The transpose of `pick`: on each row, the sum of g over the chunks that end there."""
    return g if is_zero(g) else make("unpick", (g,), [ROW, *(x for x in g.axes if x != GRID)], g.dtype)


_register("krylov", 2, _krylov, _vjp_krylov)
_register("gather", 2, _gather)
_register("convolve", 2, _convolve, _vjp_convolve, "each")
_register("correlate", 2, _correlate, None, "each")
_register("pick", 1, _pick, lambda y, g: (_build("unpick", g),), "sum")
_register("unpick", 1, _unpick, None, "sum")
# Rows in reverse order, from each chunk's end; rows after it are 0.
_register("turned", 1, _along_rows("turned"), lambda y, g: (_build("turned", g),), "sum")
