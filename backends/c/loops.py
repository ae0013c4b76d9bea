"""Which loops compute a core or a stage: the axis of the vectors, what is unrolled, what stands outside of time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recc.backends.c.arrays import Array

from recc.ir.node import SEQUENCES, Axis, Node
from recc.tile.cores import REDUCTIONS, Core, Phases, dims, span


@dataclass(frozen=True)
class Target:
    """A node to compute and where it goes: stored, added up over tokens, or copied there from where it lies. Without an
    array it is used in the loop. along: the axis of the vectors, if what it reads lies in memory so."""

    node: Node
    array: Array | None
    how: str = "store"
    along: Axis | None = None

    @property
    def gathers(self) -> bool:
        """Whether it adds a wide value of every token to one array, which is a product of matrices over the tokens."""
        if self.how != "add" or self.array is None or self.array.time is not None:
            return False
        return len(self.array.axes) > 1 and self.node.op not in REDUCTIONS


@dataclass(frozen=True)
class Loops:
    """outer: axes of plain loops. row: the innermost of the axes without vectors, `rows` elements of it unrolled.
    lane: the axis of the vectors, `vectors` of them unrolled. inner: an axis whose loop stands within all of these,
    None if that is the one over `row`. In which of them time stands:

    tile: time is innermost; a tile of rows x vectors of the state stays in registers over a chunk's tokens.
    strip: time stands between; all rows of a strip of vectors stay in the first-level cache.
    whole: time is outermost; a token passes over the whole state.
    """

    outer: tuple[Axis, ...]
    row: Axis | None
    rows: int
    lane: Axis | None
    vectors: int
    shape: str
    sizes: Callable[[Axis], int]
    lanes: int
    inner: Axis | None = None

    @property
    def innermost(self) -> Axis | None:
        return self.row if self.inner is None else self.inner

    @classmethod
    def of_core(
        cls,
        core: Core,
        phases: Phases,
        sizes: Callable[[Axis], int],
        lanes: int,
        registers: int,
        lane: Axis | None = None,
    ) -> Loops:
        """Vectors run along the axis that is summed least often; the state stays as near as its couplings allow."""
        axes, coupled = sorted(core.axes), core.coupled
        own = [node for node in phases.nodes if phases.owner(node) is core]
        sums = [node for node in own if node.op in REDUCTIONS]
        gathered = [node for node in own if node in phases.program.sums.values() and frozenset(dims(node)) == core.axes]
        if not set(axes) - {SEQUENCES}:
            return cls(tuple(axes), None, 1, None, 1, "whole", sizes, lanes)
        # A tile may cover so many vectors beside what its tokens read and add up.
        limit = max(registers // 4, registers - 16) if len(axes) > 1 else 4

        def covered(axis: Axis) -> bool:
            return -(-sizes(axis) // lanes) <= limit

        def price(axis: Axis) -> tuple:
            across = sum(axis in node["over"] for node in sums)
            narrow = sizes(axis) < lanes
            stuck = axis in coupled and not covered(axis)
            return across + 8 * stuck + 4 * narrow, -sizes(axis), axis

        lane = lane if lane in core.axes else min((axis for axis in axes if axis != SEQUENCES), key=price)
        rest = sorted((axis for axis in axes if axis != lane), key=lambda axis: (axis in coupled, sizes(axis)))
        outer, row = tuple(rest[:-1]), rest[-1] if rest else None
        count = -(-sizes(lane) // lanes)
        whole = lane in coupled
        wide = max(len(core.carries) + len(gathered), 1)
        vectors = count if whole and covered(lane) else _divisor(count, 4)
        loose = not core.moves and not core.uneven and (lane not in coupled or covered(lane))
        if row is None:
            near = covered(lane) and len(axes) == 1
            shape = "tile" if loose and near else "whole"
            return cls((), None, 1, lane, vectors if near else _divisor(count, 2), shape, sizes, lanes)
        most = registers // 4 if whole else 4  # sums across vectors that tokens wait for: more at a time
        rows = _divisor(sizes(row), max(1, min(most, registers // 2 // (vectors * wide))))
        free = row not in coupled and not set(outer) & coupled
        shape = "tile" if loose and free else "strip" if loose and not set(outer) & coupled else "whole"
        if shape == "strip":
            rows = _divisor(sizes(row), max(1, min(4, registers // 2 // vectors)))
        elif shape == "whole":
            wide = sum(span(node) == core.axes for node in sums)
            if SEQUENCES in outer and wide:
                return cls._side_by_side(outer, row, lane, wide, sizes, lanes, registers)
            vectors, rows = _unrolled(count, sizes(row), wide, registers)
        return cls(outer, row, rows, lane, vectors, shape, sizes, lanes)

    @staticmethod
    def stage_key(target: Target) -> tuple:
        """What targets must agree in to share their loops: the axes, that of the vectors, and the array of a sum."""
        node = target.node
        axes = sorted(set(dims(node)) if target.how == "copy" else span(node) | set(dims(node)))
        inner = [axis for axis in axes if axis != SEQUENCES]
        own = [axis for axis in (target.array.axes if target.array else dims(node)) if axis in inner]
        summed = [axis for axis in inner if axis not in own]
        lane = target.along or (own[-1] if own else summed[-1] if summed else None)
        return tuple(axes), lane, target.array if target.gathers else None

    @classmethod
    def of_stage(
        cls, group: list[Target], sizes: Callable[[Axis], int], lanes: int, registers: int, near: int = 1
    ) -> Loops:
        """A token passes over all axes, sums innermost; a sum over the tokens stays in registers, a tile at a time.
        Several sequences take turns, but for products with a matrix, whose tiles have a row for each of them."""
        axes, lane, gathers = cls.stage_key(group[0])
        rest = [axis for axis in axes if axis not in (lane, SEQUENCES)]
        turns = tuple(axis for axis in axes if axis == SEQUENCES)
        sums = {target.node for target in group if target.node.op in REDUCTIONS and target.how != "copy"}
        summed = {axis for node in sums for axis in node["over"]}
        rest.sort(key=lambda axis: axis in summed)
        outer, row = tuple(rest[:-1]), rest[-1] if rest else None
        if row is None or (gathers is None and row not in summed):
            near = 4 if near == 1 and lane in summed else near  # one sum across lanes for so many vectors
            vectors = 1 if lane is None else _divisor(-(-sizes(lane) // lanes), near)
            rows = _divisor(sizes(row), 4) if row is not None and lane in summed else 1  # across lanes
            return cls((*turns, *outer), row, rows, lane, vectors, "whole", sizes, lanes)
        count = 1 if lane in summed else -(-sizes(lane) // lanes)
        if turns and gathers is None and lane not in summed:
            return cls._side_by_side(outer, row, lane, len(sums), sizes, lanes, registers)
        vectors, rows = _unrolled(count, sizes(row), len(sums), registers)
        if gathers is not None:
            return cls(outer, row, rows, lane, vectors, "tile", sizes, lanes, inner=turns[0] if turns else None)
        return cls((*turns, *outer), row, rows, lane, vectors, "whole", sizes, lanes)

    @classmethod
    def _side_by_side(
        cls,
        outer: tuple[Axis, ...],
        row: Axis,
        lane: Axis,
        sums: int,
        sizes: Callable[[Axis], int],
        lanes: int,
        registers: int,
    ) -> Loops:
        """Of so many products of a matrix with vectors of several sequences: one chain of sums for each element of the
        tile, however many sequences there are, so that their number changes no bit."""
        rows, outer = sizes(SEQUENCES), tuple(axis for axis in outer if axis != SEQUENCES)
        vectors = _divisor(-(-sizes(lane) // lanes), min(8, _held(registers) // (rows * sums)))
        return cls(outer, SEQUENCES, rows, lane, vectors, "whole", sizes, lanes, inner=row)

    @classmethod
    def held_at_once(cls, group: list[Target], sizes: Callable[[Axis], int], registers: int) -> list[list[Target]]:
        """The group in parts: sums of several sequences, as many of them as registers hold."""
        axes, lane, _ = cls.stage_key(group[0])
        sums = [target for target in group if target.node.op in REDUCTIONS and target.how != "copy"]
        most = max(1, _held(registers) // sizes(SEQUENCES)) if SEQUENCES in axes else len(group)
        if len(sums) < len(group) or len({target.node for target in sums}) <= most:
            return [group]
        nodes = list(dict.fromkeys(target.node for target in sums))
        count = -(-len(nodes) // most)
        parts = [nodes[len(nodes) * n // count : len(nodes) * (n + 1) // count] for n in range(count)]
        return [[target for target in group if target.node in part] for part in parts]


def _held(registers: int) -> int:
    """Sums that registers hold beside the matrix's vectors and what these are multiplied with."""
    return registers * 3 // 4


def _unrolled(count: int, rows: int, sums: int, registers: int) -> tuple[int, int]:
    """Vectors and rows of so many sums that half of the registers hold: the other half is for what they read."""
    room = registers // 2 // max(sums, 1)
    vectors = _divisor(count, min(4, room))
    return vectors, _divisor(rows, min(4, room // vectors))


def _divisor(count: int, limit: int) -> int:
    """The largest divisor of `count` up to `limit`."""
    return next(n for n in range(max(1, min(count, limit)), 0, -1) if count % n == 0)
