"""The op registry: everything that recc knows of an operation stands in its one entry here.

An entry states how many arguments the op takes, how it depends linearly on them, its derivative (as nodes, so
that derivatives are programs too), the text that computes it in torch, and where its samples for tests lie.
Adding a function to the language is adding an entry.

`build` makes a node from an op's name: it infers axes and dtype and applies the local simplifications.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from recc.ir.node import BOOL, COMPLEX, REAL, Axis, Node, make, result_dtype


@dataclass(frozen=True)
class Op:
    """One operation.

    linear: "no"; "sum", linear in all arguments together; "each", linear in each argument alone;
        "first", linear in the first argument; "rest", linear in all but the first together.
    vjp: (node, cotangent) -> a cotangent per argument, before broadcasting is undone.
    torch: the text of the call, `{0}` being the first argument.
    c: the same of one number in C, by functions of its library on doubles; empty where `backends/c` has a vector form.
    domain: where its arguments are sampled in tests.
    curve: whether it takes longer to compute again than to keep for the tokens of a chunk.
    """

    name: str
    arity: int
    linear: str = "no"
    vjp: Callable[[Node, Node], tuple] | None = None
    torch: str = ""
    c: str = ""
    domain: tuple[float, float] = (-2.0, 2.0)
    dtype: str | None = None  # of the result; None: of the arguments
    user: bool = False  # a spec may call it by this name
    real_only: bool = False
    curve: bool = False


OPS: dict[str, Op] = {}


def _op(name: str, arity: int, **facts: Any) -> None:
    OPS[name] = Op(name, arity, **facts)


_curve = partial(_op, curve=True)


# --- building -----------------------------------------------------------------------------------------------


def const(value: float | int) -> Node:
    return make("const", (), (), REAL, value=value)


def build(op: str, *args: Node, **attrs: Any) -> Node:
    """The node for `op`, with inferred axes and dtype, simplified where that is exact."""
    if op in STRUCTURAL:
        return STRUCTURAL[op](*args, **attrs)
    entry = OPS[op]
    assert len(args) == entry.arity, (op, args)
    simpler = _simplify(op, args)
    if simpler is not None:
        return simpler
    axes = [axis for arg in args for axis in arg.axes]
    dtype = entry.dtype or (result_dtype(args))
    return _real_part(*args) if op == "real" else make(op, args, axes, dtype)


def _real_part(node: Node) -> Node:
    """real(node), of each part of a sum, and of the one complex factor of a product: no sum over an axis is opened."""
    parts = [arg for arg in node.args if arg.dtype == COMPLEX]
    if node.op in ("add", "sub", "neg") or (node.op in ("mul", "convolve") and len(parts) == 1):
        args = (build("real", arg) if arg in parts else arg for arg in node.args)
        return build(node.op, *args, **dict(node.attrs))
    return make("real", (node,), node.axes, REAL)


def is_const(node: Node, value: float | None = None) -> bool:
    return node.op == "const" and (value is None or node["value"] == value)


def is_zero(node: Node) -> bool:
    return is_const(node, 0)


_FOLD: dict[str, Callable[..., float]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "neg": lambda a: -a,
}


def _simplify(op: str, args: tuple[Node, ...]) -> Node | None:
    """Identities that hold for every finite and non-finite value, or only drop a product with a literal 0."""
    if op in _FOLD and all(is_const(arg) for arg in args):
        return const(_FOLD[op](*(arg["value"] for arg in args)))
    match op, args:
        case "add", (a, b):
            return b if is_zero(a) else a if is_zero(b) else None
        case "sub", (a, b):
            return a if is_zero(b) else neg(b) if is_zero(a) else None
        case "mul", (a, b):
            if is_zero(a) or is_zero(b):
                return const(0)
            if is_const(a, 1) or is_const(b, 1):
                return b if is_const(a, 1) else a
            if is_const(a, -1) or is_const(b, -1):
                return neg(b if is_const(a, -1) else a)
            if b.op == "ones" and set(b.axes) <= set(a.axes):
                return a
        case "div", (a, b):
            return a if is_const(b, 1) else const(0) if is_zero(a) else None
        case "neg", (a,):
            return a.args[0] if a.op == "neg" else None
        case "pow", (a, b):
            return a if is_const(b, 1) else None
        case (("real" | "conj"), (a,)):
            return a if a.dtype != COMPLEX else None
    return None


def _dot(a: Node, b: Node, *, over: tuple[Axis, ...]) -> Node:
    """sum over the axes `over` of a * b."""
    over = tuple(sorted(over))
    if is_zero(a) or is_zero(b):
        return const(0)
    if not over:
        return mul(a, b)
    missing = [axis for axis in over if axis not in a.axes or axis not in b.axes]
    if missing:
        here = tuple(axis for axis in over if axis not in missing)
        inside_a = tuple(x for x in missing if x in a.axes)
        inside_b = tuple(x for x in missing if x in b.axes)
        return _dot(total(a, inside_a), total(b, inside_b), over=here)
    axes = [axis for axis in a.axes + b.axes if axis not in over]
    return make("dot", (a, b), axes, result_dtype((a, b)), over=over)


def _sum(a: Node, *, over: tuple[Axis, ...]) -> Node:
    assert all(axis in a.axes for axis in over) or is_zero(a), (a, over)
    if not over or is_zero(a):
        return a
    return make("sum", (a,), [x for x in a.axes if x not in over], a.dtype, over=tuple(sorted(over)))


def _amax(a: Node, *, over: tuple[Axis, ...]) -> Node:
    if not over:
        return a
    return make("amax", (a,), [x for x in a.axes if x not in over], a.dtype, over=tuple(sorted(over)))


def _rename(a: Node, *, mapping: tuple[tuple[Axis, Axis], ...]) -> Node:
    """The same values under other labels; a transposition is a rename that swaps two."""
    table = {old: new for old, new in mapping if old != new and old in a.axes}
    if not table:
        return a
    if a.op == "rename":
        inner = {old: table.get(new, new) for old, new in a["mapping"]}
        hidden = {new for _, new in a["mapping"]}
        inner |= {old: new for old, new in table.items() if old not in hidden}
        return _rename(a.args[0], mapping=tuple(inner.items()))
    axes = [table.get(axis, axis) for axis in a.axes]
    assert len(set(axes)) == len(axes), f"rename {table} of {a.axes} merges two axes"
    return make("rename", (a,), axes, a.dtype, mapping=tuple(sorted(table.items())))


def _take(a: Node, *, axis: Axis, index: int, size: Any = None) -> Node:
    """Element `index` (from 0; negative from the end) along `axis`, of `size` elements (default: the dim's size)."""
    if axis not in a.axes:
        return a
    size = axis if size is None else size
    return make("take", (a,), [x for x in a.axes if x != axis], a.dtype, axis=axis, index=index, size=size)


def _put(a: Node, *, axis: Axis, index: int, size: Any) -> Node:
    """Zeros along a new `axis` of `size` (a number, or the dim's name) with `a` at `index`: the transpose of `take`."""
    return make("put", (a,), [*a.axes, axis], a.dtype, axis=axis, index=index, size=size)


STRUCTURAL: dict[str, Callable[..., Node]] = {
    "dot": _dot,
    "sum": _sum,
    "amax": _amax,
    "rename": _rename,
    "take": _take,
    "put": _put,
}


def leaf(op: str, axes: tuple[Axis, ...] = (), dtype: str = REAL, **attrs: Any) -> Node:
    """A node without arguments: input, param, state, size, iota, eye, tile ..."""
    return make(op, (), axes, dtype, **attrs)


def ones(axes: tuple[Axis, ...]) -> Node:
    """1 along `axes`: a product with it repeats a value."""
    return leaf("ones", axes)


def spread(node: Node, axes: Iterable[Axis]) -> Node:
    """`node` with all of `axes`: repeated along those that it lacks."""
    missing = tuple(axis for axis in axes if axis not in node.axes)
    return mul(node, ones(missing)) if missing else node


# Short names for the ops that recc itself writes.
def add(a: Node, b: Node) -> Node: return build("add", a, b)  # fmt: skip


def sub(a: Node, b: Node) -> Node: return build("sub", a, b)  # fmt: skip


def mul(a: Node, b: Node) -> Node: return build("mul", a, b)  # fmt: skip


def div(a: Node, b: Node) -> Node: return build("div", a, b)  # fmt: skip


def neg(a: Node) -> Node: return build("neg", a)  # fmt: skip


def exp(a: Node) -> Node: return build("exp", a)  # fmt: skip


def dot(a: Node, b: Node, over: tuple[Axis, ...]) -> Node: return build("dot", a, b, over=over)  # fmt: skip


def total(a: Node, over: tuple[Axis, ...]) -> Node: return build("sum", a, over=over)  # fmt: skip


def where(c: Node, a: Node, b: Node) -> Node: return build("where", c, a, b)  # fmt: skip


def conj(a: Node) -> Node: return build("conj", a) if a.dtype == COMPLEX else a  # fmt: skip


def rename(a: Node, mapping: dict[Axis, Axis]) -> Node:
    return build("rename", a, mapping=tuple(sorted(mapping.items())))


def call(name: str) -> Callable[..., Node]:
    return lambda *args: build(name, *args)


# --- derivatives --------------------------------------------------------------------------------------------
# Each rule is mathematics in one line. Complex values follow torch: the cotangent of z is conj(dL/dz).

_exp, _sigmoid, _sign = call("exp"), call("sigmoid"), call("sign")
ONE, ZERO, HALF = const(1), const(0), const(0.5)


def _of_first(rule: Callable[[Node, Node], Node]) -> Callable[[Node, Node], tuple]:
    """The rule of y = f(x) from its derivative (x, y) -> f'(x)."""
    return lambda y, g: (mul(g, conj(rule(y.args[0], y))),)


def _larger(a: Node, b: Node) -> Node:
    """1 where a > b, 0 where a < b, 1/2 where they are equal: the subgradient that torch takes."""
    return mul(HALF, add(ONE, _sign(sub(a, b))))


def _vjp_div(y: Node, g: Node) -> tuple:
    a, b = y.args
    return div(g, conj(b)), neg(div(mul(g, conj(y)), conj(b)))


def _vjp_pow(y: Node, g: Node) -> tuple:
    a, b = y.args
    slope = mul(b, build("pow", a, sub(b, ONE)))
    return mul(g, conj(slope)), None if is_const(b) else mul(g, mul(y, build("log", a)))


def _vjp_dot(y: Node, g: Node) -> tuple:
    a, b = y.args
    return (
        dot(g, conj(b), tuple(x for x in g.axes if x in b.axes and x not in a.axes)),
        dot(g, conj(a), tuple(x for x in g.axes if x in a.axes and x not in b.axes)),
    )


def _vjp_logaddexp(y: Node, g: Node) -> tuple:
    a, b = y.args
    return mul(g, _sigmoid(sub(a, b))), mul(g, _sigmoid(sub(b, a)))


def _vjp_gelu(x: Node, _: Node) -> Node:
    # d/dx x Phi(x) = Phi(x) + x phi(x)
    cdf = mul(HALF, add(ONE, build("erf", mul(x, const(math.sqrt(0.5))))))
    pdf = mul(const(1 / math.sqrt(2 * math.pi)), _exp(mul(const(-0.5), mul(x, x))))
    return add(cdf, mul(x, pdf))


def _vjp_atan2(y: Node, g: Node) -> tuple:
    """Of the angle at 0, which has none, it is 0."""
    b, a = y.args
    square = add(mul(a, a), mul(b, b))
    square = where(build("eq", square, ZERO), const(math.inf), square)
    return mul(g, div(a, square)), mul(g, neg(div(b, square)))


def _vjp_amax(y: Node, g: Node) -> tuple:
    hit = build("where", build("eq", y.args[0], y), ONE, ZERO)
    return (mul(g, div(hit, total(hit, y["over"]))),)


_op("add", 2, linear="sum", vjp=lambda y, g: (g, g), torch="{0} + {1}")
_op("sub", 2, linear="sum", vjp=lambda y, g: (g, neg(g)), torch="{0} - {1}")
_op("neg", 1, linear="sum", vjp=lambda y, g: (neg(g),), torch="-{0}")
_op("mul", 2, linear="each", vjp=lambda y, g: (mul(g, conj(y.args[1])), mul(g, conj(y.args[0]))), torch="{0} * {1}")
_op("div", 2, linear="first", vjp=_vjp_div, torch="{0} / {1}", domain=(0.5, 2.0))
_curve("pow", 2, vjp=_vjp_pow, torch="{0} ** {1}", c="pow({0}, {1})", domain=(0.5, 2.0))
_op("where", 3, linear="rest", vjp=lambda y, g: (None, where(y.args[0], g, ZERO), where(y.args[0], ZERO, g)),
    torch="torch.where({0}, {1}, {2})", user=True)  # fmt: skip

_curve("exp", 1, vjp=_of_first(lambda x, y: y), torch="torch.exp({0})", user=True)
_curve("expm1", 1, vjp=_of_first(lambda x, y: add(y, ONE)), torch="torch.expm1({0})", user=True)
_curve("log", 1, vjp=_of_first(lambda x, y: div(ONE, x)), torch="torch.log({0})", domain=(0.5, 2.0), user=True)
_curve("log1p", 1, vjp=_of_first(lambda x, y: div(ONE, add(ONE, x))),
    torch="torch.log1p({0})", domain=(-0.5, 2.0), user=True)  # fmt: skip
_op("sqrt", 1, vjp=_of_first(lambda x, y: div(HALF, y)), torch="torch.sqrt({0})", domain=(0.5, 2.0), user=True)
_op("rsqrt", 1, vjp=_of_first(lambda x, y: mul(const(-0.5), div(y, x))),
    torch="torch.rsqrt({0})", domain=(0.5, 2.0), user=True)  # fmt: skip
_curve("sin", 1, vjp=_of_first(lambda x, y: build("cos", x)), torch="torch.sin({0})", c="sin({0})", user=True)
_curve("cos", 1, vjp=_of_first(lambda x, y: neg(build("sin", x))), torch="torch.cos({0})", c="cos({0})", user=True)
_curve("tanh", 1, vjp=_of_first(lambda x, y: sub(ONE, mul(y, y))), torch="torch.tanh({0})", user=True)
_curve("sigmoid", 1, vjp=_of_first(lambda x, y: mul(y, sub(ONE, y))), torch="torch.sigmoid({0})", user=True)
_curve("logsigmoid", 1, vjp=_of_first(lambda x, y: _sigmoid(neg(x))),
    torch="F.logsigmoid({0})", user=True, real_only=True)  # fmt: skip
_curve("softplus", 1, vjp=_of_first(lambda x, y: _sigmoid(x)), torch="softplus({0})", user=True, real_only=True)
_op("relu", 1, vjp=_of_first(lambda x, y: where(build("gt", x, ZERO), ONE, ZERO)),
    torch="torch.relu({0})", user=True, real_only=True)  # fmt: skip
_curve("silu", 1, vjp=_of_first(lambda x, y: mul(_sigmoid(x), add(ONE, mul(x, _sigmoid(neg(x)))))),
    torch="F.silu({0})", user=True, real_only=True)  # fmt: skip
_curve("gelu", 1, vjp=_of_first(_vjp_gelu), torch="gelu({0})", user=True, real_only=True)
_curve("erf", 1, vjp=_of_first(lambda x, y: mul(const(2 / math.sqrt(math.pi)), _exp(neg(mul(x, x))))),
    torch="torch.erf({0})", c="erf({0})", user=True, real_only=True)  # fmt: skip
_curve("atan2", 2, vjp=_vjp_atan2, torch="torch.atan2({0}, {1})", c="atan2({0}, {1})", real_only=True)
_op("abs", 1, vjp=lambda y, g: (mul(g, _sign(y.args[0])),), torch="torch.abs({0})", dtype=REAL, user=True)
_op("sign", 1, vjp=lambda y, g: (None,), torch="torch.sgn({0})", user=True)
_op("floor", 1, vjp=lambda y, g: (None,), torch="torch.floor({0})", user=True, real_only=True)
_op("stopgrad", 1, vjp=lambda y, g: (None,), torch="{0}.detach()", user=True)
# The value of the first argument with the gradient of the second: for steps that have none of their own.
_op("surrogate", 2, vjp=lambda y, g: (None, g), torch="surrogate({0}, {1})", user=True, real_only=True)
# The value of the first argument, whose gradient is cut to [-limit, limit] on its way back.
_op("clip_gradient", 2, vjp=lambda y, g: (build("minimum", build("maximum", g, neg(y.args[1])), y.args[1]), None),
    torch="clip_gradient({0}, {1})", user=True, real_only=True)  # fmt: skip
# What else these take is for the derivative alone.
VALUE_OF_FIRST = ("surrogate", "clip_gradient", "solution", "decayed_sum")
_op("maximum", 2, vjp=lambda y, g: (mul(g, _larger(*y.args)), mul(g, _larger(*y.args[::-1]))),
    torch="torch.maximum({0}, {1})", real_only=True)  # fmt: skip
_op("minimum", 2, vjp=lambda y, g: (mul(g, _larger(*y.args[::-1])), mul(g, _larger(*y.args))),
    torch="torch.minimum({0}, {1})", real_only=True)  # fmt: skip
_curve("logaddexp", 2, vjp=_vjp_logaddexp, torch="torch.logaddexp({0}, {1})", user=True, real_only=True)

for _name, _sign_text in (("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="), ("eq", "=="), ("ne", "!=")):
    _op(_name, 2, vjp=lambda y, g: (None, None), torch="{0} " + _sign_text + " {1}", dtype=BOOL)

_op("conj", 1, linear="no", vjp=lambda y, g: (conj(g),), torch="torch.conj_physical({0})", user=True)
_op("real", 1, vjp=lambda y, g: (build("complex", g, ZERO),), torch="torch.real({0})", dtype=REAL, user=True)
_op("imag", 1, vjp=lambda y, g: (build("complex", ZERO, g),), torch="torch.imag({0})", dtype=REAL, user=True)
_op("complex", 2, vjp=lambda y, g: (build("real", g), build("imag", g)),
    torch="as_complex({0}, {1})", dtype=COMPLEX, user=True)  # fmt: skip

_op("dot", 2, linear="each", vjp=_vjp_dot)
_op("sum", 1, linear="sum", vjp=lambda y, g: (spread(g, y["over"]),))
_op("amax", 1, vjp=_vjp_amax)
_op("rename", 1, linear="sum", vjp=lambda y, g: (rename(g, {new: old for old, new in y["mapping"]}),))
_op("take", 1, linear="sum", vjp=lambda y, g: (build("put", g, axis=y["axis"], index=y["index"], size=y["size"]),))
_op("put", 1, linear="sum", vjp=lambda y, g: (build("take", g, axis=y["axis"], index=y["index"], size=y["size"]),))

# Leaves. `input`, `param` and `state` carry the spec's name; `state` also whether it is read before (`old`) or
# after (`new`) this step's update. `size` is a dim's size as a number, `iota` 0, 1, 2 ... along an axis, `task`
# the place along an axis of the task that computes, where an axis is split into tasks.
for _name in ("const", "input", "param", "state", "size", "iota", "eye", "tile", "carry", "ones", "position", "task"):
    _op(_name, 0)

# Random numbers, one for each element along the node's axes: only in the initialiser of a param. `draw` tells
# apart two draws of one initialiser.
_op("uniform", 2)
_op("normal", 2)


def broadcast_back(cotangent: Node, arg: Node, keep: frozenset[Axis] = frozenset()) -> Node:
    """Undoes broadcasting: sums over the axes that the argument does not have, those in `keep` aside, and drops a
    stray imaginary part."""
    extra = tuple(axis for axis in cotangent.axes if axis not in arg.axes and axis not in keep)
    cotangent = total(cotangent, extra) if extra else cotangent
    return build("real", cotangent) if cotangent.dtype == COMPLEX and arg.dtype != COMPLEX else cotangent
