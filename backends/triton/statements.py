"""Values as statements of a kernel: which get a name, what they are called, and what each needs before it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from recc.backends.torch.text import is_static
from recc.backends.triton.division import CONSTANT
from recc.backends.triton.memory import FIXED, Memory
from recc.backends.triton.nodes import inner, ordered, reads
from recc.backends.triton.order import Order
from recc.backends.triton.padding import Padding
from recc.backends.triton.text import TileText
from recc.backends.triton.wording import inlinable, static_text

from recc.ir.names import free_name
from recc.ir.node import Node, dim_of
from recc.tile.words import Words

WIDTH = 88  # longest expression that is printed in line


@dataclass
class Loop:
    """What a loop over tokens does. states: (carry's leaf, next value); loads: leaves in memory; stores: what each
    token writes, and where; sums: what is added up over all tokens, and where it goes. backwards: from the last one.
    beside: what else is computed. placed: what is computed, in order; empty: as the text has it."""

    words: Words
    states: list[tuple[Node, Node]]
    loads: dict[Node, Memory]
    stores: list[tuple[Node, Memory]] = field(default_factory=list)
    sums: list[tuple[Node, Memory]] = field(default_factory=list)
    backwards: bool = False
    beside: list[Node] = field(default_factory=list)
    placed: list[Node] = field(default_factory=list)

    @property
    def roots(self) -> list[Node]:
        return [*(node for node, _ in (*self.stores, *self.sums)), *(new for _, new in self.states), *self.beside]

    @property
    def nodes(self) -> list[Node]:
        """What is computed, in order."""
        if self.placed:
            return self.placed
        stops = set(self.loads) | {old for old, _ in self.states}
        return [node for node in ordered(self.roots, stops) if is_computed(node) and node not in stops]

    def place(self, order: str) -> None:
        """Computes in the order of this name from now on; see `order.ORDERS`."""
        olds, news = zip(*self.states) if self.states else ((), ())
        self.placed = Order(self.nodes, self.loads, olds, news).best(order)

    @property
    def per_token(self) -> set[Node]:
        """What differs from token to token."""
        changing = {node for node, memory in self.loads.items() if memory.layout != FIXED}
        changing |= {old for old, _ in self.states}
        for node in ordered(self.roots, set(self.loads)):
            if node not in self.loads and any(arg in changing for arg in reads(node)):
                changing.add(node)
        return changing

    @property
    def users(self) -> dict[Node, int]:
        """How often a value is read; twice where it is the same at every token and its reader is not."""
        count: dict[Node, int] = {}
        per_token = self.per_token
        for node in self.nodes:
            for arg in reads(node):
                twice = node.op == "silu" or (node in per_token and arg not in per_token)
                count[arg] = count.get(arg, 0) + (2 if twice else 1)
        for node in self.roots:
            count[node] = count.get(node, 0) + 1
        return count


def is_computed(node: Node) -> bool:
    """Whether a node has a text of its own: it is no leaf and no number."""
    return bool(node.args) and node.op not in CONSTANT and not is_static(node)


@dataclass
class Walk:
    """A launch. loop: over all tokens, or those of a chunk; again: over the tokens of a chunk, before it. enter, leave:
    where states come from and go to; saved: where they are saved for each chunk, or where `again` has them from.
    rows: a program takes rows of sequences. shared: the dims that programs share. room: where states may lie from token
    to token. terms: where the terms of a chunk's sums may lie until it is done. single: one token, no loop."""

    name: str
    purpose: str
    loop: Loop
    again: Loop | None
    enter: dict[Node, Memory]
    leave: dict[Node, Memory]
    saved: dict[Node, Memory]
    rows: bool
    shared: tuple[str, ...]
    room: dict[Node, Memory] = field(default_factory=dict)
    terms: dict[Node, Memory] = field(default_factory=dict)
    single: bool = False

    @property
    def split(self) -> str | None:
        """The dim that programs share first."""
        return self.shared[0] if self.shared else None

    @property
    def loops(self) -> list[Loop]:
        return [loop for loop in (self.again, self.loop) if loop is not None]


class Statements:
    """The values of one kernel. spell: makes a name of the generated file; used: names that are taken."""

    def __init__(self, loops: list[Loop], spell: Callable[[str], str], used: set[str]) -> None:
        self.spell, self.used = spell, used
        self.sums_early = False  # of tiles: two of them wait no longer than one
        self.variables: dict[Node, str] = {}
        self.statics: dict[Node, str] = {}
        memory = {node for loop in loops for node in (*loop.loads, *(old for old, _ in loop.states))}
        self.padding = Padding(memory.__contains__)
        self.text = TileText(self.variables.get, self._static, self.padding, 1, lambda node: inner(node["over"]))
        for loop in loops:
            names = [(old, old["name"]) for old, _ in loop.states]
            names += [(node, memory.name) for node, memory in loop.loads.items()]
            for node, name in names:
                if node not in self.variables:
                    self.claim(node, name)

    def claim(self, node: Node, wish: str) -> str:
        name = free_name(self.spell(wish), self.used)
        self.used.add(name)
        self.variables[node] = name
        return name

    def free(self, nodes: Iterable[Node]) -> None:
        """Gives up the names of values that another loop computes anew."""
        for node in nodes:
            self.used.discard(self.variables.pop(node))

    def whole(self, node: Node, axes: tuple[str, ...]) -> str:
        """A value with the full extent of every axis."""
        return self.variables.get(node) or self.text._whole(node, axes)

    def assign(self, node: Node, loop: Loop, users: dict[Node, int]) -> list[str]:
        """One line `name = expression`, unless the node stands in its only user's line."""
        text = self.text.define(node)
        named = node in loop.words.program.names
        named |= self.sums_early and node.op == "add" and len(inner(node.axes)) > 1
        if inlinable(node) and users.get(node, 0) <= 1 and not named and len(text) < WIDTH:
            return []
        if text.isidentifier():
            self.variables[node] = text
            return []
        name = self.claim(node, loop.words.name(node))
        return [*(f"# {note}" for note in loop.words.notes(node)), f"{name} = {text}"]

    def loads(self, args: Iterable[Node], loop: Loop, pending: list[Node], load: Callable[[Memory], str]) -> list[str]:
        """Lines that load what the texts of `args` read of what is pending: tiles live no longer than they must."""
        lines = []
        stops = (set(self.variables) - set(pending)) | set(loop.loads)
        for node in ordered(args, stops):
            if node in pending:
                pending.remove(node)
                lines.append(f"{self.variables[node]} = {load(loop.loads[node])}")
        return lines

    def _static(self, node: Node) -> str:
        """A number that is known at launch: as it is, or an argument of the kernel."""
        text = static_text(node, lambda dim: dim_of(dim))
        plain = text.replace("float", "").replace("inf", "").replace("nan", "").replace("e-", "").replace("e+", "")
        if not re.search(r"[A-Za-z]", plain) or text.isidentifier():
            return text
        if node not in self.statics:
            wish = "n_" + re.sub(r"\W+", "_", text.replace("math.", "")).strip("_")
            self.statics[node] = self.claim(node, wish)
            del self.variables[node]
        return self.statics[node]
