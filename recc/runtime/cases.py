"""What a verification runs: cases with their inputs, and how the reference and a compiled op run one of them.

Every number is drawn in float32 and widened for float64, so that one float64 reference serves both dtypes and no error
of a float32 run is the rounding of its inputs.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from recc.ir import interpreter
from recc.ir.node import HEADS, dim_of
from recc.ir.program import Param, Recurrence
from recc.runtime.samples import CORNERS, sample_inputs

BATCH = 2
LENGTHS, LONG = (0, 1, 15, 16, 17, 64, 200), 1000
PACKED = (7, 0, 64, 1, 33)  # lengths: odd ones, an empty one, one that fills a chunk, one token
WARM = 5  # tokens that a given initial state has seen


@dataclass(frozen=True)
class Case:
    """A length and what is special about it: `plain`, a way to call the op, or one of `samples.CORNERS`."""

    time: int
    variant: str

    def name(self, dtype: str) -> str:
        return f"T={self.time} {dtype} {self.variant}"


CALLS = {
    "plain": "a given initial state; outputs, final state, and every gradient",
    "fresh": "the spec's own initial state",
    "reverse": "from the last token to the first",
    "packed": "sequences packed along time, an empty one among them",
    "packed_reverse": "packed sequences, each from its last token to its first",
    "split": "two calls, the second from the state that the first one left",
    "grouped": "the first input has one head, which all share",
    "segments": "the working set is limited to one chunk at a time",
    "packed_segments": "packed sequences, one chunk at a time",
    "step": "token by token with `step`",
}


def cases(rec: Recurrence, *, quick: bool = False) -> list[Case]:
    """The cases that make sense for `rec`. quick: without the longest length."""
    lengths = sorted({*LENGTHS, rec.example.get("T", 33)} | (set() if quick else {LONG}))
    found = [Case(time, "plain") for time in lengths]
    found += [Case(rec.example.get("T", 33), "fresh"), Case(70, "reverse"), Case(70, "split"), Case(17, "step")]
    found += [Case(sum(PACKED), variant) for variant in ("packed", "packed_reverse", "packed_segments")]
    if sum(HEADS in x.axes for x in rec.inputs) > 1 and heads_of(rec) > 1:
        found.append(Case(19, "grouped"))
    found.append(Case(150, "segments"))
    return found + [Case(80, corner) for corner in CORNERS if _touches(rec, corner)]


def _touches(rec: Recurrence, corner: str) -> bool:
    """Whether any input looks different at this corner."""
    for x in rec.inputs:
        bounds = (x.domain.low is not None) + (x.domain.high is not None)
        wanted = {"low": 2, "high": 2, "large": 0}.get(corner, 1)
        if bounds == wanted and not x.domain.unit:
            return True
    return False


def heads_of(rec: Recurrence) -> int:
    uses = any(HEADS in thing.axes for thing in (*rec.inputs, *rec.params, *rec.states, *rec.outputs))
    return rec.example.get("heads", 2) if uses else 1


def sizes_of(rec: Recurrence) -> dict[str, int]:
    """The sizes of all dims: the spec's, its example's, or small ones that differ, so that no two are confused."""
    spare = iter((8, 4, 6, 5, 3, 7))
    sizes = {}
    for dim, size in rec.dims.items():
        sizes[dim] = size or rec.example.get(dim) or next(spare, 2)
    return sizes


# --- problems -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """A case with its numbers, in float32. state: None for the spec's own start. lengths: of packed sequences."""

    rec: Recurrence
    case: Case
    sizes: dict[str, int]
    inputs: dict[str, Tensor]
    params: dict[str, Tensor]
    state: dict[str, Tensor] | None
    lengths: tuple[int, ...] | None
    seed: int

    @property
    def reverse(self) -> bool:
        return self.case.variant.endswith("reverse")

    @property
    def offsets(self) -> Tensor | None:
        if self.lengths is None:
            return None
        return torch.tensor([0, *self.lengths]).cumsum(0)

    @property
    def with_gradients(self) -> bool:
        return self.case.variant != "step"

    def leaves(self, dtype: torch.dtype) -> dict[str, dict[str, Tensor]]:
        """Inputs, params and initial state in `dtype`, as leaves that gradients flow to."""
        groups = {"input": self.inputs, "param": self.params, "initial": self.state or {}}
        return {
            group: {name: widen(x, dtype).requires_grad_(self.with_gradients) for name, x in tensors.items()}
            for group, tensors in groups.items()
        }


