"""Expressions of tiles as Triton source text. A tile has a node's axes without grid and heads, in their order."""

from __future__ import annotations

from collections.abc import Callable

from recc.backends.torch.binding import ATOM, LOOSE, is_static
from recc.backends.triton.nodes import dims, inner, is_batched, is_matrix, plain, reads
from recc.backends.triton.padding import Padding
from recc.backends.triton.wording import ALONG_ROWS, ELEMENTWISE, aligned_text, called, seen_text, simple

from recc.ir.node import BOOL, COL, RANK, ROW, Axis, Node, dim_of, sort_axes
from recc.tile.outer import FROM
from recc.tile.outside import is_mask


class TileText:
    """Prints a node, given the variables that hold what has a name.

    named(node): the variable that holds a node, or None. static(node): the text of a number known at launch. narrow:
    the nodes whose variables are as narrow as they lie in memory, for matrix products.
    """

    def __init__(self, named: Callable[[Node], str | None], static: Callable[[Node], str], padding: Padding,
                 ranks: int, kernel_part: Callable[[Node], tuple[Axis, ...]],
                 narrow: frozenset[Node] = frozenset()) -> None:  # fmt: skip
        self.named, self.static, self.padding = named, static, padding
        self.ranks, self.kernel_part, self.narrow = ranks, kernel_part, narrow
        self.summed: set[Node] = set()  # products that are printed where they are added to something
        self.apart: set[Node] = set()  # products that stand in loops of their own; see scarce.py

    def __call__(self, node: Node) -> str:
        return self._print(node)[0]

    def define(self, node: Node) -> str:
        """The text that computes `node` itself, even where it has a name."""
        return self._compute(node)[0]

    # --- sizes and places ------------------------------------------------------------------------------------

    def size(self, axis: Axis) -> str:
        """The extent of a tile along an axis: a power of two."""
        if axis in (ROW, COL, "@a", "@b"):
            return "ROWS"
        if dim_of(axis).startswith("@"):
            return str(self.ranks)
        return f"BLOCK_{dim_of(axis)}"

    def place(self, axis: Axis) -> str:
        """The vector of places along an axis."""
        if axis in (ROW, COL, "@a", "@b"):
            return "rows"
        if dim_of(axis).startswith("@"):
            return f"tl.arange(0, {self.ranks})"
        return f"offs_{dim_of(axis)}"

    def shape(self, axes: tuple[Axis, ...]) -> str:
        sizes = [self.size(axis) for axis in inner(axes)]
        return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})"

    def vector(self, axis: Axis, axes: tuple[Axis, ...], text: str | None = None) -> str:
        """A vector along `axis` (its places, or `text`), aligned with a tile of `axes`."""
        return aligned_text(text or self.place(axis), ATOM, (axis,), axes)

    # --- printing ------------------------------------------------------------------------------------------

    def _print(self, node: Node) -> tuple[str, int]:
        if is_static(node):
            text = self.static(node)
            return (f"({text})", ATOM) if text.startswith("-") else (text, ATOM)
        name = self.named(node)
        if name is not None and node.dtype == BOOL and self.padding.in_memory(node):
            return f"({name} != 0)", ATOM  # memory has numbers
        if name is None:
            return self._compute(node)
        return (f"{name}.to(tl.float32)" if node in self.narrow else name), ATOM

    def _side(self, node: Node) -> str:
        """A side of a matrix product, as narrow as it is."""
        name = self.named(node)
        if name is None and node.op == "rename":
            return self._renamed(node, self._side(node.args[0]))
        return name if name is not None and node in self.narrow else self(node)

    def _compute(self, node: Node) -> tuple[str, int]:
        special = getattr(self, f"_op_{node.op}", None)
        if special is not None:
            text = special(node)
            if text is not None:  # what changes nothing of its argument prints it as it is, and binds as that does
                same = [part for part in map(self._print, reads(node)) if part[0] == text]
                return same[0] if same else (text, ATOM)
        if node.op in ALONG_ROWS:
            arg = reads(node)[0]
            axes = (ROW, *(axis for axis in node.axes if axis != ROW)) if node.op.startswith("put_") else arg.axes
            full = sort_axes(axes)
            along = self.vector(ROW, full) if ROW in full else ""
            return ALONG_ROWS[node.op].format(self._aligned(arg, full), along, **dict(node.attrs)), ATOM
        text, binds = ELEMENTWISE[node.op]
        parts = []
        for place, arg in enumerate(node.args):
            part, level = self._aligned_with_level(arg, node.axes)
            if binds and (level > binds or (level == binds and place == 1 and node.op in ("sub", "div"))):
                part = f"({part})"
            parts.append(part)
        return text.format(*parts), binds

    def _aligned_with_level(self, node: Node, axes: tuple[Axis, ...]) -> tuple[str, int]:
        text, binds = self._print(node)
        if is_static(node):
            return text, binds
        new = aligned_text(text, binds, node.axes, axes)
        return new, (binds if new == text else ATOM)

    def _aligned(self, node: Node, axes: tuple[Axis, ...]) -> str:
        """`node` as an operand that broadcasts against a tile of `axes`."""
        return self._aligned_with_level(node, axes)[0]

    def _whole(self, node: Node, axes: tuple[Axis, ...]) -> str:
        """`node` with the full extent of every axis of `axes`."""
        text = self._aligned(node, axes)
        if inner(node.axes) == inner(axes) or not inner(axes):
            return text
        if inner(node.axes):
            return f"tl.broadcast_to({text}, {self.shape(axes)})"
        return f"tl.full({self.shape(axes)}, {text}, tl.float32)"

    # --- structure -------------------------------------------------------------------------------------------

    def _op_mul(self, node: Node) -> str | None:
        """A product with ones repeats a value, and one with a decay of nothing masks it; any other is a product."""
        if len(reads(node)) == 2:
            for mask, value in (node.args, node.args[::-1]):
                if is_mask(mask) and inner(mask.axes) == inner(node.axes):
                    return f"tl.where({seen_text(mask)}, {self._whole(value, node.axes)}, 0.0)"
            return None
        (value,) = reads(node)
        if value.op == "ones" or is_static(value):
            number = "1.0" if value.op == "ones" else self(value)
            return f"tl.full({self.shape(node.axes)}, {number}, tl.float32)" if inner(node.axes) else number
        return self._whole(value, node.axes)

    def _op_pow(self, node: Node) -> str | None:
        """A small whole power is a product: it has a value for negative numbers, and none of a logarithm's error."""
        base, exponent = node.args
        whole = exponent.op == "const" and float(exponent["value"]) in range(1, 9)
        return f"tile_whole_power({self(base)}, {int(exponent['value'])})" if whole else None

    def _op_ones(self, node: Node) -> str:
        return f"tl.full({self.shape(node.axes)}, 1.0, tl.float32)" if inner(node.axes) else "1.0"

    def _op_position(self, node: Node) -> str:
        return "(rows + 1).to(tl.float64)"

    def _op_iota(self, node: Node) -> str:
        return f"{self.place(node.axes[0])}.to(tl.float32)"

    def _op_eye(self, node: Node) -> str:
        first, second = (self.vector(axis, node.axes) for axis in node.axes)
        return f"tl.where({first} == {second}, 1.0, 0.0)"

    def _op_rename(self, node: Node) -> str:
        return self._renamed(node, self(node.args[0]))

    def _renamed(self, node: Node, text: str) -> str:
        table = dict(node["mapping"])
        return self._turned(text, inner(table.get(a, a) for a in node.args[0].axes), inner(node.axes))

    def _turned(self, text: str, source: tuple[Axis, ...], target: tuple[Axis, ...]) -> str:
        """A tile with axes in the order `source` in that of `target`."""
        if source == target:
            return text
        if len(source) == 2:
            return f"tl.trans({text})"
        return f"tl.permute({text}, ({', '.join(str(source.index(axis)) for axis in target)}))"

    def _op_sum(self, node: Node) -> str:
        arg = node.args[0]
        return self._summed(self.padding.zeroed(arg, node["over"], self(arg), arg.axes), arg.axes, node)

    def _summed(self, text: str, axes: tuple[Axis, ...], node: Node) -> str:
        axes = inner(axes)
        for axis in [axis for axis in self.kernel_part(node) if axis in axes]:
            text = f"tl.sum({text}, {axes.index(axis)})"
            axes = tuple(a for a in axes if a != axis)
        return text

    def _op_amax(self, node: Node) -> str:
        arg, text = node.args[0], self(node.args[0])
        axes = inner(arg.axes)
        for axis in node["over"]:
            if axis in dims(arg.axes):
                text = f'tl.where({self.vector(axis, axes, f"in_{dim_of(axis)}")}, {text}, float("-inf"))'
            text = f"tl.max({text}, {axes.index(axis)})"
            axes = tuple(a for a in axes if a != axis)
        return text

    def _op_take(self, node: Node) -> str:
        (arg,), axis = node.args, node["axis"]
        axes = inner(arg.axes)
        index = node["index"] if node["index"] >= 0 else f"{dim_of(axis)} - {-node['index']}"
        return f"tl.sum(tl.where({self.vector(axis, axes)} == {index}, {self(arg)}, 0.0), {axes.index(axis)})"

    def _op_put(self, node: Node) -> str:
        axis = node["axis"]
        index = node["index"] if node["index"] >= 0 else f"{dim_of(axis)} - {-node['index']}"
        return f"tl.where({self.vector(axis, node.axes)} == {index}, {self._aligned(node.args[0], node.axes)}, 0.0)"

    def _op_stack(self, node: Node) -> str:
        text = "0.0"
        for place in reversed(range(len(node.args))):
            part = self._aligned(node.args[place], node.axes)
            text = f"tl.where({self.vector(node['axis'], node.axes)} == {place}, {part}, {text})"
        return text

    # --- contractions ----------------------------------------------------------------------------------------

    def _op_dot(self, node: Node, more: str | None = None) -> str:
        """A contraction. more: the text of what is added to it."""
        a, b = node.args
        over = self.kernel_part(node)
        ours, theirs = inner(a.axes), inner(b.axes)
        left = tuple(axis for axis in ours if axis not in theirs)
        right = tuple(axis for axis in theirs if axis not in ours)
        matrix = is_matrix(node, over)
        texts = [self._side(arg) if matrix else self(arg) for arg in (a, b)]
        texts = [self.padding.operand(place, node, over, text) for place, text in enumerate(texts)]
        if is_batched(node, over):
            return self._batched(texts, (ours, theirs), over, inner(node.axes))
        if not matrix:
            every = sort_axes(set(ours) | set(theirs))
            parts = [aligned_text(text, LOOSE, arg.axes, every) for text, arg in zip(texts, (a, b))]
            return self._summed(" * ".join(f"({p})" if not simple(p) else p for p in parts), every, node)
        wanted = inner(node.axes)
        if wanted == (*right, *left) and wanted != (*left, *right):
            texts, ours, theirs, left, right = texts[::-1], theirs, ours, right, left
        first = self._matrix(texts[0], ours, left, over)
        second = self._matrix(texts[1], theirs, over, right)
        plain = len(left) == len(right) == 1 and (*left, *right) == wanted
        if more is not None:
            assert plain
            return f"tile_dot_add({first}, {second}, {more}, DOT)"
        crossing = any(axis.endswith(FROM) for axis in over)
        text = f"{'tile_wide_dot' if crossing else 'tile_dot'}({first}, {second}, DOT)"
        text = f"tile_dot_apart({first}, {second}, still, DOT)" if node in self.apart else text
        if len(left) > 1 or len(right) > 1:
            text = f"tl.reshape({text}, {self.shape((*left, *right))})"
        return self._turned(text, (*left, *right), wanted)

    def _batched(self, texts: list[str], axes: tuple[tuple[Axis, ...], ...], over: tuple[Axis, ...],
                 wanted: tuple[Axis, ...]) -> str:  # fmt: skip
        """Products of matrices, one for each place of the axes that both sides have."""
        ours, theirs = axes
        shared = tuple(axis for axis in ours if axis in theirs and axis not in over)
        left = tuple(axis for axis in ours if axis not in theirs)
        right = tuple(axis for axis in theirs if axis not in ours)
        sides = []
        for text, own, order in ((texts[0], ours, (shared, left, over)), (texts[1], theirs, (shared, over, right))):
            sizes = (" * ".join(map(self.size, part)) for part in order)
            turned = self._turned(text, own, tuple(axis for part in order for axis in part))
            side = turned if len(own) == 3 else f"tl.reshape({turned}, ({', '.join(sizes)}))"
            sides.append(f"{called(side)}.to(DOT)")
        result = (*shared, *left, *right)
        text = f'tl.dot({", ".join(sides)}, input_precision="ieee")'
        text = text if len(result) == 3 else f"tl.reshape({text}, {self.shape(result)})"
        return self._turned(text, result, wanted)

    def _op_add(self, node: Node) -> str | None:
        """A product of matrices that stands nowhere else is summed on top of the other term."""
        for product, other in (node.args, node.args[::-1]):
            if plain(product) in self.summed:
                return self._op_dot(plain(product), self._whole(other, node.axes))
        return None

    def _matrix(self, text: str, axes: tuple[Axis, ...], rows: tuple[Axis, ...], columns: tuple[Axis, ...]) -> str:
        """A tile as a matrix: several axes of a side are made one."""
        columns = tuple(axis for axis in axes if axis in columns) if len(columns) > 1 else tuple(columns)
        rows = tuple(axis for axis in axes if axis in rows) if len(rows) > 1 else tuple(rows)
        text = self._turned(text, axes, (*rows, *columns))
        if len(rows) == len(columns) == 1:
            return text
        sizes = (" * ".join(self.size(axis) for axis in side) for side in (rows, columns))
        return f"tl.reshape({text}, ({', '.join(sizes)}))"

    # --- rows, decays, scores, systems, scans --------------------------------------------------------------------

    def _op_shift(self, node: Node) -> str:
        rows, init = node.args
        below = tuple(axis for axis in node.axes if axis != ROW)
        init_text = self._aligned_row(init, below)
        return f"tile_shift({self._whole(rows, node.axes)}, {init_text}, {self.vector(ROW, node.axes)})"

    def _aligned_row(self, node: Node, axes: tuple[Axis, ...]) -> str:
        """A tile without rows as one that broadcasts along them."""
        return self._aligned(node, sort_axes((ROW, *axes)))

    def _op_decay(self, node: Node) -> str:
        bx, by = reads(node)
        if is_mask(node):
            return f"tl.where({seen_text(node)}, 1.0, 0.0)"
        return f"tile_decay_matrix({self(bx)}, {self(by)}, rows, {node['before']})"

    def _op_sum_between(self, node: Node) -> str:
        return f"tile_sum_between({self(node.args[0])}, rows, {node['before']})"

    def _op_diagonal(self, node: Node) -> str:
        return f"tile_diagonal({self(node.args[0])}, rows)"

    def _op_score(self, node: Node, more: str | None = None) -> str:
        """A score. more: the text of what is added to it."""
        x, y, log_decay = reads(node)
        channel = (ROW, node["over"])
        masked = self.padding.zeroed(x, (node["over"],), self._whole(x, channel), channel)
        rest = f"{self._whole(y, channel)}, {self._whole(log_decay, channel)}"
        return f"tile_score({masked}, {rest}, rows, {node['before']}, LEVELS, DOT{f', {more}' if more else ''})"

    def _op_score_rows(self, node: Node) -> str:
        return self._contracted("tile_score_rows", node, node["before"])

    def _op_score_cols(self, node: Node) -> str:
        return self._contracted("tile_score_cols", node, node.args[1]["before"])

    def _contracted(self, function: str, node: Node, before: bool) -> str:
        return f"{function}({', '.join(self.paired(node))}, rows, {before}, LEVELS, DOT)"

    def paired(self, node: Node) -> tuple[str, str, str]:
        """Of a sum over pairs of tokens: its pairs, the side that they are multiplied with, and the log decay."""
        a, side, log_decay = reads(node)
        channel = (ROW, node["over"])
        first = self._side(a) if inner(a.axes) == (ROW, COL) else self._whole(a, (ROW, COL))
        return first, self._whole(side, channel), self._whole(log_decay, channel)

    def _op_channel_since(self, node: Node) -> str:
        (log_decay,) = reads(node)
        return f"tile_since_start({self(log_decay)}, {node['before']}, LEVELS)"

    def _op_channel_tail(self, node: Node) -> str:
        (log_decay,) = reads(node)
        return f"tile_until_last({self(log_decay)}, {self.vector(ROW, log_decay.axes)}, end, LEVELS)"

    def _op_inverse(self, node: Node) -> str:
        text = self(node.args[0])
        if RANK not in node.axes:
            return f"tile_unit_inverse({text}, 1, LEVELS)"
        flat = f"tl.reshape({text}, (ROWS * {self.ranks}, ROWS * {self.ranks}))"
        return f"tl.reshape(tile_unit_inverse({flat}, {self.ranks}, LEVELS), {self.shape(node.axes)})"

    def _op_scan(self, node: Node) -> str:
        a, x, init = node.args
        below = tuple(axis for axis in node.axes if axis != ROW)
        parts = f"{self._whole(a, node.axes)}, {self._whole(x, node.axes)}, {self._aligned_row(init, below)}"
        return f'tile_scan({parts}, {self.vector(ROW, node.axes)}, "{node["kind"]}")'

    def _op_rscan(self, node: Node) -> str:
        a, g, last = node.args
        below = tuple(axis for axis in node.axes if axis != ROW)
        parts = f"{self._whole(a, node.axes)}, {self._whole(g, node.axes)}, {self._aligned_row(last, below)}"
        return f"tile_rscan({parts}, {self.vector(ROW, node.axes)}, end)"

    def _op_part(self, node: Node) -> str:
        return f"{self(node.args[0])}[{node['index']}]"

    def _op_pair_scan(self, node: Node) -> str:
        *parts, re, im = node.args
        below = tuple(axis for axis in node.axes if axis != ROW)
        text = ", ".join(self._whole(part, node.axes) for part in parts)
        rest = f"{self._aligned_row(re, below)}, {self._aligned_row(im, below)}"
        return f"tile_pair_scan({text}, {rest}, {self.vector(ROW, node.axes)})"

    def _op_pair_rscan(self, node: Node) -> str:
        return f"{self._op_pair_scan(node).replace('tile_pair_scan', 'tile_pair_rscan')[:-1]}, end)"

    def _op_pair_span_gain(self, node: Node) -> str:
        return self._span("tile_pair_span_gain", node, "")

    def _op_pair_span_sum(self, node: Node) -> str:
        return self._span("tile_pair_span_sum", node, "")

    def _op_pair_span_rsum(self, node: Node) -> str:
        return self._span("tile_pair_span_rsum", node, "")

    def _op_span_gain(self, node: Node) -> str:
        arg = node.args[0]
        return f'tile_span_gain({self(arg)}, {self.vector(ROW, arg.axes)}, end, "{node["kind"]}")'

    def _op_span_sum(self, node: Node) -> str:
        return self._span("tile_span_sum", node, f', "{node["kind"]}"')

    def _op_span_rsum(self, node: Node) -> str:
        return self._span("tile_span_rsum", node, "")

    def _span(self, function: str, node: Node, more: str) -> str:
        full = sort_axes((*node.axes, ROW))
        parts = ", ".join(self._whole(arg, full) for arg in node.args)
        return f"{function}({parts}, {self.vector(ROW, full)}, end{more})"
