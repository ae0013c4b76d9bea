"""The vector text that a generated C file starts with: types, loads, horizontal sums and functions.

GCC and Clang vector extensions: no header, built-in functions of an instruction set only under `#if`, and libm only
where an op has no vector form yet. Functions hold to a few units in the last place of the working precision; exp
underflows to 0 below -87.3 in float32 (-708.3 in float64) or a little above it, overflows to infinity, and NaN stays
NaN. A vector division takes as long as two dozen multiply-adds on some machines, though at the same time as those:
sigmoid has one, and tanh and log, which often stand beside it, have none.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from recc.ir.ops import OPS, Op

# exp(r) = 1 + r + r^2 Q(r) for |r| <= log(2) / 2. float32: Q interpolated at Chebyshev nodes, relative error 1e-8.
_Q32 = (0.5, 0.16666576989698692, 0.041666554617201194, 0.008363179052728027, 0.0013926183587892934)
_Q64 = tuple(1 / math.factorial(n) for n in range(2, 14))

# log(2) in two parts; products of the first with an exponent are exact.
_LOG2 = {
    "float": ("0.693359375f", "-2.12194440e-4f"),
    "double": ("0.693147180369123816490", "1.90821492927058770002e-10"),
}
# Where exp is neither 0 nor infinite: a little more.
_RANGE = {"float": ("-87.3f", "89.0f"), "double": ("-708.3", "710.0")}


@dataclass(frozen=True)
class Real:
    """A working precision. lanes: elements of a vector."""

    name: str  # float or double
    lanes: int

    @property
    def bytes(self) -> int:
        return 4 if self.name == "float" else 8

    @property
    def literal(self) -> str:
        return "f" if self.name == "float" else ""


def prelude(real: Real, used: set[str]) -> str:
    """Everything that stands before the kernels. used: the ops that occur, for what only some need."""
    parts = [*_own(real), *(_one_by_one(OPS[name]) for name in OPS if OPS[name].c and name in used | _needed(used))]
    if "gelu" in used:
        parts.append("LANES vec v_gelu(vec x) { return x * HALF * (ONE + v_erf(x * (real)0.70710678118654752)); }\n")
    return "\n".join(parts)


def has_form(op: str) -> bool:
    """Whether there is a function for an elementwise op, of vectors or (the registry's) of single numbers."""
    return op == "gelu" or bool(op in OPS and OPS[op].c) or f"vec v_{op}(" in "".join(_own(Real("float", 4)))


def _needed(used: set[str]) -> set[str]:
    return {"erf"} if "gelu" in used else set()


def _own(real: Real) -> list[str]:
    texts = [_types(real), _past(real), _bounds(real), _sums(real), _transpose(real), _exponentials(real)]
    return [*texts, _logarithms(real), _curves(real)]


def _types(real: Real) -> str:
    word = "int" if real.name == "float" else "long long"
    return f"""typedef {real.name} real;
typedef {word} word;
enum {{ LANES_N = {real.lanes} }};
typedef real vec __attribute__((vector_size({real.lanes * real.bytes})));
typedef word mask __attribute__((vector_size({real.lanes * real.bytes})));
typedef real loose __attribute__((vector_size({real.lanes * real.bytes}), aligned({real.bytes}), may_alias));
typedef real four __attribute__((vector_size({4 * real.bytes})));
typedef real loose_four __attribute__((vector_size({4 * real.bytes}), aligned({real.bytes}), may_alias));

#define LANES static inline __attribute__((always_inline, unused))
#define ONCE static __attribute__((noinline, unused))
#define ONE ((real)1)
#define HALF ((real)0.5)

LANES vec load(const real *p) {{ return *(const loose *)p; }}
LANES void store(real *p, vec x) {{ *(loose *)p = x; }}
LANES vec all(real x) {{ return x - (vec){{0}}; }}
LANES vec blend(mask c, vec a, vec b) {{ return (vec)(((mask)a & c) | ((mask)b & ~c)); }}
LANES mask numbered(void) {{ return (mask){{{", ".join(map(str, range(real.lanes)))}}}; }}
LANES vec leading(vec x, int count) {{ return (vec)((mask)x & (numbered() < count)); }}
LANES vec gather(const real *p, long stride, long count) {{
    vec x = {{0}};
    for (long i = 0; i < LANES_N && i < count; i++) x[i] = p[i * stride];
    return x;
}}
LANES vec load_part(const real *p, long count) {{ return count < LANES_N ? gather(p, 1, count) : load(p); }}
LANES void scatter(real *p, long stride, long count, vec x) {{
    for (long i = 0; i < LANES_N && i < count; i++) p[i * stride] = x[i];
}}
LANES void store_part(real *p, long count, vec x) {{
    if (count < LANES_N) scatter(p, 1, count, x); else store(p, x);
}}
// Adds a part to its total, with what the total lost in rounding before, and empties the part.
ONCE void add_up(real *total, real *lost, real *part, long count) {{
    for (long i = 0; i < count; i += LANES_N) {{
        vec was = load(total + i), more = load(part + i) - load(lost + i), now = was + more;
        vec off = (now - was) - more;
        store(lost + i, blend(off - off == 0, off, (vec){{0}})); // of what is not finite nothing is lost
        store(total + i, now);
        store(part + i, (vec){{0}});
    }}
}}
"""


def _past(real: Real) -> str:
    """A store past the caches, where the compiler has one for this width."""
    letter = "s" if real.name == "float" else "d"
    size = real.lanes * real.bytes
    isa, suffix = {64: ("__AVX512F__", "512"), 32: ("__AVX__", "256"), 16: ("__SSE2__", "")}.get(size, ("", ""))
    gnu = f"__builtin_ia32_movntp{letter}{suffix}(p, x)"
    return f"""#if defined(__clang__)
#define PAST(p, x) __builtin_nontemporal_store(x, (vec *)(p))
#elif defined({isa or "RECC_NEVER"})
#define PAST(p, x) {gnu}
#else
#define PAST(p, x) store(p, x)
#endif
// Past the caches: for what is larger than they are and is read by others, p on a multiple of a vector.
LANES void store_past(real *p, vec x, long past) {{ if (past) PAST(p, x); else store(p, x); }}
LANES void settle(void) {{ __atomic_thread_fence(__ATOMIC_SEQ_CST); }} // such stores wait for no order of their own
"""


def _bounds(real: Real) -> str:
    """The lesser and the greater of a number and each element; GCC has one instruction for it as a function alone,
    Clang finds it by itself."""
    letter = "s" if real.name == "float" else "d"
    size = real.lanes * real.bytes
    isa, form = {
        64: ("__AVX512F__", "512_mask(all(c), x, x, -1, 4)"),
        32: ("__AVX__", "256(all(c), x)"),
        16: ("__SSE2__", "(all(c), x)"),
    }.get(size, ("RECC_NEVER", ""))
    both = "\n".join(f"#define {name.upper()}(c, x) __builtin_ia32_{name}p{letter}{form}" for name in ("min", "max"))
    return f"""#if defined({isa}) && !defined(__clang__)
{both}
#else
#define MIN(c, x) blend((c) < x, all(c), x)
#define MAX(c, x) blend((c) > x, all(c), x)
#endif
// x between two numbers; NaN stays NaN.
LANES vec clamped(vec x, real low, real high) {{ x = MIN(high, x); return MAX(low, x); }}
"""


def _sums(real: Real) -> str:
    """Horizontal sums of one vector and of four at once: halves of two vectors are added as one."""
    lanes = real.lanes

    def picked(blocks: int, half: int) -> str:
        size = lanes // blocks
        start = [b * size + half * size // 2 for b in range(blocks)]
        own = [i for s in start for i in range(s, s + size // 2)]
        return ", ".join(map(str, own + [i + lanes for i in own]))

    lines = ["LANES four total4(vec a, vec b, vec c, vec d) {"]
    for x, y in (("a", "b"), ("c", "d"), ("a", "c")):
        blocks = 2 if (x, y) == ("a", "c") else 1
        low, high = (f"__builtin_shufflevector({x}, {y}, {picked(blocks, half)})" for half in (0, 1))
        lines.append(f"    {x} = {low} + {high};")
    size = lanes // 4
    while size > 1:
        order = ", ".join(str(i ^ (size // 2)) for i in range(lanes))
        lines.append(f"    a += __builtin_shufflevector(a, a, {order});")
        size //= 2
    # after two pairings the blocks hold a, b, c, d when pairing kept blocks of one vector together
    places = [b * (lanes // 4) for b in range(4)]
    lines.append(f"    return __builtin_shufflevector(a, a, {', '.join(map(str, places))});\n}}")
    single = ["LANES real total(vec a) {"]
    size = lanes
    while size > 1:
        order = ", ".join(str(i ^ (size // 2)) for i in range(lanes))
        single.append(f"    a += __builtin_shufflevector(a, a, {order});")
        size //= 2
    single.append("    return a[0];\n}")
    single.append("""LANES real greatest(vec a) {
    real y = a[0];
    for (int i = 1; i < LANES_N; i++) y = a[i] > y || a[i] != a[i] ? a[i] : y;
    return y;
}""")
    return "\n".join([*lines, *single]) + "\n"


def _transpose(real: Real) -> str:
    """A square block turned over: in each step, halves of blocks change places between two rows."""
    lanes, lines = real.lanes, ["ONCE void turn(real *to, long to_step, const real *from, long from_step) {"]
    for i in range(lanes):
        lines.append(f"    vec x{i} = load(from + {i} * from_step);")
    half = lanes // 2
    while half:
        low = ", ".join(str(p if not p & half else p - half + lanes) for p in range(lanes))
        high = ", ".join(str(p + half if not p & half else p + lanes) for p in range(lanes))
        for i in range(lanes):
            if not i & half:
                j = i + half
                lines.append(f"    vec a{half}_{i} = __builtin_shufflevector(x{i}, x{j}, {low});")
                lines.append(f"    x{j} = __builtin_shufflevector(x{i}, x{j}, {high}), x{i} = a{half}_{i};")
        half //= 2
    lines += [f"    store(to + {i} * to_step, x{i});" for i in range(lanes)]
    return "\n".join([*lines, "}"]) + "\n"


def _horner(coefficients: tuple[float, ...], x: str, literal: str) -> str:
    text = f"{coefficients[-1]!r}{literal}"
    for c in reversed(coefficients[:-1]):
        text = f"({c!r}{literal} + {x} * {text})"
    return text


def _exponentials(real: Real) -> str:
    f = real.literal
    wide = real.name == "double"
    # 1.5 * 2^52 or 1.5 * 2^23: what is added to it is rounded to a whole number, which the lowest bits then hold. That
    # of the exponent's field which stands for 2^(n - 1) is n more than these.
    magic, shift = (f"{1.5 * 2**52 + 1022}", 52) if wide else (f"{1.5 * 2**23 + 126}f", 23)
    (low, high), (hi, lo) = _RANGE[real.name], _LOG2[real.name]
    guess, turns = ("0x7FDE6238502484BALL", 4) if wide else ("0x7EF311C3", 3)
    return f"""// exp(x) = 2^n (1 + p) with p = exp(r) - 1, for x from {low} to {high}; the power is given as 2^(n - 1),
// which never overflows and is 0 for the least n.
LANES vec reduced(vec x, vec *half) {{
    vec n = x * 1.4426950408889634{f} + {magic};
    *half = (vec)((mask)n << {shift});
    n -= {magic};
    vec r = (x - n * {hi}) - n * {lo};
    return r + r * r * {_horner(_Q64 if wide else _Q32, "r", f)};
}}
LANES vec half_exp(vec x) {{ vec half, p = reduced(x, &half); return half + half * p; }}
LANES vec half_expm1(vec x) {{ vec half, p = reduced(x, &half); return half * p + (half - HALF); }}
{_exponential(real)}LANES vec v_expm1(vec x) {{ return 2 * half_expm1(clamped(x, {low}, {high})); }}
// 1 / x by Newton's iteration from a guess that is right to 6 %, for x from 1e-37 to {"1e307" if wide else "1e38"}.
LANES vec inverse(vec x) {{
    vec y = (vec)({guess} - (mask)x);
    {" ".join(["y += y * (1 - x * y);"] * turns)}
    return y;
}}
"""


def _exponential(real: Real) -> str:
    """exp. AVX-512 has an instruction that takes a power of two to a number, overflows as it should and gives 0 where a
    comparison says so, which is three instructions less."""
    letter, f = ("s", "f") if real.name == "float" else ("d", "")
    wide, low, high = real.name == "double", *_RANGE[real.name]
    hi, lo = _LOG2[real.name]
    terms, round_ = (1.0, 1.0, *(_Q64 if wide else _Q32)), f"{1.5 * 2 ** (52 if wide else 23)}{f}"
    plain = f"LANES vec v_exp(vec x) {{ return 2 * half_exp(clamped(x, {low}, {high})); }}\n"
    if real.lanes * real.bytes != 64:
        return plain
    return f"""#ifdef __AVX512F__
LANES vec v_exp(vec x) {{
    x = MIN({high}, x);
    vec n = x * 1.4426950408889634{f} + {round_};
    n -= {round_};
    vec r = (x - n * {hi}) - n * {lo};
    vec y = {_horner(terms, "r", f)};
    int large = __builtin_ia32_cmpp{letter}512_mask(x, all({low}), 5, -1, 4); // or NaN
    return __builtin_ia32_scalefp{letter}512_mask(y, n, (vec){{0}}, large, 4);
}}
#else
{plain}#endif
"""


def _logarithms(real: Real) -> str:
    f = real.literal
    wide = real.name == "double"
    shift, least, up = (52, "2.2250738585072014e-308", 54) if wide else (23, "1.17549435e-38f", 25)
    hi, lo = _LOG2[real.name]
    terms = tuple(2 / (2 * n + 1) for n in range(1, 12 if wide else 5))
    more = tuple(2 / (2 * n + 1) for n in range(1, 18 if wide else 8))
    most = "20.0" if wide else "10.0f"
    return f"""// log(x) = e log(2) + 2 atanh(s) with s = (m - 1) / (m + 1) and m in [sqrt(1/2), sqrt(2)).
LANES vec v_log(vec x) {{
    mask tiny = x < {least};
    vec y = blend(tiny, x * (real)(1LL << {up}), x);
    mask bits = (mask)y - (mask)all(0.70710678118654752{f});
    mask power = bits >> {shift};
    vec m = (vec)((mask)y - (power << {shift}));
    vec e = __builtin_convertvector(power - (tiny & {up}), vec);
    vec s = (m - 1) * inverse(m + 1), z = s * s;
    y = e * {hi} + (2 * s + (s * z * {_horner(terms, "z", f)} + e * {lo}));
    y = blend(x == 0, all(-__builtin_inf{f}()), y);
    y = blend(x < 0, all(__builtin_nan{f}("")), y);
    return blend((x == __builtin_inf{f}()) | (x != x), x, y);
}}
LANES vec v_log1p(vec x) {{ // the rounding of 1 + x is undone by the quotient
    vec u = x + 1, y = v_log(u) * (x / (u - 1));
    y = blend(u == 1, x, y);
    return blend(u == __builtin_inf{f}(), u, y);
}}
LANES vec log1p_of_part(vec x) {{ // for x from 0 to 1: 2 atanh(s)
    vec s = x * inverse(x + 2), z = s * s;
    return 2 * s + s * z * {_horner(more, "z", f)};
}}
LANES vec v_tanh(vec x) {{
    vec half = half_expm1(2 * clamped(x, -{most}, {most}));
    return half * inverse(half + 1);
}}
"""


def _curves(real: Real) -> str:
    low, high = (bound.removeprefix("-") for bound in _RANGE[real.name])
    bits = "0x7fffffffffffffffLL" if real.name == "double" else "0x7fffffff"
    return f"""LANES vec v_abs(vec x) {{ return (vec)((mask)x & {bits}); }}
LANES vec v_maximum(vec a, vec b) {{ return blend((a > b) | (a != a), a, b); }}
LANES vec v_minimum(vec a, vec b) {{ return blend((a < b) | (a != a), a, b); }}
LANES vec v_relu(vec x) {{ return MAX(0, x); }}
LANES vec v_sign(vec x) {{ return blend(x > 0, all(1), blend(x < 0, all(-1), x)); }}
LANES vec v_sigmoid(vec x) {{ return 1 / (1 + 2 * half_exp(-clamped(x, -{high}, {low}))); }}
LANES vec v_silu(vec x) {{ return x * v_sigmoid(x); }}
LANES vec v_softplus(vec x) {{ return v_relu(x) + log1p_of_part(v_exp(-v_abs(x))); }}
LANES vec v_logsigmoid(vec x) {{ return -v_softplus(-x); }}
LANES vec v_logaddexp(vec a, vec b) {{
    vec y = v_maximum(a, b) + log1p_of_part(v_exp(-v_abs(a - b)));
    return blend(a == b, a + (real)0.69314718055994531, y);
}}
LANES vec v_sqrt(vec x) {{
    for (int i = 0; i < LANES_N; i++) x[i] = sizeof(real) == 4 ? __builtin_sqrtf(x[i]) : __builtin_sqrt(x[i]);
    return x;
}}
LANES vec v_rsqrt(vec x) {{ return 1 / v_sqrt(x); }}
LANES vec v_floor(vec x) {{ for (int i = 0; i < LANES_N; i++) x[i] = __builtin_floor(x[i]); return x; }}
"""


def _one_by_one(op: Op) -> str:
    """A function without a vector form: one number at a time, by what the C library has for doubles."""
    given = "xyz"[: op.arity]
    text = re.sub(r"\b([a-z]\w*)(?=\()", r"__builtin_\1", op.c).format(*(f"{name}[i]" for name in given))
    arguments = ", ".join(f"vec {name}" for name in given)
    return f"LANES vec v_{op.name}({arguments}) {{ for (int i = 0; i < LANES_N; i++) x[i] = {text}; return x; }}\n"
