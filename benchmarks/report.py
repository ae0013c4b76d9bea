"""The results of the foundation benchmark as Markdown and as a chart, and what other reports share with it."""

from __future__ import annotations

from pathlib import Path

from recc.tuning.chart import INK, OTHER, OURS, PALE, duration, pyplot

NAMES = {
    "gdn chunk": "gated_delta_net, recc chunk",
    "gdn fla naive chunk": "gated_delta_net, fla-core's naive chunk",
    "gdn reference": "gated_delta_net, sequential reference",
    "gla chunk": "gla, recc chunk",
    "gla reference": "gla, sequential reference",
    "gdn chunk long": "gated_delta_net, recc chunk, T = 16384",
    "gla chunk long": "gla, recc chunk, T = 16384",
}


def markdown(results: dict) -> str:
    """Tables: what must be reached, medians, agreement, memory."""
    machine, shape = results["machine"], results["shape"]
    sizes = ", ".join(f"{name} = {size}" for name, size in shape.items() if name != "dtype")
    lines = [
        "# Foundation benchmark",
        "",
        f"{machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}, Python {machine['python']}, "
        f"load of other processes at the start {machine['load']}.",
        f"Forward + backward in {shape['dtype']} at {sizes} unless said otherwise.",
        "Medians of interleaved rounds in one process; a ratio is the median of the ratios of the rounds.",
        "",
        *targets_table(results["targets"]),
    ]
    lines += ["", "| forward + backward | median | least | most | rounds |", "|---|---|---|---|---|"]
    for name, row in results["ops"]["seconds"].items():
        median, times = results["ops"]["median_s"][name], [t for t in row if t is not None]
        lines.append(
            f"| {NAMES[name]} | {duration(median)} | {duration(min(times))} | {duration(max(times))} | {len(times)} |"
        )
    lines += ["", f"One decode step of gated_delta_net at batch {shape['B']}: {1e6 * results['step_s']:.0f} us.", ""]
    lines += ["| relative difference, outputs and all gradients | |", "|---|---|"]
    lines += [f"| {pair} | {value:.1e} |" for pair, value in results["ops"]["agreement"].items()]
    return "\n".join([*lines, *_memory_table(results)]) + "\n"


def targets_table(rows: list[dict]) -> list[str]:
    """Lines of Markdown: each figure, what it must be, and whether it is."""
    lines = ["| what | measured | must be | met |", "|---|---|---|---|"]
    for row in rows:
        sign = "at least" if row["better"] == "more" else "at most"
        unit = "x" if row["unit"] == "x" else f" {row['unit']}"
        met = "yes" if row["met"] else "**no**"
        lines.append(f"| {row['what']} | {row['value']:.2f}{unit} | {sign} {row['target']:g}{unit} | {met} |")
    return lines


def target(what: str, value: float, bound: float, unit: str = "x") -> dict:
    """A figure and what it must reach: at least a bound, or at most one (written as a negative number)."""
    met = value >= bound if bound > 0 else value <= -bound
    better = "more" if bound > 0 else "less"
    return {"what": what, "value": value, "target": abs(bound), "unit": unit, "better": better, "met": met}


def _memory_table(results: dict) -> list[str]:
    if not results["memory"]:
        return []
    shape = results["shape"]
    lengths = list(next(iter(results["memory"].values())))
    lines = ["", "| peak memory beyond the inputs, MiB | " + " | ".join(f"T = {t}" for t in lengths) + " |"]
    lines.append("|---" * (len(lengths) + 1) + "|")
    for spec, peaks in results["memory"].items():
        lines.append(f"| {spec} | " + " | ".join(f"{peak / 2**20:.0f}" for peak in peaks.values()) + " |")
    one_state = shape["B"] * shape["H"] * shape["K"] * shape["V"] * 4
    lines.append(
        "| one state a token alone would be | "
        + " | ".join(f"{one_state * int(t) / 2**20:.0f}" for t in lengths)
        + " |"
    )
    return lines


def plot(results: dict, path: Path) -> None:
    """Times on the left, peak memory over length on the right."""
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(3, 2), layout="constrained")
    _bars(left, results)
    if results["memory"]:
        _memory(right, results)
    machine = results["machine"]
    title = f"forward + backward, float32, {machine['cpu']}, {machine['threads']} threads, torch {machine['torch']}"
    figure.suptitle(title, fontsize=9, color=PALE, x=0.01, ha="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _bars(axes, results: dict) -> None:
    median, shape = results["ops"]["median_s"], results["shape"]
    shown = [name for name in NAMES if not name.endswith("long")][::-1]
    values = [median[name] for name in shown]
    axes.barh(
        range(len(shown)),
        values,
        color=[OURS if "chunk" in n and "naive" not in n else OTHER for n in shown],
        height=0.62,
    )
    axes.set_yticks(range(len(shown)), [NAMES[name] for name in shown])
    axes.tick_params(axis="y", length=0)
    for place, (name, value) in enumerate(zip(shown, values, strict=True)):
        own = median[f"{name.split()[0]} chunk"]
        times = f"   {value / own:.1f}x" if name != f"{name.split()[0]} chunk" else ""
        axes.text(value + 0.01 * max(values), place, f"{duration(value)}{times}", va="center", fontsize=9)
    axes.set_xlim(0, max(values) * 1.32)
    axes.set_xlabel("median seconds; beside the time, its ratio to recc chunk")
    axes.set_title(
        f"B = {shape['B']}, H = {shape['H']}, T = {shape['T']}, K = V = {shape['K']}", loc="left", fontsize=10
    )


def _memory(axes, results: dict) -> None:
    shape = results["shape"]
    lengths = [int(t) for t in next(iter(results["memory"].values()))]
    one_state = [shape["B"] * shape["H"] * shape["K"] * shape["V"] * 4 * t / 2**20 for t in lengths]
    axes.plot(lengths, one_state, color=OTHER, linestyle="--")
    axes.text(lengths[-1], one_state[-1], "one state a token ", ha="right", va="bottom", fontsize=9, color=PALE)
    for (spec, peaks), mark, ink in zip(results["memory"].items(), "os", (OURS, INK), strict=True):
        values = [peak / 2**20 for peak in peaks.values()]
        axes.plot(lengths, values, color=ink, marker=mark, linewidth=1.4, markersize=5, label=f"{spec}, recc chunk")
    axes.set_ylim(24, 3500)
    axes.legend(frameon=False, fontsize=9, loc="lower right")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_yticks(ticks := [2**power for power in range(5, 12)], [str(tick) for tick in ticks])
    axes.set_xticks(lengths, [f"{t:,}" for t in lengths])
    axes.set_xlabel("T")
    axes.set_title("peak memory beyond the inputs, MiB", loc="left", fontsize=10)
