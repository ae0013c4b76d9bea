"""What a launch holds on chip at a time, and the widest tile that a program has room for.

A scan of rows holds the tiles of its operator while it runs, and beside them every tile that was computed or loaded
before it and is read after it. Each takes a register for each of its elements that a thread has: a tile without rows
next to none, one that others repeat along a dim as much as they do. Where a thread has all rows of its columns, and
scans go in one direction, values stream through it from row to row and no tile waits; once a scan runs from the last
row to the first, what it leaves waits for the others. A walk over tokens holds, beside its states, what is the same at
every token and what it sums over them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from recc.backends.triton.memory import AGAIN, FIXED
from recc.backends.triton.nodes import dims, inner, reads
from recc.backends.triton.padding import Padding
from recc.backends.triton.schedule import Schedule
from recc.backends.triton.statements import Loop, is_computed
from recc.backends.triton.steps import Launch

from recc.ir.node import ROW, Node, dim_of

SCANS = ("scan", "rscan", "pair_scan", "pair_rscan")
# The tiles that the operator of a scan holds; of complex numbers, both parts; where their tiles have
# more than one dim beside rows, as many again in the layout that they come from.
OPERATORS = {"scan": 2, "rscan": 2, "span_sum": 2, "span_gain": 1, "span_rsum": 1,
             "pair_scan": 4, "pair_rscan": 4, "pair_span_sum": 4, "pair_span_gain": 2, "pair_span_rsum": 2}  # fmt: skip
REGISTERS = 255  # of a thread
APART, IN_LOOP = 32, 30  # of them for addresses, masks and what has no rows; fewer where a loop makes some anew
WARP = 32
VECTOR = 0.25  # of the registers of a tile: warps that share its rows hold all of its columns
SHARED = 64 << 10  # bytes of shared memory that every target has; a scan may take its whole operands through it
PLACES, VECTORS = 128, 64  # of a row, in the widest tile of a scan: where other dims stand beside it, and where none do
WARPS = (2, 4, 8)
FLOWING = 1.5  # tiles that a thread holds of what streams through it, where values are complex; in a loop both ways


def beside(schedule: Schedule, dim: str) -> list[str]:
    """The dims that stand beside `dim` and rows in the largest tile of a scan."""
    widest: list[str] = []
    for node in schedule.every:
        here = [dim_of(axis) for axis in dims(node.axes)]
        if node.op in SCANS and dim in here and len(here) > len(widest) + 1:
            widest = [other for other in here if other != dim]
    return widest


def scans(launch: Launch) -> bool:
    """Whether a launch scans rows."""
    return any(node.op in OPERATORS for node in launch.nodes)


def room(launch: Launch, rows: int, places: int, loop: str | None) -> tuple[int, int]:
    """The places of a row and the warps of the widest tile that fits, of `places` at most, and of these the one with
    the fewest warps. loop: the dim that a program takes block by block, if any."""
    held, waiting = held_at_once(launch, loop)
    streams = loop is None and _one_way(launch)
    is_complex = any(node.op.startswith("pair_") for node in launch.nodes)
    operands = 16 if is_complex else 8  # bytes of an element of a scan's tiles
    flowing = FLOWING * is_complex
    held += 0 if loop is None else 2 * flowing
    first, apart = (4, APART) if loop is None else (8, IN_LOOP)
    most = rows * places // (WARP * first)  # elements of a thread
    while places > 1:
        elements = rows * places
        for warps in WARPS:
            own = elements // (WARP * warps)
            tiles = waiting + flowing if streams and places >= WARP * warps else held
            if own <= most and operands * elements <= SHARED and apart + tiles * own <= REGISTERS:
                return places, warps
        places //= 2
    return places, WARPS[-1]


def held_at_once(launch: Launch, loop: str | None = None) -> tuple[float, float]:
    """The most tiles of rows that are there while a scan runs, with those of its operator; and the most that wait
    meanwhile. Beside a tile of more dims, one that is repeated along some of them counts half: part of the time it
    lies as it was loaded. In a loop all that it reads lies as the widest does."""
    items = list(_in_order(launch))
    last: dict[Node, int] = {}
    for at, node in enumerate(items):
        for arg in () if node in launch.loads else reads(node):
            last[_source(arg, launch)] = at
    widest = max(len(dims(node.axes)) for node in items if node.op in OPERATORS or ROW in node.axes)
    same = _same_in_every_row(items, launch)
    most = waiting = 0.0
    there: dict[Node, float] = {}
    for at, node in enumerate(items):
        before = sum(there.values())
        there = {one: weight for one, weight in there.items() if last.get(one, -1) > at}
        now = sum(there.values())
        if node.op in OPERATORS:
            waiting, now = max(waiting, now), now + _operator(node)
        most = max(most, before, now)
        if ROW in node.axes and node not in same and last.get(node, -1) > at and _source(node, launch) is node:
            whole = loop is not None or len(dims(node.axes)) == widest
            there[node] = 2 if node.op.startswith("pair_") else 1 if whole else 0.5
    return most, waiting


def _same_in_every_row(items: list[Node], launch: Launch) -> set[Node]:
    """Tiles with rows that are made of what has none."""
    found: set[Node] = set()
    for node in items:
        rows = [arg for arg in reads(node) if ROW in arg.axes and arg not in found]
        if node not in launch.loads and node.op not in OPERATORS and not rows:
            found.add(node)
    return found


def share(loops: list[Loop], usual: int) -> int:
    """Elements of its widest tile that a warp of a walk holds: `usual`, or fewer where a thread has no registers for
    what is there at a time. loops: one after the other, the last of which sums. Of vectors, and of rows of sequences,
    which are multiplied with matrices, it is `usual`."""
    nodes = [node for loop in loops for node in (*loop.nodes, *loop.loads, *(old for old, _ in loop.states))]
    widest = max((len(inner(node.axes)) for node in nodes), default=0)
    if widest < 2 or any(ROW in node.axes for node in nodes):
        return usual
    held = held_by_walk(loops, widest)
    while usual > WARP and APART + held * usual // WARP > REGISTERS:
        usual //= 2
    return usual


def matrices(loop: Loop, padding: Padding) -> int:
    """How many matrices a walk holds at every token: those that are loaded, and what products take of those that are
    made of numbers alone, which is another operand where it is turned or masked."""
    made, changing = set(), loop.per_token
    for node in loop.nodes:
        for place, arg in enumerate(node.args if node.op == "dot" else ()):
            if arg not in changing and arg not in loop.loads and len(inner(arg.axes)) > 1:
                made.add((arg, padding.operand(place, node, inner(node["over"]), "")))
    loaded = [memory for memory in loop.loads.values() if memory.layout in (FIXED, AGAIN)]
    return len(made) + sum(len(memory.tile) > 1 for memory in loaded)


def held_by_walk(loops: list[Loop], widest: int, vector: float = 0) -> float:
    """The most tiles of so many axes, or of two, that are there at a time; vectors count as `vector` of them."""
    widest = min(widest, 2)  # a program has few columns of what is wider

    def count(nodes: Iterable[Node]) -> float:
        wide = [min(len(inner(node.axes)), widest) for node in nodes]
        return wide.count(widest) + vector * wide.count(widest - 1)

    fixed: set[Node] = set()  # the same at every token
    for loop in loops:
        changing = loop.per_token
        read = {arg for node in loop.nodes if node in changing for arg in reads(node) if arg not in changing}
        fixed |= {node for node in read if node in loop.loads or is_computed(node)}
    final = loops[-1]
    most = 0.0
    for loop in loops:
        changing, most_here = loop.per_token, 0.0
        items = list(_read_first([node for node in loop.nodes if node in changing], loop.loads, changing))
        last = {arg: at for at, node in enumerate(items) if node not in loop.loads for arg in reads(node)}
        last |= {new: len(items) for _, new in loop.states}
        there = {old for old, _ in loop.states}
        for at, node in enumerate(items):
            before = count(there)
            there = {one for one in there if last.get(one, -1) > at}
            most_here = max(most_here, before, count([*there, node]))
            if last.get(node, -1) > at:
                there.add(node)
        waiting = count([old for old, _ in final.states]) if loop is not final else 0
        most = max(most, most_here + waiting)
    return count(fixed) + count([node for node, _ in final.sums]) + most


def _in_order(launch: Launch) -> Iterator[Node]:
    """What a launch computes, what it loads where that is first read."""
    return _read_first(launch.nodes, launch.loads, launch.loads)


def _read_first(nodes: Iterable[Node], loads: Iterable[Node], among: Iterable[Node]) -> Iterator[Node]:
    """Nodes, and before each the loads `among` others that it is the first to read."""
    pending = set(loads) & set(among)
    for node in nodes:
        for arg in reads(node):
            if arg in pending:
                pending.remove(arg)
                yield arg
        yield node


def _source(node: Node, launch: Launch) -> Node:
    """A tile without what only repeats it, renames it or takes a part of it."""
    while node not in launch.loads and (node.op in ("rename", "part") or (node.op == "mul" and len(reads(node)) == 1)):
        node = reads(node)[0]
    return node


def _operator(node: Node) -> int:
    wide = node.op.startswith("pair_") and len(dims(node.axes)) > 1
    return OPERATORS[node.op] * (2 if wide else 1)


def _one_way(launch: Launch) -> bool:
    """Whether all scans go from the first row to the last, or all the other way."""
    ops = {node.op.removeprefix("pair_") for node in launch.nodes if node.op in OPERATORS}
    return not ("rscan" in ops and len(ops) > 1)
