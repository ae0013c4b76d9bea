"""A program of one token, divided: what kernels compute in their loops over tokens, and what torch does around them.

Torch gets what contracts the heads and products with params off the recurrence's own path (projections, and the
gradients of matrices): it has matrix products over all tokens for both. The rest is the kernels', one launch for all
states if none waits for something that only torch can add up, else one launch after the other.

A value is FRESH where it follows from what lies in memory, so that whoever needs it computes it again; LIVE where it
depends on the states that a launch has at hand, so that it is stored if others need it; HOST where torch computes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from recc.backends.torch.text import is_static
from recc.backends.triton.nodes import CONTRACTIONS, LEAVES, dims, inner, ordered, reads
from recc.backends.triton.schedule import Unserved

from recc.ir.node import GRID, HEADS, Axis, Node, dim_of
from recc.ir.ops import build
from recc.tile.cores import Phases
from recc.tile.program import Carry, TileProgram

FRESH, LIVE, HOST = "fresh", "live", "host"
CONSTANT = ("const", "size", "ones", "iota", "eye")


class Conflict(ValueError):
    """The programs of a kernel would have to wait for each other at every token."""


@dataclass
class Launch:
    """One walk over the tokens. loads: what it reads from memory; stores: what each token writes; parts: sums over the
    split dim, of which each program writes its own part; sums: over all tokens, likewise."""

    carries: list[Carry] = field(default_factory=list)
    loads: list[Node] = field(default_factory=list)
    stores: list[Node] = field(default_factory=list)
    parts: list[Node] = field(default_factory=list)
    sums: list[Node] = field(default_factory=list)


class Division:
    """again: the program that the first launch runs for a chunk's tokens before its own; its stores are leaves of
    `program`, by name. shared: the dims that programs share in blocks. A launch before `steps[i]` follows host nodes
    `hosts[i]`; hosts has one entry more than launches. Raises Conflict for dims that cannot be shared."""

    def __init__(self, program: TileProgram, again: TileProgram | None, *shared: str) -> None:
        self.program, self.again, self.shared = program, again, shared
        self.nodes = ordered(program.roots)
        self.inner = {program.loads[name] for name in again.stores if name in program.loads} if again else set()
        self.own = {dim_of(axis) for c in program.carries for axis in dims(c.old.axes)}
        self.side: dict[Node, str] = {}
        self.at: dict[Node, int] = {}
        self.fed: set[Node] = set()  # FRESH in kernels, which have narrow leaves of the first launch at hand
        self.launch_of: dict[Node, int] = {}  # by a carry's leaf
        self._place()
        self.count = 1 + max([0, *self.launch_of.values(), *(self.at[n] for n in self.nodes if self._is_live(n))])
        self.launches = [Launch([c for c in program.carries if self.launch_of[c.old] == at])
                         for at in range(self.count)]  # fmt: skip
        self.hosts: list[list[Node]] = [[] for _ in range(self.count + 1)]
        self._demand()

    # --- sides -------------------------------------------------------------------------------------------------

    def _place(self) -> None:
        if self.again is not None:
            self._place_cores(self.again)
        self._place_cores(self.program)
        for node in self.nodes:
            self._settle(node)

    def _place_cores(self, program: TileProgram) -> None:
        for core in Phases(program).cores:
            olds, news = {c.old for c in core.carries}, [c.new for c in core.carries]
            own = olds | set(core.feedback)
            around = ordered(news)
            for node in around:
                if node not in own:
                    self._settle(node)
            needed = {arg for node in around if node in core.feedback for arg in reads(node)} | set(news)
            at = max((self.at[node] for node in needed if node not in own), default=0)
            if program is self.again and at:
                raise Conflict
            for old in olds:
                self.side[old], self.at[old], self.launch_of[old] = LIVE, at, at
            for node in around:
                if node not in own or node in olds:
                    continue
                if self.shared_over(node):
                    raise Conflict
                if HEADS in _over(node):
                    self._unserved(node)
                self.side[node], self.at[node] = LIVE, at

    def _unserved(self, node: Node) -> None:
        what = "a sum over the heads" if HEADS in _over(node) else "a product with a param"
        raise Unserved(
            f"{self.program.name}: between a state and its next value stands {what}, which these kernels cannot hold",
            "use the torch backend",
        )

    def _settle(self, node: Node) -> None:
        if node in self.side:
            return
        args = reads(node)
        if node.op in LEAVES:
            within = node in self.inner
            self.side[node], self.at[node] = (LIVE if within and len(dims(node.axes)) > 1 else FRESH), 0
            if within and not self._is_live(node):
                self.fed.add(node)
            return
        if node.op in CONSTANT or is_static(node) or not args:
            self.side[node], self.at[node] = FRESH, 0
            return
        for arg in args:
            self._settle(arg)
        at = max(self.at[arg] for arg in args)
        side = LIVE if any(self._is_live(arg) and self.at[arg] == at for arg in args) else FRESH
        if self._is_host(node):
            side, at = HOST, max(self.at[arg] + self._in_kernel(arg) for arg in args)
        elif GRID in _over(node) or self.shared_over(node):
            side, at = HOST, at + any(self._in_kernel(arg) and self.at[arg] == at for arg in args)
        self.side[node], self.at[node] = side, at
        if side == FRESH and any(arg in self.fed for arg in args):
            self.fed.add(node)

    def _in_kernel(self, node: Node) -> bool:
        """Whether only kernels can compute a value."""
        return self._is_live(node) or node in self.fed

    def _is_live(self, node: Node) -> bool:
        return self.side[node] == LIVE

    def _is_host(self, node: Node) -> bool:
        """Whether only torch computes a node: over heads, or a matrix product with tokens or params. So is one that
        goes along a dim which no state has: the model's, say."""
        over = _over(node)
        if node.op == "take":  # of a param: one place of it is a view
            return GRID not in node.axes
        if node.op not in CONTRACTIONS:
            return False
        fixed = [arg for arg in node.args if GRID not in arg.axes]
        if node.op == "dot" and (fixed or GRID in over):
            if any(dim_of(axis) not in self.own for arg in node.args for axis in inner(arg.axes)):
                return True
        if GRID in over:
            if node.op == "sum":
                return False
            a, b = (set(inner(arg.axes)) for arg in node.args)
            outer = bool(a - b) and bool(b - a)
            apart = self.again is None or not inner(over)  # else a factor may be a state that is not saved
            return not all(GRID in arg.axes for arg in node.args) or (outer and apart)
        if HEADS in over:
            return True
        if GRID not in node.axes:
            return node.op != "amax" and any(arg.op != "iota" for arg in node.args)
        return node.op == "dot" and any(set(inner(arg.axes)) - set(over) for arg in fixed)

    def shared_over(self, node: Node) -> tuple[str, ...]:
        """The shared dims that a node is a sum over, of which each program has a part."""
        over = {dim_of(axis) for axis in inner(_over(node))}
        return tuple(dim for dim in self.shared if dim in over)

    @property
    def split(self) -> str | None:
        """The dim that programs share first."""
        return self.shared[0] if self.shared else None

    # --- what is needed where --------------------------------------------------------------------------------------

    def _demand(self) -> None:
        """From the results backwards: what torch computes, what each launch stores for it and for later launches."""
        self.hosted: dict[Node, int] = {}  # what torch computes, and how often it needs it
        self.held: dict[Node, None] = {}
        self.results: dict[Node, None] = {}  # stores of the program that kernels write
        for node in self.program.sums.values():
            self._for_host(node)
        for node in self.program.stores.values():
            if self.side[node] == HOST or self.at[node] >= self.count:
                self._for_host(node)
            else:
                self.results[node] = None
        for at in reversed(range(self.count)):
            self._fill(at)
        for node in self.nodes_all():
            if node in self.hosted and (self.side[node] == HOST or self.hosted[node] > 1):
                place = min(self.at[node] + (node in self.fed), self.count)
                self.hosts[place].append(node)

    def nodes_all(self) -> list[Node]:
        more = [self.again] if self.again is not None else []
        return ordered([*self.program.roots, *(root for program in more for root in program.roots)])

    def _for_host(self, node: Node) -> None:
        """`node` as torch needs it: computed there, or stored by a kernel."""
        if node in self.hosted:
            self.hosted[node] += 1
            return
        if node in self.held:
            return
        if self._is_live(node) or node in self.inner:
            self.held[node] = None
            return
        if node.op in LEAVES or node.op in CONSTANT or is_static(node):
            return
        self.hosted[node] = 1
        if self.side[node] == HOST and self.kernel_part(node) is not None:
            return
        for arg in reads(node):
            self._for_host(arg)

    def kernel_part(self, node: Node) -> Node | None:
        """What each program of a kernel computes of a HOST node's sum; None: torch computes all of it."""
        over = _over(node)
        if self.side[node] != HOST or self._is_host(node) or not (GRID in over or self.shared_over(node)):
            return None
        args = reads(node)
        at = max(self.at[arg] for arg in args)
        if at >= self.count or not any(self._in_kernel(arg) and self.at[arg] == at for arg in args):
            return None
        return build(node.op, *node.args, over=inner(over))

    def _fill(self, at: int) -> None:
        """The loads, stores, parts and sums of a launch."""
        launch = self.launches[at]
        mine = [node for node in self.nodes_all() if node in self.hosted and self.at[node] == at + 1]
        mine = [node for node in mine if self.kernel_part(node) is not None]
        launch.sums = [node for node in mine if GRID in _over(node)]
        launch.parts = [node for node in mine if GRID not in _over(node)]
        launch.stores = [node for node in (*self.held, *self.results) if self.at[node] == at]
        launch.stores = list(dict.fromkeys(launch.stores))
        roots = [*(c.new for c in launch.carries), *launch.stores]
        roots += [self.kernel_part(node) for node in mine]
        own = {c.old for c in launch.carries}
        if at == 0 and self.again is not None:
            roots += [*(c.new for c in self.again.carries), *self.again.stores.values()]
            own |= {c.old for c in self.again.carries}
        stops = {node for node in self.side if self._from_memory(node, at)} - set(mine)
        for node in ordered(roots, stops | own):
            if node in stops and node not in own:
                launch.loads.append(node)
                if at and (self._is_live(node) or node in self.inner):
                    self.held.setdefault(node)
                elif self.side[node] == HOST:
                    self._for_host(node)

    def _from_memory(self, node: Node, at: int) -> bool:
        if node.op in LEAVES or self.side[node] == HOST:
            return True
        return self._is_live(node) and self.at[node] < at

    @property
    def keeps_wide(self) -> bool:
        """Whether values as wide as a state would pass through memory at every token."""
        return any(len(dims(node.axes)) > 1 for node in self.held)

    @property
    def cost(self) -> tuple[int, int]:
        """Launches, and sums over the split dim."""
        return self.count, sum(len(launch.parts) for launch in self.launches)


