"""The chunk form of an affine matrix memory: matrix products inside a chunk, one state per chunk between them.

With b the inclusive cumulative log decay and y_r[t] = w_r[t] . S[t-1], a chunk that starts from S0 satisfies
(docs/derivation.md; score is masked, its exponents are never positive)

    (I - L) U = V + c (w exp b_prev) S0       L = c score(w, b_prev, key, b), strictly lower; U: what is written
    read(q)   = (q exp b) S0 + score(q, b, key, b) U
    S0'       = exp(b_end) S0 + (key exp(b_end - b))^T U

since U = V + c Y and Y = (w exp b_prev) S0 + score(w, b_prev, key, b) U.

Where the columns decay and not the keys, no rank term reads them, and the decay stands on the other side of a score:

    read(q)[t, m] = exp(b[t, m]) (q S0)[t, m] + sum over s <= t of (q[t] . key[s]) exp(b[t, m] - b[s, m]) U[s, m]
    S0'           = key^T (U exp(b_end - b)) + S0 exp(b_end)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from recc.analysis.plan import Affine, Component, Plan, Reason
from recc.analysis.reads import Read
from recc.ir.node import COL, COMPLEX, GRID, HEADS, RANK, RANK2, ROW, Axis, Node
from recc.ir.ops import ONE, ZERO, add, build, dot, is_zero, leaf, mul, ones, rename, spread, sub
from recc.strategies.lowering import Lowering
from recc.tile.channels import decayed_sum


class Chunk:
    """Matrix products of chunk x chunk and chunk x state; any rank, scalar or per-channel decay."""

    name = "chunk"
    chunks = (16, 32, 64, 128)  # lengths that tuning tries

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        kind, listing = component.kind, ", ".join(component.states)
        spans, span = plan.recurrence.spans, plan.recurrence.place(component.states[0])
        if not isinstance(kind, Affine):
            why = component.reasons[0]
            return Reason(f"`chunk` needs an update that is affine in the state: {why.text}", why.span)
        if kind.structure == "zero":
            return Reason(f"{listing} only remembers its last value: there is nothing to accumulate", span)
        if kind.not_matrix is not None:
            return Reason(
                f"`chunk` needs a matrix memory: {listing}: {kind.not_matrix.text}", kind.not_matrix.span or span
            )
        if None in component.reads:
            return Reason(
                f"`chunk` never forms {listing} itself, and it is read whole, not by a contraction over one axis", span
            )
        if set(component.reads) - {kind.mixing}:
            others = ", ".join(str(axis) for axis in component.reads)
            return Reason(f"`chunk` serves reads that contract {kind.mixing}; {listing} is read over {others}", span)
        if kind.log_decay is None:
            return Reason(
                f"`chunk` needs a decay with a logarithm, and that of {listing} may be zero or negative",
                spans.get(kind.decay, span),
                "write it as exp(g) with `input g <= 0`",
            )
        decaying = [axis for axis in kind.log_decay.axes if axis != HEADS]
        if len(decaying) > 1:
            axes = " x ".join(decaying)
            why = f"`chunk` needs a decay along one axis at most; that of {listing} has the axes {axes}"
            return Reason(why, spans.get(kind.decay, span))
        if set(decaying) - {kind.mixing}:
            (axis,) = decaying
            columns = [other for other in plan.recurrence.state(component.states[0]).axes if other != HEADS]
            if kind.ranks or len(columns) > 2:
                what = "with rank terms" if kind.ranks else f"with the axes {' x '.join(columns)}"
                why = (
                    f"`chunk` {what} needs a decay that depends on {kind.mixing} at most; that of {listing} has {axis}"
                )
                return Reason(why, spans.get(kind.decay, span))
        if any(set(c.axes) - {HEADS} for write in kind.writes for _, c in write.of_read):
            return Reason(f"`chunk` needs rank terms that treat the columns of {listing} alike", span)
        return None

    @staticmethod
    def cost(component: Component, plan: Plan, sizes: Mapping[Axis, int]) -> float:
        state, rows = math.prod(sizes.values()), next(iter(sizes.values()), 1)
        return 2 * state + 64 * (rows + state / rows)

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        (name,) = component.states
        kind = component.kind
        assert isinstance(kind, Affine) and kind.mixing is not None
        memory = _Memory(low, name, kind, kind.mixing)
        low.leave(component, name, memory.leaving)
        for when in ("old", "new"):
            low.readers[low.leaf(name, when)] = memory.read


class _Memory:
    """The tiles of one memory within a chunk."""

    def __init__(self, low: Lowering, name: str, kind: Affine, mixing: Axis) -> None:
        self.low, self.mixing, self.carry = low, mixing, low.carry(name)
        self.columns = tuple(axis for axis in low.rec.state(name).axes if axis not in (HEADS, mixing))
        assert kind.log_decay is not None
        log_decay = low.lift(kind.log_decay)
        self.of_keys = mixing in log_decay.axes  # a decay for each channel of the keys, or for each column
        self.of_columns = next((axis for axis in self.columns if axis in log_decay.axes), None)
        self.channel = self.of_keys or self.of_columns is not None
        if not self.channel:  # a decay per channel is multiplied, never summed
            log_decay = build("bounded", log_decay)
        self.per_row = ZERO if is_zero(log_decay) else spread(log_decay, (ROW,))
        self.levels = build("levels", self.per_row) if self.channel else ZERO
        if is_zero(log_decay):
            self.b = self.b_before = ZERO
        elif ROW in log_decay.axes:
            self.b = build("cumsum", log_decay)
            self.b_before = sub(self.b, log_decay)
        else:  # a decay that does not change over time: b[t] = (t + 1) g
            position = leaf("position", (ROW,))
            self.b, self.b_before = mul(position, log_decay), mul(sub(position, ONE), log_decay)
        self.keys = [spread(low.lift(write.key), (ROW, mixing)) for write in kind.writes]
        self.written = self._solve(kind)
        self._name(name)
        self.leaving = self._leave()

    def _name(self, state: str) -> None:
        """Names and words for the generated text."""
        written = [(u, f"u_{state}", f"what each token writes to {state} under its key") for u in self.written]
        sums = (self.b, f"b_{state}", f"log decay of {state} from the chunk's start up to each token")
        for node, name, note in (sums, *written):
            if node.args:
                self.low.names.setdefault(node, name)
                self.low.notes.setdefault(node, note)

    # --- the pieces of the theorem ----------------------------------------------------------------------

    def score(self, x: Node, bx: Node, key: Node, strict: bool) -> Node:
        """[ROW, COL]: what row t reads of what row s wrote."""
        if self.of_keys:
            return build("score", *_alike(x, bx, key), self.b, self.levels, over=self.mixing, before=strict)
        return mul(self._gram(x, key), build("decay", bx, self.b, self.per_row, before=strict))

    def _gram(self, x: Node, key: Node) -> Node:
        return dot(x, rename(key, {ROW: COL}), (self.mixing,))

    def _seen(self, x: Node, bx: Node, key: Node, value: Node, strict: bool) -> Node:
        """What each row reads of the values that the rows up to it wrote under their keys."""
        if self.of_columns is not None:
            value = spread(value, (ROW, self.of_columns))
            sides, over = _alike(self._gram(x, key), bx, value), self.of_columns
            return decayed_sum(*sides, self.b, self.levels, over=over, before=strict)
        return dot(self.score(x, bx, key, strict), rename(spread(value, (ROW,)), {ROW: COL}), (COL,))

    def _of_state(self, x: Node, before: bool) -> Node:
        """What each row reads of the state that enters the chunk."""
        since = self._since_start(before=before)
        if self.of_columns is not None:
            return mul(dot(x, self.carry, (self.mixing,)), since)
        return dot(mul(x, since), self.carry, (self.mixing,))

    def _solve(self, kind: Affine) -> list[Node]:
        """U: the value written under each key, rank reads of the old state included."""
        fixed = [self._columns(self.low.lift(write.const)) for write in kind.writes]
        solved = [place for place, write in enumerate(kind.writes) if write.of_read]
        if not solved:
            return fixed
        ws = [spread(self.low.lift(w), (ROW, self.mixing)) for w in kind.ranks]
        grid = [[self.score(w, self.b_before, key, True) for key in self.keys] for w in ws]
        own = [self._own_read(scores, fixed, solved) for scores in grid]
        lower, factors, values = [], [], []
        for place in solved:
            row, factor, value = [ZERO] * len(solved), ZERO, fixed[place]
            for r, scale in kind.writes[place].of_read:
                scale = self.low.lift(scale)
                row = [add(entry, mul(grid[r][other], scale)) for entry, other in zip(row, solved, strict=True)]
                factor = add(factor, mul(scale, mul(ws[r], self._since_start(before=True))))
                value = add(value, mul(scale, own[r]))
            lower.append(row)
            factors.append(factor)
            values.append(value)
        found = self._solution(lower, factors, values)
        return [found[solved.index(place)] if place in solved else value for place, value in enumerate(fixed)]

    def _own_read(self, scores: list[Node], fixed: list[Node], solved: list[int]) -> Node:
        """What a rank term reads of the chunk's writes that no read enters."""
        result = ZERO
        for place, (score, value) in enumerate(zip(scores, fixed, strict=True)):
            if place not in solved and not is_zero(value):
                result = add(result, dot(score, rename(spread(value, (ROW,)), {ROW: COL}), (COL,)))
        return result

    def _solution(self, lower: list[list[Node]], factors: list[Node], values: list[Node]) -> list[Node]:
        """U of (I - L) U = F S0 + V. One product with the state, whatever the rank."""
        if len(factors) == 1:
            right = add(self._columns(spread(values[0], (ROW,))), dot(factors[0], self.carry, (self.mixing,)))
            return [self._solved(lower[0][0], right, {ROW: COL})]
        rows = [build("stack", *[spread(entry, (ROW, COL)) for entry in row], axis=RANK2) for row in lower]
        shared = [self._columns(spread(value, (ROW,))) for value in values]
        of_state = dot(build("stack", *factors, axis=RANK), self.carry, (self.mixing,))
        fixed = ZERO if all(map(is_zero, shared)) else build("stack", *shared, axis=RANK)
        right = add(fixed, of_state)
        solved = self._solved(build("stack", *rows, axis=RANK), right, {ROW: COL, RANK: RANK2})
        return [build("take", solved, axis=RANK, index=at, size=len(factors)) for at in range(len(factors))]

    def _solved(self, lower: Node, right: Node, moved: dict[Axis, Axis]) -> Node:
        inverse = build("inverse", lower)
        self.low.notes.setdefault(inverse, "(I - L)^-1: what a token writes depends on what the tokens before it wrote")
        return build("solution", dot(inverse, rename(right, moved), tuple(moved.values())), lower, right)

    def _since_start(self, before: bool) -> Node:
        """The decay from the chunk's start up to each row, or to the row before."""
        b = self.b_before if before else self.b
        if self.channel:
            return build("channel_since", b, self.levels, before=before)
        return build("since", b, self.per_row, before=before)

    def _until_end(self) -> Node:
        """The decay from each row to the end of its chunk, which each chunk has of its own."""
        if is_zero(self.b):
            return build("until_end", ones((GRID, ROW)))
        b, per_row = spread(self.b, (GRID,)), spread(self.per_row, (GRID,))
        return build("channel_tail", b, per_row, self.levels) if self.channel else build("tail", b, per_row)

    def _leave(self) -> Node:
        decay = self._since_start(before=False)
        result = self.carry if is_zero(self.b) else mul(build("end", spread(decay, (GRID,))), self.carry)
        until = self._until_end()
        for key, value in zip(self.keys, self.written, strict=True):
            if not is_zero(value):
                value = spread(value, (ROW,))
                sides = (key, mul(value, until)) if self.of_columns is not None else (mul(key, until), value)
                result = add(result, dot(*sides, (ROW,)))
        return result

    def read(self, read: Read) -> Node:
        """query . S on every row, before or after the row's own update."""
        after = read.state["when"] == "new"
        b = self.b if after else self.b_before
        query = spread(self.low.lift(read.query), (ROW, self.mixing))
        result = self._of_state(query, before=not after)
        for key, value in zip(self.keys, self.written, strict=True):
            if not is_zero(value):
                result = add(result, self._seen(query, b, key, value, not after))
        return result

    def _columns(self, value: Node) -> Node:
        return value if is_zero(value) else spread(value, self.columns)


def _alike(x: Node, b: Node, y: Node) -> tuple[Node, Node, Node]:
    """x and y in one dtype: products of blocks of rows are of matrices of one."""
    if x.dtype == y.dtype:
        return x, b, y
    x, y = (node if node.dtype == COMPLEX else build("complex", node, ZERO) for node in (x, y))
    return x, b, y
