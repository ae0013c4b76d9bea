"""`make demo`: train a small byte-level language model on real text, on a CPU, with layers compiled from a spec.

The mixing layers are `recc.Module`s made from `demo_memory.rec`, a spec in this folder; the text is the source
code of the Python standard library, which every machine has. The demo trains, measures bits per byte on files that it
did not train on, checks that the parallel prefill equals the token-by-token decode, generates text with the
decode step, and times the chunked path against the sequential one.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sysconfig
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

import recc

SPEC = str(Path(__file__).with_name("demo_memory.rec"))
console = Console(highlight=False)


@dataclass(frozen=True)
class Config:
    """Sizes of the model and of the run. `seconds` bounds training on a slow machine; steps end it on a fast one."""

    layers: int = 2
    width: int = 128
    heads: int = 4
    length: int = 256
    batch: int = 16
    steps: int = 700
    seconds: float = 150.0
    peak_rate: float = 4e-3
    corpus_bytes: int = 12_000_000
    held_out_windows: int = 48
    timed_length: int = 1024
    generated: int = 400
    seed: int = 0
    backend: str | None = None  # of the mixing layers; None: native code where there is a C compiler


def norm(width: int) -> nn.Module:
    return nn.LayerNorm(width, bias=False)  # on a CPU, torch has it as one operation, and nn.RMSNorm as several


class Mixer(nn.Module):
    """Projections around the compiled recurrence, which does all else: x -> demo_memory(q, k, v, g, beta) -> y."""

    def __init__(self, width: int, heads: int, backend: str | None):
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.gates = nn.Linear(width, 2 * heads)
        self.out = nn.Linear(width, width, bias=False)
        self.memory = recc.Module(SPEC, heads=heads, K=self.size, V=self.size, backend=backend)
        # Decays that start between exp(-0.2) and exp(-0.002): memories of 5 to 500 tokens.
        self.gates.bias.data[:heads] = torch.linspace(1.5, 6.0, heads)

    def inputs(self, x: Tensor) -> tuple[Tensor, ...]:
        """q, k, v [..., heads, size] and g, beta [..., heads] from x [..., width]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.size)).unbind(-3)
        g, beta = self.gates(x).unflatten(-1, (2, self.heads)).unbind(-2)
        return q, k, v, g, beta

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, object]:
        """x [batch, time, width], all tokens at once."""
        o, state = self.memory(*self.inputs(x), initial_state=state, return_final_state=True)
        return self.out(o.flatten(-2)), state

    def step(self, x: Tensor, state) -> tuple[Tensor, object]:
        """x [batch, width], one token; the state's size does not depend on how many came before."""
        o, state = self.memory.step(*self.inputs(x), state=state)
        return self.out(o.flatten(-2)), state


class Block(nn.Module):
    def __init__(self, width: int, heads: int, backend: str | None):
        super().__init__()
        self.norm_mix, self.norm_mlp = norm(width), norm(width)
        self.mix = Mixer(width, heads, backend)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width))

    def run(self, x: Tensor, state, mix) -> tuple[Tensor, object]:
        y, state = mix(self.norm_mix(x), state)
        x = x + y
        return x + self.mlp(self.norm_mlp(x)), state


class LanguageModel(nn.Module):
    """Bytes in, logits of the next byte out."""

    def __init__(self, config: Config):
        super().__init__()
        self.embed = nn.Embedding(256, config.width)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.backend) for _ in range(config.layers))
        self.norm = norm(config.width)
        self.head = nn.Linear(config.width, 256)

    def forward(self, tokens: Tensor, states=None) -> tuple[Tensor, list]:
        """tokens [batch, time] -> logits [batch, time, 256] and the state of each layer after the last token."""
        x, after = self.embed(tokens), []
        for block, state in zip(self.blocks, states or [None] * len(self.blocks), strict=True):
            x, state = block.run(x, state, block.mix)
            after.append(state)
        return self.head(self.norm(x)), after

    def step(self, token: Tensor, states: list) -> tuple[Tensor, list]:
        """token [batch] -> logits [batch, 256] and the next states."""
        x, after = self.embed(token), []
        for block, state in zip(self.blocks, states, strict=True):
            x, state = block.run(x, state, block.mix.step)
            after.append(state)
        return self.head(self.norm(x)), after

    def init_states(self, batch: int) -> list:
        return [block.mix.memory.init_state(batch) for block in self.blocks]


def corpus(limit: int) -> tuple[Tensor, Tensor]:
    """Training and held-out bytes: the standard library's sources, every 16th file held out."""
    root = Path(sysconfig.get_paths()["stdlib"])
    skipped = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
    files = [p for p in sorted(root.rglob("*.py")) if not skipped & set(p.relative_to(root).parts)]
    train, held_out = bytearray(), bytearray()
    for index, path in enumerate(files):
        part = held_out if index % 16 == 7 else train
        if len(part) < limit:
            part += path.read_bytes() + b"\n"
    if min(len(train), len(held_out)) < 10_000:
        raise SystemExit("this Python's standard library has no sources to train on")
    return tuple(torch.frombuffer(part, dtype=torch.uint8) for part in (train, held_out))


