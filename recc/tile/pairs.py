"""Complex values as pairs of real ones: the same program for a machine that has real numbers alone.

Each complex leaf, result and carry `x` becomes `x.re` and `x.im`. What an op makes of pairs follows from how it depends
on its arguments, which the registry says; what is not linear has its formula here. The derivative of such a
program to both parts of z is torch's convention for the derivative to z, dL/d(re) + i dL/d(im).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from recc.ir.node import COL, COMPLEX, RANK, RANK2, REAL, ROW, Node, Spans, make, walk
from recc.ir.ops import HALF, ONE, OPS, ZERO, add, build, call, const, div, exp, is_zero, mul, neg, spread, sub, where
from recc.tile.program import Carry, TileProgram

Pair = tuple[Node, Node]
PARTS = (".re", ".im")
TWO = const(2)

_sin, _cos, _expm1, _log, _log1p, _sqrt, _abs = map(call, ("sin", "cos", "expm1", "log", "log1p", "sqrt", "abs"))
_tanh, _angle, _eq, _ge, _fixed = map(call, ("tanh", "atan2", "eq", "ge", "stopgrad"))


class NoPair(Exception):
    """`node` is complex, and nothing says what it is in real numbers."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.op)
        self.node = node


def names_of(name: str, dtype: str) -> tuple[str, ...]:
    """What a declared value of this dtype is called in a program of real numbers: one name, or those of its parts."""
    return tuple(name + part for part in PARTS) if dtype == COMPLEX else (name,)


def whole_name(name: str) -> str:
    """The declared name that a part belongs to."""
    return name[:-3] if name.endswith(PARTS) else name


def in_real_numbers(program: TileProgram) -> TileProgram:
    """`program` without complex values. Raises NoPair where an op has no formula."""
    if all(node.dtype != COMPLEX for node in walk(*program.roots, *program.loads.values(), *program.params.values())):
        return program
    spans = Spans(program.spans)
    pairs: dict[Node, Pair] = {}
    leaves = [*program.loads.values(), *program.params.values(), *(c.old for c in program.carries)]
    for node in walk(*leaves, *program.roots, *program.names):
        pairs[node] = tuple(spans.inherit(part, node) for part in _pair(node, pairs))  # type: ignore[assignment]

    def parts(named: Iterable[tuple[str, Node]]) -> dict[str, Node]:
        return {
            name: spread(part, node.axes) if node.args else part
            for whole, node in named
            for name, part in zip(names_of(whole, node.dtype), pairs[node])
        }

    carries = []
    for c in program.carries:
        for name, old, new in zip(names_of(c.name, c.old.dtype), pairs[c.old], pairs[c.new]):
            carries.append(Carry(name, old, spread(new, c.old.axes), c.level))
    named: dict[Node, str] = {}
    for node, name in program.names.items():
        for whole, part in zip(names_of(name, node.dtype), pairs[node]):
            named.setdefault(part, whole)
    notes = {part: note for node, note in program.notes.items() if node in pairs for part in pairs[node]}
    return replace(
        program,
        loads=parts(program.loads.items()),
        params=parts(program.params.items()),
        carries=tuple(carries),
        stores=parts(program.stores.items()),
        sums=parts(program.sums.items()),
        kept=parts(program.kept.items()),
        names=named,
        notes=notes,
        spans=spans,
    )


def declared(program: TileProgram) -> TileProgram:
    """The names that a program of real numbers has, as the spec declares them: for descriptions, not to be computed."""

    def names(parts: dict[str, Node]) -> dict[str, Node]:
        return {whole_name(name): node for name, node in parts.items()}

    carries = {whole_name(c.name): replace(c, name=whole_name(c.name)) for c in program.carries}
    return replace(program, carries=tuple(carries.values()), stores=names(program.stores), sums=names(program.sums))


# --- one node -------------------------------------------------------------------------------------------------


def _pair(node: Node, pairs: dict[Node, Pair]) -> Pair:
    """The real and the imaginary part of a node, by the pairs of its arguments; a real one's imaginary part is 0."""
    args = [pairs[arg] for arg in node.args]
    if not node.args:
        if node.dtype != COMPLEX:
            return node, ZERO
        attrs = dict(node.attrs)
        name = attrs.pop("name")
        return tuple(make(node.op, (), node.axes, REAL, name=name + part, **attrs) for part in PARTS)  # type: ignore
    if all(arg.dtype != COMPLEX for arg in node.args) and node.op not in ("complex", "imag"):
        same = all(re is arg for (re, _), arg in zip(args, node.args))
        return (node if same else build(node.op, *(re for re, _ in args), **dict(node.attrs))), ZERO
    if node.op in FUNCTIONS:
        attrs = dict(node.attrs) if node.op in (*JOINT, *SCORES) else {}
        return FUNCTIONS[node.op](*args, **attrs)

    def of(*parts: Node) -> Node:
        """The op of these parts; a sum needs the axes that it sums over, a literal 0 has none and stays as it is."""
        rule = OPS[node.op].linear
        if all(map(is_zero, parts[rule == "rest" :])) or (rule == "each" and any(map(is_zero, parts))):
            return ZERO
        wide = (spread(part, arg.axes) if dict(node.attrs) else part for part, arg in zip(parts, node.args))
        return build(node.op, *wide, **dict(node.attrs))

    match OPS[node.op].linear, args:
        case "sum", _:
            return of(*(re for re, _ in args)), of(*(im for _, im in args))
        case "each", [(a, b), (c, d)]:
            return sub(of(a, c), of(b, d)), add(of(a, d), of(b, c))
        case "rest", [(condition, _), *rest]:
            return of(condition, *(re for re, _ in rest)), of(condition, *(im for _, im in rest))
    raise NoPair(node)


