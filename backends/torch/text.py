"""Expressions of tiles as torch source text: one operand layout (a node's sorted axes), no decisions."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable

from recc.backends.torch.binding import ATOM, BINDS, PRODUCT, is_static
from recc.backends.torch.rows import Rows

from recc.ir.node import COL, COMPLEX, GRID, HEADS, REAL, ROW, Axis, Node, dim_of, sort_axes
from recc.ir.ops import OPS, ZERO, build, is_zero
from recc.tile.ops import LEAST
from recc.tile.solve import column_of

_NEED_TENSOR = {"atan2", "maximum", "minimum", "logaddexp", "complex"}
_STATIC = {name: f"math.{name}" for name in ("exp", "log", "sqrt", "sin", "cos", "tanh", "log1p", "expm1", "erf")}
_STATIC["abs"] = "abs"
_LETTERS = {GRID: "n", HEADS: "h", ROW: "t", COL: "s"}


def _of_numbers(node: Node) -> bool:
    """Whether torch would choose between two numbers, whose dtype it does not know: float32."""
    return node.op == "where" and all(is_static(arg) for arg in node.args[1:])


def inlinable(node: Node) -> bool:
    """Whether a node's text may stand inside its only user's: elementwise ops and relabelling."""
    return node.op in BINDS or node.op in ("rename",) or (OPS[node.op].torch != "" and node.op != "stopgrad")


class Text(Rows):
    """Prints a node, given the text of what already has a name.

    named(node) returns the variable that holds a node in this place, or None to print it in line.
    sizes(axis) returns the text of an axis' size.
    """

    def __init__(self, named: Callable[[Node], str | None], sizes: Callable[[Axis], str]) -> None:
        self.named, self.sizes = named, sizes

    def __call__(self, node: Node) -> str:
        return self._print(node)[0]

    def define(self, node: Node) -> str:
        """The text that computes `node` itself, even where it has a name."""
        return self._compute(node)[0]

    # --- printing ------------------------------------------------------------------------------------------

    def _print(self, node: Node) -> tuple[str, int]:
        name = self.named(node)
        return (name, ATOM) if name is not None else self._compute(node)

    def _compute(self, node: Node) -> tuple[str, int]:
        if is_static(node):
            return self._static(node)
        special = getattr(self, f"_op_{node.op}", None)
        text = special(node) if special is not None else None
        if text is not None:
            return text, ATOM
        text = self._multiply_add(node)
        if text is not None:
            return text, ATOM
        entry = OPS[node.op]
        level = BINDS.get(node.op, ATOM)
        parts = []
        for place, arg in enumerate(node.args):
            if is_static(arg) and (node.op in _NEED_TENSOR or _of_numbers(node)):
                parts.append(f"like.new_tensor({self(arg)})")
                continue
            text, binds = self._aligned(arg, node.axes)
            if level and (binds > level or (binds == level and place == 1 and node.op in ("sub", "div", "pow"))):
                text = f"({text})"
            elif level == 0 and entry.torch.startswith("{0}.") and binds > ATOM:
                text = f"({text})"
            parts.append(text)
        return entry.torch.format(*parts), level

    def _multiply_add(self, node: Node) -> str | None:
        """A sum with a product that has no other use, as one pass over memory."""
        if node.op not in ("add", "sub") or node.dtype != REAL:
            return None
        for product, rest in ((node.args[1], node.args[0]), (node.args[0], node.args[1])):
            if node.op == "sub" and product is node.args[0]:
                continue
            wide = rest.op in ("cumsum", "position")  # float64, which addcmul does not mix with float32
            if product.op != "mul" or self.named(product) is not None or is_static(rest) or wide:
                continue
            if any(is_static(arg) or arg.op in ("ones", "position") for arg in product.args):
                continue
            parts = [self._aligned(arg, node.axes)[0] for arg in (rest, *product.args)]
            return f"torch.addcmul({', '.join(parts)}{', value=-1' if node.op == 'sub' else ''})"
        return None

    def _aligned(self, node: Node, axes: tuple[Axis, ...]) -> tuple[str, int]:
        """`node` as an operand that broadcasts against `axes`."""
        text, binds = self._print(node)
        if is_static(node):
            return text, binds
        index = [":" if axis in node.axes else "None" for axis in axes]
        while index and index[0] == "None":
            index.pop(0)
        while index and index[-1] == ":":
            index.pop()
        if not index:
            return text, binds
        return f"{text if binds == ATOM else f'({text})'}[{', '.join(index)}]", ATOM

    def _atom(self, node: Node) -> str:
        text, binds = self._print(node)
        return text if binds == ATOM else f"({text})"

    def _static(self, node: Node) -> tuple[str, int]:
        if node.op == "const":
            value = float(node["value"])
            if math.isinf(value) or math.isnan(value):
                return f'float("{value}")', ATOM
            return (repr(value), ATOM) if value >= 0 else (f"({value!r})", ATOM)
        if node.op == "size":
            return self.sizes(node["dim"]), ATOM
        args = [self._static(arg) for arg in node.args]
        if node.op in _STATIC and node.args[0].dtype != COMPLEX:
            return f"{_STATIC[node.op]}({args[0][0]})", ATOM
        if node.op in ("add", "sub", "mul", "div", "neg", "pow"):
            return "(" + OPS[node.op].torch.format(*(text for text, _ in args)) + ")", ATOM
        dtypes = ("complex128" if arg.dtype == COMPLEX else "float64" for arg in node.args)
        tensors = (f"torch.tensor({text}, dtype=torch.{dtype})" for (text, _), dtype in zip(args, dtypes))
        return f"({OPS[node.op].torch.format(*tensors)}).item()", ATOM

    def _dim(self, node: Node, axis: Axis) -> int:
        return node.axes.index(axis) - len(node.axes)

    # --- structure -------------------------------------------------------------------------------------------

    def _op_mul(self, node: Node) -> str | None:
        """A product with ones repeats a value; any other is printed as a product."""
        a, b = node.args
        if b.op == "ones":
            return self._expanded(a, node)
        if a.op == "ones":
            return self._expanded(b, node)
        return None

    def _filled(self, sizes: str, number: Node) -> str:
        """A tensor that holds one number everywhere; a real `like` makes no complex one."""
        if number.dtype == COMPLEX:
            return f"(like.new_ones({sizes}) * {self(number)})"
        return f"like.new_full({sizes}, {self(number)})"

    def _expanded(self, a: Node, node: Node) -> str:
        if is_static(a):
            sizes = ", ".join(self.sizes(axis) for axis in node.axes)
            return self._filled(f"({sizes},)", a)
        text, binds = self._aligned(a, node.axes)
        sizes = ["-1" if axis in a.axes else self.sizes(axis) for axis in node.axes]
        return f"{text if binds == ATOM else f'({text})'}.expand({', '.join(sizes)})"

    def _op_ones(self, node: Node) -> str:
        return f"like.new_ones({', '.join(self.sizes(axis) for axis in node.axes)})"

    def _op_position(self, node: Node) -> str:
        return f"torch.arange(1, {self.sizes(ROW)} + 1, dtype=torch.float64, device=like.device)"

    def _op_iota(self, node: Node) -> str:
        return f"torch.arange({self.sizes(node.axes[0])}, dtype=like.dtype, device=like.device)"

    def _op_eye(self, node: Node) -> str:
        return f"torch.eye({self.sizes(node.axes[0])}, dtype=like.dtype, device=like.device)"

    def _op_rename(self, node: Node) -> str:
        table = dict(node["mapping"])
        source = [table.get(axis, axis) for axis in node.args[0].axes]
        if tuple(source) == node.axes:
            return self._atom(node.args[0])
        if len(source) > 1 and (*source[:-2], source[-1], source[-2]) == node.axes:
            return f"{self._atom(node.args[0])}.mT"
        return f"{self._atom(node.args[0])}.permute({', '.join(str(source.index(axis)) for axis in node.axes)})"

    def _op_sum(self, node: Node) -> str:
        return f"{self._atom(node.args[0])}.sum({self._dims(node)})"

    def _op_amax(self, node: Node) -> str:
        return f"{self._atom(node.args[0])}.amax({self._dims(node)})"

    def _dims(self, node: Node) -> str:
        dims = [self._dim(node.args[0], axis) for axis in node.args[0].axes if axis in node["over"]]
        return str(dims[0]) if len(dims) == 1 else str(tuple(dims))

    def _op_take(self, node: Node) -> str:
        return f"{self._atom(node.args[0])}.select({self._dim(node.args[0], node['axis'])}, {node['index']})"

    def _op_put(self, node: Node) -> str:
        size = node["size"] if isinstance(node["size"], int) else self.sizes(node["size"])
        return f"put({self(node.args[0])}, {self._dim(node, node['axis'])}, {node['index']}, {size})"

    def _op_stack(self, node: Node) -> str:
        inner = tuple(axis for axis in node.axes if axis != node["axis"])
        parts = [self._aligned(arg, inner)[0] for arg in node.args]
        return f"stacked({self._dim(node, node['axis'])}, {', '.join(parts)})"

    def _op_dot(self, node: Node) -> str:
        a, b = (self._matching(arg, node) for arg in node.args)
        over = node["over"]
        batch = tuple(axis for axis in a.axes if axis in b.axes and axis not in over)
        left = tuple(axis for axis in a.axes if axis not in b.axes)
        right = tuple(axis for axis in b.axes if axis not in a.axes)
        if not left and not right:
            first, second = self._aligned(a, a.axes), self._aligned(b, a.axes)
            product = " * ".join(text if binds <= PRODUCT else f"({text})" for text, binds in (first, second))
            dims = [i - len(a.axes) for i, axis in enumerate(a.axes) if axis in over]
            return f"({product}).sum({dims[0] if len(dims) == 1 else tuple(dims)})"
        if len(left) == len(right) == len(over) == 1:
            matrix = self._matmul(a, b, batch, left[0], right[0], over[0], node.axes)
            if matrix is not None:
                return matrix
        letters = self._letters(a.axes + b.axes)
        spell = ["".join(letters[axis] for axis in axes) for axes in (a.axes, b.axes, node.axes)]
        return f'torch.einsum("{spell[0]},{spell[1]}->{spell[2]}", {self(a)}, {self(b)})'

    @staticmethod
    def _matching(arg: Node, node: Node) -> Node:
        """torch multiplies matrices of one dtype only."""
        return arg if arg.dtype == node.dtype else build("complex", arg, ZERO)

    def _matmul(self, a: Node, b: Node, batch: tuple, left: Axis, right: Axis, over: Axis, out: tuple) -> str | None:
        if out == (*batch, right, left):
            a, b, left, right = b, a, right, left
        elif out != (*batch, left, right):
            return None
        sides = []
        for node, order in ((a, (*batch, left, over)), (b, (*batch, over, right))):
            if node.axes == order:
                sides.append(self._atom(node))
            elif node.axes == (*order[:-2], order[-1], order[-2]):
                sides.append(f"{self._atom(node)}.mT")
            else:
                return None
        return f"({sides[0]} @ {sides[1]})"

    @staticmethod
    def _letters(axes: tuple[Axis, ...]) -> dict[Axis, str]:
        chosen: dict[Axis, str] = {}
        spare = iter("abcdefgijklmopqruvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        for axis in dict.fromkeys(axes):
            wish = _LETTERS.get(axis) or dim_of(axis)[0].lower()
            if wish in chosen.values() or wish in _LETTERS.values() and axis not in _LETTERS or not wish.isalpha():
                wish = next(letter for letter in spare if letter not in chosen.values())
            chosen[axis] = wish
        return chosen

    # --- decays, scores, systems ------------------------------------------------------------------------

    def _op_decay(self, node: Node) -> str:
        bx, by, _ = node.args
        if is_zero(bx) and is_zero(by):
            return f"triangle({self.sizes(ROW)}, {node['before']}, like)"
        return f"decay_matrix({self(bx)}, {self(by)}, {node['before']}, like.dtype)"

    def _op_bounded(self, node: Node) -> str:
        return f"{self._atom(node.args[0])}.clamp_min({LEAST})"

    def _op_sum_between(self, node: Node) -> str:
        return f"sum_between({self(node.args[0])}, {node['before']})"

    def _op_sum_before(self, node: Node) -> str:
        return self._on_row("sum_before", node, self._dim(node, ROW), "end")

    def _op_diagonal(self, node: Node) -> str:
        return f"{self._atom(node.args[0])}.diagonal(dim1=-2, dim2=-1)"

    def _op_score(self, node: Node) -> str:
        x, y, late, early = (node.args[place] for place in (0, 2, 5, 6))
        tile = (GRID, HEADS, ROW, node["over"])
        same = "" if node["before"] else f", {self._aligned(x, tile)[0]}, {self._aligned(y, tile)[0]}"
        return f"score({self(late)}, {self(early)}{same})"

    def _op_score_rows(self, node: Node) -> str:
        return self._contracted("score_rows", node, f", {node['before']}")

    def _op_score_cols(self, node: Node) -> str:
        return self._contracted("score_cols", node, "")

    def _contracted(self, function: str, node: Node, more: str) -> str:
        a = self._aligned(node.args[0], (GRID, HEADS, ROW, COL))[0]
        return f"{function}({a}, {self(node.args[1])}, {self(node.args[2])}{more})"

    def _op_late_side(self, node: Node) -> str:
        return f"late_side({self._tile(node)}, {self(node.args[1])}, {node['before']})"

    def _op_early_side(self, node: Node) -> str:
        return f"early_side({self._tile(node)}, {self(node.args[1])})"

    def _tile(self, node: Node) -> str:
        (channel,) = (axis for axis in node.axes if axis not in (GRID, HEADS, ROW))
        return self._aligned(node.args[0], (GRID, HEADS, ROW, channel))[0]

    def _op_levels(self, node: Node) -> str:
        return f"levels({self._tile(node)})"

    def _op_since(self, node: Node) -> str:
        return f"decay_of({self(node.args[0])}, like.dtype)"

    def _op_channel_since(self, node: Node) -> str:
        return f"since_start({self(node.args[1])}, {node['before']})"

    def _op_channel_tail(self, node: Node) -> str:
        return f"until_last({self(node.args[1])}, {self(node.args[2])}, {self._dim(node, ROW)}, end)"

    def _op_inverse(self, node: Node) -> str:
        return f"unit_inverse({self(node.args[0])}, {len([a for a in node.axes if a not in (GRID, HEADS)])})"

    # --- nonlinear recurrences -----------------------------------------------------------------------------------

    def _op_newton(self, node: Node) -> str:
        count, rows = len(node["names"]), node["states"][0].axes
        inner = tuple(axis for axis in rows if axis != ROW)
        enter = [self._aligned(arg, inner)[0] for arg in node.args[:count]]
        taken = [self(arg) for arg in node.args[count:]]
        places = [arg.axes.index(ROW) - len(arg.axes) if ROW in arg.axes else None for arg in node.args[count:]]
        step = solver_name(node["names"])
        tuples = ", ".join(f"({', '.join(map(str, part))},)" if part else "()" for part in (enter, taken, places))
        axis = rows.index(ROW) - len(rows)
        return (
            f"newton(step_{step}, slopes_{step}, {tuples}, {axis}, {self.sizes(ROW)}, end, {node['dim'] is not None})"
        )

    def _op_wavefront(self, node: Node) -> str:
        count, full = len(node["names"]), node["states"][0].axes
        inner = tuple(axis for axis in full if axis != ROW)
        enter = [self._aligned(arg, inner)[0] for arg in node.args[:count]]
        taken = self._cells(node.args[count:], node)
        return f"wavefront(cell_{solver_name(node['names'])}, {_tuple(enter)}, {taken})"

    def _op_wavefront_flow(self, node: Node) -> str:
        count, full = len(node["names"]), node["states"][0].axes
        every = [self._aligned(arg, full)[0] for arg in node.args]
        above, before, g = (_tuple(every[lo : lo + count]) for lo in (0, count, len(every) - count))
        taken = self._cells(node.args[2 * count : -count], node, g)
        return f"wavefront_flow(flow_{solver_name(node['names'])}, {above}, {before}, {taken})"

    def _cells(self, taken: tuple[Node, ...], node: Node, *more: str) -> str:
        """What the step of a cell takes, where it has rows and columns, and where the states have them."""
        full, axis = node["states"][0].axes, node["axis"]
        rows = [self._dim(arg, ROW) if ROW in arg.axes else None for arg in taken]
        columns = [self._dim(arg, axis) if ROW in arg.axes else None for arg in taken]
        at = f"({full.index(ROW) - len(full)}, {full.index(axis) - len(full)})"
        parts = [_tuple([self(arg) for arg in taken]), _tuple(rows), _tuple(columns), *more, at, self.sizes(ROW), "end"]
        return ", ".join(parts)

    def _op_beside(self, node: Node) -> str:
        return f"beside({self(node.args[0])}, {self._dim(node, node['axis'])})"

    def _op_matrix_scan(self, node: Node) -> str:
        inner = tuple(axis for axis in node.axes if axis != ROW)
        parts = f"{self._whole(node.args[1], node)}, {self._aligned(node.args[2], inner)[0]}"
        return f"matrix_scan({self(node.args[0])}, {parts}, {self._at(node)}, end)"

    def _op_matrix_sum(self, node: Node) -> str:
        full = sort_axes((*node.axes, ROW))
        return f"matrix_sum({self(node.args[0])}, {self._aligned(node.args[1], full)[0]}, {self._at(node)}, end)"

    def _op_matrix_rscan(self, node: Node) -> str:
        inner = tuple(axis for axis in node.axes if axis != ROW)
        g = "None" if is_zero(node.args[1]) else self._whole(node.args[1], node)
        tail = "None" if is_zero(node.args[2]) else self._aligned(node.args[2], inner)[0]
        return f"matrix_rscan({self(node.args[0])}, {g}, {tail}, {self._at(node)}, end)"

    def _op_matrix_gain(self, node: Node) -> str:
        return f"matrix_gain({self(node.args[0])}, {self._at(node)}, end)"

    def _op_matrix_rsum(self, node: Node) -> str:
        full = sort_axes((*node.axes, ROW))
        return f"matrix_rsum({self(node.args[0])}, {self._aligned(node.args[1], full)[0]}, {self._at(node)}, end)"

    def _at(self, node: Node) -> str:
        """Where a matrix has its rows, and the axes that it maps to and from."""
        matrix = node.args[0]
        outs = tuple(self._dim(matrix, axis) for axis in node["outs"])
        ins = tuple(self._dim(matrix, column_of(axis)) for axis in node["outs"])
        return f"({self._dim(matrix, ROW)}, {outs}, {ins})"


def _tuple(parts: Iterable[object]) -> str:
    listed = ", ".join(map(str, parts))
    return f"({listed},)" if listed else "()"


def solver_name(states: tuple[str, ...]) -> str:
    """What the functions of a solved component are called after."""
    return "_".join(re.sub(r"\W", "_", name) for name in states)
