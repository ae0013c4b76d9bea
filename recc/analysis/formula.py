"""What a plan and a strategy mean as equations in the spec's own names: the lines that `recc explain` prints.

A line is (left, right, remark). Log decays are natural logarithms, summed up from the chunk's start; `x . y` sums over
the mixing axis; `b-` is b without the token's own decay, which is what a read of the state before its update sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from recc.analysis.columns import grid_of
from recc.analysis.filters import Filter, filter_of
from recc.analysis.plan import Affine, Component, Coupled, Nonlinear, Plan, Reason, Semiring, Write
from recc.analysis.reads import Read, reads_in
from recc.ir.node import HEADS, REAL, Node, walk
from recc.ir.ops import is_const, is_zero, leaf, mul, neg
from recc.ir.printer import show
from recc.tile.solve import slopes_of

Line = tuple[str, str, str]
LIMIT = 110


class Writer:
    """Prints the nodes of one plan, and remembers which of the spec's locals it called by name."""

    def __init__(self, plan: Plan) -> None:
        self.rec = plan.recurrence
        self.used: dict[Node, str] = {}

    def text(self, node: Node, *, atom: bool = False) -> str:
        self._note(node)
        text = show(node, self.rec.names, LIMIT)
        return f"({text})" if atom and " " in text and not _closed(text) else text

    def _note(self, node: Node, inside: bool = False) -> None:
        stack, seen = [node], {node}
        while stack:
            here = stack.pop()
            if here in self.rec.names and not (inside and here is node):
                self.used.setdefault(here, self.rec.names[here])
            else:
                stack.extend(arg for arg in here.args if arg not in seen)
                seen.update(here.args)

    def definitions(self) -> list[Line]:
        """`name = expression` for every local mentioned so far, and for those that these mention."""
        lines: list[Line] = []
        todo = list(self.used)
        for node in todo:  # grows while it runs
            known = len(self.used)
            self._note(node, inside=True)
            todo += list(self.used)[known:]
            others = {other: name for other, name in self.rec.names.items() if other is not node}
            lines.append((self.used[node], show(node, others, LIMIT), ""))
        return lines


