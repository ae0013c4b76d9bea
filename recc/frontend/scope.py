"""What a `recurrence` block declares and defines: its names, each once and each of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recc.frontend import ast
from recc.frontend.diagnostics import Bag
from recc.frontend.messages import naming, shapes, syntax, timing
from recc.frontend.prelude import FUNCTIONS
from recc.frontend.words import ATTRIBUTES, KEYWORDS
from recc.ir.node import COMPLEX, HEADS, REAL, Span

RESERVED = frozenset({"t", "heads", "pi", *KEYWORDS})
MAX_SIZE = 2**31 - 1
MAX_DIMS = 16  # of a type
MAX_EXAMPLE = 65_536  # an example is small
MAX_STEPS = 64  # micro-steps are unrolled


@dataclass(slots=True)
class Symbol:
    """A name of the spec. `kind`: dim, input, param, state, output, local, step, function, or broken
    (its line has an error already, nothing more is said about it). `dims` None: to be inferred."""

    name: str
    kind: str
    span: Span
    dims: tuple[str, ...] | None = None
    shared: bool = False
    dtype: str = REAL
    unit: bool = False
    contraction: bool = False
    declaration: ast.Declaration | None = None
    function: ast.Def | None = None
    size: int | None = None  # of a dim, as declared
    spoiled: bool = False  # a line that defines it has an error
    used: bool = False


@dataclass(slots=True)
class Definition:
    """One assignment. `part`: local, state, or of a micro-step: micro_state ``S[t,r]``, micro_start ``S[t,0]``,
    micro_local ``u[r]``."""

    name: str
    part: str
    target: Span
    value: ast.Expr

    @property
    def key(self) -> tuple[str, bool]:
        return self.name, self.part == "micro_start"

    @property
    def micro(self) -> bool:
        return self.part in ("micro_state", "micro_local")


@dataclass(slots=True)
class Scope:
    """All names of a block, its outputs, and its definitions by key in the order of the text."""

    block: ast.Block
    dims: dict[str, int | None] = field(default_factory=dict)
    symbols: dict[str, Symbol] = field(default_factory=dict)
    outputs: list[Symbol] = field(default_factory=list)
    definitions: dict[tuple[str, bool], Definition] = field(default_factory=dict)
    step: tuple[str, str] | None = None  # the micro-step index and its dim
    examples: list[ast.Example] = field(default_factory=list)

    def of_kind(self, kind: str) -> list[Symbol]:
        return [symbol for symbol in self.symbols.values() if symbol.kind == kind]

    @property
    def step_count(self) -> int:
        """How many micro-steps there are; 0 when the dim's size is not fixed."""
        return (self.dims.get(self.step[1]) or 0) if self.step else 0


def declare(block: ast.Block, bag: Bag, sizes: Mapping[str, int]) -> Scope:
    """The scope of `block`. `sizes` overrides the sizes of dims."""
    scope = Scope(block)
    for statement in block.statements:
        match statement:
            case ast.Dims():
                for item in statement.items:
                    _dim(scope, item, bag, sizes)
            case ast.Broken():
                for name in statement.defines:
                    scope.symbols.setdefault(name, Symbol(name, "broken", statement.span))
    for statement in block.statements:
        match statement:
            case ast.Declaration():
                _declaration(scope, statement, bag)
            case ast.Steps():
                _steps(scope, statement, bag)
            case ast.Def():
                _function(scope, statement, bag)
            case ast.Example():
                scope.examples.append(statement)
    for statement in block.statements:
        if isinstance(statement, ast.Assign):
            _assign(scope, statement, bag)
    for statement in block.statements:
        if isinstance(statement, ast.Broken):
            for name in statement.uses & scope.symbols.keys():
                scope.symbols[name].used = True
    return scope


def chunk_of(items: tuple[ast.Expr, ...]) -> ast.Name | None:
    """C of an index ``chunk(C)``; None for anything else."""
    match items:
        case (ast.Call(function=ast.Ident(text="chunk"), args=(ast.Name() as length,), keywords=()),):
            return length
    return None


def time_offset(expr: ast.Expr) -> int | None:
    """n for ``t + n`` or ``t - n`` with a whole number n; None for anything else."""
    match expr:
        case ast.Name(text="t"):
            return 0
        case ast.Binary(sign="+" | "-", left=ast.Name(text="t"), right=ast.Number(text=text)):
            if text.isdigit() and len(text) < 9:
                return int(text) if expr.sign == "+" else -int(text)
    return None


def step_offset(expr: ast.Expr, index: str) -> str | None:
    """How a micro-step is named: "now" (r), "before" (r-1), "start" (0); None for anything else."""
    match expr:
        case ast.Name(text=text) if text == index:
            return "now"
        case ast.Number(text="0"):
            return "start"
        case ast.Binary(sign="-", left=ast.Name(text=text), right=ast.Number(text="1")) if text == index:
            return "before"
    return None