def windows(data: Tensor, starts: Tensor, length: int) -> Tensor:
    """Windows [len(starts), length + 1] of the bytes."""
    return data[starts[:, None] + torch.arange(length + 1)].long()


def loss_bits(model: LanguageModel, batch: Tensor) -> Tensor:
    """Mean bits per byte of the batch."""
    logits, _ = model(batch[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()) / math.log(2)


@torch.no_grad()
def held_out_bits(model: LanguageModel, data: Tensor, config: Config) -> float:
    starts = torch.linspace(0, len(data) - config.length - 1, config.held_out_windows).long()
    parts = starts.split(config.batch)
    return sum(loss_bits(model, windows(data, s, config.length)).item() * len(s) for s in parts) / len(starts)


def optimizer_of(model: LanguageModel, rate: float) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=True)


def training_step(model: LanguageModel, optimizer: torch.optim.Optimizer, batch: Tensor) -> float:
    """One step on windows [batch, length + 1]; returns the loss before it, in bits per byte."""
    loss = loss_bits(model, batch)
    optimizer.zero_grad()
    (loss * math.log(2)).backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def drawn(data: Tensor, config: Config, random: torch.Generator) -> Tensor:
    """A batch of windows [batch, length + 1] from anywhere in the data."""
    starts = torch.randint(len(data) - config.length - 1, (config.batch,), generator=random)
    return windows(data, starts, config.length)


def train(model: LanguageModel, data: Tensor, config: Config) -> int:
    """Trains until the steps or the seconds are used up; returns the number of steps."""
    optimizer = optimizer_of(model, config.peak_rate)
    random = torch.Generator().manual_seed(config.seed)
    bar = Progress(
        TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[bits]:.2f} bits/byte"),
        TimeElapsedColumn(), TimeRemainingColumn(), console=console,
    )  # fmt: skip
    began, recent = time.perf_counter(), 8.0
    with bar:
        task = bar.add_task("", total=config.steps, bits=recent)
        for done in range(config.steps):
            progress = max(done / config.steps, (time.perf_counter() - began) / config.seconds)
            if progress >= 1:
                return done
            rate = config.peak_rate * min(1.0, (done + 1) / 20) * max(0.02, math.cos(math.pi / 2 * progress))
            for group in optimizer.param_groups:
                group["lr"] = rate
            recent += 0.1 * (training_step(model, optimizer, drawn(data, config, random)) - recent)
            bar.update(task, advance=1, bits=recent)
    return config.steps


def compare(config: Config, count: int = 30) -> dict[str, list[float]]:
    """Seconds of `count` training steps with the mixing layers as native code and on torch's backend: the same weights
    and batches, and the steps take turns in one process. Raises SystemExit if what they learn differs."""
    data, _ = corpus(500_000)
    sides = {}
    for backend in ("c", "torch"):
        torch.manual_seed(config.seed)
        model = LanguageModel(replace(config, backend=backend))
        sides[backend] = model, optimizer_of(model, config.peak_rate / 10)
    random = torch.Generator().manual_seed(config.seed)
    times: dict[str, list[float]] = {backend: [] for backend in sides}
    for step in range(count + 2):
        batch, bits = drawn(data, config, random), []
        for backend, (model, optimizer) in sides.items():
            began = time.perf_counter()
            bits.append(training_step(model, optimizer, batch))
            if step >= 2:  # the first ones build and warm up
                times[backend].append(time.perf_counter() - began)
        if abs(bits[0] - bits[1]) > 1e-2:
            raise SystemExit(f"after {step} steps the losses differ: {bits[0]:.4f} and {bits[1]:.4f} bits per byte")
    return times


@torch.no_grad()
def check_decode(model: LanguageModel, prompt: Tensor) -> float:
    """The largest difference between the logits of one parallel pass and of token-by-token decoding."""
    parallel, _ = model(prompt)
    states, rows = model.init_states(prompt.shape[0]), []
    for token in prompt.unbind(1):
        logits, states = model.step(token, states)
        rows.append(logits)
    return (parallel - torch.stack(rows, 1)).abs().max().item()


@torch.no_grad()
def generate(model: LanguageModel, prompt: bytes, count: int, seed: int = 0, temperature: float = 0.7) -> bytes:
    """`count` bytes after the prompt: one parallel prefill, then constant-memory steps."""
    random = torch.Generator().manual_seed(seed)
    logits, states = model(torch.tensor([list(prompt)]))
    logits, made = logits[:, -1], bytearray()
    for _ in range(count):
        token = torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=random)[:, 0]
        made.append(token.item())
        logits, states = model.step(token, states)
    return bytes(made)


