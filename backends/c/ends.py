"""What takes the cotangents of states back through a stretch of tokens, and computes no gradient on the way."""

from __future__ import annotations

from dataclasses import dataclass, replace

from recc.backends.c.arrays import Workspace
from recc.backends.c.kernel import TYPES, File
from recc.backends.c.part import Part, ops_of
from recc.backends.c.tidy import tidied
from recc.backends.c.vectors import prelude

from recc.ir.node import walk
from recc.tile.cores import Phases, dims
from recc.tile.program import TileProgram


@dataclass(frozen=True)
class Ends:
    """source: a C file with one function, which is called like the backward pass. fields: the tensors of its structure,
    as (kind, name). work: elements of workspace that a task needs."""

    source: str
    fields: tuple[tuple[str, str], ...]
    work: int


def worth_it(again: TileProgram, back: TileProgram) -> bool:
    """Whether the states' cotangents do not depend on the states, and states are wide: then what leads from one to the
    one before is a small part of a backward pass, whose work is in the states and in the gradients."""
    phases = Phases(back)
    kept = set(again.stores)
    needed = walk(*(carry.new for carry in back.carries))
    wide = all(len(dims(carry.old)) > 1 for carry in back.carries)
    return wide and len(phases.cores) == 1 and not any(node.op == "tile" and node["name"] in kept for node in needed)


class EndsFile(File):
    """As the file of the passes, with one function alone."""

    def ends(self) -> Ends:
        program = replace(self.back, stores={}, sums={})
        work, fields = Workspace(self.real.lanes, self.sizes, self.real.bytes), []
        leaves, task, chunk = self._tensor_leaves(self.step, fields)
        self._seeds(leaves, fields, chunk)
        layouts = self._layouts(self.back)
        enter, leave = self._through(work, layouts, leaves, fields)
        lanes = {name: axes[-1] for name, axes in layouts.items()}
        part = Part(program, work, leaves, {}, self.chunk, self.registers, backwards=True, lanes=lanes)
        body = [
            *task, *enter, *part.once,
            *self.tasks.backwards([*chunk, *part.lines], saved=False), *leave,
        ]  # fmt: skip
        function = self._function("backward", work, body)
        lines = [TYPES, self._struct("backward", fields), function]
        text = tidied("", prelude(self.real, ops_of([program])), "\n".join(lines))
        return Ends(text, tuple(fields), self.used)
