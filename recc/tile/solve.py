"""The solution of a nonlinear recurrence over the rows of a chunk, and linear recurrences with matrix coefficients.

`newton` finds the trajectory of coupled states s_1 .. s_k with s_i[t] = f_i(s[t-1], x[t]) by a sequence of linear
recurrences. Its derivative is one more, backwards: with J[t] = df/ds at the trajectory,

    l[t] = J[t+1]^T l[t+1] + g[t],        d x[t] = (df/dx)^T l[t],        d s[-1] = J[0]^T l[0].

Where f acts elementwise, J is a number, or a k x k matrix for coupled states, at each element; else it is a matrix over
the dim of the states, too, whose columns have the axis `column_of` it.
"""

from __future__ import annotations

from collections.abc import Iterable

from recc.ir.node import REAL, ROW, Axis, Node, dim_of, make, substitute, walk
from recc.ir.ops import ONE, OPS, STRUCTURAL, ZERO, Op, add, build, dot, is_zero, leaf, mul, rename, spread
from recc.tile.adjoint import cotangents
from recc.tile.ops import split_tail


def coupled(count: int) -> Axis:
    """The axis along which `count` coupled states stand."""
    return f"@z{count}"


def count_of(axis: Axis) -> int | None:
    """How many states stand along an axis of `coupled`; None for another axis."""
    name = dim_of(axis)
    return int(name[2:]) if name.startswith("@z") else None


def column_of(axis: Axis) -> Axis:
    """The axis of a Jacobian's columns that belongs to an axis of its rows."""
    return f"{axis}'9"


def argument(name: str, like: Node | None = None, axes: Iterable[Axis] = ()) -> Node:
    """A leaf for an argument of the step of `newton`, with `axes` or those of `like`."""
    return leaf("argument", *((tuple(axes), REAL) if like is None else (like.axes, like.dtype)), name=name)


def slopes_of(step: tuple[Node, ...], states: tuple[Node, ...], dim: Axis | None) -> tuple[Node, ...]:
    """The entries df_i/ds_j, row by row. dim: None where the step acts elementwise, else the dim that it mixes: then an
    entry is a matrix [dim, column_of(dim)]."""
    if dim is None:
        return _elementwise_slopes(step, states)
    found: list[Node] = []
    for value in step:
        out = column_of(dim)  # of the output, until the two are swapped
        seed = rename(leaf("eye", (dim, f"{dim}'")), {f"{dim}'": out})
        matrices = cotangents([(value, spread(seed, value.axes))], states, keep=frozenset({out}))
        found += (rename(matrix, {dim: out, out: dim}) for matrix in matrices.values())
    return tuple(found)


def _elementwise_slopes(step: tuple[Node, ...], states: tuple[Node, ...]) -> tuple[Node, ...]:
    """A state that reads another one's new value has its slopes by the chain rule: those of the other one, times one
    factor. Reverse mode from each value alone would go through the other's update again."""
    inside = [set(walk(value)) for value in step]
    found: dict[Node, list[Node]] = {}
    for place in sorted(range(len(step)), key=lambda at: len(inside[at])):
        value = step[place]
        read = [new for new in found if new in inside[place] and new is not value]
        cut = {new: argument(f"new {at}", like=new) for at, new in enumerate(read)}
        (own,) = substitute([value], cut)
        grads = list(cotangents([(own, ONE)], [*states, *cut.values()]).values())
        back = {there: new for new, there in cut.items()}
        grads = substitute(grads, back)
        line = grads[: len(states)]
        for new, factor in zip(read, grads[len(states) :], strict=True):
            line = [add(slope, mul(factor, other)) for slope, other in zip(line, found[new], strict=True)]
        found[value] = line
    return tuple(slope for value in step for slope in found[value])


def _newton(*args: Node, names: tuple[str, ...], step: tuple[Node, ...], states: tuple[Node, ...],
            takes: tuple[Node, ...], dim: Axis | None) -> Node:  # fmt: skip
    """The trajectory. args: the states that enter, then what the step reads. states, takes: the leaves for them in
    `step`, one expression a state. dim: the dim that the step mixes, None where it acts elementwise. names: of the
    states."""
    axes = [*states[0].axes, *([coupled(len(names))] if len(names) > 1 else [])]
    return make("newton", args, axes, REAL, names=names, step=step, states=states, takes=takes, dim=dim)


