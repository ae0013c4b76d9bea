"""The chart of `recc bench`: for each pass the median of every way to run it, with its quartiles."""

from __future__ import annotations

from pathlib import Path

from recc.tuning import measure
from recc.tuning.bench import COPY, DECODE, Results
from recc.tuning.chart import INK, OTHER, OURS, PALE, duration, pyplot


def plot(found: Results, path: Path) -> None:
    """Writes the chart in the format of the path's suffix."""
    plt = pyplot()
    kinds = [passes for passes, times in found.times.items() if times]
    names = [name for name in found.names if name != COPY][::-1]
    height = 1.3 + 0.34 * len(names)
    figure, panels = plt.subplots(1, len(kinds), figsize=(2.2 + 3.1 * len(kinds), height), sharey=True, squeeze=False,
                                  layout="constrained")  # fmt: skip
    for panel, passes in zip(panels[0], kinds, strict=True):
        _panel(panel, passes, found.times[passes], names)
    panels[0][0].set_yticks(range(len(names)), names)
    where = found.machine.get("gpu") or f"{found.machine['cpu']}, {found.machine['threads']} threads"
    task = found.task
    title = f"{task.rec.name}, {task.shape}, {task.dtype_name}; {where}, torch {found.machine['torch']}"
    figure.suptitle(title, fontsize=9, color=PALE, x=0.01, ha="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(panel, passes: str, times: measure.Times, names: list[str]) -> None:
    """Dots on a logarithmic axis; what a copy of the least bytes takes is a line."""
    values = {name: measure.median(row) for name, row in times.items()}
    for place, name in enumerate(names):
        if name in values:
            low, high = measure.spread(times[name])
            colour = OURS if name.startswith("recc") else INK
            panel.plot([low, high], [place, place], color=colour, linewidth=3, alpha=0.35, solid_capstyle="round")
            panel.plot(values[name], place, "o", color=colour, markersize=6)
            panel.annotate(duration(values[name]), (high, place), (7, 0), textcoords="offset points",
                           va="center", fontsize=8.5)  # fmt: skip
    if COPY in values:
        panel.axvline(values[COPY], color=OTHER, linestyle="--", linewidth=1)
        panel.text(values[COPY], len(names) - 0.45, " copy", fontsize=8, color=PALE, va="bottom")
    panel.set_xscale("log")
    panel.set_xlim(min(values.values()) / 1.5, max(values.values()) * 4)
    panel.set_ylim(-0.6, len(names) - 0.3)
    panel.set_title(passes, loc="left", fontsize=10, pad=12)
    panel.set_xlabel("seconds" + (" a step" if passes == DECODE else ""), fontsize=9)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color=PALE, alpha=0.2, linewidth=0.6)
