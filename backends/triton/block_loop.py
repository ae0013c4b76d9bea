"""The text of a launch that takes a dim block by block.

What is there before a loop and needed after it takes registers all the while. So what follows from vectors is computed
again, and tiles are as narrow as matrix products take them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from recc.backends.torch.binding import is_static
from recc.backends.triton.kernel import Kernel
from recc.backends.triton.levels import Together, lines_of, together
from recc.backends.triton.loops import Loop, has, loops, shrinks
from recc.backends.triton.nodes import CONSTANT, CONTRACTIONS, inner, ordered, plain, reads, source, sums_on
from recc.backends.triton.order import Order
from recc.backends.triton.pressure import OPERATORS
from recc.backends.triton.tail import COLUMNS, Tail, in_blocks, tail_of

from recc.ir.names import free_name
from recc.ir.node import BOOL, ROW, Node

# What takes more than the operands of its elements.
FORMED = (*CONTRACTIONS, "score", "score_rows", "score_cols", "channel_since", "channel_tail")


POLICIES = "evict_first", "evict_last"  # of a load after a loop, and after another


class LoopKernel(Kernel):
    """A launch with loops over the blocks of a dim, one program for each chunk and head."""

    def _body(self) -> list[str]:
        dim, lines = self.launch.loop, []
        assert dim is not None
        self.negative: set[Node] = set()  # what a loop subtracts
        self.partial: set[Node] = set()  # sums of some of what adds up in one tile: no variable is theirs
        for node in self.launch.loads:
            self._claim(node, self.tensors[node].name)
        pending = [node for node in self.launch.loads if not has(node, dim)]
        parts = loops(self.launch, dim) or []
        self.text.summed = self._on_top({node for part in parts for node in part.sums})
        tail = tail_of(self.launch, parts, dim)
        if tail is not None:
            parts[-1] = replace(parts[-1], before=tail.before)
            loads = {node for node in tail.held if node in self.launch.loads and not self._is_wide(node)}
            self._keep_narrow(self.narrow | loads)
        for place, loop in enumerate(parts):
            before = self._again(loop, dim, place) if place else loop.before
            again, before, after = self._around(loop, before) if self.launch.split else ([], before, [])
            if loop.nodes:
                self._keep_narrow(self.narrow | self._crossing(loop, before, parts[place + 1 :]))
            lines += self._computed(self._ordered(before, loop, pending), pending, "    ")
            lines += self._loop(loop, dim, pending, again) if loop.nodes else []
            self._forget(pending, loop)
            lines += self._computed(after, pending, "    ")
        return lines + (self._tail(tail, pending) if tail is not None else [])

    def _keep_narrow(self, nodes: Iterable[Node]) -> None:
        """Says which variables are as narrow as they lie in memory."""
        self.narrow = self.text.narrow = frozenset(nodes)

    def _tail(self, tail: Tail, pending: list[Node]) -> list[str]:
        """What follows the loop, block by block. What is there throughout is as narrow as products take it."""
        lines, dim = [], tail.dim
        sides = {source(arg) for node in tail.nodes for arg in self._rounded(node)}
        wide = [node for node in self.launch.nodes if node in self.variables and node not in self.narrow]
        narrowed = [node for node in wide if len(inner(node.axes)) == 2 and (node in sides or node in tail.held)]
        lines += [f"    {self.variables[node]} = {self.variables[node]}.to(DOT)" for node in narrowed]
        body = []
        for node in [*tail.held, *tail.again]:
            whole = self.variables.pop(node, None)
            self.spelled.pop(node, None)
            if node in tail.held:
                text = f"tile_columns({whole}, part_{dim})"
                text = f"{text}.to(tl.float32)" if node in self.narrow or node in narrowed else text
                if len(inner(node.axes)) == 1:  # where it is read
                    self.variables[node] = text
                    continue
                body.append(f"        {self._claim(node, f'{whole}_part')} = {text}")
        self._keep_narrow({*self.narrow, *narrowed} - {*tail.held, *tail.again})
        for part in together(
            Order(tail.nodes, pending, tail.held).best(self.tile.order), filter(self._alone, tail.nodes)
        ):
            if isinstance(part, Together):
                body += self._levels(part, pending, "        ")
            else:
                body += self._computed([part], pending, "        ")
        return [
            *lines,
            f"    for at_{dim} in tl.range(0, BLOCK_{dim}, {COLUMNS}, disable_licm=True):",
            f"        part_{dim} = at_{dim} + tl.arange(0, {COLUMNS})",
            f"        in_part_{dim} = part_{dim} < {dim}",
            *in_blocks(body, dim),
        ]

    def _levels(self, group: Together, pending: list[Node], indent: str) -> list[str]:
        """Sums over pairs of tokens in one loop."""
        lines = self._load_before([arg for node in group.terms for arg in reads(node)], pending, indent)
        names = {total: self._claim(total, self.words.name(total)) for total in [*group.sums, *group.since]}
        lines += [f"{indent}{line}" for line in lines_of(group, names, self.text, self._free)]
        stored = [node for node in group.sums if node in self.launch.stores]
        return lines + [f"{indent}{self._store(node, tensor)}" for node in stored for tensor in self.written[node]]

    def _free(self, wish: str) -> str:
        """A name that nothing has."""
        name = free_name(wish, self.used)
        self.used.add(name)
        return name

    def _ordered(self, nodes: list[Node], loop: Loop, pending: list[Node]) -> list[Node]:
        """What stands before a loop, in an order that keeps few tiles."""
        read = {arg for node in loop.nodes for arg in reads(node)}
        there = [node for node in self.launch.nodes if node in self.variables and node not in nodes]
        return Order(nodes, pending, there, read).best(self.tile.order)

    def _crossing(self, loop: Loop, before: list[Node], later: list[Loop]) -> frozenset[Node]:
        """Tiles that a loop only multiplies, or that are there throughout it: they are as narrow as products take them,
        since each takes registers all the time."""
        after = {arg for part in later for node in [*part.before, *part.nodes] for arg in reads(node)}
        sides, others = set(), set()
        for node in loop.nodes:
            rounded = self._rounded(node)
            sides.update(source(arg) for arg in rounded)
            others.update(source(arg) for arg in reads(node) if arg not in rounded)
        cheap = self._cheap()
        tiles = [node for node in before if len(inner(node.axes)) == 2 and node.dtype != BOOL]
        tiles = [node for node in tiles if node not in self.launch.stores]
        return frozenset(
            node for node in tiles if (node in sides - others) or (node in after - others and node not in cheap)
        )

    def _forget(self, pending: list[Node], loop: Loop) -> None:
        """After a loop: what follows from vectors is loaded and computed again; no register holds it meanwhile. The
        compiler takes two loads for one where nothing is stored between them, unless they say different things."""
        cheap = self._cheap()
        merged = loop.nodes and not self.launch.split and not any(node in self.launch.stores for node in loop.nodes)
        for node in [node for node in self.variables if node in cheap]:
            if node in self.launch.loads:
                pending += [node] if node not in pending else []
                if merged and node in self.read:
                    self.policies[node] = POLICIES[self.policies.get(node) == POLICIES[0]]
            else:
                del self.variables[node]

    def _around(self, loop: Loop, before: list[Node]) -> tuple[list[Node], list[Node], list[Node]]:
        """What stands before a loop where programs share another dim: what each of its turns computes for itself, what
        is computed before it, and after it. Tiles have few columns there, and threads all rows of one: they would hold
        throughout the loop what it reads of each token."""
        if not loop.nodes:
            return [], before, []
        needed = set(ordered(loop.nodes))
        rest = set(ordered([node for node in before if node not in needed]))
        cheap = self._cheap()
        again = [node for node in before if node in needed and node in cheap]
        ahead = [node for node in before if node in needed and node not in cheap]
        return again, ahead, [node for node in before if node in rest and node not in ahead]

    def _cheap(self) -> set[Node]:
        """What follows from vectors of rows by other operations than contractions, and those and numbers in memory;
        where programs share another dim, from any tile in memory that the loop does not go over."""
        dim, split = self.launch.loop or "", self.launch.split
        vectors = [node for node in self.launch.loads if len(inner(node.axes)) < 2]
        found = {node for node in (self.launch.loads if split else vectors) if not has(node, dim)}
        for node in self.launch.nodes:
            from_vectors = all(arg in found or is_static(arg) or arg.op in CONSTANT for arg in reads(node))
            formed = node.op in (*CONTRACTIONS, *OPERATORS) or has(node, dim)
            if from_vectors and not formed and node not in self.launch.stores and reads(node):
                found.add(node)
        return found

    def _again(self, loop: Loop, dim: str, place: int) -> list[Node]:
        """What is computed before a later loop, with what was forgotten."""
        sums = {node for node in self.launch.nodes if node in self.variables}
        wanted = [node for node in [*loop.before, *loop.nodes] if node not in self.partial]
        needed = set(ordered([*wanted], sums | set(self.launch.loads)))
        inside = set(loop.nodes)
        return [node for node in self.launch.nodes if node in needed and node not in inside and node not in sums]

    def _loop(self, loop: Loop, dim: str, pending: list[Node], again: list[Node]) -> list[str]:
        """A loop over the blocks of a dim. again: what each turn computes for itself."""
        lines = [] if self.launch.split else self._load_before(loop.nodes, pending, "    ")
        gathers = self._gathers(loop)
        for node in loop.nodes:
            if node in gathers and gathers[node] in self.variables:
                self.variables[node] = self.variables[gathers[node]]
            elif node in loop.sums:
                total = gathers.get(node, node)
                zero = f"tl.zeros({self.text.shape(node.axes)}, tl.float32)" if inner(node.axes) else "0.0"
                lines.append(f"    {self._claim(total, self.words.name(total))} = {zero}")
                self.variables[node] = self.variables[total]
        lines += [
            f"    for at_{dim} in tl.range(0, {dim}, BLOCK_{dim}, disable_licm=True):",
            f"        offs_{dim} = at_{dim} + tl.arange(0, BLOCK_{dim})",
            f"        in_{dim} = offs_{dim} < {dim}",
        ]
        inside = [node for node in self.launch.loads if has(node, dim) or self.launch.split]
        for node in soon(loop, inside):
            first = [one for one in ordered([node], set(self.variables) - set(again)) if one in again]
            lines += self._computed([one for one in first if one not in self.variables], inside, "        ")
            if node in loop.sums:
                lines += self._load_before(reads(node), inside, "        ")
                name = self.variables[node]
                sum_on = {"dot": self.text._op_dot, "score": self.text._op_score}.get(node.op)
                if sum_on and (node.op == "score" or self._is_product(node)):
                    lines.append(f"        {name} = {sum_on(node, name)}")
                else:
                    lines.append(f"        {name} {'-' if node in self.negative else '+'}= {self.text.define(node)}")
            else:
                lines += self._computed([node], inside, "        ")
        for node in [*loop.nodes, *dict.fromkeys(gathers.values())]:
            if node in gathers or (node in loop.nodes and node not in loop.sums):
                self.variables.pop(node, None)
            elif node in self.launch.stores:
                lines += [f"    {self._store(node, tensor)}" for tensor in self.written[node]]
        return lines

    def _gathers(self, loop: Loop) -> dict[Node, Node]:
        """Products that add up in one tile, or sums of rows in one vector, each with the sum of all of them; what is
        subtracted is in `self.negative`."""
        single = {node for node in loop.sums if self._alone(node) and (self._is_product(node) or _is_vector(node))}
        found: dict[Node, Node] = {}
        parts: dict[Node, set[Node]] = {node: {node} for node in single}
        for node in self.launch.nodes:
            signed = node.op == "add" or (node.op == "sub" and _is_vector(node))
            if signed and all(arg in parts and arg.axes == node.axes for arg in node.args):
                first, second = node.args
                self.negative ^= parts[second] if node.op == "sub" else set()
                parts[node] = parts[first] | parts[second]
                self.partial |= {first, second} - single
                found |= dict.fromkeys(parts[node], node)
                if not self._alone(node):
                    del parts[node]
        return found

    def _is_product(self, node: Node) -> bool:
        return sums_on(node, self._part(node))

    def _on_top(self, sums: set[Node]) -> set[Node]:
        """Products that are summed on top of what a loop has added up: its tile is there."""
        additions: dict[Node, Node] = {total: product for product, total in self._additions() if product not in sums}
        found, there = set(), set(sums)
        for node in self.launch.nodes:
            product = additions.get(node)
            others = [arg for arg in node.args if product is None or plain(arg) is not product]
            if node.op == "add" and others and all(arg in there for arg in others):
                there.add(node)
                found |= {product} if product else set()
        return found

    def _alone(self, node: Node) -> bool:
        return self.users.get(node) == 1 and node not in self.launch.stores


def _is_vector(node: Node) -> bool:
    return inner(node.axes) == (ROW,)


def soon(loop: Loop, loads: list[Node]) -> list[Node]:
    """The body of a loop, what is smaller than what it is made of as soon as that is there: no tile waits for it. One
    that is computed is wider than one that is loaded, so it does not wait for a load either."""
    waiting = [node for node in loop.nodes if node in loop.sums or shrinks(node)]
    done: dict[Node, None] = {}
    there: set[Node] = set()

    def place(nodes: list[Node]) -> None:
        for node in nodes:
            done[node] = None
            there.update(arg for arg in reads(node) if arg in loads)

    for node in loop.nodes:
        if node in done:
            continue
        place([node])
        for small in waiting:
            found = ordered([small], {*done, *loads})
            needed = [one for one in found if one in loop.nodes and one not in done]
            read = {arg for one in needed for arg in reads(one) if arg in loads}
            freed = any(arg in done and len(inner(arg.axes)) == 2 for one in needed for arg in reads(one))
            if (read <= there or freed) and not any(one.op in FORMED for one in needed[:-1]):
                place(needed)
    return list(done)