def _jacobian(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The entries of the Jacobian where it acts element by element."""
    states = [plan.recurrence.state(name) for name in component.states]
    if not component.structure.startswith(("diagonal", "block")) or any(state.dtype != REAL for state in states):
        return []
    return [(f"d{new}[t]/d{old}[t-1]", text, "the Jacobian") for new, old, text in _slopes(component, plan, say)]


def _slopes(component: Component, plan: Plan, say: Writer) -> Iterator[tuple[str, str, str]]:
    """Each new state by each old one, where they are coupled element by element."""
    states = [plan.recurrence.state(name) for name in component.states]
    olds = tuple(leaf("state", state.axes, state.dtype, name=state.name, when="old") for state in states)
    entries = slopes_of(tuple(plan.updates[name] for name in component.states), olds, None)
    pairs = [(new, old) for new in component.states for old in component.states]
    for (new, old), entry in zip(pairs, entries, strict=True):
        yield new, old, say.text(entry)


def _closed(text: str) -> bool:
    """Whether `text` is one call or one parenthesis, `f(a + b)`, so that it needs no more of them."""
    if not text.endswith(")"):
        return False
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if sign == " " and depth == 0 or sign == ")" and depth == 0 and place < len(text) - 1:
            return False
    return True


def normal_form(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The component's update in the form that its class is defined by."""
    name, kind = component.states[0], component.kind
    match kind:
        case Nonlinear():
            update = [(f"{state}[t]", say.text(plan.updates[state]), "") for state in component.states]
            return [*update, *_jacobian(component, plan, say)]
        case Semiring(column=column) if column is not None:
            word = "max" if kind.kind == "max" else "logsumexp"
            return [(f"{name}[t]", f"{word}({say.text(kind.gain)} + {name}[t-1])", "over what was before")]
        case Semiring():
            gain = "" if is_zero(kind.gain) else f"{say.text(kind.gain)} + "
            return [(f"{name}[t]", f"{_sum_of(kind)}({gain}{name}[t-1], {say.text(kind.bias)})", "")]
        case Affine("zero"):
            return [(f"{name}[t]", say.text(plan.updates[name]), "")]
        case Affine(coupled=Coupled() as coupled):
            from recc.analysis.coupled_formula import coupled_form

            return coupled_form(component, coupled, say)
        case Affine() if kind.structure.startswith("block"):
            return [(f"{state}[t]", say.text(plan.updates[state]), "") for state in component.states]
        case Affine() if kind.not_matrix is not None and (kind.structure == "dense" or kind.mixing is not None):
            return [(f"{name}[t]", say.text(plan.updates[name]), "")]
        case Affine() if kind.not_matrix is not None or kind.mixing is None:
            bias = "" if is_zero(kind.bias) else f" + {say.text(kind.bias)}"
            return [(f"{name}[t]", f"{times(kind.decay, f'{name}[t-1]', say)}{bias}", "D * S + B")]
    assert isinstance(kind, Affine)
    terms = [times(kind.decay, f"{name}[t-1]", say)]
    terms += [f"{say.text(write.key, atom=True)} (x) {value}" for write, value in _values(kind, say)]
    lines = [(f"{name}[t]", plus(terms), "D * S + sum of key (x) value")]
    for r, w in enumerate(kind.ranks):
        text = f"{say.text(w, atom=True)} . {name}[t-1]"
        lines.append((read_name(kind, r), text, f"w . S, a sum over {kind.mixing}"))
    return lines


def _sum_of(kind: Semiring) -> str:
    return "max" if kind.kind == "max" else "logaddexp"


def read_name(kind: Affine, r: int) -> str:
    return "y" if len(kind.ranks) == 1 else f"y{r + 1}"


def times(factor: Node, what: str, say: Writer) -> str:
    if is_const(factor, 1):
        return what
    return f"{say.text(factor) if factor.op == 'mul' else say.text(factor, atom=True)} * {what}"


def plus(terms: Iterable[str]) -> str:
    text = ""
    for term in terms:
        if text:
            text += f" - {term[1:]}" if term.startswith("-") else f" + {term}"
        else:
            text = term
    return text or "0"


def value_of(write: Write, kind: Affine, say: Writer, read: str = "") -> str:
    """What is written under a key; `read`: how the rank reads are called."""
    terms = [] if is_zero(write.const) else summands(write.const)
    for r, scale in write.of_read:
        y = leaf("input", name=read_name(kind, r).replace("y", read or "y"))
        terms += [mul(term, y) for term in summands(scale)]
    return plus(signed(term, say) for term in terms)


def summands(node: Node) -> list[Node]:
    if node.op not in ("add", "sub"):
        return [node]
    left, right = node.args
    return summands(left) + [neg(term) if node.op == "sub" else term for term in summands(right)]


def signed(node: Node, say: Writer) -> str:
    """A product with its minus signs in front."""
    minus, factors = False, []
    stack = [node]
    while stack:
        here = stack.pop()
        if here.op == "neg" and here not in say.rec.names:
            minus = not minus
            stack.append(here.args[0])
        elif here.op == "mul" and here not in say.rec.names:
            stack += here.args[::-1]
        else:
            factors.append(here)
    product = factors[0]
    for factor in factors[1:]:
        product = mul(product, factor)
    return f"{'-' if minus else ''}{say.text(product)}"


def _values(kind: Affine, say: Writer) -> list[tuple[Write, str]]:
    pairs = [(write, value_of(write, kind, say)) for write in kind.writes]
    return [(write, f"({text})" if " + " in text or " - " in text else text) for write, text in pairs if text != "0"]


def reads(component: Component, plan: Plan, convolved: bool = False) -> list[Read]:
    """The contractions by which outputs and other components read the component's states."""
    rec = plan.recurrence
    states = [rec.state(name) for name in component.states]
    leaves = [leaf("state", s.axes, s.dtype, name=s.name, when=when) for s in states for when in ("old", "new")]
    readers = [output.value for output in rec.outputs]
    readers += [update for name, update in rec.updates.items() if name not in component.states]
    return list(
        dict.fromkeys(read for read in reads_in(readers, leaves, leaves if convolved else ()) if read is not None)
    )


def scan_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The associative combine, with what its elements are."""
    name, kind = component.states[0], component.kind
    if isinstance(kind, Affine) and kind.structure == "zero":
        return [(f"{name}[t]", say.text(kind.bias or plan.updates[name]), "a shift: nothing to combine")]
    match kind:
        case Affine():
            pair, combine = (kind.decay, kind.bias), "(a2 * a1, a2 * x1 + x2)"
        case Semiring():
            pair, combine = (kind.gain, kind.bias), f"(a2 + a1, {_sum_of(kind)}(a2 + x1, x2))"
        case _:
            return []
    assert pair[1] is not None
    return [
        ("a, x", f"{say.text(pair[0])}, {say.text(pair[1])}", "one pair a token"),
        ("(a2, x2) after (a1, x1)", combine, "associative"),
    ]


def newton_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The system of equations, and the linear recurrence that an iteration solves."""
    lines = sequential_lines(component, plan, say)
    listing = ", ".join(component.states)
    lines = [(left, right, "" if place else "for all tokens at once") for place, (left, right, _) in enumerate(lines)]
    gap = f"(step({listing})[t] - ({listing})[t])"
    return [
        *lines,
        ("d[t]", f"J[t] d[t-1] + {gap}", f"J is {component.structure}; a scan an iteration"),
        (f"({listing})", f"({listing}) + d", "until the residual is rounding; else token by token"),
    ]


def wavefront_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The step of a cell, which reads the row above and the column before."""
    grid = grid_of(component, plan)
    if isinstance(grid, Reason):
        return []
    remark = f"each column of {grid.axis}; all cells with the same t + {grid.axis} at once"
    read = [name for name in component.states if grid.beside[name] in set(walk(*grid.updates.values()))]
    return [
        *(
            (f"{name}[t]", say.text(update), "" if at else remark)
            for at, (name, update) in enumerate(grid.updates.items())
        ),
        *((f"{name}_beside", f"{name}[t] in the column before", "0 in the first column") for name in read),
    ]


def convolution_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The kernels, and what goes from chunk to chunk: A_x is the transition, s runs over the tokens up to t."""
    name, found = component.states[0], filter_of(component, plan)
    if not isinstance(found, Filter):
        return []
    times = " " if found.matrix is None else " @ "

    def power(exponent: str, of: str) -> str:
        return f"A_{name}^{exponent}{times}{of}".removesuffix(f"{times}1")

    taps = [(say.text(tap.gain, atom=True), say.text(tap.value, atom=True)) for tap in found.taps]
    marks = [""] if len(taps) == 1 else [str(place + 1) for place in range(len(taps))]
    own = " + ".join(f"sum over s of K{mark}[t-s] {value}[s]" for mark, (_, value) in zip(marks, taps, strict=True))
    lines = [(f"A_{name}", say.text(found.factor if found.matrix is None else found.matrix), "the same at every token")]
    if found.contracted is None:
        lines += [(f"K{mark}[t]", power("t", gain), "") for mark, (gain, _) in zip(marks, taps, strict=True)]
        lines.append((f"{name}[t]", f"{own} + {power('(t+1)', f'{name}_start')}", "by FFT"))
    for read in reads(component, plan, convolved=True) if found.contracted else ():
        query, past = say.text(read.query, atom=True), "-1" if read.state["when"] == "old" else ""
        for mark, (gain, _) in zip(marks, taps, strict=True):
            lines.append((f"K{mark}[t]", f"{query} . ({power('t', gain)})", f"a sum over {found.contracted}"))
        start = f"{query} . ({power('(t+1)', f'{name}_start')})"
        remark = "by FFT, a row later" if past else "by FFT"
        lines.append((f"{query} . {name}[t{past}]", f"{own} + {start}", remark))
    left = " + ".join(f"sum over s of {power('(end-s)', gain)} {value}[s]" for gain, value in taps)
    return [*lines, (f"{name}_end", f"{power('(end+1)', f'{name}_start')} + {left}", "goes from chunk to chunk")]


def sequential_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The steps that depend on each other, one after the other."""
    remark = "T dependent steps; all else runs over all tokens at once"
    lines = []
    for place, state in enumerate(component.states):
        lines.append((f"{state}[t]", say.text(plan.updates[state]), "" if place else remark))
    return lines


def _frozen_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    from recc.analysis.frozen_formula import frozen_lines

    return frozen_lines(component, plan, say)


def _chunk_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    from recc.analysis.chunk_formula import chunk_lines

    return chunk_lines(component, plan, say)


def _coupled_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    from recc.analysis.coupled_formula import coupled_lines

    return coupled_lines(component, plan, say)


def block_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The matrix of the scan's elements, and what runs over them."""
    listing, remark = ", ".join(component.states), f"{component.structure}: a matrix at each element"
    entries = [(f"A[{new}, {old}]", text) for new, old, text in _slopes(component, plan, say)]
    lines = [(name, text, "" if place else remark) for place, (name, text) in enumerate(entries)]
    return [
        *lines,
        (f"({listing})[t]", f"A[t] ({listing})[t-1] + x[t]", "products of matrices in pairs, then pairs of pairs"),
    ]


FORMULAS = {
    "chunk": _chunk_lines,
    "coupled": _coupled_lines,
    "scan": scan_lines,
    "block_scan": block_lines,
    "convolution": convolution_lines,
    "wavefront": wavefront_lines,
    "frozen": _frozen_lines,
    "newton": newton_lines,
    "sequential": sequential_lines,
}


def axes_text(axes: Iterable[str]) -> str:
    """`K x V`, without the axis of heads."""
    return " x ".join(axis for axis in axes if axis != HEADS) or "scalar"
