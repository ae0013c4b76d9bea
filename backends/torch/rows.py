"""The text of what runs along the rows of a chunk: sums, shifts, scans, powers and convolutions."""

from __future__ import annotations

from recc.backends.torch.binding import ATOM, is_static

from recc.ir.node import GRID, ROW, Axis, Node, sort_axes
from recc.ir.ops import is_zero, spread


class Rows:
    """Part of recc.backends.torch.text.Text."""

    # --- rows ------------------------------------------------------------------------------------------------

    def _on_row(self, function: str, node: Node, dim: int, *more: str) -> str:
        return f"{function}({', '.join([self(node.args[0]), str(dim), *more])})"

    def _op_cumsum(self, node: Node) -> str:
        return self._on_row("cumsum", node, self._dim(node, ROW))

    def _op_rcumsum(self, node: Node) -> str:
        return self._on_row("rcumsum", node, self._dim(node, ROW))

    def _op_end(self, node: Node) -> str:
        return self._on_row("at_end", node, self._dim(node.args[0], ROW), "end")

    def _op_put_end(self, node: Node) -> str:
        return self._on_row("put_end", node, self._dim(node, ROW), "end", self.sizes(ROW))

    def _op_first(self, node: Node) -> str:
        return f"{self._atom(node.args[0])}.select({self._dim(node.args[0], ROW)}, 0)"

    def _op_put_first(self, node: Node) -> str:
        return f"put({self(node.args[0])}, {self._dim(node, ROW)}, 0, {self.sizes(ROW)})"

    def _op_until_end(self, node: Node) -> str:
        return self._on_row("until_end", node, self._dim(node, ROW), "end")

    def _op_tail(self, node: Node) -> str:
        return self._on_row("tail", node, self._dim(node, ROW), "end", "like.dtype")

    def _op_shift(self, node: Node) -> str:
        inner = tuple(axis for axis in node.axes if axis != ROW)
        rows = self._whole(node.args[0], node)
        init = self._aligned(node.args[1], inner)[0]
        return f"shift({rows}, {init}, {self._dim(node, ROW)})"

    def _op_unshift(self, node: Node) -> str:
        return self._on_row("unshift", node, self._dim(node, ROW))

    def _whole(self, node: Node, like: Node) -> str:
        """`node` with every axis of `like`, in case it broadcasts."""
        return self._aligned(node, like.axes)[0]

    # --- scans --------------------------------------------------------------------------------------------

    def _op_scan(self, node: Node) -> str:
        inner = tuple(axis for axis in node.axes if axis != ROW)
        a, x = (self._whole(arg, node) for arg in node.args[:2])
        init = self._aligned(node.args[2], inner)[0]
        return f'scan({a}, {x}, {init}, {self._dim(node, ROW)}, "{node["kind"]}")'

    def _op_rscan(self, node: Node) -> str:
        inner = tuple(axis for axis in node.axes if axis != ROW)
        a = self._whole(node.args[0], node)
        g = "None" if is_zero(node.args[1]) else self._whole(node.args[1], node)
        tail = "None" if is_zero(node.args[2]) else self._aligned(node.args[2], inner)[0]
        return f"rscan({a}, {g}, {tail}, {self._dim(node, ROW)}, end)"

    def _op_span_gain(self, node: Node) -> str:
        return f'span_gain({self(node.args[0])}, {self._dim(node.args[0], ROW)}, "{node["kind"]}", end)'

    def _op_span_sum(self, node: Node) -> str:
        axes = (*node.axes, ROW)
        full = sort_axes(axes)
        a, x = (self._aligned(arg, full)[0] for arg in node.args)
        return f'span_sum({a}, {x}, {full.index(ROW) - len(full)}, "{node["kind"]}", end)'

    def _op_span_rsum(self, node: Node) -> str:
        full = sort_axes((*node.axes, ROW))
        a, g = (self._aligned(arg, full)[0] for arg in node.args)
        return f"span_rsum({a}, {g}, {full.index(ROW) - len(full)}, end)"

    # --- the same transition at every token ---------------------------------------------------------------

    def _op_krylov(self, node: Node) -> str:
        a, v = node.args
        dim, rows = self._dim(node, ROW), self.sizes(ROW)
        if node["axis"] is None:
            a, v = (self._without_rows(arg, node) for arg in (a, v))
            return f"krylov({a}, {v}, {dim}, {rows})"
        v = self._without_rows(v, node)
        return f"krylov_of({self(a)}, {v}, {dim}, {rows}, {self._equations(node)})"

    def _op_gather(self, node: Node) -> str:
        a, g = node.args
        if node["axis"] is None:
            return f"gather({self._without_rows(a, node)}, {self._whole(g, node)}, {self._dim(node, ROW)})"
        return f"gather_of({self(a)}, {self._whole(g, node)}, {self._dim(node, ROW)}, {self._equations(node)})"

    def _without_rows(self, arg: Node, node: Node) -> str:
        """`arg` as an operand for the axes of `node`, that of the rows being of size one."""
        axes = node.axes
        if is_static(arg):
            return self._filled(str((1,) * len(axes)), arg)
        inner = tuple(axis for axis in axes if axis != ROW)
        text, binds = self._aligned(arg, inner)
        return f"{text if binds == ATOM else f'({text})'}.unsqueeze({axes.index(ROW) - len(axes)})"

    def _equations(self, node: Node) -> str:
        """einsum's for a matrix of powers applied to rows, and to itself."""
        a, axis, column = node.args[0], node["axis"], node["column"]
        letter = self._letters((*node.axes, *a.axes, "@z"))

        def spell(axes: tuple[Axis, ...], **moved: Axis) -> str:
            return "".join(letter[moved.get(x, x)] for x in axes)

        rows, result = spell(node.axes, **{axis: column}), spell(node.axes)
        inner = spell(a.axes, **{axis: column, column: "@z"}), spell(a.axes, **{column: "@z"})
        return f'"{spell(a.axes)},{rows}->{result}", "{spell(a.axes)},{inner[0]}->{inner[1]}"'

    def _op_convolve(self, node: Node) -> str:
        sides = [self._in_rows(arg) for arg in node.args]
        letter = self._letters(tuple(axis for axes in (node.axes, *(axes for _, axes in sides)) for axis in axes))
        spell = ["".join(letter[axis] for axis in axes) for axes in (*(axes for _, axes in sides), node.axes)]
        dims = tuple(axes.index(ROW) - len(axes) for axes in (*(axes for _, axes in sides), node.axes))
        values = ", ".join(text for text, _ in sides)
        return f'{node.op}({values}, {dims}, {self.sizes(ROW)}, "{spell[0]},{spell[1]}->{spell[2]}")'

    _op_correlate = _op_convolve

    def _in_rows(self, arg: Node) -> tuple[str, tuple[Axis, ...]]:
        """A factor of a convolution, and its axes with that of the rows."""
        arg = spread(arg, (ROW,))
        return self(arg), arg.axes

    def _op_turned(self, node: Node) -> str:
        return self._on_row("turned", node, self._dim(node, ROW), "end")

    def _op_pick(self, node: Node) -> str:
        return self._on_row("pick", node, self._dim(node.args[0], ROW), "end", self.sizes(GRID))

    def _op_unpick(self, node: Node) -> str:
        return self._on_row("unpick", node, self._dim(node, ROW), "end", self.sizes(ROW))
