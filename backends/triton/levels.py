"""Sums over the pairs of tokens of a chunk where each channel has a decay, in one loop over the levels of its halves.

Such a sum is one product of matrices for each level, and the decays from tokens to the level's boundaries take longer
than the products. Sums with one decay share them, the masks of pairs and the sides of products. Those that are read
only as terms of the same sums, times the same factors, add up in one tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from recc.backends.triton.nodes import reads
from recc.backends.triton.rebuilt import added_up, read_once, rebuilt, users_of
from recc.backends.triton.steps import Launch
from recc.backends.triton.text import TileText
from recc.backends.triton.wording import called

from recc.ir.node import Node
from recc.ir.ops import add, build, mul, neg

PAIRED = ("score_rows", "score_cols")
Place = tuple[Node, bool, Node | None]  # a sum, whether it subtracts a term, and what it multiplies that with


def decay_of(node: Node) -> Node:
    """The log decay of a sum over pairs."""
    return reads(node)[2]


# --- in one tile ------------------------------------------------------------------------------------------------


def paired_sums(launch: Launch) -> Launch:
    """The launch with sums over pairs added up before they are multiplied. What it stores stands at the same place in
    `stores`."""
    if not any(node.op in PAIRED for node in launch.nodes):
        return launch
    launch = rebuilt(launch, _distributed(launch))
    return rebuilt(launch, _Paired(launch).gathered())


def _distributed(launch: Launch) -> dict[Node, Node]:
    """(a b + c) f as (a f) b + c f, where a f is there anyway."""
    there, users = set(launch.nodes), users_of(launch)

    def times(node: Node, factor: Node) -> tuple[Node, bool]:
        """The product, and whether any of it is there."""
        if node.op == "add" and len(users[node]) == 1:
            parts = [times(arg, factor) for arg in node.args]
            return add(*(part for part, _ in parts)), any(found for _, found in parts)
        for one, other in (node.args, node.args[::-1]) if node.op == "mul" else ():
            if (product := mul(one, factor)) in there:
                return mul(product, other), True
        return mul(node, factor), False

    new = {}
    for node in launch.nodes:
        for value, factor in (node.args, node.args[::-1]) if node.op == "mul" else ():
            if value.op == "add" and node not in new:
                product, found = times(value, factor)
                new |= {node: product} if found else {}
    return new


class _Paired:
    def __init__(self, launch: Launch) -> None:
        self.launch, self.users, self.once = launch, users_of(launch), read_once(launch)
        self.roots = {node for node in launch.nodes if _is_sum(node) and not self._within(node)}
        self.total: dict[Node, Node | None] = {}  # what stands for a term; None: another term stands for it, too

    def _within(self, node: Node) -> bool:
        """Whether a sum is a term of one other, and of vectors at most."""
        users = self.users.get(node, ())
        rest = [user for user in users if user.op != "sum"]
        return _is_sum(node) and len(rest) == 1 and _is_sum(rest[0]) and node not in self.launch.stores

    def gathered(self) -> dict[Node, Node]:
        """The sums that change."""
        places: dict[Node, list[Place]] = {}
        for root in self.roots:
            self._find(root, root, False, places)
        shared: dict[frozenset[Place], list[Node]] = {}
        for node in self.launch.nodes:
            found = places.get(node, [])
            every = node not in self.launch.stores and len(found) == len(self.users.get(node, ()))
            if every and (node.op in PAIRED or len(found) > 1):
                shared.setdefault(frozenset(found), []).append(node)
        for terms in shared.values():
            first, *others = sorted(terms, key=lambda node: node.op not in PAIRED)
            if first.op not in PAIRED:
                continue
            total = first
            for node in others:
                total = add(total, node)
            self.total |= {first: total, **dict.fromkeys(others)} if others else {}
        new = {root: self._renewed(root) for root in self.roots}
        return {root: node for root, node in new.items() if node is not None and node is not root}

    def _find(self, node: Node, root: Node, negative: bool, places: dict[Node, list[Place]]) -> None:
        for at, arg in enumerate(node.args):
            flipped = negative != (node.op == "neg" or (node.op == "sub" and at == 1))
            if self._within(arg):
                self._find(arg, root, flipped, places)
                continue
            places.setdefault(arg, []).append((root, flipped, None))
            if arg.op == "mul" and arg in self.once:
                for one, factor in (arg.args, arg.args[::-1]):
                    places.setdefault(one, []).append((root, flipped, factor))

    def _renewed(self, node: Node) -> Node | None:
        """A term or sum with what stands for its terms; None where nothing is left of it."""
        if node in self.total:
            return self.total[node]
        if node.op == "mul" and node in self.once:
            parts = [self.total.get(arg, arg) for arg in node.args]
        elif node in self.roots or self._within(node):
            parts = [self._renewed(arg) for arg in node.args]
        else:
            return node
        left = [part for part in parts if part is not None]
        if len(left) == len(parts):
            return node if left == list(node.args) else build(node.op, *left)
        if node.op == "mul" or not left:
            return None
        return neg(left[0]) if node.op == "sub" and parts[0] is None else left[0]


def _is_sum(node: Node) -> bool:
    return node.op in ("add", "sub", "neg")


# --- in one loop ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Together:
    """Sums over pairs with one decay that do not need each other, by what they add up to. since: what the decay is from
    the chunk's start on, which is there when the loop ends."""

    sums: dict[Node, list[Node]]
    since: list[Node]

    @property
    def terms(self) -> list[Node]:
        return [node for found in self.sums.values() for node in found]


