"""Tensors as kernels that walk over tokens address them: every one by its strides, where it lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recc.backends.triton.nodes import inner
from recc.backends.triton.wording import aligned_text, flag

from recc.ir.node import ROW, Axis, dim_of

TOKENS, STATES, FIXED, CHUNKS, SCRATCH, SUMS = "tokens", "states", "fixed", "chunks", "scratch", "sums"
AGAIN = "again"  # as FIXED, but read at every token
WAITING = "waiting"  # from one token to the next: two places, in turn, so that one is read while the other is written
# The leading axes of each layout: [batch, time, (heads,) dims] and so on. A block axis may stand before all of them.
LEADS = {TOKENS: ("batch", "time"), STATES: ("sequence",), FIXED: (), AGAIN: (), CHUNKS: ("chunk",),
         SCRATCH: ("sequence", "place"), WAITING: ("sequence", "turn"), SUMS: ("program",)}  # fmt: skip
INDEX = {"batch": "batch", "time": "token", "sequence": "sequence", "chunk": "saved", "place": "place",
         "turn": "(t % 2)", "program": "tl.program_id(0)", "block": "block", "heads": "head"}  # fmt: skip
MOVING = (TOKENS, SCRATCH, AGAIN)  # what is read and written at every token
OF_PROGRAM = ("batch", "sequence", "block", "heads")  # the same at every token
OF_ROW = ("batch", "time", "sequence", "chunk")  # one index for each row where a program takes rows of sequences


@dataclass(frozen=True)
class Memory:
    """A tensor. axes: a tile's, which say what stands after the leading axes of the layout.

    block: the dims whose blocks a leading axis counts. once: those whose blocks all hold the same; the first writes it.
    dense: a program's part of it lies as its tile does, so that tensors with the same dims share their places. within:
    the name of the tensor in which it lies behind others, if any, from the place `begin` on.
    """

    name: str
    layout: str
    axes: tuple[Axis, ...]
    headed: bool
    block: tuple[str, ...] = ()
    once: tuple[str, ...] = ()
    dense: bool = False
    within: str = ""
    begin: str = ""

    @property
    def tensor(self) -> str:
        return self.within or self.name

    @property
    def leads(self) -> tuple[str, ...]:
        return (*(("block",) if self.block else ()), *LEADS[self.layout], *(("heads",) if self.headed else ()))

    @property
    def tile(self) -> tuple[Axis, ...]:
        return inner(self.axes)

    @property
    def dims(self) -> tuple[Axis, ...]:
        return tuple(axis for axis in self.tile if axis != ROW)

    @property
    def strides(self) -> list[str]:
        """The names of the strides that a kernel is handed: one for each axis, or of dense tensors each leading one."""
        own = [] if self.dense else [axis.replace("'", "_").replace("@", "") for axis in self.dims]
        return [f"{self.tensor}_{axis}" for axis in (*self.leads, *own)]

    @property
    def steps(self) -> list[str]:
        """What lies between two places of each dim, in elements."""
        return ["1"] * len(self.dims) if self.dense else self.strides[len(self.leads) :]


@dataclass(frozen=True)
class Access:
    """The text of loads and stores. rows: a program takes rows of sequences; single: there is one token; split: the
    dims that programs share. shared: what the addresses of all tokens have in common is computed before the loops.
    of_row: the leading axes of which each row has an index of its own."""

    rows: bool
    single: bool
    split: tuple[str, ...]
    place: Callable[[Axis], str]
    shared: bool = True
    of_row: tuple[str, ...] = OF_ROW

    def load(self, memory: Memory, mask: str = "", turn: str = "") -> str:
        """A tile in float32. mask: which rows there are, by default those of this token. turn: which of two places, by
        default this token's."""
        return f"{self._load(memory, 'token', mask or self._here(memory), turn)}.to(tl.float32)"

    def early(self, memory: Memory) -> str:
        """The tile of the token `ahead`, as it is in memory; zero where there is none."""
        return self._load(memory, "ahead", "more")

    def store(self, memory: Memory, value: str, mask: str = "", turn: str = "") -> str:
        """Writes a tile. mask, turn: see `load`."""
        pointer, masks = self._address(memory, "token", turn)
        here = mask or self._here(memory)
        once = [flag(f"{self.block(memory.once)} == 0")] if set(memory.once) & set(self.split) else []
        masks = [*once, *([self._aligned(here, memory)] if here else []), *masks]
        return f"tl.store({pointer}, {value}{_masked(masks, '')})"

    def gathered(self, memory: Memory, token: str, mask: str) -> str:
        """A tile each element of which has a token of its own, in float32."""
        return f"tl.load({' + '.join(self._offsets(memory, token))}, mask={mask}, other=0.0).to(tl.float32)"

    def of_chunk(self, memory: Memory) -> str:
        """A dense vector of each token of a chunk, a row each; zero where there is none."""
        (axis,) = memory.dims
        own = [f"{INDEX[lead]} * {memory.tensor}_{lead}" for lead in memory.leads if lead != "place"]
        own += [f"({memory.begin})"] if memory.begin else []
        rows = "tl.arange(0, CHUNK)[:, None]"
        places = f"{rows} * {memory.tensor}_place + {self.place(axis)}[None, :]"
        mask = f"({rows} < count) & in_{dim_of(axis)}[None, :]"
        return f"tl.load({' + '.join([f'{memory.tensor}_ptr', *own, places])}, mask={mask}, other=0.0)"

    def base(self, memory: Memory) -> str:
        """The address that all tokens of a program share: see `_address`."""
        return " + ".join(self._offsets(memory, None))

    def row(self, text: str, tile: tuple[Axis, ...]) -> str:
        """A value for each row, aligned with a tile."""
        return aligned_text(text, 0, (ROW,), tile)

    def _load(self, memory: Memory, token: str, mask: str, turn: str = "") -> str:
        pointer, masks = self._address(memory, token, turn)
        masks = [*([self._aligned(mask, memory)] if mask else []), *masks]
        return f"tl.load({pointer}{_masked(masks, ', other=0.0')})"

    def _aligned(self, mask: str, memory: Memory) -> str:
        return self.row(mask, memory.tile) if self.rows else mask

    def _here(self, memory: Memory) -> str:
        """Which rows of a tensor this program has, if it takes rows."""
        if not self.rows or memory.layout in (FIXED, AGAIN, SUMS):
            return ""
        return "in_rows" if self.single or memory.layout == STATES else "valid"

    def _address(self, memory: Memory, token: str, turn: str = "") -> tuple[str, list[str]]:
        """A pointer for each element of a tile, and the masks of its dims. For vectors of tokens, what they have in
        common is computed before the loops."""
        masks = [aligned_text(f"in_{dim_of(axis)}", 0, (axis,), memory.tile) for axis in memory.dims]
        if memory.layout != TOKENS or self.single or not self.shared or len(masks) > 1:
            return " + ".join(self._offsets(memory, token, turn)), masks
        return f"{memory.name}_at + {self._sum([f'{token} * {memory.name}_time'], memory.tile)}", masks

    def _offsets(self, memory: Memory, token: str | None, turn: str = "") -> list[str]:
        """The terms of a tensor's address; token: None leaves a token's place out."""
        tile, parts, of_rows = memory.tile, [f"{memory.tensor}_ptr"], []
        moving = not self.shared and memory.layout in MOVING  # see scarce.py
        for lead in memory.leads:
            if lead == "time" and (self.single or token is None):
                continue
            index = token if lead == "time" else turn if turn and lead == "turn" else INDEX[lead]
            index = self.block(memory.block) if lead == "block" else index
            index = f"({index} + still)" if moving and lead in OF_PROGRAM and not self.rows else index
            of_row = self.rows and ROW in tile and lead in self.of_row
            (of_rows if of_row else parts).append(f"{index} * {memory.tensor}_{lead}")
        parts += [self._sum(of_rows, tile)] if of_rows else []
        parts += [f"({memory.begin})"] if memory.begin else []
        places = []
        if memory.dense and len(memory.dims) == 2:
            rows, columns = map(dim_of, memory.dims)
            return [*parts, f"tile_elements(BLOCK_{rows}, BLOCK_{columns}, {columns})"]
        for axis, step in zip(memory.dims, memory.steps):
            text = f"({self.place(axis)} + still)" if moving else self.place(axis)
            place = aligned_text(text, 0, (axis,), tile)
            places.append(place if step == "1" else f"{place} * {step}")
        return parts + places

    def block(self, dims: tuple[str, ...]) -> str:
        """Which block of some of the shared dims a program has."""
        own = [dim for dim in self.split if dim in dims]
        return "block" if len(own) in (0, len(self.split)) else f"block_{own[0]}"

    def _sum(self, terms: list[str], tile: tuple[Axis, ...]) -> str:
        """A sum of offsets, aligned with a tile if there is one for each of its rows."""
        text = " + ".join(terms)
        return self.row(f"({text})", tile) if self.rows and tile != (ROW,) else text


def _masked(masks: list[str], more: str) -> str:
    return f", mask={' & '.join(masks)}{more}" if masks else ""


def blocks_of(shared: tuple[str, ...]) -> list[str]:
    """Lines that tell which block of the shared dims a program has, and which of each where they are two."""
    count = f"tl.cdiv({shared[0]}, BLOCK_{shared[0]})" if shared else ""
    each = [f"block_{dim} = block {how} {count}" for dim, how in zip(shared, ("%", "//"))]
    return ["block = tl.program_id(2)", *(each if len(shared) > 1 else [])] if shared else []
