"""What `recc explain` shows of the chunk form of a memory, in the spec's own names."""

from __future__ import annotations

from recc.analysis.formula import Line, Writer, read_name, reads, signed, value_of
from recc.analysis.plan import Affine, Component, Plan
from recc.ir.node import HEADS, Axis, Node, walk
from recc.ir.ops import is_const, is_zero


def chunk_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The chunk form of one memory: the theorem with this spec's D, w, u, key and value in it."""
    name, kind = component.states[0], component.kind
    assert isinstance(kind, Affine) and kind.mixing is not None and kind.log_decay is not None
    decayed = not is_zero(kind.log_decay)
    lines: list[Line] = []
    if decayed:
        lines.append(("b", _cumulative(kind.log_decay, say), _SINCE))
    channel = kind.mixing in kind.log_decay.axes
    column = next((axis for axis in kind.log_decay.axes if axis not in (HEADS, kind.mixing)), None)
    if column is not None:
        return [*lines, *_column_lines(component, plan, say, column)]
    inner = f"sum over {kind.mixing} of x[t] y[i] exp(b[t] - b[i])" if channel else "(x[t] . y[i]) exp(b[t] - b[i])"
    before = decayed and (kind.ranks or any(read.state["when"] == "old" for read in reads(component, plan)))
    remarks = [_SUBBLOCKS] * channel + ["score-: b-[t] for b[t]"] * bool(before)
    lines.append(("score(x, y)[t,i]", inner if decayed else "x[t] . y[i]", "; ".join(remarks)))
    keys = [say.text(write.key, atom=True) for write in kind.writes]
    us = ["U" if len(keys) == 1 else f"U{j + 1}" for j in range(len(keys))]
    for r, w in enumerate(kind.ranks):
        lines += _rank_lines(kind, r, say.text(w, atom=True), name, say, keys, us)
    for write, u in zip(kind.writes, us, strict=True):
        lines.append((u, value_of(write, kind, say, "Y"), "what is written under " + say.text(write.key)))
    for read in reads(component, plan):
        before = read.state["when"] == "old"
        query, b = say.text(read.query, atom=True), "b-" if before else "b"
        terms = [f"{_faded(query, b, decayed)} {name}_start"]
        terms += [f"{_mask(query, key, b, before, decayed)} {u}" for key, u in zip(keys, us, strict=True)]
        lines.append((f"{query} . {name}[t{'-1' if before else ''}]", " + ".join(terms), "read"))
    kept = "exp(b_end)" if decayed else ""
    terms = [f"{kept} {name}_start".strip()]
    terms += [f"{_faded(key, 'b_end - b', decayed)}^T {u}" for key, u in zip(keys, us, strict=True)]
    return [*lines, (f"{name}_end", " + ".join(terms), "goes from chunk to chunk")]


def _column_lines(component: Component, plan: Plan, say: Writer, column: Axis) -> list[Line]:
    """The same where each column decays by itself."""
    name, kind = component.states[0], component.kind
    assert isinstance(kind, Affine)
    lines: list[Line] = [("score(x, y)[t,i]", "x[t] . y[i]", "")]
    pairs = [(say.text(write.key, atom=True), value_of(write, kind, say)) for write in kind.writes]
    us = ["U" if len(pairs) == 1 else f"U{j + 1}" for j in range(len(pairs))]
    lines += [(u, value, f"what is written under {key}") for u, (key, value) in zip(us, pairs, strict=True)]
    for read in reads(component, plan):
        before = read.state["when"] == "old"
        query, b = say.text(read.query, atom=True), "b-" if before else "b"
        terms = [f"({query} {name}_start) exp({b})"]
        for u, (key, _) in zip(us, pairs, strict=True):
            terms.append(f"sum over i of {_mask(query, key, '', before, True)}[t,i] exp({b}[t] - b[i]) {u}[i]")
        remark = f"each {column} with its own decay, {_SUBBLOCKS}"
        lines.append((f"{query} . {name}[t{'-1' if before else ''}]", " + ".join(terms), remark))
    terms = [f"{name}_start exp(b_end)", *(f"{key}^T ({u} exp(b_end - b))" for u, (key, _) in zip(us, pairs))]
    return [*lines, (f"{name}_end", " + ".join(terms), "goes from chunk to chunk")]


_SINCE = "b-: without the token's own"
_SUBBLOCKS = "across halves, exponents <= 0"


def _cumulative(log_decay: Node, say: Writer) -> str:
    moving = any(node.op in ("input", "state") for node in walk(log_decay))
    return f"cumsum({say.text(log_decay)})" if moving else f"t * {say.text(log_decay, atom=True)}"


def _faded(vector: str, b: str, decayed: bool) -> str:
    return f"({vector} exp({b}))" if decayed else vector


def _mask(x: str, key: str, b: str, strict: bool, decayed: bool) -> str:
    """Lower triangle of a score; strict: without the token's own write."""
    mark = "-" if b == "b-" and decayed else ""
    return f"tril(score{mark}({x}, {key}){', -1' if strict else ''})"


def _rank_lines(kind: Affine, r: int, w: str, name: str, say: Writer, keys: list[str], us: list[str]) -> list[Line]:
    decayed = kind.log_decay is not None and not is_zero(kind.log_decay)
    start = f"{_faded(w, 'b-', decayed)} {name}_start"
    y = read_name(kind, r).upper()
    if len(kind.ranks) == 1 and len(keys) == 1:
        write = kind.writes[0]
        scale = write.of_read[0][1]
        triangle = _mask(w, keys[0], "b-", True, decayed)
        right = start if is_zero(write.const) else f"{start} + {triangle} {say.text(write.const, atom=True)}"
        text = signed(scale, say)
        sign = "-" if text.startswith("-") else ""
        column = triangle if is_const(scale, 1) else f"{sign}{triangle} diag({text.removeprefix('-')})"
        solve = (f"(I - L) {y}", right, "one unit triangular solve")
        return [("L", column, "strictly lower triangular"), solve]
    terms = [f"{_mask(w, key, 'b-', True, decayed)} {u}" for key, u in zip(keys, us, strict=True)]
    remark = "one unit triangular solve" if r == 0 else ""
    return [(y, " + ".join([start, *terms]), remark)]
