"""Names, time and causality: what each reference means, in which order definitions can be computed, what is missing.

Goals: every reference resolved once (`Facts.refs`), every error of these kinds found, none twice for one cause.
Non-goals: shapes and dtypes, which `lower` infers while it builds the step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from recc.frontend import ast
from recc.frontend.diagnostics import Bag
from recc.frontend.messages import naming, shapes, syntax, timing
from recc.frontend.prelude import CONSTANTS, FUNCTIONS
from recc.frontend.scope import Definition, Scope, Symbol, chunk_of, step_offset, time_offset
from recc.ir.node import HEADS, Span

MAX_DELAY = 64
Key = tuple[str, bool]


@dataclass(frozen=True, slots=True)
class Ref:
    """A name read at a time. `lag` counts steps into the past; `step` is the micro-step: "now", "before" or None.
    `chunk`: of a state that is read at the start of its chunk, the dim that a chunk has tokens."""

    kind: str  # as of Symbol, and "argument", "constant"
    name: str
    lag: int
    step: str | None
    span: Span
    chunk: str = ""


@dataclass(slots=True)
class Facts:
    """What the checks found out: references by the identity of their tree node (None: reported as an error),
    definitions by key, and the order in which locals and micro-step definitions can be computed."""

    refs: dict[int, Ref | None] = field(default_factory=dict)
    definitions: dict[Key, Definition] = field(default_factory=dict)
    order: list[Definition] = field(default_factory=list)
    broken: set[Key] = field(default_factory=set)


def check(scope: Scope, bag: Bag) -> Facts:
    """All facts about `scope`; errors go to `bag`."""
    facts = Facts(definitions=scope.definitions)
    reader = _Reader(scope, facts, bag)
    reader.functions()
    reads = {d.key: reader.expression(d.value, micro=d.micro) for d in scope.definitions.values()}
    for symbol in (*scope.of_kind("param"), *scope.of_kind("state")):
        init = symbol.declaration.init if symbol.declaration else None
        if init is not None:
            reader.initialiser(init, symbol)
    for symbol in (*scope.of_kind("input"), *scope.of_kind("param")):
        if symbol.declaration.domain is not None:
            reader.bounds(symbol.declaration.domain)
    _order(scope, facts, reads, bag)
    _complete(scope, facts, bag)
    return facts


class _Reader:
    """Resolves the references of expressions."""

    def __init__(self, scope: Scope, facts: Facts, bag: Bag) -> None:
        self.scope, self.facts, self.bag = scope, facts, bag
        self.inside: dict[str, list[Ref]] = {}  # what the body of a function reads
        # What an unknown name may have been meant for. The scope takes unknown names up: it must not be asked then.
        self.names = [*scope.symbols, *CONSTANTS]
        self.callable = [*FUNCTIONS, *(symbol.name for symbol in scope.of_kind("function"))]

    def functions(self) -> None:
        """Resolves the bodies of all functions, each after those it calls."""
        functions = {symbol.name: symbol.function for symbol in self.scope.of_kind("function") if symbol.function}
        calls = {name: [c for c in _calls(f.body) if c.text in functions] for name, f in functions.items()}
        order, cycles = topological(functions, lambda name: [call.text for call in calls[name]])
        for cycle in cycles:
            first = functions[cycle[0]]
            self.bag.add(naming.function_calls_itself(cycle, first.name.span))
            for name in cycle:
                self.scope.symbols[name].kind = "broken"
        for name in order:
            refs = self.expression(functions[name].body, micro=False, args=functions[name].params)
            self.inside[name] = list(
                {(r.kind, r.name, r.lag, r.step, r.chunk): r for r in refs if r.kind != "argument"}.values()
            )

    def expression(self, root: ast.Expr, micro: bool, args: tuple[ast.Ident, ...] = ()) -> list[Ref]:
        """Resolves what `root` reads. `micro`: it is computed in every micro-step; `args`: of the enclosing def."""
        names = {arg.text for arg in args}
        found: list[Ref] = []

        def visit(expr: ast.Expr) -> None:
            match expr:
                case ast.Name():
                    note(expr, self._reference(expr.text, (), expr.span, micro, names))
                case ast.Index(base=ast.Name(text=name)):
                    note(expr, self._reference(name, expr.items, expr.span, micro, names))
                case ast.Index():
                    self._take(expr, micro)
                    visit(expr.base)
                case ast.Call():
                    for arg in expr.args if self._call(expr, found) else ():
                        visit(arg)
                    for key, value in expr.keywords:
                        self._dims(value) if key.text == "over" else visit(value)
                case _:
                    for child in ast.children(expr):
                        visit(child)

        def note(expr: ast.Expr, ref: Ref | None) -> None:
            self.facts.refs[id(expr)] = ref
            if ref is not None:
                found.append(ref)

        visit(root)
        return found

    def initialiser(self, root: ast.Expr, symbol: Symbol) -> None:
        """Resolves an initialiser: it may read dims and constants, that of a state also params."""
        for ref in self.expression(root, micro=False):
            allowed = ref.kind in ("dim", "constant") or (ref.kind == "param" and symbol.kind == "state")
            if not allowed and ref.kind != "broken":
                self.bag.add(naming.initialiser_reads(symbol.name, symbol.kind, ref.name, ref.kind, ref.span))

    def bounds(self, domain: ast.Bounds) -> None:
        """Resolves the bounds of a domain: they are numbers."""
        for bound in (domain.low, domain.high):
            for ref in self.expression(bound, micro=False) if bound is not None else ():
                if ref.kind not in ("dim", "constant", "broken"):
                    self.bag.add(shapes.bound_not_constant(bound.span))

    def _call(self, call: ast.Call, found: list[Ref]) -> bool:
        """Adds what the called function reads to `found`; whether it is a function at all."""
        name = call.function.text
        symbol = self.scope.symbols.get(name)
        if symbol is not None and symbol.kind in ("function", "broken"):
            symbol.used = True
            found += [replace(ref, span=call.span) for ref in self.inside.get(name, ())]
        elif name not in FUNCTIONS:
            self.bag.add(naming.unknown_function(name, symbol and symbol.kind, self.callable, call.function.span))
            return symbol is None
        return True

    def _dims(self, expr: ast.Expr) -> None:
        """Marks the dims that `over=` names; whether they fit is a matter of shapes."""
        for item in expr.items if isinstance(expr, ast.Tuple) else (expr,):
            if isinstance(item, ast.Name) and item.text in self.scope.symbols:
                self.scope.symbols[item.text].used = True

    def _take(self, expr: ast.Index, micro: bool) -> None:
        index = self.scope.step[0] if self.scope.step else None
        if len(expr.items) == 1 and index and step_offset(expr.items[0], index) == "now":
            if not micro:
                self.bag.add(timing.step_outside(index, expr.items[0].span))
                return
            self.facts.refs[id(expr)] = Ref("take", "", 0, "now", expr.span)
        else:
            self.bag.add(syntax.index_of_expression(expr.span))

    def _reference(self, name: str, items: tuple[ast.Expr, ...], span: Span, micro: bool, args: set[str]) -> Ref | None:
        if name in args:
            if items:
                self.bag.add(syntax.index_of_argument(name, span))
                return None
            return Ref("argument", name, 0, None, span)
        if name in CONSTANTS and not items:
            return Ref("constant", name, 0, None, span)
        if name == HEADS and not items:
            return Ref("dim", name, 0, None, span)
        if name in (*CONSTANTS, HEADS):
            self.bag.add(timing.time_of_constant(name, "constant" if name in CONSTANTS else "dim", span))
            return None
        symbol = self.scope.symbols.get(name)
        if symbol is None:
            self._unknown(name, span, args)
            return None
        symbol.used = True
        if symbol.kind == "broken":
            return Ref("broken", name, 0, None, span)
        if symbol.kind == "function":
            self.bag.add(naming.function_as_value(name, span))
            return None
        if symbol.kind == "state" and (chunk := chunk_of(items)) is not None:
            return self._at_chunk(symbol, chunk, span)
        time, step, good = self._indices(symbol, items, span)
        if not good:
            return None
        return self._timed(symbol, time, step, span, micro)

    def _at_chunk(self, symbol: Symbol, chunk: ast.Name, span: Span) -> Ref | None:
        dim = self.scope.symbols.get(chunk.text)
        if dim is None or dim.kind != "dim" or (self.scope.dims.get(dim.name) or 0) < 1:
            self.bag.add(timing.chunk_without_length(symbol.name, chunk.text, chunk.span))
            return None
        dim.used = True
        return Ref("state", symbol.name, 1, None, span, dim.name)

    def _unknown(self, name: str, span: Span, args: set[str]) -> None:
        if name == "t":
            self.bag.add(naming.time_as_value(span))
        elif name in FUNCTIONS:
            self.bag.add(naming.function_as_value(name, span))
        else:
            self.bag.add(naming.unknown_name(name, [*self.names, *args], span))
            self.scope.symbols[name] = Symbol(name, "broken", span)  # said once

    def _indices(self, symbol: Symbol, items: tuple[ast.Expr, ...], span: Span) -> tuple[int | None, str | None, bool]:
        """The time and the micro-step that `items` name, and whether they name any such thing."""
        index = self.scope.step[0] if self.scope.step else ""
        time, rest = None, items
        if items and (offset := time_offset(items[0])) is not None:
            time, rest = offset, items[1:]
        if not rest:
            return time, None, True
        step = step_offset(rest[0], index) if index and len(rest) == 1 else None
        if step is None:
            self.bag.add(timing.bad_index(symbol.name, symbol.kind, index, rest[0].span))
            return None, None, False
        return time, step, True

    def _timed(self, symbol: Symbol, time: int | None, step: str | None, span: Span, micro: bool) -> Ref | None:
        name, kind, add = symbol.name, symbol.kind, self.bag.add
        index = self.scope.step[0] if self.scope.step else ""
        problem = None
        if time is not None and time > 0:
            problem = timing.future(name, time, kind, span)
        elif kind in ("dim", "param", "step") and time is not None:
            problem = timing.time_of_constant(name, kind, span)
        elif kind == "step" and not micro:
            problem = timing.step_outside(name, span)
        elif step is not None and not micro:
            problem = timing.step_outside(index, span, name if kind == "state" else "")
        elif kind in ("dim", "step") and step is not None:
            problem = timing.time_of_constant(name, kind, span)
        elif kind == "state":
            problem = self._state_problem(symbol, time, step, span)
        elif time is not None and -time > MAX_DELAY:
            problem = timing.delay_too_long(name, -time, MAX_DELAY, span)
        else:
            own = self.facts.definitions.get((name, False))
            if own is not None and own.part == "micro_local" and (time not in (None, 0) or step != "now"):
                problem = timing.micro_local_read(name, index, micro, span)
            elif step in ("before", "start"):
                problem = timing.step_of_value(name, index, span)
        if problem is not None:
            add(problem)
            return None
        return Ref(kind, name, -(time or 0), step, span)

    def _state_problem(self, symbol: Symbol, time: int | None, step: str | None, span: Span):
        name = symbol.name
        if time is None:
            return timing.bare_state(name, span)
        if time < -1:
            return timing.state_too_far_back(name, -time, span)
        if step is not None:
            own = self.facts.definitions.get((name, False))
            if own is None or own.part != "micro_state" or time != 0 or step == "start":
                index = self.scope.step[0] if self.scope.step else "r"
                return timing.step_of_state(name, index, own is not None and own.part == "micro_state", span)
        return None


def _calls(root: ast.Expr) -> list[ast.Ident]:
    found, stack = [], [root]
    while stack:
        expr = stack.pop()
        if isinstance(expr, ast.Call):
            found.append(expr.function)
        stack.extend(ast.children(expr))
    return found


def topological(nodes: Iterable, edges: Callable[[object], Iterable]) -> tuple[list, list[list]]:
    """`nodes`, each after those that `edges` names for it, and the cycles that were met on the way."""
    order: list = []
    cycles: list[list] = []
    done: set = set()
    for root in nodes:
        path: list = []
        stack: list[tuple[object, bool]] = [(root, False)]
        on_path: set = set()
        while stack:
            node, leaving = stack.pop()
            if leaving:
                path.pop()
                on_path.discard(node)
                done.add(node)
                order.append(node)
            elif node in on_path:
                cycles.append(path[path.index(node) :])
            elif node not in done:
                path.append(node)
                on_path.add(node)
                stack.append((node, True))
                stack.extend((other, False) for other in reversed(list(edges(node))))
    return order, cycles


def _order(scope: Scope, facts: Facts, reads: dict[Key, list[Ref]], bag: Bag) -> None:
    """Finds the order of computation and refuses cycles within a step and past values of what states determine."""
    known = facts.definitions

    def now(key: Key) -> list[Key]:
        # S[t] inside a step needs the whole update; S[t,r-1] and S[t-1] are there already.
        here = [
            (ref.name, False) for ref in reads[key] if ref.lag == 0 and ref.step != "before" and ref.kind != "broken"
        ]
        if known[key].part == "micro_state" and (known[key].name, True) in known:
            here.append((known[key].name, True))
        return [other for other in here if other in known]

    def ever(key: Key) -> list[Key]:
        past = [(ref.name, False) for ref in reads[key] if ref.lag > 0 and ref.kind != "state"]
        return now(key) + [other for other in past if other in known]

    _, cycles = topological(known, now)
    for cycle in cycles:
        if not facts.broken & set(cycle):
            bag.add(_cycle_message(scope, facts, reads, cycle))
            facts.broken |= set(cycle)
    order, loops = topological(known, ever)
    for loop in loops:
        if not facts.broken & set(loop):
            ref = next(r for r in reads[loop[0]] if (r.name, False) == loop[1 % len(loop)])
            bag.add(timing.own_past(loop[0][0], ref.span))
            facts.broken |= set(loop)
    facts.order = [known[key] for key in order]
    _past_of_states(scope, facts, reads, ever, bag)


def _past_of_states(scope: Scope, facts: Facts, reads: dict[Key, list[Ref]], edges: Callable, bag: Bag) -> None:
    stateful: dict[Key, str] = {}
    for definition in facts.order:  # each after what it reads
        key = definition.key
        state = next((ref.name for ref in reads[key] if ref.kind == "state"), None)
        state = state or next((stateful[other] for other in edges(key) if other in stateful), None)
        if state is not None:
            stateful[key] = state
    for key, refs in reads.items():
        for ref in refs:
            if ref.lag > 0 and ref.kind in ("local", "output") and (ref.name, False) in stateful:
                if not facts.broken & {key, (ref.name, False)}:
                    bag.add(timing.past_of_stateful(ref.name, ref.lag, stateful[ref.name, False], ref.span))
                    facts.broken.add(key)


def _cycle_message(scope: Scope, facts: Facts, reads: dict[Key, list[Ref]], cycle: list[Key]):
    """One message for a cycle, pointing at the read in the first definition of the text that closes it."""
    states = [key for key in cycle if scope.symbols[key[0]].kind == "state"]
    start = cycle.index(states[0]) if states else 0
    cycle = cycle[start:] + cycle[:start]
    names = [f"{name}[t]" if (name, part) in states else name for name, part in cycle]
    ref = next((r for r in reads[cycle[0]] if r.lag == 0 and (r.name, False) == cycle[1 % len(cycle)]), None)
    span = ref.span if ref else facts.definitions[cycle[0]].target
    return timing.state_cycle(names, span) if states else timing.local_cycle(names, span)


def _complete(scope: Scope, facts: Facts, bag: Bag) -> None:
    """States without an update, outputs without a value."""
    for symbol in scope.of_kind("state"):
        start, update = (facts.definitions.get((symbol.name, key)) for key in (True, False))
        if start is not None and (update is None or update.part != "micro_state"):
            bag.add(timing.start_without_steps(symbol.name, start.target))
        elif update is None and not symbol.spoiled:
            bag.add(timing.never_updated(symbol.name, symbol.span))
    for symbol in scope.outputs:
        if scope.symbols[symbol.name].kind == "output" and (symbol.name, False) not in facts.definitions:
            bag.add(naming.never_defined(symbol.name, symbol.span))
    tried = any(isinstance(s, ast.Broken) or getattr(s, "kind", "") == "output" for s in scope.block.statements)
    if not scope.outputs and not tried:
        bag.add(naming.no_output(scope.block.name.text, scope.block.name.span))


def unused(scope: Scope, bag: Bag) -> None:
    """Warns of names that nothing reads. Worth saying only of a spec without errors: they hide who reads what."""
    for symbol in scope.symbols.values():
        if not symbol.used and symbol.kind in ("dim", "input", "param", "state", "local", "function"):
            bag.add(naming.unused(symbol.name, symbol.kind, symbol.span))
