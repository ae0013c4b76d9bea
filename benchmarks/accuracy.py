"""How far Newton's method and native code are from float64, beside a float32 loop over tokens in torch.

Cells from mild to chaotic, at several lengths, values and gradients. Writes accuracy.json to benchmarks/results/ after
each point, at the end accuracy.md and accuracy.png; `--resume` goes on where a run was stopped.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.progress import track

import recc
from recc import library
from recc.frontend import parse_text
from recc.runtime import cache
from recc.tuning import measure

EPS = torch.finfo(torch.float32).eps
TOKENS = (1, 2, 511, 4096, 100_000)
GAINS = {  # of the recurrent params: deviation of a unit's own weight, spectral radius of a matrix
    "para_gru": (0.05, 0.5, 1.0, 2.0, 4.0), "para_lstm": (0.05, 0.5, 1.0, 2.0, 4.0), "indrnn": (0.1, 0.3),
    "elman": (0.5, 0.9, 1.0, 1.5, 2.0, 3.0, 4.0), "gru": (0.5, 1.0, 2.0, 4.0), "parity": (1.5, 2.0, 4.0),
}  # fmt: skip
FORMS = {"newton": {"strategy": "newton"}, "native": {"backend": "c"}}
BATCH, HEADS, D = 2, 33, 4
LOOP = {"strategy": "sequential"}
ALLOWED = 4.0  # times the error of the float32 loop
LOST = 0.02  # a relative error from which on the loop's own digits say little: the cell amplifies roundings
STEP = 16 * EPS  # by how much each step of a trajectory may be off where its end says little


def with_states(name: str) -> str:
    """The text of a spec that gives all its states instead of its outputs."""
    text = library.find(name)[0]
    states = re.findall(r"^state +(.+?) *[:=]", text, re.MULTILINE)
    return re.sub(r"^output .*$", f"output {', '.join(states)}", text, flags=re.MULTILINE)


def drawn(name: str, gain: float, T: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """float32 inputs [batch, T, heads, D] that are normal, and params of the given gain, each head's drawn anew.

    Of "parity" those of a cell that knows the parity of the bits so far, by its sign.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    if name == "parity":  # sigmoid(8) opens the gate at a 1, and what enters is the state with its sign changed
        bits = torch.randint(0, 2, (BATCH, T, HEADS, D), generator=generator).float()
        gate = 16 * bits - 8 + draw(*bits.shape) / 4  # else every token is rounded alike, for good or bad
        none = torch.zeros(HEADS, D)
        return [gate, torch.full_like(bits, 20.0), torch.zeros_like(bits)], [none, none.clone(), none - gain]
    rec = parse_text(*library.find(name), dims={"D": D})[0]
    inputs = [draw(BATCH, T, HEADS, D) for _ in rec.inputs]
    params = [gain * draw(HEADS, *[D] * (len(p.axes) - 1)) for p in rec.params]
    return inputs, [gain * p / radius(p) if p.dim() == 3 else p for p in params]


def radius(matrices: torch.Tensor) -> torch.Tensor:
    """The spectral radius of each matrix [heads, D, D], as [heads, 1, 1]."""
    return torch.linalg.eigvals(matrices).abs().amax(-1)[:, None, None]


def results(op: Callable[..., Any], given: list[torch.Tensor], start: float, dtype: torch.dtype) -> list[torch.Tensor]:
    """States at all tokens, then the gradients of their weighted sum; heads first."""
    leaves = [x.to(dtype).requires_grad_() for x in given]
    first = torch.full_like(given[0][:, 0], start, dtype=dtype)
    found = op(*leaves, initial_state={state["name"]: first for state in op.states})
    found = [*found] if isinstance(found, tuple) else [found]
    generator = torch.Generator().manual_seed(1)
    total = sum((y * torch.randn(y.shape, generator=generator).to(dtype)).sum() for y in found)
    every = (*found, *torch.autograd.grad(total, leaves))
    return [x.detach().movedim(2, 0) if x.dim() == 4 else x.detach() for x in every]


def errors(ours: list[torch.Tensor], exact: list[torch.Tensor]) -> list[float]:
    """The largest error of each tensor, relative to its largest entry or 1: the median over heads."""
    found = []
    for a, b in zip(ours, exact, strict=True):
        gap, most = (x.flatten(1).amax(1) for x in ((a - b).abs(), b.abs()))
        found.append(float((gap / most.clamp_min(1.0)).nan_to_num(nan=torch.inf).median()))
    return found


def worst_step(op: Callable[..., Any], given: list[torch.Tensor], start: float, states: list[torch.Tensor],
               inputs: int) -> float:  # fmt: skip
    """By how much the states after each token differ from one float64 step from those before it."""
    states = [x.movedim(0, 2) for x in states]
    before = {state["name"]: torch.cat([torch.full_like(x[:, :1], start), x[:, :-1]], 1).double().flatten(0, 1)
              for state, x in zip(op.states, states, strict=True)}  # fmt: skip
    tokens = [x.double().flatten(0, 1).unsqueeze(1) for x in given[:inputs]]
    after = op(*tokens, *(p.double() for p in given[inputs:]), initial_state=before)
    after = [x.detach() for x in (after if isinstance(after, tuple) else (after,))]
    return max(float((a.view_as(x) - x.double()).abs().max()) for a, x in zip(after, states))