def together(nodes: list[Node], alone: Iterable[Node]) -> list[Node | Together]:
    """What is computed, in order, with sums over pairs where the first with their decay stands. alone: what has one
    reader."""
    below: dict[Node, set[Node]] = {}
    depth: dict[Node, int] = {}  # sums over pairs that one after the other lead to a node
    groups: dict[tuple[Node, int], list[Node]] = {}
    for node in nodes:
        args = [arg for arg in reads(node) if arg in below]
        below[node] = set(args).union(*(below[arg] for arg in args))
        depth[node] = max((depth[arg] + (arg.op in PAIRED) for arg in args), default=0)
        if node.op in PAIRED:
            groups.setdefault((decay_of(node), depth[node]), []).append(node)
    single = set(alone)
    found: list[Node | Together] = []
    placed: set[Node] = set()

    def place(wanted: Iterable[Node]) -> None:
        for node in wanted:
            if node in placed:
                continue
            group = groups[decay_of(node), depth[node]] if node.op in PAIRED else [node]
            needed = set().union(*(below[one] for one in group))
            place(one for one in nodes if one in needed)
            if len(group) == 1:
                placed.add(node)
                found.append(node)
                continue
            sums = added_up(nodes, group, single)
            partial = set().union(*(below[total] for total in sums)) - needed
            decays = [one for one in nodes if one.op == "channel_since" and one not in placed]
            decays = [one for one in decays if reads(one)[0] is decay_of(node)]
            placed.update(group, sums, partial, decays)
            found.append(Together(sums, decays))

    place(nodes)
    return found


def lines_of(group: Together, names: dict[Node, str], text: TileText, free: Callable[[str], str]) -> list[str]:
    """The loop. names: the variables of decays and of what sums add up to; free: makes a name that nothing has."""
    decay = text.paired(group.terms[0])[2]
    step, down, up, level, seen = map(free, ("step", "down", "up", "level", "seen"))
    lines = [f"{names[total]} = tl.zeros({text.shape(total.axes)}, tl.float32)" for total in group.sums]
    lines += [
        f"{step} = tl.exp({decay})",
        f"{down}, {up} = tl.full({step}.shape, 1.0, {step}.dtype), tl.full({step}.shape, 1.0, {step}.dtype)",
        f"for {level} in range(LEVELS):",
    ]
    body = [f"{seen} = tile_pairs(rows, 1 << {level})"]
    made: dict[str, str] = {}

    def value(wish: str, expression: str) -> str:
        if expression not in made:
            made[expression] = free(wish)
            body.append(f"{made[expression]} = {expression}")
        return made[expression]

    # Those with one kind of sides after the other: few sides are there at a time.
    for total, found in sorted(group.sums.items(), key=lambda item: item[1][0].op):
        parts: dict[str, str] = {}
        for node in found:
            weights, side, _ = text.paired(node)
            pairs = value("pairs", f"tl.where({seen}, {weights}, 0.0).to(DOT)")
            before = node["before"] if node.op == "score_rows" else node.args[1]["before"]
            since = down if before else value("since", f"{down} * {step}")
            until, own = (up, since) if node.op == "score_rows" else (since, up)
            side = value("side", f"({called(side)} * {until}).to(DOT)")
            first = pairs if node.op == "score_rows" else f"tl.trans({pairs})"
            more = parts.get(own)
            parts[own] = f"tile_dot_add({first}, {side}, {more}, DOT)" if more else f"tile_dot({first}, {side}, DOT)"
        body += [f"{names[total]} += {part} * {own}" for own, part in parts.items()]
    body.append(f"{down}, {up} = tile_merge({down}, {up}, {step}, 1 << {level})")
    ends = [f"{names[node]} = {down if node['before'] else f'{down} * {step}'}" for node in group.since]
    return [*lines, *(f"    {line}" for line in body), *ends]