# --- what is not linear -----------------------------------------------------------------------------------------


def _product(x: Pair, y: Pair) -> Pair:
    (a, b), (c, d) = x, y
    return sub(mul(a, c), mul(b, d)), add(mul(a, d), mul(b, c))


def _quotient(x: Pair, y: Pair) -> Pair:
    """By the larger part of the divisor first, so that no square of it is formed."""
    (a, b), (c, d) = x, y
    if is_zero(d):
        return div(a, c), div(b, c)
    wide = _ge(_abs(c), _abs(d))
    large, small = where(wide, c, d), where(wide, d, c)
    ratio = div(small, large)
    scale = add(large, mul(small, ratio))
    first, second = mul(a, ratio), mul(b, ratio)
    re = where(wide, add(a, second), add(first, b))
    im = where(wide, sub(b, first), sub(second, a))
    return div(re, scale), div(im, scale)


def _magnitude(x: Pair) -> Node:
    """|z|, whose square is not formed; where it is 0 its derivative is taken to be 0."""
    a, b = x
    if is_zero(b):
        return _abs(a)
    scale = _fixed(build("maximum", _abs(a), _abs(b)))
    none = _eq(scale, ZERO)
    scale = where(none, ONE, scale)
    a, b = div(a, scale), div(b, scale)
    square = where(none, ONE, add(mul(a, a), mul(b, b)))
    return where(none, ZERO, mul(scale, _sqrt(square)))


def _of_angle(size: Node, angle: Node) -> Pair:
    return mul(size, _cos(angle)), mul(size, _sin(angle))


def _exponential(x: Pair) -> Pair:
    return (exp(x[0]), ZERO) if is_zero(x[1]) else _of_angle(exp(x[0]), x[1])


def _exponential_less_one(x: Pair) -> Pair:
    a, b = x
    half = _sin(mul(HALF, b))
    return sub(mul(_expm1(a), _cos(b)), mul(TWO, mul(half, half))), mul(exp(a), _sin(b))


def _logarithm(x: Pair) -> Pair:
    return _log(_magnitude(x)), _angle(x[1], x[0])


def _logarithm_of_one_more(x: Pair) -> Pair:
    a, b = x
    return mul(HALF, _log1p(add(mul(a, add(TWO, a)), mul(b, b)))), _angle(b, add(ONE, a))


def _root(x: Pair) -> Pair:
    """The larger part from a sum that does not cancel, the other one by division."""
    a, b = x
    large = _sqrt(mul(HALF, add(_magnitude(x), _abs(a))))
    none = _eq(large, ZERO)
    small = div(mul(HALF, _abs(b)), where(none, ONE, large))
    right, below = _ge(a, ZERO), _ge(b, ZERO)
    im = where(right, small, large)
    return where(right, large, small), where(below, im, neg(im))


def _hyperbolic(b: Node) -> Pair:
    """cosh and sinh."""
    up, down = _expm1(b), _expm1(neg(b))
    return add(ONE, mul(HALF, add(up, down))), mul(HALF, sub(up, down))


def _sine(x: Pair) -> Pair:
    cosh, sinh = _hyperbolic(x[1])
    return mul(_sin(x[0]), cosh), mul(_cos(x[0]), sinh)


def _cosine(x: Pair) -> Pair:
    cosh, sinh = _hyperbolic(x[1])
    return mul(_cos(x[0]), cosh), neg(mul(_sin(x[0]), sinh))


def _tangent(x: Pair) -> Pair:
    """tanh(a + ib) from tanh(a), which overflows nowhere."""
    t, c, s = _tanh(x[0]), _cos(x[1]), _sin(x[1])
    return _quotient((mul(t, c), s), (c, mul(t, s)))


def _logistic(x: Pair) -> Pair:
    """1 / (1 + exp(-z)), the exponential taken of what has no positive part."""
    a, b = x
    right = _ge(a, ZERO)
    fading = _exponential((where(right, neg(a), a), where(right, neg(b), b)))
    low = _quotient((ONE, ZERO), (add(ONE, fading[0]), fading[1]))
    high = _product(fading, low)
    return where(right, low[0], high[0]), where(right, low[1], high[1])


