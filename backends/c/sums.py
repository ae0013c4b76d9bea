"""A sum in the text of a loop: a term for each element of the unrolled tile, and how the parts are joined."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recc.backends.c.arrays import Array
from recc.backends.c.body import Body

from recc.ir.node import Node
from recc.ir.ops import mul

if TYPE_CHECKING:
    from recc.backends.c.writer import Writer


def onto(writer: Writer, node: Node) -> Array | None:
    """Where a tile's sum over its rows lies, if the tile's first term can be added to what the tiles before it left
    there: that is one multiply-add like the others, in place of a product and an addition."""
    loops = writer.loops
    arrays = [target.array for target in writer.targets if target.node is node and target.array is not None]
    alone = loops.shape == "tile" and len(arrays) == 1 and node not in writer.held and writer._many(node)
    vectors = loops.row in node["over"] and loops.lane in node.axes and node.op != "amax"
    summed = {axis for arg in node.args for axis in arg.axes}
    return arrays[0] if alone and vectors and not writer._guarded("", summed) else None


class Sum:
    """A sum that a pass computes: a term for each element of the tile, and what becomes of the parts in the end."""

    def __init__(self, writer: Writer, body: Body, node: Node, after: list[str], in_loop: bool) -> None:
        loops = writer.loops
        self.writer, self.body, self.node = writer, body, node
        wide = {axis for arg in node.args for axis in arg.axes}
        self.widest = max(node.args, key=lambda arg: len({loops.row, loops.lane} & set(arg.axes)))
        self.widest = self.widest if {loops.row, loops.lane} & wide <= set(self.widest.axes) else mul(*node.args)
        self.has_lane = loops.lane in wide
        self.over_row, self.over_lane = loops.row in node["over"], loops.lane in node["over"]
        self.most, self.kind = node.op == "amax", "vec" if self.has_lane else "real"
        self.lines = body.inside if loops.innermost in wide else body.before
        over = loops.innermost in node["over"]
        self.end = after if over or loops.innermost not in wide else self.lines
        self.separate = over and in_loop  # a loop adds to each: more chains than one
        most = writer.once.chains if writer.once else loops.rows  # side by side, with the next token's sums
        self.chains = min(loops.rows, most) if self.separate else 1
        # A long row of vectors is added up in parts, none of which waits long for its own last addition.
        self.ways = max(1, min(loops.vectors // 4, 4 // loops.rows)) if self.over_lane else 1
        self.found: dict[tuple[int, int], str] = {}

    def cell(self, r: int, u: int) -> None:
        body = self.body
        term = self._term(r, u)
        count = body.count(u) if self.over_lane else None
        if count is not None:
            idle = f"blend(numbered() < (int)({count}), {term}, all(-__builtin_inf()))"
            term = idle if self.most else f"leading({term}, {count})"
        place = (r % self.chains, u) if self.separate else (
            r * (not self.over_row), u % self.ways if self.over_lane else u)  # fmt: skip
        if place not in self.found:
            name = self.found[place] = f"{self.writer.part.naming(self.node)}_{place[0]}{place[1]}a"
            if not self.separate:
                there = onto(self.writer, self.node)
                start = f"{body.load(there, self.node.axes, body.place(r, u), u)} + " if there is not None else ""
                self.lines.append(f"{self.kind} {name} = {start}{term};")
                return
            body.before.append(f"{self.kind} {name} = {self._start()};")
        self.lines.append(self._joined(self.found[place], term))

    def finish(self) -> None:
        found = self.joined()
        across = self.over_lane and not self.most
        self.writer._finish(self.body, self.node, found, self.end, across, sorted({r for r, _ in found}))

    def finish_column(self, u: int) -> None:
        """Stores what is complete once all rows of a vector have had their turn."""
        if self.over_row and self.has_lane and not self.over_lane and not self.separate:
            self.writer._finish(self.body, self.node, {(0, u): self.found.pop((0, u))}, self.end, False, [0])

    def joined(self) -> dict[tuple[int, int], str]:
        """The texts of the results by row and vector."""
        found = self.found
        if self.separate or self.ways > 1:
            final: dict[tuple[int, int], str] = {}
            for (r, u), part in found.items():
                place = (r * (not self.over_row), u * (not self.over_lane))
                if place in final:
                    self.end.append(self._joined(final[place], part))
                final.setdefault(place, part)
            found = final
        if self.over_lane and self.most:
            found = {place: f"greatest({text})" for place, text in found.items()}
        return found

    def _start(self) -> str:
        if self.most:
            return "all(-__builtin_inf())" if self.kind == "vec" else "-__builtin_inf()"
        return "{0}" if self.kind == "vec" else "0"

    def _joined(self, name: str, term: str) -> str:
        if not self.most:
            return f"{name} += {term};"
        both = f"v_maximum({name}, {term})" if self.kind == "vec" else f"v_maximum(all({name}), all({term}))[0]"
        return f"{name} = {both};"

    def _term(self, r: int, u: int) -> str:
        body, args = self.body, self.node.args
        text = " * ".join([body.value(arg, r, u) for arg in args])
        return f"all({text})" if self.has_lane and not any(body.is_vector(arg) for arg in args) else text