def _claim(scope: Scope, name: ast.Ident, bag: Bag, as_dim: bool = False) -> bool:
    """Whether `name` may be declared here."""
    if name.text in RESERVED or (as_dim and name.text == "T"):
        bag.add(naming.reserved(name.text, name.span))
        scope.symbols.setdefault(name.text, Symbol(name.text, "broken", name.span))
        return False
    first = scope.symbols.get(name.text)
    if first is not None:
        if first.kind != "broken":
            bag.add(naming.defined_twice(name.text, name.span, first.span))
        return False
    return True


def _dim(scope: Scope, item: ast.Setting, bag: Bag, sizes: Mapping[str, int]) -> None:
    name = item.name
    if not _claim(scope, name, bag, as_dim=True):
        return
    size = None
    if item.value is not None:
        size = whole(item.value)
        if size is None or not 1 <= size <= MAX_SIZE:
            bag.add(shapes.not_a_size(f"the size of dim `{name.text}`", 1, MAX_SIZE, item.value.span))
            scope.symbols[name.text] = Symbol(name.text, "broken", name.span)
            return
    scope.dims[name.text] = sizes.get(name.text, size)
    scope.symbols[name.text] = Symbol(name.text, "dim", name.span, size=size)


def whole(expr: ast.Expr) -> int | None:
    """The value of a literal whole number."""
    if isinstance(expr, ast.Number) and expr.text.isdigit() and len(expr.text) <= 12:
        return int(expr.text)
    return None


def example_sizes(scope: Scope, bag: Bag) -> dict[str, int]:
    """What the `example` lines of `scope` say."""
    sizes: dict[str, int] = {}
    first: dict[str, Span] = {}
    for item in (item for example in scope.examples for item in example.items):
        name, value = item.name.text, whole(item.value) if item.value else None
        symbol, low = scope.symbols.get(name), int(name != "T")
        if symbol is not None and symbol.kind == "broken":
            continue
        if name not in ("T", HEADS) and (symbol is None or symbol.kind != "dim"):
            bag.add(naming.unknown_dim(name, scope.dims, item.name.span, declare=False))
        elif value is None or not low <= value <= MAX_EXAMPLE:
            span = (item.value or item).span
            bag.add(shapes.not_a_size(f"the example's `{name}`", low, MAX_EXAMPLE, span))
        elif name in first:
            bag.add(naming.defined_twice(name, item.name.span, first[name]))
        elif symbol is not None and symbol.size not in (None, value):
            bag.add(shapes.size_differs(name, symbol.size, value, item.span, symbol.span))
        else:
            sizes[name] = value
        first.setdefault(name, item.name.span)
    return sizes | {name: size for name, size in scope.dims.items() if size is not None and name in sizes}


def _declaration(scope: Scope, statement: ast.Declaration, bag: Bag) -> None:
    kind = statement.kind
    attributes = set()
    for attribute in statement.attributes:
        if attribute.text not in ATTRIBUTES:
            bag.add(naming.unknown_attribute(attribute.text, ATTRIBUTES, attribute.span))
        elif attribute.text == "unit" and kind not in ("input", "param"):
            bag.add(shapes.domain_misplaced("`unit`", kind, attribute.span))
        attributes.add(attribute.text)
    if statement.domain and kind not in ("input", "param"):
        bag.add(shapes.domain_misplaced("a domain", kind, statement.domain.span))
    if statement.init is not None and kind not in ("param", "state"):
        bag.add(naming.initialiser_misplaced(kind, statement.names[0].text, statement.init.span))
    dtype = COMPLEX if "complex" in attributes else REAL
    dims, known = _type(scope, statement, bag)
    if "unit" in attributes and kind in ("input", "param") and known:
        if not dims or dtype == COMPLEX:
            at = next(a.span for a in statement.attributes if a.text == "unit")
            bag.add(shapes.unit_needs_vector(statement.names[0].text, dtype == COMPLEX, at))
    if "contraction" in attributes and known and (kind != "param" or len(dims or ()) != 2 or dtype == COMPLEX):
        at = next(a.span for a in statement.attributes if a.text == "contraction")
        bag.add(shapes.contraction_needs_matrix(statement.names[0].text, kind, dims or (), dtype == COMPLEX, at))
    for name in statement.names:
        symbol = Symbol(name.text, kind if known else "broken", name.span, dims, "shared" in attributes, dtype)
        symbol.unit, symbol.contraction = "unit" in attributes, "contraction" in attributes
        symbol.declaration = statement
        if kind == "output":
            _output(scope, symbol, name, bag)
        elif name.text in {output.name for output in scope.outputs} and kind == "state":
            scope.symbols[name.text] = symbol  # `output h` may stand before `state h`
        elif _claim(scope, name, bag):
            scope.symbols[name.text] = symbol


def _output(scope: Scope, symbol: Symbol, name: ast.Ident, bag: Bag) -> None:
    first = scope.symbols.get(name.text)
    twin = next((output for output in scope.outputs if output.name == name.text), None)
    if twin is not None:
        bag.add(naming.defined_twice(name.text, name.span, twin.span))
    elif first is not None and first.kind == "state":
        scope.outputs.append(symbol)
        first.used = True
    elif _claim(scope, name, bag):
        scope.outputs.append(symbol)
        scope.symbols[name.text] = symbol
        symbol.used = True