def _direction(x: Pair) -> Pair:
    size = _magnitude(x)
    none = _eq(size, ZERO)
    safe = where(none, ONE, size)
    return where(none, ZERO, div(x[0], safe)), where(none, ZERO, div(x[1], safe))


def _power(x: Pair, y: Pair) -> Pair:
    exponent = y[0]
    if is_zero(y[1]) and exponent.op == "const" and exponent["value"] in (2, 3, 4):
        result = x
        for _ in range(int(exponent["value"]) - 1):
            result = _product(result, x)
        return result
    return _exponential(_product(y, _logarithm(x)))


def _joint(name: str) -> Callable[..., Pair]:
    """A scan, whose two parts go up the rows together: the op `pair_<name>` of all parts, and both of its values."""

    def build_pair(*args: Pair, **attrs: Any) -> Pair:
        if attrs.get("kind", "linear") != "linear":  # over a semiring of real numbers
            return build(name, *(re for re, _ in args), **attrs), ZERO
        axes = [axis for pair in args for part in pair for axis in part.axes]
        kept = axes if name in ("scan", "rscan") else [axis for axis in axes if axis != ROW]
        rows = (ROW,) if name in ("scan", "rscan") else ()
        whole = make(f"pair_{name}", tuple(part for pair in args for part in pair), (*kept, *rows), REAL)
        return tuple(make("part", (whole,), whole.axes, REAL, index=index) for index in range(2))  # type: ignore

    return build_pair


def _side(name: str) -> Callable[..., Pair]:
    """What stands with its part of a real decay."""

    def build_pair(x: Pair, levels: Pair, **attrs: Any) -> Pair:
        return tuple(part if is_zero(part) else build(name, part, levels[0], **attrs) for part in x)  # type: ignore

    return build_pair


def _scored(name: str, first: int, second: int) -> Callable[..., Pair]:
    """What is linear in each of two arguments, the others being real."""

    def build_pair(*args: Pair, **attrs: Any) -> Pair:
        def of(x: Node, y: Node) -> Node:
            parts = [re for re, _ in args[: 5 if name == "score" else 3]]
            parts[first], parts[second] = x, y
            return ZERO if is_zero(x) or is_zero(y) else build(name, *parts, **attrs)

        (a, b), (c, d) = args[first], args[second]
        return sub(of(a, c), of(b, d)), add(of(a, d), of(b, c))

    return build_pair


def _inverse(lower: Pair) -> Pair:
    """Of a matrix of twice as many rows: those of a token's real and imaginary part, which do not read each other."""
    if is_zero(lower[1]):
        return build("inverse", lower[0]), ZERO
    if RANK in lower[0].axes:  # no axis is left for the parts
        raise NoPair(build("inverse", lower[0]))
    re, im = (spread(part, (ROW, COL)) for part in lower)
    rows = (build("stack", re, neg(im), axis=RANK2), build("stack", im, re, axis=RANK2))
    columns = build("take", build("inverse", build("stack", *rows, axis=RANK)), axis=RANK2, index=0, size=2)
    return tuple(build("take", columns, axis=RANK, index=part, size=2) for part in range(2))  # type: ignore


JOINT = ("scan", "rscan", "span_gain", "span_sum", "span_rsum")
SCORES: dict[str, Callable[..., Pair]] = {
    "late_side": _side("late_side"),
    "early_side": _side("early_side"),
    "score": _scored("score", 0, 2),
    "score_rows": _scored("score_rows", 0, 1),
    "score_cols": _scored("score_cols", 0, 1),
}

FUNCTIONS: dict[str, Callable[..., Pair]] = {
    **{name: _joint(name) for name in JOINT},
    **SCORES,
    "inverse": _inverse,
    "complex": lambda x, y: (x[0], y[0]),
    "real": lambda x: (x[0], ZERO),
    "imag": lambda x: (x[1], ZERO),
    "conj": lambda x: (x[0], neg(x[1])),
    "div": _quotient,
    "exp": _exponential,
    "expm1": _exponential_less_one,
    "log": _logarithm,
    "log1p": _logarithm_of_one_more,
    "sqrt": _root,
    "rsqrt": lambda x: _quotient((ONE, ZERO), _root(x)),
    "sin": _sine,
    "cos": _cosine,
    "tanh": _tangent,
    "sigmoid": _logistic,
    "silu": lambda x: _product(x, _logistic(x)),
    "abs": lambda x: (_magnitude(x), ZERO),
    "sign": _direction,
    "pow": _power,
    "stopgrad": lambda x: (_fixed(x[0]), _fixed(x[1])),
    "eq": lambda x, y: (_eq(add(_abs(sub(x[0], y[0])), _abs(sub(x[1], y[1]))), ZERO), ZERO),
    "ne": lambda x, y: (build("ne", add(_abs(sub(x[0], y[0])), _abs(sub(x[1], y[1]))), ZERO), ZERO),
}
