"""Syntax tree to step IR: infers the type of every expression and builds its node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recc.frontend import ast, types
from recc.frontend.check import Facts, Ref
from recc.frontend.diagnostics import Bag
from recc.frontend.emit import SIGNS, Emit, Refused
from recc.frontend.hidden import Hidden
from recc.frontend.messages import naming, shapes, syntax, timing
from recc.frontend.parse import MAX_DEPTH as PARSED_DEPTH
from recc.frontend.prelude import CONSTANTS, FUNCTIONS
from recc.frontend.scope import Definition, Scope, Symbol, example_sizes
from recc.frontend.types import Value, axes_of
from recc.ir.node import BOOL, COMPLEX, HEADS, Node, Span, Spans
from recc.ir.ops import leaf
from recc.ir.program import Domain, Input, Output, Param, Recurrence, State

MAX_WORK = 50_000  # expressions evaluated, with functions and micro-steps unfolded
MAX_DEPTH = 200  # of expressions inside functions inside expressions: the evaluation is recursive


def lower(scope: Scope, facts: Facts, bag: Bag, text: str, path: str) -> Recurrence | None:
    """The recurrence of `scope`, or None when `bag` holds an error (then all type errors are in it, too)."""
    return _Lowering(scope, facts, bag).run(text, path)


class _Lowering:
    def __init__(self, scope: Scope, facts: Facts, bag: Bag) -> None:
        self.scope, self.facts, self.bag = scope, facts, bag
        self.emit = Emit(bag, scope.dims)
        self.values: dict[str, Value | None] = {}  # locals and outputs
        self.micro: dict[tuple[str, int], Value | None] = {}  # by micro-step; 0 is the start
        self.states: dict[str, State] = {}
        self.updates: dict[str, Node] = {}
        self.names: dict[Node, str] = {}
        self.spans = Spans()
        self.hidden = Hidden(self.updates, self._mark)
        self.work = self.depth = 0

    def run(self, text: str, path: str) -> Recurrence | None:
        scope = self.scope
        params = [self._param(symbol) for symbol in scope.of_kind("param")]
        inputs = [
            Input(s.name, axes_of(s.dims, s.shared), s.dtype, self._domain(s), s.span) for s in scope.of_kind("input")
        ]
        self.states = {symbol.name: self._state(symbol) for symbol in scope.of_kind("state")}
        self._definitions()
        outputs = [self._output(symbol) for symbol in scope.outputs]
        example = example_sizes(scope, self.bag)
        if self.bag.has_errors:
            return None
        return Recurrence(
            name=scope.block.name.text,
            doc=scope.block.doc,
            dims=dict(scope.dims),
            inputs=tuple(inputs),
            params=tuple(params),
            states=(*self.states.values(), *self.hidden.states.values()),
            outputs=tuple(output for output in outputs if output),
            updates=self.updates,
            names=self.names,
            spans=self.spans,
            example=example,
            text=text,
            path=path,
        )

    # --- declarations ---------------------------------------------------------------------------------------

    def _param(self, symbol: Symbol) -> Param:
        axes = axes_of(symbol.dims, symbol.shared)
        self.emit.random_axes, self.emit.random_dims, self.emit.draws = axes, symbol.dims, 0
        init = self._initialiser(symbol) if symbol.declaration.init is not None else self._default(symbol)
        self.emit.random_axes = None
        domain = self._domain(symbol)
        self._starts_inside(symbol, init, domain)
        return Param(symbol.name, axes, symbol.dtype, init, domain, symbol.span)

    def _starts_inside(self, symbol: Symbol, init: Node | None, domain: Domain) -> None:
        """A param that starts as one number starts in its domain."""
        number = None if init is None else self.emit.numbers.get(init)
        bound = None if number is None else domain.missed_by(float(number))
        if bound is not None:
            self.bag.add(shapes.start_outside(symbol.name, float(number), bound, symbol.declaration.init.span))

    def _default(self, symbol: Symbol) -> Node | None:
        """normal(0, 1 / sqrt(size of the first dim))."""
        e, span = self.emit, symbol.span
        size = e.size(symbol.dims[0]) if symbol.dims else e.number(1)
        deviation = e.op("div", e.number(1), e.op("sqrt", size, span=span), span=span) if symbol.dims else e.number(1)
        draw = lambda: FUNCTIONS["normal"].make(e, [e.number(0), deviation], None, span)  # noqa: E731
        return (e.op("complex", draw(), draw(), span=span) if symbol.dtype == COMPLEX else draw()).node

    def _state(self, symbol: Symbol) -> State:
        init = self._initialiser(symbol) if symbol.declaration.init is not None else None
        return State(symbol.name, axes_of(symbol.dims, symbol.shared), symbol.dtype, init, symbol.span)

    def _initialiser(self, symbol: Symbol) -> Node | None:
        expr = symbol.declaration.init
        value = self.value(expr, {}, None)
        if value is not None and self._fits(symbol, value, expr.span, "its initialiser"):
            return value.node
        return None

    def _domain(self, symbol: Symbol) -> Domain:
        bounds = symbol.declaration.domain
        if bounds is None:
            return Domain(unit=symbol.unit, contraction=symbol.contraction)
        if symbol.dtype == COMPLEX:
            self.bag.add(shapes.domain_of_complex(symbol.name, bounds.span))
        low, high = self._bound(bounds.low), self._bound(bounds.high)
        if low is not None and high is not None and low > high:
            self.bag.add(shapes.empty_domain(low, high, bounds.span))
        return Domain(low, high, symbol.unit, symbol.contraction)

    def _bound(self, expr: ast.Expr | None) -> float | None:
        value = None if expr is None else self.value(expr, {}, None)
        if value is None:
            return None
        number = self.emit.numbers.get(value.node)
        if number is None:
            self.bag.add(shapes.bound_not_constant(expr.span))
        return number if number is None else float(number)

    # --- definitions ----------------------------------------------------------------------------------------

    def _definitions(self) -> None:
        """Values of all locals in the order of computation, then the micro-steps, then the updates of states."""
        facts = self.facts
        poisoned = facts.broken | (facts.definitions.keys() - {definition.key for definition in facts.order})
        for key in poisoned:
            self.values[key[0]] = None
        order = [definition for definition in facts.order if definition.key not in poisoned]
        for definition in order:
            if definition.part == "local":
                self.values[definition.name] = self._local(definition, None)
            elif definition.part == "micro_start":
                value = self.value(definition.value, {}, None)
                self.micro[definition.name, 0] = self._update(definition, value)
        for step in range(1, self.scope.step_count + 1):
            for definition in order:
                if definition.micro:
                    value = self._local(definition, step) if definition.part == "micro_local" else None
                    if definition.part == "micro_state":
                        value = self._update(definition, self.value(definition.value, {}, step))
                    self.micro[definition.name, step] = value
        for definition in order:
            value = None
            if definition.part == "state":
                value = self._update(definition, self.value(definition.value, {}, None))
            elif definition.part == "micro_state":
                value = self.micro.get((definition.name, self.scope.step_count))
            if value is not None:
                self.updates[definition.name] = value.node

    def _local(self, definition: Definition, step: int | None) -> Value | None:
        value = self.value(definition.value, {}, step)
        symbol = self.scope.symbols[definition.name]
        if (
            value is not None
            and symbol.kind == "output"
            and not self._fits(symbol, value, definition.value.span, "its value")
        ):
            return None
        if value is not None and value.node.args:  # a leaf has its own name
            self.names.setdefault(value.node, definition.name if step is None else f"{definition.name}[{step}]")
        return value

    def _update(self, definition: Definition, value: Value | None) -> Value | None:
        symbol = self.scope.symbols[definition.name]
        if value is None or not self._fits(symbol, value, definition.value.span, "its update"):
            return None
        return Value(value.node, symbol.dims, not symbol.shared)

    def _fits(self, symbol: Symbol, value: Value, span: Span, what: str) -> bool:
        """Whether `value` may stand for `symbol`; reports why not. A number fits every type."""
        problem = None
        plain = not value.dims and (value.node in self.emit.numbers or what == "its initialiser")
        if value.dtype == BOOL:
            problem = shapes.bool_stored(symbol.name, symbol.kind, what, span)
        elif (
            value.dtype == COMPLEX and symbol.dtype != COMPLEX and (symbol.dims is not None or symbol.kind != "output")
        ):
            problem = shapes.complex_stored(symbol.name, symbol.kind, what, span, symbol.span)
        elif symbol.dims is not None and not plain and not self._same(symbol.dims, value.dims, what):
            problem = shapes.type_differs(symbol.name, symbol.kind, symbol.dims, value.dims, what, span, symbol.span)
        elif value.heads and symbol.shared:
            problem = shapes.heads_into_shared(symbol.name, symbol.kind, what, span, symbol.span)
        if problem is not None:
            self.bag.add(problem)
        return problem is None

    @staticmethod
    def _same(declared: tuple[str, ...], dims: tuple[str, ...], what: str) -> bool:
        if what == "its initialiser":  # broadcasts, as every value does
            return all(declared.count(dim) == dims.count(dim) for dim in dims)
        return sorted(declared) == sorted(dims)

    def _output(self, symbol: Symbol) -> Output | None:
        behind = self.scope.symbols[symbol.name]
        if behind.kind == "state":
            value = self._state_leaf(behind, "new")
            if symbol.dims is not None and not self._fits(symbol, value, symbol.span, "its value"):
                return None
        else:
            value = self.values.get(symbol.name)
        if value is None:
            return None
        # Without a type the output is what its value is; with one it is per head unless it says `shared`.
        inferred = symbol.dims is None
        dims = value.dims if inferred else symbol.dims
        shared = symbol.shared or (inferred and not value.heads)
        if symbol.shared and value.heads:
            self.bag.add(shapes.heads_into_shared(symbol.name, "output", "its value", symbol.span, symbol.span))
        dtype = COMPLEX if symbol.dtype == COMPLEX else value.dtype
        return Output(symbol.name, axes_of(dims, shared), dtype, value.node, symbol.span)

    # --- expressions ----------------------------------------------------------------------------------------

    def value(self, expr: ast.Expr, args: Mapping[str, Value | None], step: int | None) -> Value | None:
        """The typed value of `expr`; None when it, or what it reads, has an error that is reported already.

        args: of the function being unfolded; step: the micro-step (from 1) being unrolled.
        """
        self.work += 1
        if self.work > MAX_WORK:
            if self.work == MAX_WORK + 1:
                self.bag.add(naming.expands_too_far(MAX_WORK, (*self.emit.calls, expr.span)[0]))
            return None
        self.depth += 1
        try:
            value = self._value(expr, args, step)
        except Refused:
            return None
        finally:
            self.depth -= 1
        if value is None:
            return None
        self._mark(value.node, expr.span)
        return replace(value, span=expr.span)

    def _mark(self, node: Node, span: Span) -> None:
        """Notes that `node`, and what was built on the way to it, was written at `span`."""
        stack = [node]
        while stack:
            below = stack.pop()
            if below not in self.spans and below.op != "const":  # a number may stand in many places
                self.spans[below] = span
                stack.extend(below.args)

    def _value(self, expr: ast.Expr, args: Mapping[str, Value | None], step: int | None) -> Value | None:
        match expr:
            case ast.Number():
                return self.emit.number(float(expr.text))
            case ast.Name():
                return self._read(self.facts.refs.get(id(expr)), args, step)
            case ast.Index():
                ref = self.facts.refs.get(id(expr))
                if ref is not None and ref.kind == "take":
                    return self._take(self.value(expr.base, args, step), step, expr.span)
                return self._read(ref, args, step)
            case ast.Unary():
                arg = self.value(expr.arg, args, step)
                if arg is None or expr.sign == "+":
                    return arg
                return self.emit.op("neg", arg, span=expr.span)
            case ast.Binary() | ast.Comparison():
                left, right = self.value(expr.left, args, step), self.value(expr.right, args, step)
                if left is None or right is None:
                    return None
                if expr.sign == "@":
                    return self.emit.matmul(left, right, expr.sign_span)
                return self.emit.op(SIGNS[expr.sign], left, right, span=expr.span, at=expr.sign_span)
            case ast.Attribute():
                return self._attribute(expr, self.value(expr.base, args, step))
            case ast.Call():
                return self._call(expr, args, step)
            case ast.Tuple():
                raise self.emit.refuse(syntax.tuple_as_value(expr.span))
        raise AssertionError(expr)

    def _attribute(self, expr: ast.Attribute, base: Value | None) -> Value | None:
        if expr.name.text != "T":
            raise self.emit.refuse(naming.unknown_attribute(expr.name.text, ("T",), expr.name.span))
        if base is None:
            return None
        self.emit.rank(".T", base, 2, expr.span)
        return types.transpose(base)

    def _call(self, call: ast.Call, args: Mapping[str, Value | None], step: int | None) -> Value | None:
        name = call.function.text
        symbol = self.scope.symbols.get(name)
        if symbol is not None and symbol.kind == "function":
            return self._unfold(call, symbol, [self.value(arg, args, step) for arg in call.args])
        function = FUNCTIONS.get(name)
        if function is None or (symbol is not None and symbol.kind == "broken"):
            return None
        over = None
        for count, (key, expr) in enumerate(call.keywords):
            if key.text in {other.text for other, _ in call.keywords[:count]}:
                raise self.emit.refuse(naming.keyword_twice(key.text, key.span))
            if key.text != "over" or not function.over:
                raise self.emit.refuse(naming.unknown_keyword(key.text, function.signature, key.span))
            over = self._dim_names(expr)
        if not function.low <= len(call.args) <= function.high:
            raise self.emit.refuse(naming.argument_count(name, function.signature, len(call.args), call.span))
        if function.takes == "dim":
            return function.make(self.emit, [], self._dim_names(call.args[0]), call.span)
        values = [self.value(arg, args, step) for arg in call.args]
        if None in values:
            return None
        return function.make(self.emit, values, over, call.span)

    def _dim_names(self, expr: ast.Expr) -> tuple[str, ...]:
        items = expr.items if isinstance(expr, ast.Tuple) else (expr,)
        names = []
        for item in items:
            name = item.text if isinstance(item, ast.Name) else None
            if name is None or (name not in self.scope.dims and name != HEADS):
                symbol = self.scope.symbols.get(name or "")
                if symbol is not None and symbol.kind == "broken":
                    raise Refused
                raise self.emit.refuse(naming.dim_expected(name, [*self.scope.dims, HEADS], item.span))
            names.append(name)
        return tuple(dict.fromkeys(names))

    def _unfold(self, call: ast.Call, symbol: Symbol, values: list[Value | None]) -> Value | None:
        function = symbol.function
        if call.keywords:
            signature = f"{symbol.name}({', '.join(param.text for param in function.params)})"
            raise self.emit.refuse(
                naming.unknown_keyword(call.keywords[0][0].text, signature, call.keywords[0][0].span)
            )
        if len(values) != len(function.params):
            signature = f"{symbol.name}({', '.join(param.text for param in function.params)})"
            raise self.emit.refuse(naming.argument_count(symbol.name, signature, len(values), call.span))
        if self.depth > MAX_DEPTH - PARSED_DEPTH:
            raise self.emit.refuse(naming.calls_too_deep(MAX_DEPTH, call.span))
        self.emit.calls.append(call.span)
        try:
            return self.value(function.body, dict(zip((p.text for p in function.params), values, strict=True)), None)
        finally:
            self.emit.calls.pop()

    # --- references -----------------------------------------------------------------------------------------

    def _read(self, ref: Ref | None, args: Mapping[str, Value | None], step: int | None) -> Value | None:
        if ref is None or ref.kind == "broken":
            return None
        symbol = self.scope.symbols.get(ref.name)
        value: Value | None
        match ref.kind:
            case "argument":
                return args[ref.name]
            case "constant":
                return self.emit.number(CONSTANTS[ref.name])
            case "dim":
                return self.emit.size(ref.name)
            case "step":
                return self.emit.number(step)
            case "state":
                return self._read_state(symbol, ref, step)
            case "input" | "param":
                node = leaf(ref.kind, axes_of(symbol.dims, symbol.shared), symbol.dtype, name=ref.name)
                value = Value(node, symbol.dims, not symbol.shared)
            case _:
                definition = self.facts.definitions.get((ref.name, False))
                if definition is not None and definition.part == "micro_local":
                    return self.micro.get((ref.name, step))
                value = self.values.get(ref.name)
        if value is not None and ref.lag:
            value = self.hidden.delayed(ref, value)
        return self._take(value, step, ref.span) if ref.step == "now" else value

    def _read_state(self, symbol: Symbol, ref: Ref, step: int | None) -> Value | None:
        if ref.chunk:
            kept, size = self._state_leaf(symbol, "old"), self.emit.size(ref.chunk).node
            return self.hidden.at_chunk(self.states[symbol.name], ref, kept, size)
        if ref.step is None:
            return self._state_leaf(symbol, "old" if ref.lag else "new")
        at = step - (ref.step == "before")
        if at == 0 and (symbol.name, True) not in self.facts.definitions:
            return self._state_leaf(symbol, "old")
        return self.micro.get((symbol.name, at))

    def _state_leaf(self, symbol: Symbol, when: str) -> Value:
        node = leaf("state", axes_of(symbol.dims, symbol.shared), symbol.dtype, name=symbol.name, when=when)
        return Value(node, symbol.dims, not symbol.shared)

    def _take(self, value: Value | None, step: int | None, span: Span) -> Value | None:
        if value is None or step is None:
            return None
        index, dim = self.scope.step
        if dim not in value.dims:
            raise self.emit.refuse(timing.no_step_axis(dim, index, value.dims, span))
        return self.emit.take(value, dim, step - 1)
