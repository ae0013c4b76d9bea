"""Time-invariant transitions as convolutions: a kernel that is made once, applied to every chunk by FFT.

With A the transition, p z what is added and c . x a read, a chunk that is entered by x0 satisfies

    K[t]    = c . A^t p                                    the kernel, the same for every chunk
    c . x[t] = sum over s <= t of K[t-s] z[s] + (c . A^(t+1)) x0
    x_end   = A^(end+1) x0 + sum over s of A^(end-s) p z[s]

so a state exists only between chunks. Where states are needed whole, K lacks the contraction with c.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from recc.analysis.filters import Filter, Tap, filter_of
from recc.analysis.plan import Component, Plan, Reason
from recc.analysis.reads import Read
from recc.ir.node import GRID, ROW, Axis, Node
from recc.ir.ops import ONE, ZERO, add, build, dot, leaf, mul, rename, spread
from recc.strategies.lowering import Lowering


class Convolution:
    """A kernel for each pair of what is written and what is read; products with the states between chunks."""

    name = "convolution"
    chunks = (32, 64, 128, 256)  # lengths that tuning tries

    @staticmethod
    def refuses(component: Component, plan: Plan) -> Reason | None:
        found = filter_of(component, plan)
        return found if isinstance(found, Reason) else None

    @staticmethod
    def cost(component: Component, plan: Plan, sizes: Mapping[Axis, int]) -> float:
        """Products with the states between chunks, and transforms of what is convolved, which take the time of a scan
        of not quite two elements."""
        found, state = filter_of(component, plan), math.prod(sizes.values())
        assert isinstance(found, Filter)
        convolved = state // sizes.get(found.contracted or "", 1)
        mixed = sizes[found.axis] if found.axis and found.contracted is None else 1
        return 2 * state + 14 * convolved * mixed

    @staticmethod
    def lower(low: Lowering, component: Component) -> None:
        (name,) = component.states
        found = filter_of(component, low.plan)
        assert isinstance(found, Filter)
        system = (_Elementwise if found.matrix is None else _Matrix)(low, name, found)
        if found.contracted is None:
            own = ZERO
            for tap in found.taps:
                own = add(own, system.respond(tap))
            own = spread(own, (GRID, *low.rec.state(name).axes, ROW))
            new = add(own, system.faded())
            low.table[low.leaf(name, "new")] = new
            low.table[low.leaf(name)] = build("shift", new, system.carry)
            written = build("end", own)
        else:
            for when in ("old", "new"):
                low.readers[low.leaf(name, when)] = system.read
                low.convolved.add(low.leaf(name, when))
            written = ZERO
            for tap in found.taps:
                written = add(written, system.written(tap))
        low.leave(component, name, add(system.kept(), written))


class _System:
    """The pieces of one filter within a chunk."""

    def __init__(self, low: Lowering, name: str, found: Filter) -> None:
        self.low, self.found, self.carry = low, found, low.carry(name)
        self.state = name

    def _value(self, tap: Tap) -> Node:
        """z on the rows, 0 after the end: what an FFT rounds is relative to all that it is given."""
        return build("until_end", spread(self.low.lift(tap.value), (GRID, ROW)))

    def _kernel(self, kernel: Node, name: str, note: str) -> Node:
        if kernel.args:
            self.low.names.setdefault(kernel, name)
            self.low.notes.setdefault(kernel, note)
        return kernel

    def read(self, read: Read) -> Node:
        """query . x on every row, before or after the row's own update."""
        query = self.low.lift(read.query)
        result = ZERO
        for tap in self.found.taps:
            kernel = dot(query, self.powers(tap), (read.axis,))
            kernel = self._kernel(
                kernel, f"K_{self.state}", f"what is read of {self.state} 0, 1, 2, ... tokens after a 1"
            )
            result = add(result, build("convolve", kernel, self._value(tap)))
        result = add(result, self.of_carry(query))
        if read.state["when"] == "new":
            return result
        return build("shift", result, dot(query, self.carry, (read.axis,)))

    def written(self, tap: Tap) -> Node:
        """What the chunk's own tokens leave in the state: sum over s of A^(end-s) p z[s]."""
        return dot(self.powers(tap), build("turned", self._value(tap)), (ROW,))


class _Elementwise(_System):
    """A is a factor for each element."""

    def __init__(self, low: Lowering, name: str, found: Filter) -> None:
        super().__init__(low, name, found)
        self.factor = low.lift(found.factor)
        power = build("krylov", self.factor, ONE)
        self.power = self._kernel(power, f"A_{name}", f"the transition of {name} to the powers 0, 1, 2, ...")
        self.next = mul(self.factor, self.power)  # from the first power on: what is left of x0

    def powers(self, tap: Tap) -> Node:
        return mul(self.low.lift(tap.gain), self.power)

    def written(self, tap: Tap) -> Node:
        value = build("turned", self._value(tap))
        return mul(self.low.lift(tap.gain), dot(self.power, value, (ROW,)))

    def of_carry(self, query: Node) -> Node:
        assert self.found.contracted is not None
        return dot(mul(query, self.next), self.carry, (self.found.contracted,))

    def respond(self, tap: Tap) -> Node:
        return build("convolve", self.powers(tap), self._value(tap))

    def faded(self) -> Node:
        return mul(self.next, self.carry)

    def kept(self) -> Node:
        return mul(build("pick", self.next), self.carry)


class _Matrix(_System):
    """A is a matrix over one axis of the state."""

    def __init__(self, low: Lowering, name: str, found: Filter) -> None:
        super().__init__(low, name, found)
        assert found.matrix is not None and found.axis and found.column and found.inner
        self.axis, self.column, self.inner = found.axis, found.column, found.inner
        self.matrix = low.lift(found.matrix)
        self.note = f"the transition of {name}, applied 0, 1, 2, ... times"

    def _krylov(self, matrix: Node, start: Node) -> Node:
        start = spread(start, (axis for axis in matrix.axes if axis != self.column))
        found = build("krylov", matrix, start, axis=self.axis, column=self.column)
        return self._kernel(found, f"A_{self.state}", self.note)

    def powers(self, tap: Tap) -> Node:
        return self._krylov(self.matrix, self.low.lift(tap.gain))

    def _next(self) -> Node:
        """A^(t+1), [axis, inner]."""
        return self._krylov(self.matrix, rename(self.matrix, {self.column: self.inner}))

    def of_carry(self, query: Node) -> Node:
        turned = rename(self.matrix, {self.axis: self.column, self.column: self.axis})
        start = rename(dot(self.matrix, spread(query, (self.axis,)), (self.axis,)), {self.column: self.axis})
        return dot(self._krylov(turned, start), self.carry, (self.axis,))

    def respond(self, tap: Tap) -> Node:
        value = self._value(tap)
        if self.axis not in value.axes:
            return build("convolve", self.powers(tap), value)
        every = self._krylov(self.matrix, leaf("eye", (self.axis, self.inner)))
        value = mul(self.low.lift(tap.gain), value)
        return build("convolve", every, rename(value, {self.axis: self.inner}), over=(self.inner,))

    def faded(self) -> Node:
        return dot(self._next(), rename(self.carry, {self.axis: self.inner}), (self.inner,))

    def kept(self) -> Node:
        return dot(build("pick", self._next()), rename(self.carry, {self.axis: self.inner}), (self.inner,))