def of_state(stacked: Node, place: int, count: int) -> Node:
    """What belongs to one of `count` coupled states."""
    return stacked if count == 1 else build("take", stacked, axis=coupled(count), index=place, size=count)


def _vjp_newton(y: Node, g: Node) -> tuple:
    count = len(y["names"])
    enter, taken = y.args[:count], y.args[count:]
    before = [build("shift", of_state(y, i, count), init) for i, init in enumerate(enter)]
    table = dict(zip((*y["states"], *y["takes"]), (*before, *taken), strict=True))
    rows, tail = split_tail(g)
    matrix = _matrix(y, substitute(slopes_of(y["step"], y["states"], y["dim"]), table))
    if count == 1 and y["dim"] is None:
        flow, to_enter = build("rscan", matrix, rows, tail), build("enter", matrix, rows, tail)
    else:
        outs = tuple(axis for axis in (coupled(count), y["dim"]) if axis in matrix.axes)
        flow, to_enter = build("matrix_rscan", matrix, rows, tail, outs=outs), matrix_enter(matrix, rows, tail, outs)
    parts = [of_state(flow, i, count) for i in range(count)]
    grads = cotangents(zip(y["step"], parts, strict=True), y["takes"])
    to_taken = substitute(grads.values(), table)
    to_states = [of_state(to_enter, i, count) for i in range(count)]
    return (*to_states, *to_taken)


def _matrix(y: Node, slopes: list[Node]) -> Node:
    """The Jacobian at all rows: k = 1 and elementwise a number an element, else a matrix [.., rows, outs, ins]."""
    count, axes = len(y["names"]), [*y["states"][0].axes, *([column_of(y["dim"])] if y["dim"] else [])]
    full = [_filled(entry, axes) for entry in slopes]
    if count == 1:
        return full[0]
    out, inside = coupled(count), column_of(coupled(count))
    lines = [build("stack", *full[i * count : (i + 1) * count], axis=inside) for i in range(count)]
    return build("stack", *lines, axis=out)


def _filled(value: Node, axes: Iterable[Axis]) -> Node:
    """`value` along `axes`; also where it is 0, which is a number without axes elsewhere."""
    full = leaf("ones", tuple(axes))
    return build("sub", full, full) if is_zero(value) else mul(value, full)


def _matrix_rscan(matrix: Node, g: Node, tail: Node, *, outs: tuple[Axis, ...]) -> Node:
    """All rows of l[t] = matrix[t+1]^T l[t+1] + g[t]; what `tail` and `end` are is as for rscan."""
    axes = [axis for axis in matrix.axes if axis not in map(column_of, outs)]
    return make("matrix_rscan", (matrix, g, tail), axes, REAL, outs=outs)


def matrix_enter(matrix: Node, g: Node, tail: Node, outs: tuple[Axis, ...]) -> Node:
    """matrix[0]^T l[0] of matrix_rscan, without its rows."""
    gain = build("matrix_gain", matrix, outs=outs)
    back = {column_of(axis): axis for axis in outs}
    through = ZERO if is_zero(tail) else rename(dot(gain, tail, outs), back)
    return through if is_zero(g) else add(through, build("matrix_rsum", matrix, g, outs=outs))


def _matrix_gain(matrix: Node, *, outs: tuple[Axis, ...]) -> Node:
    """The product of all rows' matrices, the last one first."""
    return make("matrix_gain", (matrix,), [axis for axis in matrix.axes if axis != ROW], REAL, outs=outs)


def _matrix_rsum(matrix: Node, g: Node, *, outs: tuple[Axis, ...]) -> Node:
    """matrix[0]^T l[0] where nothing comes from behind the chunk."""
    axes = [axis for axis in matrix.axes if axis != ROW and axis not in map(column_of, outs)]
    return make("matrix_rsum", (matrix, g), axes, REAL, outs=outs)


OPS["newton"], STRUCTURAL["newton"] = Op("newton", -1, vjp=_vjp_newton), _newton
OPS["argument"] = Op("argument", 0)
for _name, _arity, _builder in (
    ("matrix_rscan", 3, _matrix_rscan), ("matrix_gain", 1, _matrix_gain), ("matrix_rsum", 2, _matrix_rsum),
):  # fmt: skip
    OPS[_name], STRUCTURAL[_name] = Op(_name, _arity), _builder
