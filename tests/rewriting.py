"""Random affine memories, and random spellings of each: what an analysis that reads meaning must not tell apart.

An update is a sum of terms, each a signed product of scalars with one of

    rows * S[t-1]                          decay: elementwise, on the rows
    outer(u, w @ S[t-1])                   rank one: read under w, written under u
    outer(u, v)                            a write

`Speller` writes such a sum down in one of many ways that all mean the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

HEADER = '''recurrence spelled
"""A random memory."""

dim   K, V
input q, k, p : K unit
input v, z    : V
input g       <= 0
input a       : K <= 0
input beta, c in [0, 1]
'''


@dataclass(frozen=True)
class Term:
    """sign * scalars * (u acting on S, an outer product of u with w @ S, or one of u with v). All in names or atoms."""

    kind: str  # decay, rank, write
    sign: int = 1
    scalars: tuple[str, ...] = ()
    u: tuple[str, ...] = ()  # vectors over K, multiplied together
    w: tuple[str, ...] = ()
    v: str = ""


def random_memory(rng: random.Random) -> list[Term]:
    """The terms of a memory that decays (or not), erases (or not) and writes."""
    decay = rng.choice(["none", "head", "channel"])
    scalars = ("exp(g)",) if decay == "head" else ()
    rows = ("exp(a)",) if decay == "channel" else ()
    terms = [Term("decay", 1, scalars, rows)]
    for u, w in rng.choice([(), (("k", "k"),), (("k", "p"),), (("k", "k"), ("p", "p")), (("k", "p"), ("p", "p"))]):
        strength = rng.choice([("beta",), ("beta", "c"), ()])
        read, written = rng.choice(
            [((w, *rows), (u,)), ((w,), (u, *rows)), ((w,), (u,))]
        )  # decay before, after, or not
        terms.append(Term("rank", -1, (*scalars, *strength, "0.5"), written, read))
    for key, value in rng.choice([(("k", "v"),), (("k", "v"), ("p", "z")), (("k", "v"), ("k", "z")), (("p", "v"),)]):
        terms.append(Term("write", 1, rng.choice([(), ("beta",), ("c",)]), (key,), (), value))
    return terms


def plain(terms: Sequence[Term]) -> str:
    """The spec with its terms as they stand."""

    def text(term: Term) -> str:
        match term.kind:
            case "decay":
                factors = [*term.scalars, *term.u, "S[t-1]"]
            case "rank":
                factors = [*term.scalars, f"outer({' * '.join(term.u)}, ({' * '.join(term.w)}) @ S[t-1])"]
            case _:
                factors = [*term.scalars, f"outer({' * '.join(term.u)}, {term.v})"]
        return ("+ " if term.sign > 0 else "- ") + " * ".join(factors)

    body = " ".join(text(term) for term in terms)
    return HEADER + f"state S : K x V = 0\noutput o : V\nS[t] = {body.removeprefix('+ ')}\no = q @ S[t]\n"


# What may stand for an atom.
ATOMS = {
    "exp(g)": ("exp(g / 2) * exp(0.5 * g)", "exp(g / 2) ** 2", "1 / exp(-g)", "exp(-(-g))", "exp(g + c) / exp(c)"),
    "exp(a)": (
        "exp(a / 2) * exp(0.5 * a)",
        "exp(a / 2) ** 2",
        "1 / exp(-a)",
        "exp(2 * a - a)",
        "exp(3 * a) / exp(2 * a)",
    ),
    "0.5": ("1 / 2", "(1 - 0.5)", "2 * 0.25"),
    "beta": ("(1 - (1 - beta))", "(beta + beta) / 2", "(beta * beta / beta)", "(c + beta - c)"),
    "c": ("(3 * c - 2 * c)", "c / 2 * 2", "-(-c)"),
    "k": ("(2 * k - k)", "(k + p - p)", "(eye(K) @ k)", "(diag(k) @ (k / k))"),
    "p": ("(p * 3 / 3)", "(p - 0 * k)", "(p @ eye(K))"),
    "v": ("(z + v - z)", "(v / 4 + 0.75 * v)"),
}


class Speller:
    """One random spelling of a memory. `flipped`: the state is kept V x K, as in papers that write S k."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.flipped = rng.random() < 0.3
        self.locals: list[str] = []

    def spec(self, terms: Sequence[Term]) -> str:
        update = self.total(list(terms))
        read = self.chosen(self.apply("q"), "sum(q * S[t], over=K)").replace("S[t-1]", "S[t]")
        lines = [f"S[t] = {update}", f"o = {read}", *self.locals]
        self.rng.shuffle(lines)
        state = "V x K" if self.flipped else "K x V"
        return HEADER + f"state S : {state} = 0\noutput o : V\n" + "\n".join(lines) + "\n"

    def chosen(self, *texts: str) -> str:
        return self.rng.choice(texts)

    def named(self, text: str) -> str:
        """`text`, or the name of a local that stands for it."""
        if self.rng.random() < 0.8:
            return text
        name = f"n{len(self.locals)}"
        self.locals.append(f"{name} = {text}")
        return name

    # --- sums: each of these means the same ------------------------------------------------------------

    def total(self, terms: list[Term]) -> str:
        """The sum as a matrix in the layout of the state."""
        self.rng.shuffle(terms)
        ways = [self.split] if len(terms) > 1 else [self.single]
        if len(terms) > 1 and set.intersection(*(set(term.scalars) for term in terms)):
            ways.append(self.factored)
        if all(term.kind != "write" for term in terms):
            ways.append(self.operated)
        if len({term.u for term in terms}) == 1 and all(term.kind != "decay" for term in terms):
            ways.append(self.under_one_key)
        return self.named(self.rng.choice(ways)(terms))

    def split(self, terms: list[Term]) -> str:
        cut = self.rng.randrange(1, len(terms))
        left, right = terms[:cut], terms[cut:]
        match self.rng.randrange(3):
            case 0:
                return f"({self.total(left)} + {self.total(right)})"
            case 1:
                return f"({self.total(left)} - {self.total(negated(right))})"
            case _:
                return f"-({self.total(negated(left))} - {self.total(right)})"

    def factored(self, terms: list[Term]) -> str:
        """A common scalar before the sum of the rest."""
        scalar = self.rng.choice(sorted(set.intersection(*(set(term.scalars) for term in terms))))
        return self.product([scalar, self.total([without(term, scalar) for term in terms])])

    def operated(self, terms: list[Term]) -> str:
        """A sum of K x K matrices, applied to the state."""
        return self.on_state(self.operator(terms))

    def operator(self, terms: list[Term]) -> str:
        if len(terms) > 1:
            cut = self.rng.randrange(1, len(terms))
            if self.rng.random() < 0.5:
                return f"({self.operator(terms[:cut])} + {self.operator(terms[cut:])})"
            return f"({self.operator(terms[:cut])} - {self.operator(negated(terms[cut:]))})"
        (term,) = terms
        if term.kind == "decay":
            matrix = f"diag({self.product(list(term.u))})" if term.u else "eye(K)"
            return self.named(self.signed(term.sign, self.product([*term.scalars, matrix])))
        outside, inside = self.dealt(term.scalars, 2)
        pair = [self.product([*inside, *term.u]), self.product(list(term.w))]
        if self.flipped:
            pair.reverse()
        return self.named(self.signed(term.sign, self.product([*outside, f"outer({pair[0]}, {pair[1]})"])))

    def under_one_key(self, terms: list[Term]) -> str:
        """outer(u, the sum of what is written under u)."""
        values = [self.signed(term.sign, self.value(term)) for term in terms]
        text = values[0]
        for value in values[1:]:
            text = f"({text} + {value})"
        return self.outer(self.product(list(terms[0].u)), self.named(text))

    # --- terms -----------------------------------------------------------------------------------------

    def single(self, terms: list[Term]) -> str:
        (term,) = terms
        if term.kind == "decay":
            return self.signed(term.sign, self.product([*term.scalars, *term.u, "S[t-1]"]))
        outside, on_key, on_value = self.dealt(term.scalars, 3)
        rows, key = [], list(term.u)
        if len(key) > 1 and self.rng.random() < 0.5:
            rows.append(key.pop(self.rng.randrange(len(key))))  # scales the rows of the outer product instead
        value = self.value(replace(term, scalars=tuple(on_value)))
        outer = self.outer(self.product([*on_key, *key]), value)
        return self.signed(term.sign, self.product([*outside, *rows, outer]))

    def value(self, term: Term) -> str:
        """The vector over V that a term writes, without its sign."""
        if term.kind == "write":
            return self.product([*term.scalars, term.v])
        outside, inside = self.dealt(term.scalars, 2)
        return self.named(self.product([*outside, self.apply(self.product([*inside, *term.w]))]))

    def apply(self, vector: str) -> str:
        """A vector over K contracted with the state."""
        left, right = f"({vector} @ S[t-1])", f"(S[t-1] @ {vector})"
        if self.flipped:
            return self.chosen(right, f"({vector} @ S[t-1].T)")
        return self.chosen(left, f"(S[t-1].T @ {vector})", f"sum({vector} * S[t-1], over=K)")

    def on_state(self, matrix: str) -> str:
        """A K x K matrix (its transpose, if flipped) applied to the state."""
        if self.flipped:
            return self.chosen(f"(S[t-1] @ {matrix})", f"({matrix}.T @ S[t-1].T).T")
        return self.chosen(f"({matrix} @ S[t-1])", f"(S[t-1].T @ {matrix}.T).T")

    def outer(self, key: str, value: str) -> str:
        if self.flipped:
            return self.chosen(f"outer({value}, {key})", f"outer({key}, {value}).T")
        return self.chosen(f"outer({key}, {value})", f"outer({value}, {key}).T")

    # --- products --------------------------------------------------------------------------------------

    def product(self, factors: list[str]) -> str:
        """In any order and association; dims meet by name, so the order does not matter."""
        factors = [self.atom(factor) for factor in factors]
        self.rng.shuffle(factors)
        while len(factors) > 1:
            i = self.rng.randrange(len(factors) - 1)
            factors[i : i + 2] = [f"({factors[i]} * {factors[i + 1]})"]
        return factors[0]

    def atom(self, text: str) -> str:
        if text not in ATOMS or self.rng.random() < 0.8:
            return text
        return f"({self.rng.choice(ATOMS[text])})"

    def signed(self, sign: int, text: str) -> str:
        return text if sign > 0 else self.chosen(f"(-{text})", f"(-1 * {text})", f"(0 - {text})")

    def dealt(self, scalars: Sequence[str], places: int) -> list[list[str]]:
        hands: list[list[str]] = [[] for _ in range(places)]
        for scalar in scalars:
            self.rng.choice(hands).append(scalar)
        return hands