def divide(program: TileProgram, again: TileProgram | None = None, in_place: bool = False,
           shared: bool = False, twice: bool = False) -> Division:  # fmt: skip
    """The best division of a program: by a dim whose elements never meet, or, if states are matrices, at least not on
    the way from state to state; otherwise a program takes all dims whole. in_place: states go where they come from.
    shared: not whole, if it can be. twice: by two dims, if it can be."""
    try:
        whole = Division(program, again)
    except Conflict:
        raise Unserved(
            f"{program.name}: what the backward pass runs again waits for a product with a param, which these kernels "
            "leave to torch",
            "use the torch backend",
        ) from None
    wide = max((len(dims(c.old.axes)) for c in program.carries), default=0)

    def further(*given: str) -> list[Division]:
        """The divisions by one more dim."""
        found = []
        for dim in [dim for dim in _candidates(whole) if dim not in given]:
            try:
                found.append(Division(program, again, *given, dim))
            except Conflict:
                continue
        found = [part for part in found if not part.keeps_wide]
        if in_place:  # no program writes a state that another one has yet to read
            found = [part for part in found if all(_has(c.old, dim) for c in program.carries for dim in part.shared)]
        return found

    found = further()
    free = [part for part in found if part.cost == (whole.count, 0)]
    if free:
        best = free[-1]
    elif wide < 2 or not (program.reverse or shared):  # a forward pass keeps its epilogue in the kernel
        return whole
    else:
        best = min(found, key=lambda part: part.cost, default=whole)
    twice &= program.reverse and bool(best.shared)
    return min(further(*best.shared), key=lambda part: part.cost, default=best) if twice else best


