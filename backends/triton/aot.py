"""Kernels compiled for a device that need not be there: what a launch would compile, and what the binary says."""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from recc.backends.torch.layout import dtype_of, real_dtype
from recc.backends.torch.module import Generated
from recc.backends.triton.launch import Chunks, KernelPasses, Outer
from recc.backends.triton.module import namespace
from recc.backends.triton.tokens import Decoder, TokenPasses, Tokens
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from recc.strategies.outer import PROCESSORS

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
CAPABILITIES = 75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121  # of NVIDIA's GPUs; a compiler ends at any other
# Bytes of shared memory that a program may have.
SHARED = {"sm_80": 163 << 10, "sm_86": 99 << 10, "sm_89": 99 << 10, "sm_90": 227 << 10, "sm_100": 227 << 10,
          "sm_120": 99 << 10, "gfx942": 64 << 10}  # fmt: skip
LEAST = min(SHARED.values())  # of a target that is not among them
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.int64: "*i64",
            torch.float64: "*fp64", torch.bool: "*i1"}  # fmt: skip
REGISTER, ALIGNED = 4, 8  # bytes: of a register, and to which a stack's arrays are filled


@dataclass(frozen=True)
class Recorded:
    """One launch of one kernel: its arguments by name, and the compiler's options."""

    name: str
    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def identity(self) -> tuple:
        """What of it the compiler sees."""
        own = {name: value.dtype if torch.is_tensor(value) else value for name, value in self.arguments.items()}
        return self.kernel.src, tuple(own.items()), tuple(self.options.items())


@dataclass(frozen=True)
class Decided:
    """What was decided for a walk: its programs, chunks of a sequence, tokens in a chunk, chunks in an outer chunk (0:
    none), and the work of the walks before it over its own."""

    programs: int
    chunks: int
    rows: int
    outer: int
    more: float


class _Recorder:
    """Stands for a kernel; notes how it is launched."""

    def __init__(self, name: str, kernel: Any, found: list[Recorded]) -> None:
        self.name, self.kernel, self.found = name, kernel, found

    def __getitem__(self, grid: Any) -> Any:
        def launch(*args: Any, **named: Any) -> None:
            names = self.kernel.arg_names
            arguments = dict(zip(names, args)) | {k: v for k, v in named.items() if k in names}
            options = {k: v for k, v in named.items() if k not in names}
            self.found.append(Recorded(self.name, self.kernel, arguments, options))

        return launch


def launches(generated: Generated, sizes: dict[str, int], dtype: torch.dtype, batch: int = 2, time: int = 4096,
             heads: int = 8, processors: int = 1, noted: list[Decided] | None = None) -> list[Recorded]:  # fmt: skip
    """Every launch of a forward and a backward pass, and of one token where states are walked, on tensors of these
    sizes, none of which is made. processors: of the device that the launches are planned for, which decides whether
    there are outer chunks; `PROCESSORS` has those of some. noted: takes up what was decided for each walk, in order."""
    space, found = namespace(generated), []
    for name, value in list(space.items()):
        if isinstance(value, triton.JITFunction) and name.startswith(("forward_", "backward_", "decode_")):
            space[name] = _Recorder(name, value, found)
    meta = generated.meta
    by_token = meta["chunk"] == 1
    passes = (TokenPasses if by_token else _Shapes)(meta, space["forward_tiles"], space["backward_tiles"])
    passes.processors, passes.noted = processors, noted
    known = {**{dim: size or 64 for dim, size in _dims(meta).items()}, **sizes}

    def made(item: dict, *lead: int, kind: torch.dtype = dtype) -> torch.Tensor:
        shape = [heads if axis == "heads" else known[axis.partition("'")[0]] for axis in item["axes"]]
        return torch.empty(*lead, *shape, dtype=dtype_of(kind, item), device="meta")

    inputs = [made(item, batch, time) for item in meta["inputs"]]
    params = [made(item, kind=torch.float32) for item in meta["params"]]
    states = [made(item, batch, kind=torch.float32) for item in meta["states"]]
    results = passes.forward(*inputs, *params, *states, None, False)
    results = [results] if torch.is_tensor(results) else list(results)
    passes.backward(*results, *inputs, *params, *states, None, False)
    if by_token:
        decoder = Decoder(passes, space["decode_tiles"])
        call = Tokens(batch, 1, heads, None, False, inputs[0], 1)
        decoder.step((call, {**known, "heads": heads}), [*(x[:, 0] for x in inputs), *params], states)
    return found


def every_launch(generated: Generated, sizes: dict[str, int], dtype: torch.dtype) -> list[Recorded]:
    """What calls of a recurrence in chunks launch: where there are programs enough for the device, and where outer
    chunks make more of them."""
    found = {}
    for processors in (1, max(PROCESSORS.values())):
        for launch in launches(generated, sizes, dtype, processors=processors):
            found.setdefault((launch.name, launch.arguments.get("OUTER", False)), launch)
    return list(found.values())