def negated(terms: Sequence[Term]) -> list[Term]:
    return [replace(term, sign=-term.sign) for term in terms]


def without(term: Term, scalar: str) -> Term:
    rest = list(term.scalars)
    rest.remove(scalar)
    return replace(term, scalars=tuple(rest))


# --- products of factors --------------------------------------------------------------------------------------


def micro_steps(count: int, decayed: bool) -> str:
    """`count` delta steps a token, written as micro-steps."""
    first = "S[t,0] = exp(g) * S[t-1]\n" if decayed else ""
    return f"""recurrence product
dim   K, V, R = {count}
input q : K
input v : V
input g <= 0
input k : R x K unit
input b : R in [0, 1]
state S : K x V = 0
output o : V
steps r : R
{first}S[t,r] = S[t,r-1] - b[r] * outer(k[r], k[r] @ S[t,r-1]) + outer(k[r], v)
o = q @ S[t]{" + 0 * g" if not decayed else ""}
"""


def product_of_factors(rng: random.Random, count: int, decayed: bool) -> str:
    """The same with an input for each micro-step: nested, with matrices, or with their product multiplied out."""
    keys = range(count)

    def matrix(r: int) -> str:
        return rng.choice([f"(eye(K) - b{r} * outer(k{r}, k{r}))", f"(eye(K) - outer(b{r} * k{r}, k{r}))"])

    def step(r: int, state: str) -> str:
        return rng.choice(
            [
                f"({state} + outer(k{r}, v - b{r} * (k{r} @ {state})))",
                f"({matrix(r)} @ {state} + outer(k{r}, v))",
                f"({state} - outer(k{r}, k{r} @ {state}) * b{r} + outer(v, k{r}).T)",
            ]
        )

    state, lines = ("(exp(g) * S[t-1])" if decayed else "S[t-1]"), []
    if rng.random() < 0.4 and count > 1:  # (M2 M1) S + M2 (k1 v) + k2 v
        product, write = matrix(0), "outer(k0, v)"
        for r in keys[1:]:
            factor = matrix(r)
            product, write = f"({factor} @ {product})", f"({factor} @ ({write}) + outer(k{r}, v))"
        state = f"{product} @ {state} + {write}"
    else:
        for r in keys:
            if rng.random() < 0.5:
                lines.append(f"s{r} = {state}")
                state = f"s{r}"
            state = step(r, state)
    inputs = "".join(f"input k{r} : K unit\ninput b{r} in [0, 1]\n" for r in keys)
    body = "\n".join([*lines, f"S[t] = {state}", f"o = q @ S[t]{' + 0 * g' if not decayed else ''}"])
    return f"""recurrence product
dim   K, V
input q : K
input v : V
input g <= 0
{inputs}state S : K x V = 0
output o : V
{body}
"""
