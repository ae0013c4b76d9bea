"""The results of the native CPU benchmark: what must be reached, a table for each workload, and a chart."""

from __future__ import annotations

import statistics
from pathlib import Path

import decoding
import fallbacks
import rivals
from candidates import NATIVE, TORCH
from report import target, targets_table

from recc.tuning.chart import INK, OTHER, OURS, PALE, duration, pyplot
from recc.tuning.measure import ratio

FLOOR, BACKWARD = "floor: ", ", backward"
KINDS = {"forward": "forward", "both": "forward + backward", "decode": "decode step"}
COLUMNS = {
    "forward": ("forward", ""),
    "forward + backward": ("both", ""),
    "of it backward": ("both", BACKWARD),
    "decode step": ("decode", ""),
}
# What the issue asks for, by the study's name of the workload; over the floors at most, over others at least.
STUDY = {"W1": "hgrn", "W2": "gla", "W3": "gated_delta_net", "W4": "mamba", "W5": "para_gru"}
FLOORS = {
    "forward": {"W1": 1.4, "W2": 2.2, "W3": 2.0, "W4": 2.0, "W5": 2.0},
    BACKWARD: {"W1": 2.0, "W2": 3.3, "W3": 2.8},
}
OTHER_SIZES = 1.6  # times as far from their floors may memories of other sizes be
BEST_TORCH = {
    "forward": {"W1": 3, "W2": 2.3, "W3": 3.5, "W4": 2.8, "W5": 2.6},
    "both": {"W1": 8, "W2": 1.7, "W3": 2.3, "W4": 3, "W5": 3.5},
}
PLAIN_LOOP = {"W1": 10, "W2": 15, "W3": 20, "W4": 8, "W5": 8}
CELLS = {"lstm": 1.5, "gru": 1.5}  # over torch.nn's at most, on all cores
DEMO = 2  # times as long as with native code the demo's training step takes on torch's backend at least, on all cores
CELL_LOOPS = {"para_gru": 40}  # the plain torch loop over native at least, on all cores
TORCH_FORMS = (
    TORCH,
    rivals.LOOP,
    rivals.ADDCMUL,
    rivals.CHUNK,
    rivals.FLA,
    rivals.COMPILED_SCAN,
    rivals.COMPILED_CHUNK,
)
MARKS = {
    TORCH: ("D", INK), rivals.LOOP: ("o", OTHER), rivals.ADDCMUL: ("h", OTHER), rivals.CHUNK: ("s", "#c8553d"),
    rivals.COMPILED_CHUNK: ("s", "none"), rivals.COMPILED_SCAN: ("o", "none"), rivals.FLA: ("^", "#588157"),
    fallbacks.NAME: ("v", "#8e6bbf"), rivals.JAX: ("P", "#d9a441"), rivals.NN: ("X", "#c8553d"),
    rivals.SCIPY: ("*", "#588157"), decoding.IN_PLACE: ("p", "#c8553d"), "floor": ("|", "none"),
}  # fmt: skip


Rows = list[tuple[str, float | None, float, str]]  # what, how much, the least (or minus the most) that must be, unit

# --- figures --------------------------------------------------------------------------------------------------------


def over(times: dict, above: str, below: str) -> float | None:
    """The median ratio of two cases within a round; None where one of them was not timed."""
    try:
        return ratio(times, above, below)
    except (KeyError, statistics.StatisticsError):
        return None