def widen(x: Tensor, dtype: torch.dtype) -> Tensor:
    """A fresh copy of x in `dtype`, or in the complex dtype of its precision."""
    if x.is_complex():
        dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    return x.detach().to(dtype, copy=True)


def problem(rec: Recurrence, case: Case) -> Problem:
    """The numbers of a case; the same each time."""
    seed = zlib.crc32(f"{rec.name} {case.time} {case.variant}".encode())
    generator = torch.Generator().manual_seed(seed)
    sizes, heads = {**sizes_of(rec), HEADS: heads_of(rec)}, heads_of(rec)
    corner = case.variant if case.variant in CORNERS else None
    packed = case.variant.startswith("packed")
    rows = len(PACKED) if packed else BATCH

    def sample(batch: int, time: int) -> dict[str, Tensor]:
        return sample_inputs(rec, sizes, batch, time, heads, torch.float32, generator, corner)

    params = interpreter.init_params(rec, sizes, heads, torch.float32, generator=generator)
    params = {p.name: _stir(p, params[p.name], generator) for p in rec.params}
    inputs = sample(1 if packed else BATCH, case.time)
    state = None
    if case.variant != "fresh" or any(s.init is None for s in rec.states):
        state = _reached(rec, sizes, params, sample(rows, WARM), rows, generator)
    if case.variant == "grouped":
        first = next(x for x in rec.inputs if HEADS in x.axes)
        inputs[first.name] = inputs[first.name].narrow(2 + first.axes.index(HEADS), 0, 1).clone()
    return Problem(rec, case, sizes, inputs, params, state, PACKED if packed else None, seed)


def moved(given: Problem, draw: int) -> Problem:
    """The problem with every number smaller by less than an ulp of float32: other roundings, no other problem."""
    generator = torch.Generator().manual_seed(given.seed + 2 + draw)

    def shrunk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        ulp = torch.finfo(torch.float32).eps
        return {name: x * (1 - ulp * torch.rand(x.shape, generator=generator)) for name, x in tensors.items()}

    state = None if given.state is None else shrunk(given.state)
    return replace(given, inputs=shrunk(given.inputs), params=shrunk(given.params), state=state)


def _stir(param: Param, value: Tensor, generator: torch.Generator) -> Tensor:
    """`value`, off its initial value where that is one number: a bias that starts at 0 would hide a lost bias."""
    if value.numel() == 0 or bool((value != value.flatten()[0]).any()):
        return value
    value = value + 0.2 * torch.randn(value.shape, generator=generator)
    low, high = param.domain.low, param.domain.high
    return value if low is None and high is None else value.clamp(low, high)


