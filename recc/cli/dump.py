"""The syntax tree and the step IR as text, for `recc compile --emit`."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from recc.frontend.diagnostics import Bag, SpecError

if TYPE_CHECKING:
    from recc.ir.node import Node
    from recc.ir.program import Domain, Recurrence


def tree(text: str, path: str) -> str:
    """The syntax tree of a spec, indented, one node or leaf a line."""
    from recc.frontend.parse import parse

    bag = Bag(path)
    blocks = parse(text, bag)
    if bag.has_errors:
        raise SpecError(bag.sorted(), text)
    lines: list[str] = []
    for block in blocks:
        _node(block, "", 0, lines)
    return "\n".join(lines) + "\n"


def _node(value: Any, label: str, depth: int, lines: list[str]) -> None:
    margin = "  " * depth + label
    if isinstance(value, tuple):
        if value and label:
            lines.append(margin.rstrip())
        for item in value:
            _node(item, "", depth + bool(label), lines)
    elif not is_dataclass(value):
        lines.append(f"{margin}{value!r}")
    elif type(value).__name__ in ("Ident", "Name", "Number"):
        lines.append(f"{margin}{type(value).__name__} {value.text}")
    else:
        span = getattr(value, "span", None)
        lines.append(f"{margin}{type(value).__name__}{f'  # {span.line}:{span.col}' if span else ''}")
        for field in fields(value):
            part = getattr(value, field.name)
            if not field.name.endswith("span") and part not in (None, (), ""):
                _node(part, f"{field.name}: ", depth + 1, lines)


def program(rec: Recurrence) -> str:
    """A recurrence after all checks: typed declarations, and what each state and output is."""
    from recc.ir.printer import show

    rows = [("recurrence", rec.name)]
    rows += [("dim", name if size is None else f"{name} = {size}") for name, size in rec.dims.items()]
    rows += [("input", f"{i.name} : {_type(i.axes, i.dtype)}{_domain(i.domain)}") for i in rec.inputs]
    for p in rec.params:
        init = "" if p.init is None else f" = {show(p.init)}"
        rows.append(("param", f"{p.name} : {_type(p.axes, p.dtype)}{_domain(p.domain)}{init}"))
    for s in rec.states:
        init = "" if s.init is None else f" = {show(s.init)}"
        rows.append(("state", f"{s.name} : {_type(s.axes, s.dtype)}{init}{'   # a past value' if s.delay else ''}"))
    rows += [("output", f"{o.name} : {_type(o.axes, o.dtype)}") for o in rec.outputs]
    lines = [f"{kind:<10} {text}" for kind, text in rows] + [""]
    # Locals have the names that the spec gives them; a local is defined where its node is.
    for node, name in rec.names.items():
        if node.args:
            lines.append(f"{name} = {show(node, _others(rec, node))}")
    for name, node in rec.updates.items():
        lines.append(f"{name if name.endswith(']') else name + '[t]'} <- {show(node, rec.names)}")
    lines += [f"{o.name} -> {show(o.value, _others(rec, o.value, o.name))}" for o in rec.outputs]
    return "\n".join(lines) + "\n"


def _others(rec: Recurrence, node: Node, name: str | None = None) -> dict[Node, str]:
    own = name or rec.names.get(node)
    return {other: label for other, label in rec.names.items() if other is not node or label != own}


def _type(axes: tuple[str, ...], dtype: str) -> str:
    return " x ".join(axes or ("scalar",)) + (f" {dtype}" if dtype != "real" else "")


def _domain(domain: Domain) -> str:
    if domain.unit:
        return " unit"
    if domain.contraction:
        return " contraction" + _domain(replace(domain, contraction=False))
    match domain.low, domain.high:
        case None, None:
            return ""
        case None, high:
            return f" <= {high:g}"
        case low, None:
            return f" >= {low:g}"
        case low, high:
            return f" in [{low:g}, {high:g}]"
