"""What the text of a node reads, and the axes of its tile in a kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from recc.backends.torch.binding import is_static

from recc.ir.node import COL, GRID, HEADS, RANK, ROW, Axis, Node, dim_of
from recc.tile.outer import FROM

LEAVES = ("tile", "param", "carry")
CONSTANT = ("const", "size", "ones", "position", "eye")
CONTRACTIONS = ("dot", "sum", "amax")


def reads(node: Node) -> tuple[Node, ...]:
    """What the text of a node reads: a score is computed from its tiles and the log decay itself."""
    args = node.args
    match node.op:
        case "score":
            return args[0], args[2], args[4].args[0]
        case "score_rows" | "score_cols":
            return args[0], args[1].args[0], args[2].args[0]
        case "channel_since":
            return (args[1].args[0],)
        case "channel_tail":
            return (args[1],)
        case "decay":
            return args[:2]
        case "tail" | "since":
            return args[:1]
        case "mul":
            return tuple(arg for arg in args if arg.op != "ones") or args[:1]
    return args


def ordered(roots: Iterable[Node], stops: set[Node] | frozenset[Node] = frozenset()) -> list[Node]:
    """Every node that the roots' texts read, arguments first; nothing below `stops`."""
    found: dict[Node, None] = {}
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        node, ready = stack.pop()
        if ready:
            found[node] = None
        elif node not in found:
            stack.append((node, True))
            if node not in stops and not is_static(node):
                stack.extend((arg, False) for arg in reversed(reads(node)))
    return list(found)


def inner(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    """The axes of a tile in a kernel: one chunk and head is one program."""
    return tuple(axis for axis in axes if axis not in (GRID, HEADS))


def dims(axes: Iterable[Axis]) -> tuple[Axis, ...]:
    """The axes that are dims of the spec, or ranks: those with a size that need not fill its block."""
    return tuple(axis for axis in inner(axes) if axis not in (ROW, COL, "@a", "@b"))


def per_token(node: Node) -> bool:
    """Whether a value of the call, or a result, has a row for each token."""
    return GRID in node.axes and ROW in node.axes and COL not in node.axes


def lies_in(node: Node) -> tuple[Node, tuple[tuple[Axis, int], ...]]:
    """What a node is one place of along some axes, and which: a tensor that has strides to address it by, or itself."""
    whole, found = node, []
    while whole.op == "take" and whole["index"] >= 0:
        found.append((whole["axis"], whole["index"]))
        whole = whole.args[0]
    addressed = all(dim_of(axis) == RANK for axis, _ in found) or (whole.op == "tile" and per_token(whole))
    return (whole, tuple(found)) if addressed else (node, ())


def places(node: Node, sizes: Mapping[str, int | None]) -> list[tuple[Node, tuple[tuple[Axis, int], ...]]]:
    """The tiles that a result has beside each other along a dim, each with its place; itself where it is none such.
    sizes: of the dims that have one in the spec."""
    terms, found = [node], {}
    while terms:
        term = terms.pop()
        if term.op == "add":
            terms += term.args
        elif term.op == "put" and term.args[0].axes == tuple(axis for axis in node.axes if axis != term["axis"]):
            found[term["axis"], term["index"]] = term.args[0]
        else:
            return [(node, ())]
    (axis, _), *_ = found
    whole = {(axis, place) for place in range(sizes.get(dim_of(axis)) or 0)}
    return [(part, (at,)) for at, part in found.items()] if whole == set(found) else [(node, ())]


def source(node: Node) -> Node:
    """A tile without the transposition around it."""
    return node.args[0] if node.op == "rename" else node


def is_matrix(node: Node, over: tuple[Axis, ...]) -> bool:
    """Whether a contraction over the axes `over` is a product of two matrices."""
    ours, theirs = (inner(arg.axes) for arg in node.args)
    shared = {axis for axis in ours if axis in theirs}
    return shared <= set(over) and not set(ours) <= shared and not set(theirs) <= shared


def is_batched(node: Node, over: tuple[Axis, ...]) -> bool:
    """Whether a contraction over the axes `over` is a product of two matrices for each place of other axes."""
    ours, theirs = (set(inner(arg.axes)) for arg in node.args)
    return bool(ours - theirs and theirs - ours and (ours & theirs) - set(over)) and bool(over)


def sides(nodes: Iterable[Node]) -> set[str]:
    """One dim of each side of a product of matrices among nodes, which tensor cores need 16 places of."""
    every: set[tuple[str, ...]] = set()
    for node in nodes:
        over = inner(node["over"]) if node.op == "dot" else ()
        if node.op == "dot" and (is_matrix(node, over) or is_batched(node, over)):
            ours, theirs = (inner(arg.axes) for arg in node.args)
            free = [[axis for axis in a if axis not in b] for a, b in ((ours, theirs), (theirs, ours))]
            every |= {tuple(sorted({dim_of(axis) for axis in side})) for side in (*free, over)}
    found: set[str] = set()
    for side in sorted(every, key=lambda side: (len(side), side)):
        if not found & set(side):
            found |= set(side[:1])
    return found


def formed(node: Node) -> tuple[Axis, ...]:
    """The axes of the widest tile that a node's text makes: a contraction that is no product of matrices is a broadcast
    product that is summed."""
    over = inner(node["over"]) if node.op == "dot" else ()
    if node.op == "dot" and not is_matrix(node, over) and not is_batched(node, over):
        return tuple(dict.fromkeys(axis for arg in node.args for axis in arg.axes))
    return node.axes


def sums_on(node: Node, over: tuple[Axis, ...]) -> bool:
    """Whether a contraction is a product of two matrices that may be summed on top of a tile of its shape."""
    plain = node.op == "dot" and len(inner(node.axes)) == 2 and not any(axis.endswith(FROM) for axis in over)
    return plain and is_matrix(node, over)


def plain(node: Node) -> Node:
    """A product of matrices without a rename around it that leaves its axes in their order; any other node as it is."""
    below = node.args[0] if node.op == "rename" else node
    if below is node or below.op != "dot":
        return node
    table = dict(node["mapping"])
    return below if tuple(table.get(axis, axis) for axis in inner(below.axes)) == inner(node.axes) else node


def meets_heads(node: Node) -> bool:
    """Whether a product takes what all heads share with what each has of its own: one of matrices, a head a column."""
    return len({HEADS in arg.axes for arg in node.args}) == 2


def within(part: tuple[str, ...], whole: tuple[str, ...]) -> bool:
    """Whether a tile with the dims `part` is a part of one with the dims `whole`."""
    return all(part.count(dim) <= whole.count(dim) for dim in part)