def _type(scope: Scope, statement: ast.Declaration, bag: Bag) -> tuple[tuple[str, ...] | None, bool]:
    """The dims of a declaration, and whether all of them are known."""
    if statement.type is None:
        return (None if statement.kind == "output" else ()), True
    known = True
    if len(statement.type) > MAX_DIMS:
        bag.add(syntax.too_many_dims(len(statement.type), MAX_DIMS, statement.span))
        return statement.type[:0], False
    for dim in statement.type:
        symbol = scope.symbols.get(dim.text)
        if symbol is None:
            bag.add(naming.unknown_dim(dim.text, scope.dims, dim.span))
            scope.symbols[dim.text] = Symbol(dim.text, "broken", dim.span)  # said once
        elif symbol.kind == "dim":
            symbol.used = True
            continue
        elif symbol.kind != "broken":
            bag.add(naming.not_a_dim(dim.text, symbol.kind, dim.span, symbol.span))
        known = False
    return tuple(dim.text for dim in statement.type), known


def _steps(scope: Scope, statement: ast.Steps, bag: Bag) -> None:
    if scope.step is not None:
        bag.add(naming.defined_twice("steps", statement.span, scope.symbols[scope.step[0]].span))
        return
    if not _claim(scope, statement.index, bag):
        return
    name, dim = statement.index.text, statement.dim.text
    scope.symbols[name] = Symbol(name, "step", statement.index.span, used=True)
    symbol = scope.symbols.get(dim)
    if symbol is None:
        bag.add(naming.unknown_dim(dim, scope.dims, statement.dim.span))
    elif symbol.kind == "dim":
        symbol.used = True
        scope.step = (name, dim)
        size = scope.dims[dim]
        if size is None:
            bag.add(timing.steps_need_size(dim, statement.dim.span, symbol.span))
        elif size > MAX_STEPS:
            bag.add(timing.too_many_steps(dim, size, MAX_STEPS, statement.dim.span))
            scope.dims[dim] = None
    elif symbol.kind != "broken":
        bag.add(naming.not_a_dim(dim, symbol.kind, statement.dim.span, symbol.span))


def _function(scope: Scope, statement: ast.Def, bag: Bag) -> None:
    name = statement.name
    if name.text in FUNCTIONS:
        bag.add(naming.reserved_function(name.text, name.span))
        return
    if not _claim(scope, name, bag):
        return
    seen: dict[str, Span] = {}
    for param in statement.params:
        if param.text in seen:
            bag.add(naming.defined_twice(param.text, param.span, seen[param.text]))
        if param.text in RESERVED:
            bag.add(naming.reserved(param.text, param.span))
        seen[param.text] = param.span
    scope.symbols[name.text] = Symbol(name.text, "function", name.span, function=statement)


def _assign(scope: Scope, statement: ast.Assign, bag: Bag) -> None:
    name, at = statement.target.text, statement.target_span
    symbol = scope.symbols.get(name)
    part = "broken"
    if symbol is None:
        if name in RESERVED:
            bag.add(naming.reserved(name, statement.target.span))
            return
        part = _local_part(scope, statement, bag)
        symbol = scope.symbols[name] = Symbol(name, "local", statement.target.span)
    elif symbol.kind == "output" or symbol.kind == "local":
        part = _local_part(scope, statement, bag)
    elif symbol.kind == "state":
        part = _state_part(scope, statement, bag)
    elif symbol.kind != "broken":
        bag.add(naming.not_assignable(name, symbol.kind, statement.target.span, symbol.span))
        return
    twin = scope.definitions.get((name, part == "micro_start"))
    if twin is not None and part != "broken":
        bag.add(timing.assigned_twice(name, symbol.kind == "state", at, twin.target))
        return
    if part == "broken":
        symbol.spoiled = True
        if symbol.kind != "state":  # the type of a state is known all the same
            symbol.kind = "broken"
    else:
        definition = Definition(name, part, at, statement.value)
        scope.definitions[definition.key] = definition


def _local_part(scope: Scope, statement: ast.Assign, bag: Bag) -> str:
    name, items = statement.target.text, statement.items
    if items is None or [time_offset(item) for item in items] == [0]:
        return "local"
    index = scope.step[0] if scope.step else ""
    tail = items[1:] if time_offset(items[0]) == 0 else items
    if index and len(tail) == 1 and step_offset(tail[0], index) == "now":
        return "micro_local"
    bag.add(timing.bad_target(name, "local", statement.target_span))
    return "broken"


def _state_part(scope: Scope, statement: ast.Assign, bag: Bag) -> str:
    name, items = statement.target.text, statement.items
    if items is None:
        bag.add(timing.bare_state_target(name, statement.target.span))
        return "broken"
    if [time_offset(item) for item in items] == [0]:
        return "state"
    if len(items) == 2 and time_offset(items[0]) == 0 and scope.step:
        part = {"now": "micro_state", "start": "micro_start"}.get(step_offset(items[1], scope.step[0]) or "")
        if part:
            return part
    bag.add(timing.bad_target(name, "state", statement.target_span))
    return "broken"