def figures(results: dict) -> list[dict]:
    """What must be reached: over floors and of one token in the process with the fewest threads, since no floor depends
    on a second core; over what others take in that one, and on all cores."""
    least, most = (end(results["threads"], key=int) for end in (min, max))
    rows: Rows = []
    for study, spec in STUDY.items():
        entries = {count: results["threads"][count]["workloads"].get(spec) for count in dict.fromkeys((least, most))}
        if entries[least] is not None:
            rows += _of_workload(study, spec, entries[least]["seconds"])
        for count, entry in entries.items():
            if entry is not None:
                said = "" if count == least else f", {_threads(count)}"
                rows += [(what + said, *rest) for what, *rest in _over_others(study, spec, entry["seconds"])]
    for spec, sizes in results["threads"][least].get("sweep", {}).items():
        rows += [row for size, entry in sizes.items() for row in _of_size(spec, size, entry["seconds"])]
    for spec, bound in CELLS.items():
        entry = results["threads"][most]["workloads"].get(spec)
        value = entry and over(entry["seconds"]["both"], NATIVE, rivals.NN)
        rows.append((f"{spec}: native over torch.nn's, forward + backward, {most} threads", value, -bound, "x"))
    for spec, bound in CELL_LOOPS.items():
        entry = results["threads"][most]["workloads"].get(spec)
        value = entry and over(entry["seconds"]["both"], rivals.LOOP, NATIVE)
        rows.append((f"{spec}: plain torch loop over native, forward + backward, {most} threads", value, bound, "x"))
    if trained := results["threads"][most].get("layers", {}).get("demo"):
        value = over(trained["seconds"]["both"], TORCH, NATIVE)
        rows.append((f"demo: a training step on torch's backend over native, {most} threads", value, DEMO, "x"))
    for spec, seconds in results["first_use"].items():
        rows.append((f"{spec}: first use, library built", 1e3 * seconds["build"], -600, "ms"))
        rows.append((f"{spec}: library loaded by a new process", 1e3 * seconds["load"], -5, "ms"))
    return [target(what, value, bound, unit) for what, value, bound, unit in rows if value is not None]


def _of_workload(study: str, spec: str, seconds: dict) -> Rows:
    forward, both, decode = (seconds[kind] for kind in KINDS)
    label = f"{study} {spec}: "
    rows = [(f"{label}forward over its floor", over(forward, NATIVE, _floor(forward)), -FLOORS["forward"][study], "x")]
    if study in FLOORS[BACKWARD]:
        value = over(both, NATIVE + BACKWARD, _floor(both))
        rows.append((f"{label}backward over its floor", value, -FLOORS[BACKWARD][study], "x"))
    if spec in ("gla", "gated_delta_net") and decoding.BOUND in decode:
        rows.append((f"{label}decode step, bound", 1e6 * _median(decode[decoding.BOUND]), -10, "us"))
        name, value = _best(decode, (rivals.LOOP, decoding.IN_PLACE), of=decoding.BOUND)
        rows.append((f"{label}eager decode step ({name}) over the bound one", value, 5, "x"))
    return rows


def _over_others(study: str, spec: str, seconds: dict) -> Rows:
    label = f"{study} {spec}: "
    rows = []
    for kind, bounds in BEST_TORCH.items():
        name, value = _best(seconds[kind], TORCH_FORMS)
        rows.append((f"{label}best torch form ({name}) over native, {KINDS[kind]}", value, bounds[study], "x"))
    plain = over(seconds["both"], rivals.LOOP, NATIVE)
    rows.append((f"{label}plain torch loop over native, forward + backward", plain, PLAIN_LOOP[study], "x"))
    if spec == "gated_delta_net":
        chunk = over(seconds["both"], fallbacks.NAME, NATIVE)
        rows.append((f"{label}transformers' fallback over native, forward + backward", chunk, 5, "x"))
    return rows


def _of_size(spec: str, size: str, seconds: dict) -> Rows:
    """Of a memory of another size than the study's, whose floors it may miss by so much more."""
    (study,) = (name for name, other in STUDY.items() if other == spec)
    passes = {"forward": ("forward", NATIVE), "backward": ("both", NATIVE + BACKWARD)}
    bounds = {"forward": FLOORS["forward"][study], "backward": FLOORS[BACKWARD][study]}
    return [
        (f"{study} {spec}, K=V={size}: {name} over its floor", value, -OTHER_SIZES * bounds[name], "x")
        for name, (kind, row) in passes.items()
        for value in [over(seconds[kind], row, _floor(seconds[kind]))]
    ]


def _floor(times: dict) -> str:
    """The name of the floor that takes longest."""
    return max((name for name in times if name.startswith(FLOOR)), key=lambda name: _median(times[name]), default="")


def _best(times: dict, names: tuple[str, ...], of: str = NATIVE) -> tuple[str, float | None]:
    """The fastest of those that were timed, and how many times as long as native code (or `of`) it takes."""
    found = {name: over(times, name, of) for name in names}
    known = {name: value for name, value in found.items() if value is not None}
    return min(known.items(), key=lambda pair: pair[1], default=("none", None))


