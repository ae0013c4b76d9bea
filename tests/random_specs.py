"""Random specs of every kind: affine or not, one state or several that read each other, delays, params, complex reads.

Expressions are drawn by type, so that each spec is right by construction; what a compiler makes of it must compute the
same as the sequential reference, whatever it recognises.
"""

from __future__ import annotations

import random

SCALAR, K, V, MATRIX, SQUARE = "", "K", "V", "K x V", "K x K"
LEAVES = {
    SCALAR: ["a", "b", "g", "w", "0.5", "2", "-1"],
    K: ["k", "p", "d", "u"],
    V: ["v", "z", "y"],
    MATRIX: ["outer(k, v)", "outer(p, z)", "M"],
    SQUARE: ["W", "eye(K)", "diag(k)", "diag(exp(d))", "outer(k, p)", "outer(k, k)"],
}
DECLARED = """recurrence drawn
dim   K, V
input a, b
input g <= 0
input k, p : K
input d : K <= 0
input v, z : V
input M : K x V
param w = 0.7
param u : K
param y : V
param W : K x K
"""
BOUNDED = ["tanh", "sigmoid", "sin"]
SMOOTH = ["tanh", "sigmoid", "sin", "cos", "abs", "relu", "softplus", "silu", "gelu", "logsigmoid"]


