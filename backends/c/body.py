"""The straight-line text of a loop body: expressions of the IR as C statements on scalars and vectors."""

from __future__ import annotations

from collections.abc import Callable

from recc.backends.c.arrays import Array

from recc.ir.node import BOOL, HEADS, Axis, Node
from recc.tile.cores import REDUCTIONS

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_AS_IT_IS = ("stopgrad", "real", "conj")


def has_text(op: str) -> bool:
    """Whether an op has a text of its own; others are functions of vectors."""
    return op in ("neg", "where", "tile", "param", "carry", *_INFIX, *_COMPARE, *_AS_IT_IS) or hasattr(
        Body, f"_op_{op}"
    )


class Body:
    """Prints the values that a loop body needs, each once.

    lane: the axis that vectors run along, row: the innermost other axis, either may be None. index: texts of the loop
    variables by axis; element r of the unrolled rows is at index[row] + r, vector u at index[lane] + u * lanes.
    innermost: the axis of the innermost loop, most often `row`. Values without it are printed into `before`, which
    stands in front of that loop; others into `inside`. awaited: how many sums of this token a value waits for.
    """

    def __init__(
        self,
        arrays: Callable[[Node], Array | None],
        sizes: Callable[[Axis], int],
        lanes: int,
        lane: Axis | None,
        row: Axis | None,
        index: dict[Axis, str],
        naming: Callable[[Node], str],
        sources: Callable[[Node], Array | None],
        innermost: Axis | None,
        awaited: Callable[[Node], int],
    ) -> None:
        self.innermost, self.awaited = innermost, awaited
        self.sources = sources  # where a leaf comes from that this very loop copies
        self.arrays, self.sizes, self.lanes = arrays, sizes, lanes
        self.lane, self.row, self.index, self.naming = lane, row, index, naming
        self.before: list[str] = []
        self.inside: list[str] = []
        self.known: dict[tuple, str] = {}

    # --- places ------------------------------------------------------------------------------------------------

    def key(self, node: Node, r: int, u: int) -> tuple:
        return node, r if self.row in node.axes else 0, u if self.lane in node.axes else 0

    def lines(self, node: Node) -> list[str]:
        return self.inside if self.innermost in node.axes else self.before

    def is_vector(self, node: Node) -> bool:
        return self.lane is not None and self.lane in node.axes and node.op != "ones"

    def place(self, r: int, u: int) -> dict[Axis, str]:
        """The index texts of unrolled row r and vector u."""
        index = dict(self.index)
        if self.row is not None and r:
            index[self.row] = f"{index[self.row]} + {r}" if index[self.row] != "0" else str(r)
        if self.lane is not None and u:
            index[self.lane] = f"{index[self.lane]} + {u * self.lanes}"
        return index

    def count(self, u: int) -> str | None:
        """How many lanes of vector u lie within the axis, None if surely all."""
        size = self.sizes(self.lane)
        if size % self.lanes == 0:
            return None
        start = self.place(0, u)[self.lane]
        return f"{size} - ({start})" if start != "0" else str(size)

    # --- values --------------------------------------------------------------------------------------------------

    def value(self, node: Node, r: int, u: int) -> str:
        """A name (or literal) for the node's value at (r, u): a vector if it has the lane axis, else a scalar."""
        key = self.key(node, r, u)
        if key not in self.known:
            text, plain = self._text(node, r, u)
            if plain:
                self.known[key] = text
            else:
                self.known[key] = self._define(node, text, key)
        return self.known[key]

    def _define(self, node: Node, text: str, key: tuple) -> str:
        suffix = f"{key[1]}" * (self.row in node.axes) + f"{key[2]}" * (self.lane in node.axes)
        name = f"{self.naming(node)}{'_' + suffix if suffix else ''}"
        kind = "mask" if node.dtype == BOOL and self.is_vector(node) else "int" if node.dtype == BOOL else (
            "vec" if self.is_vector(node) else "real")  # fmt: skip
        self.lines(node).append(f"{kind} {name} = {text};")
        return name

    def vector(self, node: Node, r: int, u: int) -> str:
        text = self.value(node, r, u)
        if self.is_vector(node):
            return text
        return f"((mask){{0}} - ({text}))" if node.dtype == BOOL else f"all({text})"

    def compute(self, node: Node, r: int, u: int) -> str:
        """`value` for what is stored by this very loop: not read from where it will lie."""
        key = self.key(node, r, u)
        if key not in self.known:
            source = self.sources(node) if not node.args else None
            if source is not None:
                text, plain = self.load(source, node.axes, self.place(r, u), u), False
            else:
                text, plain = self._expression(node, r, u)
            self.known[key] = text if plain else self._define(node, text, key)
        return self.known[key]

    def _text(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        array = self.arrays(node)
        if array is not None:
            return self._read(node, array, self.place(r, u), u), False
        return self._expression(node, r, u)

    # Truth values lie in memory as 1 and 0.

    def _read(self, node: Node, array: Array, index: dict[Axis, str], u: int) -> str:
        text = self.load(array, node.axes, index, u)
        return f"{text} != 0" if node.dtype == BOOL else text

    def number(self, node: Node, text: str) -> str:
        """What is stored of a value that is called `text`."""
        if node.dtype != BOOL:
            return text
        return f"blend({text}, all(1), all(0))" if self.is_vector(node) else f"(real)({text})"

    def _expression(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        special = getattr(self, f"_op_{node.op}", None)
        if special is not None:
            return special(node, r, u)
        wide = any(self.is_vector(arg) for arg in node.args)
        if node.op in _INFIX or node.op in _COMPARE:
            args = node.args
            if node.op == "add":  # compilers fuse the first of two products: that which is known last
                args = sorted(args, key=self.awaited, reverse=True)
            a, b = (self.value(arg, r, u) for arg in args)
            return f"{a} {(_INFIX | _COMPARE)[node.op]} {b}", False
        if node.op == "neg":
            return f"-{self.value(node.args[0], r, u)}", False
        if node.op in _AS_IT_IS:
            return self.value(node.args[0], r, u), True
        assert node.op not in REDUCTIONS, f"{node!r} is no value of this loop"
        name = "blend" if node.op == "where" else f"v_{node.op}"
        call = f"{name}({', '.join(self.vector(arg, r, u) for arg in node.args)})"
        return (call if wide else f"{call}[0]"), False

    def load(self, array: Array, axes: tuple[Axis, ...], index: dict[Axis, str], u: int) -> str:
        """The elements at `index`: a vector along the lane axis, or a scalar."""
        address = array.at(index)
        if self.lane is None or self.lane not in axes:
            return f"({address})[0]" if " " in address else f"{address}[0]"
        count, stride = self.count(u), array.strides[self.lane]
        if stride == 1:
            return f"load({address})" if array.whole or count is None else f"load_part({address}, {count})"
        return f"gather({address}, {stride}, {count or self.lanes})"

    def write(self, array: Array, axes: tuple[Axis, ...], r: int, u: int, text: str, how: str = "store") -> str:
        """A statement that writes what `load` would read; how: `add` and `most` take the sum or maximum with it."""
        address = array.at(self.place(r, u))
        there = self.load(array, axes, self.place(r, u), u)
        if self.lane is None or self.lane not in axes:
            text = f"v_maximum(all({there}), all({text}))[0]" if how == "most" else text
            return f"({address})[0] {'+=' if how == 'add' else '='} {text};"
        count, stride = self.count(u), array.strides[self.lane]
        if how != "store":
            text = f"{there} + {text}" if how == "add" else f"v_maximum({there}, {text})"
        if stride == 1:
            plain = array.whole or count is None
            if plain and array.past is not None and how == "store":
                return f"store_past({address}, {text}, {array.past});"
            return f"store({address}, {text});" if plain else f"store_part({address}, {count}, {text});"
        return f"scatter({address}, {stride}, {count or self.lanes}, {text});"

    # --- ops with a text of their own ------------------------------------------------------------------------------

    def _op_const(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        value = float(node["value"])
        if value != value or value in (float("inf"), float("-inf")):
            text = '__builtin_nan("")' if value != value else f"{'-' * (value < 0)}__builtin_inf()"
            return f"((real){text})", True
        return (f"(real){value!r}" if value >= 0 else f"((real){value!r})"), True

    def _op_size(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        return "(real)a->heads" if node["dim"] == HEADS else f"(real){self.sizes(node['dim'])}", True

    def _op_task(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        return "(real)head", True

    def _op_ones(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        return "ONE", True

    def _op_mul(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        for one, other in (node.args, node.args[::-1]):
            if one.op == "ones":
                text = self.value(other, r, u)
                if self.is_vector(node) and not self.is_vector(other):
                    return f"all({text})", False
                return text, True
        a, b = (self.value(arg, r, u) for arg in node.args)
        if self.is_vector(node) and not any(self.is_vector(arg) for arg in node.args):
            return f"all({a} * {b})", False
        return f"{a} * {b}", False

    def _op_iota(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        return self._number(node.axes[0], r, u), False

    def _number(self, axis: Axis, r: int, u: int) -> str:
        start = self.place(r, u).get(axis, "0")
        if axis == self.lane:
            return f"__builtin_convertvector(numbered() + (word)({start}), vec)"
        return f"(real)({start})"

    def _op_eye(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        first, second = sorted(node.axes, key=lambda axis: axis != self.lane)
        return self._where_at(first, self._start(second, r, u), "ONE", False, r, u), False

    def _start(self, axis: Axis, r: int, u: int) -> str:
        return self.place(r, u).get(axis, "0")

    def _where_at(self, axis: Axis, place: str, text: str, wide: bool, r: int, u: int) -> str:
        """`text`, a vector if `wide`, at `place` along an axis, and 0 elsewhere."""
        start = self._start(axis, r, u)
        if axis == self.lane:
            whole = text if wide else f"all({text})"
            return f"blend(numbered() + (word)({start}) == (word)({place}), {whole}, all(0))"
        return f"({start}) == ({place}) ? {text} : {'all(0)' if wide else '(real)0'}"

    def _op_put(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        (arg,) = node.args
        axis, index = node["axis"], node["index"]
        place = str(index if index >= 0 else self.sizes(axis) + index)
        return self._where_at(axis, place, self.value(arg, r, u), self.is_vector(arg), r, u), False

    def _op_take(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        (arg,) = node.args
        axis, index = node["axis"], node["index"]
        array = self.arrays(arg)
        assert array is not None, f"{arg!r} is not in memory"
        place = self.place(r, u) | {axis: str(index if index >= 0 else self.sizes(axis) + index)}
        return self._read(node, array, place, u), False

    def _op_rename(self, node: Node, r: int, u: int) -> tuple[str, bool]:
        (arg,) = node.args
        array = self.arrays(arg)
        assert array is not None, f"{arg!r} is not in memory"
        table = dict(node["mapping"])
        moved = Array(
            array.base,
            tuple(table.get(axis, axis) for axis in array.axes),
            {table.get(axis, axis): stride for axis, stride in array.strides.items()},
            array.time,
            array.whole,
        )
        return self._read(node, moved, self.place(r, u), u), False
