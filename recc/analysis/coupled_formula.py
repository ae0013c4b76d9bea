"""What `recc explain` shows of coupled memories: their normal form and their chunk form, in the spec's own names."""

from __future__ import annotations

from recc.analysis.formula import Line, Writer, plus, reads, signed, summands, times
from recc.analysis.plan import Affine, Component, Coupled, CoupledWrite, Plan
from recc.ir.node import Node
from recc.ir.ops import is_const, is_zero, leaf, mul


def coupled_form(component: Component, kind: Coupled, say: Writer) -> list[Line]:
    """Each state's update as factors of all states and what is written under each key; then the reads y."""
    lines: list[Line] = []
    for name, row in zip(component.states, kind.factors, strict=True):
        pairs = zip(row, component.states, strict=True)
        terms = [times(factor, f"{other}[t-1]", say) for factor, other in pairs if not is_zero(factor)]
        for write in kind.writes:
            scale = dict(write.scales).get(name)
            if scale is not None:
                written = f"{say.text(write.key, atom=True)} (x) {_closed(_value(write, kind, say, 'y'))}"
                terms.append(times(scale, written, say).replace("-1 * ", "-"))
        lines.append((f"{name}[t]", plus(terms), "" if lines else "sum of P * S + sum of key (x) value"))
    for r, (name, w) in enumerate(kind.ranks):
        remark = "" if r else f"w . S, a sum over {kind.mixing}"
        lines.append((_read(kind, r, "y"), f"{say.text(w, atom=True)} . {name}[t-1]", remark))
    return lines


def coupled_lines(component: Component, plan: Plan, say: Writer) -> list[Line]:
    """The chunk form: what each state at a token is of all states at the chunk's start and of all writes since."""
    assert isinstance(component.kind, Affine) and component.kind.coupled is not None
    kind = component.kind.coupled
    us = ["U" if len(kind.writes) == 1 else f"U{j + 1}" for j in range(len(kind.writes))]
    keys = [say.text(write.key, atom=True) for write in kind.writes]
    lines = [
        ("G[t,i]", "P[t] P[t-1] ... P[i+1]", "P: the factors above, from state to state; one unit triangular solve"),
        ("F[t]", "G[t,0] P[0]", "what is left of the states that enter the chunk"),
        ("e_S[t,i]", "row S of G[t,i], times the scales of a write", "what S holds of it; e-, F-: at the token before"),
    ]

    def read(query: str, name: str, mark: str) -> str:
        terms = [f"F{mark}_{name}[t] ({query} . starts)"]
        for key, u in zip(keys, us, strict=True):
            terms.append(f"sum over i of ({query}[t] . {key}[i]) e{mark}_{name}[t,i] {u}[i]")
        return " + ".join(terms)

    for r, (name, w) in enumerate(kind.ranks):
        remark = "" if r else "one unit triangular solve for all"
        lines.append((_read(kind, r, "Y"), read(say.text(w, atom=True), name, "-"), remark))
    for write, u in zip(kind.writes, us, strict=True):
        lines.append((u, _value(write, kind, say, "Y"), f"what is written under {say.text(write.key)}"))
    for found in reads(component, plan):
        name, before = found.state["name"], found.state["when"] == "old"
        query = say.text(found.query, atom=True)
        lines.append((f"{query} . {name}[t{'-1' if before else ''}]", read(query, name, "-" if before else ""), "read"))
    return lines


def _read(kind: Coupled, r: int, letter: str) -> str:
    return letter if len(kind.ranks) == 1 else f"{letter}{r + 1}"


def _value(write: CoupledWrite, kind: Coupled, say: Writer, letter: str) -> str:
    terms: list[Node] = [] if is_zero(write.const) else summands(write.const)
    for r, scale in write.of_read:
        y = leaf("input", name=_read(kind, r, letter))
        terms += [y if is_const(scale, 1) else mul(term, y) for term in summands(scale)]
    return plus(signed(term, say) for term in terms)


def _closed(text: str) -> str:
    return f"({text})" if " + " in text or " - " in text else text