def _median(row: list) -> float:
    return statistics.median(t for t in row if t is not None)


# --- Markdown -------------------------------------------------------------------------------------------------------


def markdown(results: dict) -> str:
    processes = results["threads"]
    machine = next(iter(processes.values()))["machine"]
    versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "fla-core", "transformers", "jax", "scipy"))
    lines = [
        "# Native CPU benchmark",
        "",
        f"{machine['cpu']}, Python {machine['python']}, {versions}. Load of other processes at the start: "
        + ", ".join(f"{p['machine']['load']} ({_threads(n)})" for n, p in processes.items())
        + ".",
        "",
        "float32. One process for each number of threads, confined to as many cores, where everything runs in "
        "interleaved rounds.",
        "A time is the median, with the least and the most; a ratio (how many times as long as recc native) is the "
        "median of the ratios within a round.",
        "A floor is the least work that the pass must do, in C, timed in the same rounds. Outputs and gradients were "
        "compared with the float64 interpreter before anything was timed.",
        f"Jax has a process of its own, beside `{rivals.BESIDE[rivals.JAX]}`: its runtime slows the others down.",
        "",
        f"## What must be reached ({_threads(min(processes, key=int))} where no other number stands)",
        "",
        *targets_table(results["figures"]),
        "",
        "## The machine",
        "",
        *_machine_table(processes),
    ]
    lines += [*_sizes_section(processes), *_layers_section(processes)]
    for spec in dict.fromkeys(spec for p in processes.values() for spec in p["workloads"]):
        lines += _section(spec, {n: p["workloads"][spec] for n, p in processes.items() if spec in p["workloads"]})
    return "\n".join(lines) + "\n"


def _threads(count: str) -> str:
    return f"{count} thread" + "s" * (count != "1")


def _machine_table(processes: dict) -> list[str]:
    lines = ["| | " + " | ".join(_threads(n) for n in processes) + " |", "|---" * (len(processes) + 1) + "|"]
    for what in next(iter(processes.values()))["machine_floors"]:
        values = " | ".join(f"{p['machine_floors'][what]:.3g}" for p in processes.values())
        lines.append(f"| {what} | {values} |")
    return lines


def _sizes_section(processes: dict) -> list[str]:
    """Memories of other sizes: native code alone, and over its floors."""
    rows = []
    for count, process in processes.items():
        for spec, sizes in process.get("sweep", {}).items():
            for entry in sizes.values():
                forward, both = entry["seconds"]["forward"], entry["seconds"]["both"]
                ratios = over(forward, NATIVE, _floor(forward)), over(both, NATIVE + BACKWARD, _floor(both))
                cells = [_cell(forward, NATIVE, ""), _cell(both, NATIVE, BACKWARD)]
                cells = [f"{cell}, **{value:.2f}x**" for cell, value in zip(cells, ratios, strict=True)]
                rows.append(f"| {spec}, {entry['shape']}, {_threads(count)} | {' | '.join(cells)} |")
    head = ["", "## Matrix memories of other sizes, over the floors of multiply-adds", ""]
    return [*head, "| | forward | backward |", "|---|---|---|", *rows] if rows else []


def _layers_section(processes: dict) -> list[str]:
    """Whole layers and the demo's training step, on both of recc's backends."""
    rows = []
    for count, process in processes.items():
        for spec, entry in process.get("layers", {}).items():
            both = entry["seconds"]["both"]
            apart = "" if entry["agreement"] is None else f"{entry['agreement']:.0e}"
            cells = _cell(both, NATIVE, ""), _cell(both, TORCH, ""), apart
            rows.append(f"| {spec}, {entry['shape']}, {_threads(count)} | {' | '.join(cells)} |")
    head = ["", "## Layers with projections, and the demo's training step, forward + backward", ""]
    columns = f"| | {NATIVE} | {TORCH} | largest relative difference |"
    return [*head, columns, "|---" * 4 + "|", *rows] if rows else []


