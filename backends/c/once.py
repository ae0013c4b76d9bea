"""A strip's token in one pass over its rows.

A delta rule reads the state that a token finds and then changes it, which would be two passes. But what a token finds
is what the one before it left: so each token, as it changes a row, adds that row to the sums that the next one begins
with. A chunk's first token has them added up beforehand, in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from recc.backends.c.arrays import block
from recc.backends.c.body import Body
from recc.backends.c.sums import Sum

from recc.ir.node import Node
from recc.tile.cores import REDUCTIONS, dims
from recc.tile.program import Carry

if TYPE_CHECKING:
    from recc.backends.c.writer import Writer


class Once:
    """sums: what a token of the writer's strip begins with, if that is sums over rows of what it finds and of values
    that lie in memory; else nothing, and a token takes a pass for each."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        first = [t.node for t in writer.targets if t.node.op in REDUCTIONS and writer.depth[t.node] == 1]
        fits = writer.loops.shape == "strip" and writer.loops.inner is None and writer.time and writer.passes > 1
        self.sums = list(dict.fromkeys(first)) if fits and all(map(self._is_simple, first)) else []
        self.chains = max(1, writer.part.registers // 16)  # sums of as many rows side by side as registers hold

    def __bool__(self) -> bool:
        return bool(self.sums)

    def _is_simple(self, node: Node) -> bool:
        writer, loops = self.writer, self.writer.loops
        old = [arg for arg in node.args if arg in writer.olds]
        known = [arg for arg in node.args if writer.part.array_of(arg) is not None and arg not in writer.made]
        wide = all({loops.row, loops.lane} <= set(dims(arg)) for arg in old)
        whole = node.op in ("dot", "sum") and tuple(node["over"]) == (loops.row,)
        return whole and wide and len(old) == 1 and all(arg in old or arg in known for arg in node.args)

    def name(self, node: Node, u: int) -> str:
        return f"{self.writer.part.naming(node)}_{u}"

    def _vectors(self, node: Node) -> range:
        return range(self.writer.loops.vectors if self.writer.loops.lane in node.axes else 1)

    def start(self) -> list[str]:
        """Before the loop over tokens: the sums of a chunk's first token."""
        writer, loops = self.writer, self.writer.loops
        body, end = writer._body(token="(c - 1)" if writer.part.backwards else "0"), []
        sums = self._sums(body, end)
        for r in range(loops.rows):
            for u in range(loops.vectors):
                for each in sums:
                    each.cell(r, u)
        for each in sums:
            end += self._named(each)
        named = [f"vec {self.name(node, u)};" for node in self.sums for u in self._vectors(node)]
        return [*named, *block("", [*body.before, *block(writer._head(loops.row, loops.rows), body.inside), *end])]

    def _sums(self, body: Body, end: list[str]) -> list[Sum]:
        return [Sum(self.writer, body, node, end, True) for node in self.sums]

    def _named(self, each: Sum) -> list[str]:
        return [f"{self.name(each.node, u)} = {text};" for (_, u), text in each.joined().items()]

    def known(self, body: Body) -> list[str]:
        """What a token does with the sums that it begins with; and which token comes next."""
        lines = []
        for node in self.sums:
            for u in self._vectors(node):
                body.known[body.key(node, 0, u)] = self.name(node, u)
                targets = [t for t in self.writer.targets if t.node is node and t.array is not None]
                lines += [body.write(t.array, node.axes, 0, u, self.name(node, u), t.how) for t in targets]
        other = "t > 0 ? t - 1 : 0" if self.writer.part.backwards else "t + 1 < c ? t + 1 : t"
        return [*lines, f"const long later = {other};"]

    def later(self, body: Body, states: list[Carry], after: list[str]) -> _Later:
        return _Later(self, body, states, after)


class _Later:
    """The next token's sums within the last pass of this one. body: that of the pass."""

    def __init__(self, once: Once, body: Body, states: list[Carry], after: list[str]) -> None:
        self.once, self.own, self.states, self.after = once, body, states, after
        names: dict[Node, str] = {}
        part = once.writer.part
        self.body = once.writer._body(
            token="later",
            naming=lambda node: names.setdefault(node, part.fresh(f"{part.naming(node).removesuffix('_')}_later")),
        )
        self.body.before, self.body.inside = body.before, body.inside
        self.sums = once._sums(self.body, after)

    def cell(self, r: int, u: int) -> None:
        for carry in self.states:
            text = self.once.writer._whole(self.own, carry, r, u)
            self.body.known[self.body.key(carry.old, r, u)] = text
        for each in self.sums:
            each.cell(r, u)

    def finish(self) -> None:
        for each in self.sums:
            self.after += self.once._named(each)