def by_channels(program: TileProgram) -> Division | None:
    """The division where programs share the one dim of the states, none of whose elements meet; None if there is none
    in one launch. States without dims are not shared."""
    whole = Division(program, None)
    own = {dims(c.old.axes) for c in program.carries}
    if len(own) != 1 or len(min(own)) > 1:
        return None
    split = dim_of(min(own)[0]) if min(own) else None
    if split is not None and split not in _candidates(whole):
        return None
    found = whole if split is None else Division(program, None, split)
    return found if found.count == 1 else None


def _candidates(whole: Division) -> list[str]:
    """Dims of states that kernels only go along: none of their elements moves to another's place."""
    present = {dim_of(axis) for c in whole.program.carries for axis in dims(c.old.axes)}
    bound: set[str] = set()
    for node in whole.nodes_all():
        if whole.side[node] == HOST and whole.kernel_part(node) is None:
            continue
        here = [dim_of(axis) for axis in dims(node.axes)]
        bound |= {dim for dim in here if here.count(dim) > 1}
        if node.op == "rename":
            bound |= {dim_of(axis) for pair in node["mapping"] for axis in pair}
        if node.op in ("take", "put", "stack"):
            bound.add(dim_of(node["axis"]))
    return sorted(present - bound)


def in_rows(program: TileProgram) -> bool:
    """Whether a program of the kernel takes rows of sequences: a state's vector is multiplied with a param's matrix."""
    for core in Phases(program).cores:
        for node in core.feedback:
            if node.op != "dot":
                continue
            for fixed, other in (node.args, node.args[::-1]):
                free = set(inner(fixed.axes)) - set(node["over"])
                if GRID not in fixed.axes and free and set(inner(other.axes)) <= set(node["over"]) | free:
                    return True
    return False


def _has(node: Node, dim: str) -> bool:
    return any(dim_of(axis) == dim for axis in dims(node.axes))


def _over(node: Node) -> tuple[Axis, ...]:
    return node["over"] if node.op in CONTRACTIONS else ()


__all__ = ["FRESH", "HOST", "LIVE", "Conflict", "Division", "Launch", "by_channels", "divide", "in_rows"]