def _section(spec: str, entries: dict[str, dict]) -> list[str]:
    first = next(iter(entries.values()))
    title = f"## {spec}" + (f" ({first['study']})" if first["study"] else "")
    lines = ["", title, "", first["shape"]]
    for count, entry in entries.items():
        lines += ["", f"| {_threads(count)} | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
        names = [name for times in entry["seconds"].values() for name in times if not name.endswith(BACKWARD)]
        for name in sorted(dict.fromkeys(names), key=lambda name: name.startswith(FLOOR)):
            cells = [_cell(entry["seconds"][kind], name, part) for kind, part in COLUMNS.values()]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    worst = {name: max(e["agreement"].get(name, 0) for e in entries.values()) for name in first["agreement"]}
    apart = ", ".join(f"{name} {value:.0e}" for name, value in worst.items())
    lines += ["", f"Largest relative difference from the reference: {apart}."]
    remarks = {
        name: text for e in entries.values() for name, text in (*e.get("about", {}).items(), *e["missing"].items())
    }
    return lines + [line for name, text in remarks.items() for line in ("", f"{name}: {text}.")]


def _native(times: dict, name: str) -> str:
    """Native code as it was timed in the rounds of another case."""
    beside = rivals.BESIDE.get(name, NATIVE)
    return beside if beside in times else NATIVE


def _cell(times: dict, name: str, part: str) -> str:
    """Median, least, most and ratio. What stands for the floor of both passes is the floor of the backward one."""
    if name.startswith(FLOOR) and name in times and NATIVE + BACKWARD in times:
        if not part:
            return ""
        key = name
    else:
        key = name + part
    row = [t for t in times.get(key, ()) if t is not None]
    if not row:
        return ""
    alone = name in (NATIVE, *rivals.BESIDE.values())
    value = None if alone else over(times, key, _native(times, name) + part)
    median = _median(row)
    unit = 1e6 if median < 1e-3 else 1e3
    text = f"{duration(median)} ({unit * min(row):,.4g} to {unit * max(row):,.4g})"
    return text if value is None else f"{text}, **{value:.2f}x**"


# --- chart ----------------------------------------------------------------------------------------------------------


def plot(results: dict, path: Path) -> None:
    """How many times as long as native code everything else takes: a row for each workload, a panel for each pass."""
    count = max(results["threads"], key=lambda n: (len(results["threads"][n]["workloads"]), int(n)))
    process = results["threads"][count]
    specs = list(process["workloads"])[::-1]
    plt = pyplot()
    figure, panels = plt.subplots(1, 3, figsize=(13, 1.6 + 0.42 * len(specs)), sharey=True, layout="constrained")
    shown: dict[str, object] = {}
    for axes, (kind, title) in zip(panels, KINDS.items(), strict=True):
        for place, spec in enumerate(specs):
            for name, value in _ratios(process["workloads"][spec]["seconds"][kind]).items():
                mark, fill = MARKS[name]
                ink = {"c": INK} if mark == "|" else {"facecolor": fill, "edgecolor": INK if fill == "none" else fill}
                shown[name] = axes.scatter(value, place, marker=mark, s=52, linewidth=1.1, zorder=3, **ink)
        shown[NATIVE] = axes.axvline(1, color=OURS, linewidth=2, zorder=2)
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.set_xlim(min(low, 0.1), max(high, 20))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}x")
        axes.xaxis.set_minor_formatter("")
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.7)
        axes.set_title(title, loc="left", fontsize=10)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(specs)), specs)
    panels[0].set_ylim(-0.6, len(specs) - 0.4)
    order = [name for name in (NATIVE, *MARKS) if name in shown]
    handles = [shown[name] for name in order]
    figure.legend(handles, order, loc="outside lower center", ncols=6, frameon=False, fontsize=9)
    machine = process["machine"]
    conditions = f"float32, {machine['cpu']}, {_threads(count)}, torch {machine['torch']}"
    title = f"time over that of recc native (backward floors: over its backward pass), {conditions}"
    figure.suptitle(title, fontsize=9, color=PALE, x=0.01, ha="left")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _ratios(times: dict) -> dict[str, float]:
    """By the name of the mark; the floor of the backward pass is compared with the backward pass."""
    found = {}
    for name in times:
        floor = name.startswith(FLOOR)
        mark = "floor" if floor else name
        ours = _native(times, name)
        value = over(times, name, NATIVE + BACKWARD if floor and NATIVE + BACKWARD in times else ours)
        if mark in MARKS and value is not None:
            found[mark] = value
    return found