def point(name: str, gain: float, T: int) -> dict[str, Any]:
    """Errors of the loop and of each form, of the states and the worst gradient, and Newton's statistics."""
    text = with_states("para_gru" if name == "parity" else name)
    start = 0.9 if name == "parity" else 0.0
    ops = {form: recc.loads(text, D=D, **options) for form, options in FORMS.items()}
    loop = recc.loads(text, D=D, **LOOP)
    inputs, params = drawn(name, gain, T)
    given, many = [*inputs, *params], len(loop.states)
    exact = results(ops["native"], given, start, torch.float64)
    for step in ops["newton"].meta["solvers"].values():  # statistics of this point alone
        vars(ops["newton"].passes.functions[step]).clear()
    found: dict[str, Any] = {"cell": name, "gain": gain, "tokens": T}
    for form, op in {"loop": loop, **ops}.items():
        got = results(op, given, start, torch.float32)
        each = errors(got, exact)
        found[form] = {"value": max(each[:many]), "gradient": max(each[many:]), "each": each,
                       "step": worst_step(ops["native"], given, start, got[:many], len(inputs))}  # fmt: skip
    return found | {"statistics": next(iter(ops["newton"].statistics().values()))}


def ratio(found: dict[str, Any], form: str) -> float:
    """The largest error over the loop's, over all tensors; roundings of one operation are not held against a form."""
    return max(ours / max(theirs, EPS) for ours, theirs in zip(found[form]["each"], found["loop"]["each"], strict=True))


def holds(found: dict[str, Any], form: str) -> bool:
    """As near as the loop. Where the loop itself has lost its digits: each step is right, wherever the steps lead."""
    lost = max(found["loop"]["each"]) > LOST
    return found[form]["step"] <= STEP if lost else ratio(found, form) <= ALLOWED


def sweep(known: list[dict[str, Any]], write: Callable[[list[dict[str, Any]]], None]) -> list[dict[str, Any]]:
    """The points of every cell, gain and length, those that are `known` first."""
    have = {(p["cell"], p["gain"], p["tokens"]) for p in known}
    wanted = [(name, gain, T) for T in TOKENS for name, gains in GAINS.items() for gain in gains]
    for each in track([w for w in wanted if w not in have], "accuracy"):
        known = [*known, point(*each)]
        write(known)
    return known


def markdown(results: dict[str, Any]) -> str:
    points, machine = results["points"], results["machine"]
    lines = [
        "# Errors against float64", "",
        f"`make accuracy` on {machine['cpu']}, torch {machine['torch']}, float32. The largest error of the states and "
        f"of all gradients, relative to the largest entry, the median over {HEADS} heads with params of their own: of "
        "a loop over tokens in torch, and how many times that of Newton's method and of native code are. At most "
        f"{ALLOWED:g} is asked for. Where the loop is off by more than {LOST:g} no digit is left to compare (a chaotic "
        "cell amplifies roundings until then): 'step' says that each token is a step of the spec to "
        f"{STEP:.1e}, wherever the steps lead. The last columns are the iterations of Newton's method, the mean over "
        "windows and channels, and the share that was finished token by token.", "",
        "| cell | gain | tokens | loop | Newton | native | iterations | token by token |", "|---" * 8 + "|",
    ]  # fmt: skip
    for p in sorted(points, key=lambda p: (list(GAINS).index(p["cell"]), p["gain"], p["tokens"])):
        loop, lost = max(p["loop"]["each"]), max(p["loop"]["each"]) > LOST
        cells = [
            ("step" if lost else f"{ratio(p, f):.1f}x") if holds(p, f) else f"**{ratio(p, f):.1f}x**" for f in FORMS
        ]
        found = p["statistics"]
        lines.append(
            f"| {p['cell']} | {p['gain']:g} | {p['tokens']:,} | {loop:.1e} | {' | '.join(cells)} "
            f"| {found['iterations']:.1f} | {found['sequential']:.0%} |"
        )
    held = {form: sum(holds(p, form) for p in points) for form in FORMS}
    lines += ["", "Points that hold: " + ", ".join(f"{form} {n} of {len(points)}" for form, n in held.items()) + "."]
    return "\n".join(lines) + "\n"


def plot(points: list[dict[str, Any]], path: Path) -> None:
    """The error of each form over that of the loop, one mark for each point at which the loop has digits left."""
    from recc.tuning.chart import INK, OTHER, OURS, PALE, pyplot

    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained", sharex=True, sharey=True)
    kept = [p for p in points if max(p["loop"]["each"]) <= LOST]
    for panel, form in zip(panels, FORMS, strict=True):
        for kind, colour, mark in (("value", INK, "o"), ("gradient", OURS, "^")):
            row = [(max(p["loop"][kind], EPS / 4), max(p[form][kind], EPS / 4)) for p in kept]
            panel.loglog(*zip(*row), mark, color=colour, markersize=4, linewidth=0, label=f"{kind}s", alpha=0.7)
        ends = [EPS / 4, LOST]
        panel.plot(ends, ends, color=PALE, linewidth=0.8)
        panel.plot(ends, [ALLOWED * max(x, EPS) for x in ends], color=OTHER, linewidth=0.8, linestyle="--")
        panel.set_title(form)
        panel.set_xlabel("error of the float32 loop")
    panels[0].set_ylabel("error of this form")
    panels[0].legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--resume", action="store_true", help="go on from the points in the results folder")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    args = parser.parse_args()
    path = args.output / "accuracy.json"
    results = {"machine": measure.machine("cpu"), "points": []}
    if args.resume and path.is_file():
        results = json.loads(path.read_text())

    def write(points: list[dict[str, Any]]) -> None:
        results["points"] = points
        cache.write(path, (json.dumps(results, indent=1) + "\n").encode())

    points = sweep(results["points"], write)
    cache.write(args.output / "accuracy.md", markdown(results).encode())
    plot(points, args.output / "accuracy.png")
    missed = [(p["cell"], p["gain"], p["tokens"], form) for p in points for form in FORMS if not holds(p, form)]
    print(f"{len(points)} points in {args.output / 'accuracy.md'}; missed: {missed or 'none'}")


if __name__ == "__main__":
    main()
