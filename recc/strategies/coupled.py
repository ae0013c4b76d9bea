"""The chunk form of coupled matrix memories, such as a memory and its momentum, or one that is held for a while.

With S_a[t] = sum_b P_ab[t] S_b[t-1] + sum_j key_j (x) s_ja U_j, the response of state a at row t to what row i wrote
into b is the product G_ab[t,i] of the matrices P from t down to i + 1. It is the inverse of a unit triangular matrix
with -P below its diagonal, so products are formed as they are: factors may be 0 or negative. With
e_aj[t,i] = sum_b G_ab[t,i] s_jb[i] and F_ab[t] = sum_c G_ac[t,0] P_cb[0], a chunk that starts from S0 satisfies

    read(q, S_a[t]) = sum_b F_ab[t] (q . S0_b) + sum_j sum_i (q . key_j[i]) e_aj[t,i] U_j[i]
    U_j             = z_j + sum_r c_jr Y_r          Y_r = read(w_r, S_b(r)[t-1]), one unit triangular system
    S0_a'           = sum_b F_ab[end] S0_b + sum_j sum_i e_aj[end,i] key_j[i] (x) U_j[i]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from recc.analysis import plan as facts
from recc.analysis.plan import Affine, Component, CoupledWrite, Plan, Reason
from recc.analysis.reads import Read
from recc.ir.node import COL, GRID, HEADS, RANK, RANK2, ROW, Axis, Node
from recc.ir.ops import ONE, ZERO, add, build, dot, is_zero, leaf, mul, ones, rename, spread, sub, where
from recc.strategies.lowering import Lowering


class Coupled:
    """Matrix products of chunk x chunk and chunk x state, for states that depend on each other."""

    name = "coupled"
    chunks = (16, 32, 64)  # lengths that tuning tries

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        kind, listing = component.kind, ", ".join(component.states)
        place = plan.recurrence.place(component.states[0])
        if not isinstance(kind, Affine):
            why = component.reasons[0]
            return Reason(f"`coupled` needs updates that are affine in the states: {why.text}", why.span)
        if len(component.states) == 1:
            return Reason(f"`coupled` is for states that depend on each other, and {listing} is alone", place)
        if kind.coupled is None:
            assert kind.not_matrix is not None
            return Reason(f"`coupled` needs matrix memories: {kind.not_matrix.text}", kind.not_matrix.span or place)
        if set(component.reads) - {kind.coupled.mixing}:
            return Reason(
                f"`coupled` serves reads that contract {kind.coupled.mixing}; {listing} are read otherwise", place
            )
        return None

    @staticmethod
    def cost(component: Component, plan: Plan, sizes: Mapping[Axis, int]) -> float:
        count, state, rows = len(component.states), math.prod(sizes.values()), next(iter(sizes.values()), 1)
        return count * (2 * state + 64 * (rows + state / rows)) + 64**2 * count**3

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        assert isinstance(component.kind, Affine) and component.kind.coupled is not None
        memories = _Memories(low, component.states, component.kind.coupled)
        for name in component.states:
            low.leave(component, name, memories.leaving(name))
        for name in component.states:
            for when in ("old", "new"):
                low.readers[low.leaf(name, when)] = memories.read


class _Memories:
    """The tiles of coupled memories within a chunk."""

    def __init__(self, low: Lowering, names: Sequence[str], kind: facts.Coupled) -> None:
        self.low, self.names, self.kind, self.mixing = low, tuple(names), kind, kind.mixing
        self.carries = [low.carry(name) for name in names]
        self.columns = [axis for axis in low.rec.state(names[0]).axes if axis not in (HEADS, self.mixing)]
        self.keys = [spread(low.lift(write.key), (ROW, self.mixing)) for write in kind.writes]
        self.none = sub(ones((GRID,)), ones((GRID,)))  # 0 in every chunk
        self._propagate()
        self.written = self._solve()

    # --- how the states pass on what they hold ------------------------------------------------------------

    def _propagate(self) -> None:
        """G, F and e at each row, and at the row before."""
        low, count = self.low, len(self.names)
        position = leaf("position", (ROW,))
        below = build("eq", sub(position, rename(position, {ROW: COL})), ONE)
        factors = [[low.lift(factor) for factor in row] for row in self.kind.factors]
        lower = [[self._on_pairs(where(below, factor, ZERO)) for factor in row] for row in factors]
        stacked = build("stack", *[build("stack", *row, axis=RANK2) for row in lower], axis=RANK)
        response = build("inverse", stacked)
        low.names.setdefault(response, f"G_{'_'.join(self.names)}")
        low.notes.setdefault(response, "what is left at each token of what earlier tokens wrote, state by state")
        entries = [[self._entry(response, a, b) for b in range(count)] for a in range(count)]
        first = build("eq", position, ONE)  # rows count from 1
        columns = []
        for b in range(count):
            start = build("stack", *[self._on_rows(where(first, row[b], ZERO)) for row in factors], axis=RANK)
            columns.append(dot(response, rename(start, {ROW: COL, RANK: RANK2}), (COL, RANK2)))
        faded = [
            [build("take", columns[b], axis=RANK, index=a, size=count) for b in range(count)] for a in range(count)
        ]
        self.faded, self.shares = {}, {}
        for a, name in enumerate(self.names):
            now = [self._on_grid(entry) for entry in entries[a]]
            self.shares[name, "new"] = [self._share(write, now) for write in self.kind.writes]
            self.shares[name, "old"] = [build("shift", share, self.none) for share in self.shares[name, "new"]]
            self.faded[name, "new"] = [self._on_grid(value) for value in faded[a]]
            starts = [add(self.none, ONE) if a == b else self.none for b in range(count)]
            pairs = zip(self.faded[name, "new"], starts, strict=True)
            self.faded[name, "old"] = [build("shift", value, start) for value, start in pairs]

    def _share(self, write: CoupledWrite, responses: list[Node]) -> Node:
        """e: what a row reads of what each row wrote, whatever the query."""
        share = self.none
        for name, scale in write.scales:
            scale = rename(self.low.lift(scale), {ROW: COL})
            share = add(share, mul(responses[self.names.index(name)], scale))
        return self._on_pairs(share)

    def _entry(self, response: Node, a: int, b: int) -> Node:
        count = len(self.names)
        row = build("take", response, axis=RANK, index=a, size=count)
        return build("take", row, axis=RANK2, index=b, size=count)

    def _on_grid(self, value: Node) -> Node:
        return spread(value, (GRID,))

    def _on_rows(self, value: Node) -> Node:
        return spread(value, (ROW,)) if not is_zero(value) else sub(ones((ROW,)), ones((ROW,)))

    def _on_pairs(self, value: Node) -> Node:
        pair = ones((ROW, COL))
        return sub(pair, pair) if is_zero(value) else spread(value, (ROW, COL))

    # --- what is written -----------------------------------------------------------------------------------

    def _solve(self) -> list[Node]:
        """U: the value written under each key."""
        low, kind = self.low, self.kind
        fixed = [self._columns(low.lift(write.const)) for write in kind.writes]
        if not kind.ranks:
            return fixed
        factors, own = self._rank_reads(fixed)
        written = []
        for write, value in zip(kind.writes, fixed, strict=True):
            of_states = [ZERO] * len(self.names)
            for r, scale in write.of_read:
                scale = low.lift(scale)
                of_states = [add(all, mul(scale, one)) for all, one in zip(of_states, factors[r], strict=True)]
                value = add(value, mul(scale, own[r]))
            for of_state, carry in zip(of_states, self.carries, strict=True):
                if not is_zero(of_state):
                    value = add(value, dot(of_state, carry, (self.mixing,)))
            written.append(value)
        return written

    def _rank_reads(self, fixed: list[Node]) -> tuple[list[list[Node]], list[Node]]:
        """Y as (F, own): y_r = sum_b F_rb . S0_b + own_r."""
        low, kind, count = self.low, self.kind, len(self.kind.ranks)
        lower = [[ZERO] * count for _ in range(count)]
        outer, inner = [], [ZERO] * count
        for r, (name, w) in enumerate(kind.ranks):
            w = spread(low.lift(w), (ROW, self.mixing))
            outer.append([mul(w, faded) for faded in self.faded[name, "old"]])
            for write, key, share, value in zip(kind.writes, self.keys, self.shares[name, "old"], fixed, strict=True):
                score = mul(self._gram(w, key), share)
                for other, scale in write.of_read:
                    lower[r][other] = add(lower[r][other], mul(score, rename(low.lift(scale), {ROW: COL})))
                if not is_zero(value):
                    inner[r] = add(inner[r], dot(score, rename(spread(value, (ROW,)), {ROW: COL}), (COL,)))
        full = [[self._on_pairs(entry) for entry in row] for row in lower]
        inverse = build("inverse", build("stack", *[build("stack", *row, axis=RANK2) for row in full], axis=RANK))
        low.notes.setdefault(inverse, "(I - L)^-1: a token's reads depend on what the tokens before it wrote")

        def solved(parts: list[Node]) -> list[Node]:
            right = rename(build("stack", *parts, axis=RANK), {ROW: COL, RANK: RANK2})
            whole = dot(inverse, right, (COL, RANK2))
            return [build("take", whole, axis=RANK, index=r, size=count) for r in range(count)]

        by_state = [solved([row[b] for row in outer]) for b in range(len(self.names))]
        return [list(parts) for parts in zip(*by_state, strict=True)], solved([self._filled(part) for part in inner])

    def _filled(self, part: Node) -> Node:
        axes = (ROW, *self.columns)
        return sub(ones(axes), ones(axes)) if is_zero(part) else spread(part, axes)

    def _columns(self, value: Node) -> Node:
        return value if is_zero(value) else spread(value, self.columns)

    def _gram(self, x: Node, key: Node) -> Node:
        return dot(x, rename(key, {ROW: COL}), (self.mixing,))

    # --- what is read ------------------------------------------------------------------------------------------

    def read(self, read: Read) -> Node:
        """query . S on every row, before or after the row's own update."""
        name, when = read.state["name"], read.state["when"]
        query = spread(self.low.lift(read.query), (ROW, self.mixing))
        result = ZERO
        for faded, carry in zip(self.faded[name, when], self.carries, strict=True):
            result = add(result, dot(mul(query, faded), carry, (self.mixing,)))
        for key, share, value in zip(self.keys, self.shares[name, when], self.written, strict=True):
            if not is_zero(value):
                score = mul(self._gram(query, key), share)
                result = add(result, dot(score, rename(spread(value, (ROW,)), {ROW: COL}), (COL,)))
        return result

    def leaving(self, name: str) -> Node:
        """The state with which `name` leaves the chunk."""
        result = ZERO
        for faded, carry in zip(self.faded[name, "new"], self.carries, strict=True):
            result = add(result, mul(build("end", faded), carry))
        for key, share, value in zip(self.keys, self.shares[name, "new"], self.written, strict=True):
            if not is_zero(value):
                left = rename(build("end", share), {COL: ROW})
                result = add(result, dot(mul(key, left), spread(value, (ROW,)), (ROW,)))
        return result
