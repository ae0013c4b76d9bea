"""The launches that let outer chunks be walked by programs of their own, as text before the walk that they serve."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from recc.backends.triton.chunk_walk import CrossKernel, OwnKernel
from recc.backends.triton.config import cross_tile, default_tile
from recc.backends.triton.kernel import Kernel
from recc.backends.triton.steps import Launch, Outer
from recc.backends.triton.tensor import CHUNKS, Tensor, Walk

from recc.ir.node import GRID, HEADS, Node
from recc.tile.outer import Crossing, dims_from
from recc.tile.program import Carry

if TYPE_CHECKING:
    from recc.backends.triton.emit import Function

PRODUCTS = ("dot", "score", "score_rows", "score_cols", "inverse")


class OuterText:
    """What goes before a walk in a function. part: the variable for how much of its dim one of its programs takes.

    walks: where the states of the walk itself come from and go to, which then starts at each outer chunk.
    """

    def __init__(self, function: Function, walk: Launch, part: str | None) -> None:
        self.function, self.walk, self.part = function, walk, part
        self.made: list[str] = []  # lines that make memory
        self.at: dict[Node, Tensor] = {}  # the states that enter outer chunks
        self.kernels: list[tuple[Kernel, str | None]] = []
        for step in walk.outer:
            self._level(step)
        self.walks = {
            carry.old: replace(
                function.walks[carry.old],
                initial=replace(function.walks[carry.old].initial, name=self.at[carry.old].name, entry="outer"),
            )
            for carry in walk.walks
        }

    def kernel_lines(self) -> list[str]:
        from recc.backends.triton.emit import text_of

        return [line for kernel, _ in self.kernels for line in text_of(kernel)]

    def lines(self) -> list[str]:
        """The choice, and the launches where there are outer chunks."""
        function, split = self.function, self.walk.split
        blocks = f" * triton.cdiv({function._size(split)}, {self.part})" if split else ""
        heads = "heads" if any(HEADS in carry.old.axes for carry in self.walk.walks) else "1"
        tokens = f", {function.config.outer}" if function.config.outer else ""
        lines = [f"    outer = chunks.outer({heads}{blocks}, {self._more():.2f}{tokens})"]
        for carry in self.walk.walks:
            lines.append(f"    {self.at[carry.old].name} = {function.walks[carry.old].initial.name}")
        lines += [
            "    if outer.several:  # what each outer chunk does to the states, then those that enter it",
            *self.made,
        ]
        for kernel, part in self.kernels:
            lines += [f"    {line}" for line in kernel.call(function._size, part, None)]
        return lines

    def _more(self) -> float:
        """The work of the walks that go before over that of the walk, by their products."""

        def work(launch: Launch) -> int:
            return sum(node.op in PRODUCTS for node in launch.nodes) or len(launch.nodes)

        before = [launch for step in self.walk.outer for launch in (step.own, step.dense) if launch is not None]
        return sum(map(work, before)) / max(work(self.walk), 1)

    # --- one level ---------------------------------------------------------------------------------------------

    def _level(self, step: Outer) -> None:
        for one in step.crossings:
            self._memory(one)
        self._walked(step.own, "own", OwnKernel, self._from_nothing(step))
        if step.dense is not None:
            self._walked(step.dense, "transition", OwnKernel, self._from_nothing(step))
        walks = {}
        for one in step.crossings:
            state = self.function.walks[one.carry.old]
            walks[one.carry.old] = replace(state, entering=self.at[one.carry.old])
        for launch in step.cross:
            self._walked(launch, "cross", CrossKernel, {carry.old: walks[carry.old] for carry in launch.walks})

    def _memory(self, one: Crossing) -> None:
        function, name = self.function, self.function.walks[one.carry.old].name
        function.sources |= dims_from([one])
        self.at[one.carry.old] = self._tensor(f"{name}_at", one.carry)
        function.tensors[one.own] = self._tensor(f"{name}_own", one.carry)
        if one.transition is not None and one.total is not None:
            function.tensors[one.total] = self._tensor(f"{name}_total", one.transition)

    def _tensor(self, wish: str, carry: Carry) -> Tensor:
        """Memory for a state of each outer chunk."""
        function, axes = self.function, carry.old.axes
        tensor = Tensor(function._claim(wish), CHUNKS, axes, wide=True, entry="outer")
        sizes = [function.sources.get(size, size) for size in (function._size(axis) for axis in axes if axis != GRID)]
        self.made.append(f"        {tensor.name} = outer.wide({', '.join(sizes)})")
        return tensor

    def _from_nothing(self, step: Outer) -> dict[Node, Walk]:
        """The walks over each outer chunk alone; states of the levels before have their true values."""
        walks = {carry: Walk(self.function.walks[carry].name, tensor) for carry, tensor in self.at.items()}
        for one in step.crossings:
            name = self.function.walks[one.carry.old].name
            walks[one.carry.old] = Walk(name, one.nothing, leaving=self.function.tensors[one.own])
            if one.transition is not None and one.total is not None:
                total = self.function.tensors[one.total]
                walks[one.transition.old] = Walk(f"{name}_total", one.begin, leaving=total)
        return walks

    def _walked(self, launch: Launch, role: str, kind: type[Kernel], walks: dict[Node, Walk]) -> None:
        function = self.function
        taken = "\n".join(
            f"def {kernel.name}(" for kernel in [*function.outer_kernels, *(own for own, _ in self.kernels)]
        )
        name = function._free(role, taken)
        schedule = function.schedule
        cross = kind is CrossKernel
        usual = cross_tile(launch, schedule) if cross else default_tile(launch, schedule, function.rows)
        tile = function.config.tile(name, usual)
        part = function.blocks.part(launch.split, tile.block) if launch.split else None
        self.kernels.append((function._kernel(launch, name, tile, walks, kind), part))