def speed(config: Config, rounds: int = 3) -> dict[str, float]:
    """Median seconds of forward + backward in interleaved rounds: as trained, and the forms of torch."""
    size, length = config.width // config.heads, config.timed_length
    random = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(2, length, config.heads, *shape, generator=random)

    values = (draw(size), draw(size), draw(size), draw() + 3, draw())
    inputs = [value.requires_grad_() for value in values]
    ops = {name: recc.load(SPEC, strategy=name, K=size, V=size) for name in ("chunk", "sequential")}
    ops["trained"] = recc.load(SPEC, backend=config.backend, K=size, V=size)
    times: dict[str, list[float]] = {name: [] for name in ops}
    for round_ in range(rounds + 1):
        for name, op in ops.items():
            began = time.perf_counter()
            torch.autograd.grad(op(*inputs).square().sum(), inputs)
            if round_:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    return {name: statistics.median(row) for name, row in times.items()}


def run(config: Config) -> dict[str, float]:
    """The whole demo; returns the figures that it prints."""
    torch.manual_seed(config.seed)
    began = time.perf_counter()
    data, held_out = corpus(config.corpus_bytes)
    model = LanguageModel(config)
    weights = sum(p.numel() for p in model.parameters())
    console.print(f"[bold]recc demo[/]: a byte-level language model, {config.layers} layers compiled from "
                  f"benchmarks/{Path(SPEC).name}, {weights:,} weights")  # fmt: skip
    console.print(f"text: the standard library's sources, {len(data):,} bytes to train on, {len(held_out):,} held out; "
                  f"torch {torch.__version__}, {torch.get_num_threads()} threads")  # fmt: skip
    start = held_out_bits(model, held_out, config)
    steps = train(model, data, config)
    end = held_out_bits(model, held_out, config)

    prompt = b"class Parser:\n    def __init__(self"
    difference = check_decode(model, windows(held_out, torch.tensor([0, 999]), 199)[:, :-1])
    sample = generate(model, prompt, config.generated)
    console.rule("generated with step(), prompt in bold")
    console.print(f"[bold]{prompt.decode()}[/]", end="")
    console.print(sample.decode(errors="replace"), markup=False)
    console.rule()
    seconds = speed(config)
    chunked, sequential, trained = (seconds[name] for name in ("chunk", "sequential", "trained"))

    table = Table(show_header=False, box=None)
    table.add_row("held-out bits per byte, start", f"{start:.3f}")
    table.add_row(f"held-out bits per byte, after {steps} steps", f"[bold]{end:.3f}[/]")
    table.add_row("prefill against step, largest difference of logits", f"{difference:.1e}")
    table.add_row("a layer's recurrence, forward + backward, as trained", f"{1e3 * trained:.1f} ms")
    table.add_row("the same in torch, chunked", f"{1e3 * chunked:.1f} ms")
    table.add_row("the same in torch, sequential", f"{1e3 * sequential:.1f} ms")
    table.add_row(
        "chunked over sequential", f"[bold]{chunked / sequential:.4f}[/] ({sequential / chunked:.1f}x faster)"
    )
    table.add_row("whole demo", f"{time.perf_counter() - began:.0f} s")
    console.print(table)
    return {"start": start, "end": end, "steps": steps, "difference": difference,
            "chunk_s": chunked, "sequential_s": sequential}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--backend", choices=("c", "torch"), help="of the mixing layers (default: c if it can be built)"
    )
    parser.add_argument("--steps", type=int, default=Config.steps)
    parser.add_argument("--seconds", type=float, default=Config.seconds, help="bound on the training time")
    parser.add_argument("--compare", action="store_true", help="only time training steps on both backends, in turns")
    args = parser.parse_args()
    if args.compare:
        times = compare(Config())
        ratio = statistics.median(slow / fast for fast, slow in zip(times["c"], times["torch"]))
        own, other = (1e3 * statistics.median(row) for row in times.values())
        console.print(f"a training step on {torch.get_num_threads()} threads: {own:.0f} ms with native code, "
                      f"{other:.0f} ms on torch's backend: [bold]{ratio:.2f}x[/]")  # fmt: skip
        return
    figures = run(Config(steps=args.steps, seconds=args.seconds, backend=args.backend))
    if figures["difference"] > 1e-3:
        raise SystemExit(f"prefill and step disagree: their logits differ by {figures['difference']:.1e}")
    if args.steps >= Config.steps and figures["end"] >= 3.2:
        raise SystemExit(f"the held-out loss must fall below 3.2 bits per byte, and it is {figures['end']:.3f}")


if __name__ == "__main__":
    main()