def _reached(
    rec: Recurrence,
    sizes: dict[str, int],
    params: dict[str, Tensor],
    inputs: dict[str, Tensor],
    rows: int,
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """A state that the recurrence really comes to: what a few tokens leave. An arbitrary one may make no sense."""
    start = {}
    for state in rec.states:
        if state.init is None:
            shape = [rows, *(sizes[dim_of(axis)] for axis in state.axes)]
            start[state.name] = torch.randn(shape, generator=generator)
    _, final = interpreter.run(rec, inputs, params, initial_state=start, sizes=sizes, dtype=torch.float64)
    return {name: x.to(torch.complex64 if x.is_complex() else torch.float32) for name, x in final.items()}


# --- runs -----------------------------------------------------------------------------------------------------


def run_reference(given: Problem, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every quantity of a problem by the sequential loop, by name: `output o`, `final S`, `gradient q`, ..."""
    leaves = given.leaves(dtype)
    outputs, final = interpreter.run(
        given.rec,
        leaves["input"],
        leaves["param"],
        initial_state=leaves["initial"],
        sizes=given.sizes,
        reverse=given.reverse,
        cu_seqlens=given.offsets,
        dtype=dtype,
    )
    return _quantities(given, leaves, outputs, final)


def run_op(given: Problem, op: Any, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same quantities by a compiled op."""
    leaves = given.leaves(dtype)
    state = leaves["initial"] or None
    call: Callable[..., Any] = {"step": _stepped, "split": _split}.get(given.case.variant, _called)
    outputs, final = call(given, op, leaves, state)
    return _quantities(given, leaves, outputs, final)


def _called(given: Problem, op: Any, leaves: dict, state: dict | None) -> tuple[dict, dict]:
    result = op(
        **leaves["input"],
        **leaves["param"],
        initial_state=state,
        return_final_state=True,
        cu_seqlens=given.offsets,
        reverse=given.reverse,
    )
    return _named(given, result)


def _split(given: Problem, op: Any, leaves: dict, state: dict | None) -> tuple[dict, dict]:
    """Two calls; the cut is no multiple of a chunk."""
    cut, pieces = given.case.time // 2 + 2, []
    for part in (slice(None, cut), slice(cut, None)):
        inputs = {name: x[:, part] for name, x in leaves["input"].items()}
        outputs, state = _named(given, op(**inputs, **leaves["param"], initial_state=state, return_final_state=True))
        pieces.append(outputs)
    return {name: torch.cat([piece[name] for piece in pieces], 1) for name in pieces[0]}, state or {}


def _stepped(given: Problem, op: Any, leaves: dict, state: dict | None) -> tuple[dict, dict]:
    pieces = []
    for t in range(given.case.time):
        inputs = {name: x[:, t] for name, x in leaves["input"].items()}
        outputs, state = _named(given, op.step(**inputs, **leaves["param"], state=state))
        pieces.append(outputs)
    return {name: torch.stack([piece[name] for piece in pieces], 1) for name in pieces[0]}, state or {}


def _named(given: Problem, result: tuple) -> tuple[dict, dict]:
    output, final = result
    values = output if isinstance(output, tuple) else (output,)
    return {declared.name: value for declared, value in zip(given.rec.outputs, values, strict=True)}, final


def _quantities(given: Problem, leaves: dict, outputs: dict, final: dict) -> dict[str, Tensor]:
    found = {f"output {name}": x for name, x in outputs.items()}
    found |= {f"final {s.name}": final[s.name] for s in given.rec.states}
    if given.with_gradients:
        found |= _gradients(given, leaves, found)
    return {name: x.detach() for name, x in found.items()}


def _gradients(given: Problem, leaves: dict, results: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of a random weighing of all results; zero where nothing depends on a tensor."""
    generator = torch.Generator().manual_seed(given.seed + 1)
    loss: Any = 0.0
    for x in results.values():
        parts = torch.randn([2, *x.shape], generator=generator, dtype=torch.float32).to(x.real.dtype)
        loss = loss + (x.real * parts[0]).sum() + ((x.imag * parts[1]).sum() if x.is_complex() else 0.0)
    wanted = {f"gradient {_of(group)}{name}": x for group, named in leaves.items() for name, x in named.items()}
    if not torch.is_tensor(loss) or not loss.requires_grad:
        return {name: torch.zeros_like(x) for name, x in wanted.items()}
    grads = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {
        name: torch.zeros_like(x) if grad is None else grad
        for (name, x), grad in zip(wanted.items(), grads, strict=True)
    }


def _of(group: str) -> str:
    return "initial " if group == "initial" else ""