def target_of(arch: str) -> GPUTarget:
    """The target of an architecture, `sm_90` or `gfx942`. Raises ValueError for others."""
    if arch in TARGETS:
        return TARGETS[arch]
    match = re.fullmatch(r"sm_(\d+)", arch)
    if match and int(match[1]) in CAPABILITIES:
        return GPUTarget("cuda", int(match[1]), 32)
    raise ValueError(f"no target `{arch}`; there are {', '.join(TARGETS)}")


def _dims(meta: dict) -> dict[str, int | None]:
    found = {axis.partition("'")[0]: None for key in ("inputs", "params", "states", "outputs") for item in meta[key]
             for axis in item["axes"] if axis != "heads"}  # fmt: skip
    return {**found, **meta["dims"]}


class _Noted(Chunks):
    """Chunks of tensors without values, which note what is decided for walks."""

    noted: list[Decided] | None = None

    def outer(self, programs: int, more: float, tokens: int | None = None) -> Outer:
        found = super().outer(programs, more, tokens)
        if self.noted is not None:
            sequences = max(self.sequences, 1)
            decided = Decided(programs * sequences, self.count // sequences, self.rows, found.chunks, more)
            self.noted.append(decided)
        return found


class _Shapes(KernelPasses):
    """The passes on tensors without values."""

    noted: list[Decided] | None = None

    def _chunks(self, inputs: list, sizes: dict, cu_seqlens: None, reverse: bool, rows: int) -> _Noted:
        first = inputs[0]
        place = (*first.shape[:2], sizes.get("heads"), rows, None, reverse, real_dtype(first), first.device)
        chunks = _Noted(*place, every=self.rows // rows, processors=self.processors)
        chunks.noted = self.noted
        return chunks


def compile_launch(launch: Recorded, target: str) -> Any:
    """Triton's compiled kernel for a launch on `target`; see `target_of`."""
    signature, constants, attributes = {}, {}, {}
    for place, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments[name]
        if launch.kernel.params[place].is_constexpr:
            signature[name], constants[name] = "constexpr", value
        elif torch.is_tensor(value):
            signature[name] = POINTERS[value.dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        elif value is None or value == 1:  # as a launch specialises it
            signature[name], constants[name] = "constexpr", value
        else:
            signature[name] = "i32" if abs(value) < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=target_of(target), options=dict(launch.options))


def facts(compiled: Any) -> dict[str, int]:
    """registers a thread, bytes that it spills, bytes of its stack otherwise, shared memory in bytes, and matrix
    instructions, as the binary has them. A stack holds what is spilled and arrays, as those in which `cos` and `sin`
    reduce a large argument."""
    asm, found = compiled.asm, {"shared": compiled.metadata.shared}
    if "amdgcn" in asm:
        text = asm["amdgcn"]
        for key, name in ((".vgpr_count", "registers"), (".vgpr_spill_count", "spills"),
                          (".private_segment_fixed_size", "stack")):  # fmt: skip
            match = re.search(rf"{re.escape(key)}:\s*(\d+)", text)
            found[name] = int(match[1]) if match else -1
        found["spills"] *= REGISTER
        found["stack"] = max(found["stack"] - found["spills"], 0)
        found["matrix"] = len(re.findall(r"\bv_mfma_", text))
        return found
    usage = _resources(asm["cubin"])
    found["registers"] = int(re.search(r"REG:(\d+)", usage)[1])
    stack = int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1])
    declared = sum(map(int, re.findall(r"\.local [^;]*?\[(\d+)\];", asm["ptx"])))  # ptxas adds what it spills
    found["stack"] = min(stack, -(-declared // ALIGNED) * ALIGNED)
    found["spills"] = stack - found["stack"]
    found["matrix"] = len(re.findall(r"\b(?:wgmma|mma|tcgen05)\.\S*(?:mma|sync)", asm["ptx"]))
    return found


def _resources(cubin: bytes) -> str:
    """What cuobjdump says of a binary's resources."""
    return _tool("cuobjdump", "-res-usage", cubin)


def sass(cubin: bytes) -> str:
    """What the GPU runs, by nvdisasm."""
    return _tool("nvdisasm", "-c", cubin)


def _tool(name: str, option: str, cubin: bytes) -> str:
    """What a tool that comes with Triton prints about a binary."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(tools / name), option, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def assembly(generated: Generated, target: str, form: str) -> str:
    """The assembly of every kernel of a recurrence for `target`, in bfloat16, each under a line of its facts.

    form: `ptx`, `sass` or `amdgcn`. Dims without a size in the spec are 64.
    """
    parts = []
    for launch in launches(generated, {}, torch.bfloat16):
        compiled = compile_launch(launch, target)
        listing = ", ".join(f"{name} {value}" for name, value in facts(compiled).items())
        text = sass(compiled.asm["cubin"]) if form == "sass" else compiled.asm[form]
        parts.append(f"{';' if form == 'amdgcn' else '//'} {launch.name}: {listing}\n{text}")
    return "\n".join(parts)
