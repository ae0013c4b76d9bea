"""The results of the GPU benchmark as Markdown: a table for each pass, and what is missing and why."""

from __future__ import annotations

from gpu_cases import ATTENTION, COPY, KERNELS, PASSES, SAME, TUNED

from recc.tuning.chart import duration
from recc.tuning.measure import median, ratio, taken

ABOUT = (
    "Medians of interleaved rounds, timed by the GPU with its caches flushed; decode steps as CUDA graphs where they",
    "can be captured. A ratio is the median of the ratios of the rounds. The copy moves as many bytes as the pass must",
    "read and write at least: `copy / recc` is the share of the memory's speed that is reached. `rival` is what",
    "computes the same recurrence: fla-core, or mamba-ssm with the copies to its layout of channels before tokens.",
)
COLUMNS = (KERNELS, TUNED, *SAME, ATTENTION, COPY)


def markdown(results: dict) -> str:
    lines = ["# GPU benchmark", ""]
    machine = results["machine"]
    if machine is None:
        return "\n".join([*lines, "No GPU was at hand: nothing was run and nothing was timed.", ""])
    versions = ", ".join(f"{name} {machine[name]}" for name in ("cuda", "torch", "triton", "python", "recc"))
    lines += [f"{machine['gpu']}; {versions}. bfloat16, states in float32.", "", *ABOUT]
    lines += ["", f"tests/gpu: {results['tests']}", ""] if "tests" in results else [""]
    for passes in PASSES:
        cases = [case for case in results["cases"] if case["pass"] == passes and case["seconds"]]
        if cases:
            lines += [f"## {passes}", "", *_table(cases), ""]
    lines += _notes(results)
    return "\n".join(lines).rstrip() + "\n"


def _table(cases: list[dict]) -> list[str]:
    shown = [name for name in COLUMNS if any(name in case["seconds"] for case in cases)]
    head = ["spec", "shape", *shown, "rival / recc", "copy / recc"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for case in cases:
        times = case["seconds"]
        cells = [duration(median(times[name])) if taken(times.get(name, ())) else "" for name in shown]
        best = min((name for name in (KERNELS, TUNED) if taken(times.get(name, ()))), default=None,
                   key=lambda name: median(times[name]))  # fmt: skip
        rival = next((name for name in SAME if taken(times.get(name, ()))), SAME[0])
        cells += [_over(times, rival, best, "{:.2f}x"), _over(times, COPY, best, "{:.0%}")]
        lines.append(f"| {case['spec']} | {case['shape']} | {' | '.join(cells)} |")
    return lines


def _over(times: dict, above: str, best: str | None, form: str) -> str:
    """What a rival takes over the better of recc's forms; the ratio of medians where the rounds are not the same."""
    if best is None or not taken(times.get(above, ())):
        return ""
    same = len(times[above]) == len(times[best])
    return form.format(ratio(times, above, best) if same else median(times[above]) / median(times[best]))


def _notes(results: dict) -> list[str]:
    tuned = results.get("tune", {})
    notes = [f"- {spec}, tuned for training at the first shape: {line}" for spec, line in tuned.items()]
    notes += [f"- {spec}: {why}" for spec, why in results.get("failed", {}).items()]
    notes += [f"- {results['cut']}"] if "cut" in results else []
    for case in results["cases"]:
        for name, why in case["missing"].items():
            notes.append(f"- {case['spec']}, {case['shape']}, {case['pass']}: {name}: {why}")
    return ["## What is missing, and why", "", *notes, ""] if notes else []