class Drawer:
    """Draws one spec. `linear`: how often a step keeps to what is linear in the states."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.linear = rng.choice([0.5, 0.9, 1.0])
        self.states = {
            f"s{i}": rng.choice([SCALAR, K, V, MATRIX, MATRIX]) for i in range(rng.choice([1, 1, 1, 2, 2, 3]))
        }
        self.locals: list[tuple[str, str]] = []

    def spec(self) -> str:
        lines = [
            f"state {name}{self.typed(kind)} = {self.rng.choice([0, 0, 0.5])}" for name, kind in self.states.items()
        ]
        kinds = [self.rng.choice([SCALAR, K, V, V]) for _ in range(self.rng.choice([1, 1, 2]))]
        lines += [f"output o{i}{self.typed(kind)}" for i, kind in enumerate(kinds)]
        for i, kind in enumerate([self.rng.choice([SCALAR, K, V]) for _ in range(self.rng.choice([0, 1, 2]))]):
            lines.append(f"n{i} = {self.free(kind, 2)}")
            self.locals.append((f"n{i}", kind))
        done: list[str] = []
        for name, kind in self.states.items():
            lines.append(f"{name}[t] = {self.update(name, kind, done)}")
            done.append(name)
        lines += [f"o{i} = {self.read(kind, 3, list(self.states))}" for i, kind in enumerate(kinds)]
        return DECLARED + "\n".join(lines) + "\n"

    @staticmethod
    def typed(kind: str) -> str:
        return f" : {kind}" if kind else ""

    # --- without a state -------------------------------------------------------------------------------

    def free(self, kind: str, depth: int) -> str:
        """An expression that reads no state."""
        rng = self.rng
        named = [name for name, its in self.locals if its == kind]
        if depth == 0 or rng.random() < 0.3:
            leaf = rng.choice(LEAVES[kind] + named)
            delayed = leaf in ("a", "b", "k", "p", "v", "z", *named) and rng.random() < 0.15
            return f"{leaf}[t-{rng.choice([1, 1, 2])}]" if delayed else f"({leaf})" if leaf.startswith("-") else leaf
        x = self.free(kind, depth - 1)
        match rng.randrange(6):
            case 0:
                return f"({x} {rng.choice('+-')} {self.free(kind, depth - 1)})"
            case 1 if kind != SQUARE:
                return f"({x} * {self.free(rng.choice([SCALAR, kind]), depth - 1)})"
            case 2 if kind != SQUARE:
                return f"{rng.choice(SMOOTH)}({x})"
            case 3 if kind == SCALAR:
                over = rng.choice([K, V])
                return f"({self.free(over, depth - 1)} @ {self.free(over, depth - 1)})"
            case 4 if kind in (K, V):
                return rng.choice([f"softmax({x})", f"l2norm({x})", f"where(a > b, {x}, {self.free(kind, depth - 1)})"])
            case 5 if kind == K:
                return f"(M @ {self.free(V, depth - 1)})"
            case 5 if kind == V:
                return f"({self.free(K, depth - 1)} @ M)"
        return f"({x} * {self.free(SCALAR, 0)})"

    def decay(self, kind: str) -> str:
        """Something by which a state may be multiplied again and again."""
        rng = self.rng
        ways = [
            "exp(g)",
            "sigmoid(a)",
            "0.9",
            "exp(-softplus(b))",
            "(1 - sigmoid(b))",
            "tanh(a)",
            "cos(b)",
            "exp(g * 0.5)",
        ]
        if kind in (K, MATRIX):
            ways += ["exp(d)", "sigmoid(k)", "exp(g + d)", "(exp(g) * exp(d))", "tanh(p)", "sigmoid(u)"]
        if kind in (V, MATRIX):
            ways += ["sigmoid(v)", "tanh(y)"]
        if kind == MATRIX:
            ways += ["sigmoid(M)", "(sigmoid(v) * exp(d))", "exp(-exp(outer(u, y)) * softplus(a))"]
        return rng.choice(ways)

    # --- with states -----------------------------------------------------------------------------------

    def update(self, name: str, kind: str, done: list[str]) -> str:
        """Decay times the old state, a change that is linear in it, and what is added; or something nonlinear."""
        rng, old = self.rng, f"{name}[t-1]"
        parts = [
            rng.choice(
                [f"{self.decay(kind)} * {old}", f"{self.decay(kind)} * {old}", old, f"{old} * {self.decay(kind)}"]
            )
        ]
        if kind == MATRIX and rng.random() < 0.5:
            parts.append(
                rng.choice(
                    [
                        f"- 0.3 * outer(l2norm(k), l2norm(p) @ {old})",
                        f"- sigmoid(a) * outer(l2norm(k), l2norm(k) @ {old})",
                        f"- outer(0.5 * {old} @ l2norm(z), l2norm(z))",
                        f"+ 0.2 * outer(l2norm(p), l2norm(v) * (l2norm(k) @ {old}))",
                        f"- 0.2 * outer(l2norm(k), k) @ {old}",
                        f"+ 0.3 * outer(softmax(k), sum({old}, over=K))",
                    ]
                )
            )
        if kind == K and rng.random() < 0.3:
            parts.append(rng.choice([f"- 0.5 * l2norm(k) * (l2norm(k) @ {old})", f"+ 0.2 * W @ {old}"]))
        if kind == V and rng.random() < 0.3:
            parts.append(rng.choice([f"- 0.5 * l2norm(v) * (l2norm(z) @ {old})", f"+ 0.2 * sum({old})"]))
        if rng.random() < 0.9:
            added = self.read(kind, 2, done) if done and rng.random() < 0.5 else self.free(kind, 2)
            parts.append(f"+ {added}")
        text = " ".join(parts)
        others = [other for other in self.states if other != name and other not in done]
        if others and rng.random() < 0.3:
            other = rng.choice(others)
            text += f" + 0.1 * {self.bring(f'{other}[t-1]', self.states[other], kind)}"
        if rng.random() > self.linear:
            function = rng.choice(BOUNDED)
            text = rng.choice(
                [f"{function}({text})", f"max({text}, {self.free(SCALAR, 1)})", f"{text} + 0.1 * {function}({old})"]
            )
        return text

    def bring(self, text: str, have: str, want: str) -> str:
        """A value of one type as one of another, linearly."""
        rng = self.rng
        if have == want:
            return text
        match have, want:
            case (_, "") if have == MATRIX:
                return f"({self.free(K, 0)} @ {text} @ {self.free(V, 0)})"
            case (_, ""):
                return rng.choice([f"({self.free(have, 0)} @ {text})", f"sum({text})"])
            case ("", _):
                return f"({text} * {self.free(want, 0)})"
            case ("K x V", "K"):
                return rng.choice([f"({text} @ {self.free(V, 1)})", f"sum({text}, over=V)"])
            case ("K x V", "V"):
                return rng.choice(
                    [f"({self.free(K, 1)} @ {text})", f"sum({text}, over=K)", f"({text}.T @ {self.free(K, 0)})"]
                )
            case ("K", "V") | ("V", "K"):
                return f"(({self.free(have, 0)} @ {text}) * {self.free(want, 0)})"
            case (_, "K x V"):
                return f"({text} * {self.free(MATRIX, 0)})"
        raise AssertionError((have, want))

    def read(self, kind: str, depth: int, done: list[str]) -> str:
        """An expression of this type that reads states: those in `done` after their update, or any before it."""
        rng = self.rng
        name = rng.choice(list(self.states))
        when = "t" if name in done and rng.random() < 0.8 else "t-1"
        text = self.bring(f"{name}[{when}]", self.states[name], kind)
        if depth > 1 and rng.random() < 0.5:
            other = self.read(kind, depth - 1, done) if rng.random() < 0.5 else self.free(kind, 1)
            text = f"({text} {rng.choice('+-*')} {other})"
        if rng.random() < 0.25:
            text = f"{rng.choice(SMOOTH)}({text})"
        return text
