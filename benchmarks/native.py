"""`make bench`: native code on a CPU against everything else that runs the same recurrences there, and the machine.

For each number of threads one process, in which all that is compared runs in interleaved rounds; kept are the times of
all rounds, medians, and ratios as medians of the ratios within a round. Jax brings a runtime of its own, beside which
what torch and recc do takes longer: it is compared with recc in a process of theirs. Before anything is timed its
outputs and gradients are compared with the interpreter's in float64. Writes native.json, native.md and native.png to
benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

FLOOR = "floor: "
BACKWARD = ", backward"  # what follows a name where only its backward pass is meant


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="interleaved rounds (default: 9)")
    parser.add_argument("--quick", action="store_true", help="3 rounds, nothing compiled by torch; writes no files")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads (default: 1 2)")
    parser.add_argument("--only", nargs="+", metavar="SPEC", help="some specs, such as gla hgrn")
    parser.add_argument(
        "--compile", nargs="*", choices=("scan", "chunk"), default=["scan", "chunk"], metavar="FORM",
        help="what goes through torch.compile: scan (seconds for each), chunk (minutes), or nothing (default: both)",
    )  # fmt: skip
    parser.add_argument("--add", action="store_true", help="keep what the results' file has of other specs and threads")
    parser.add_argument("--sweep", action="store_true", help="only measure matrix memories of other sizes")
    parser.add_argument("--layers", action="store_true", help="only measure whole layers and the demo's training step")
    parser.add_argument("--first-use", action="store_true", help="only measure how long the first use of an op takes")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder for the results")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)  # the process of one number of threads
    parser.add_argument("--jax", action="store_true", help=argparse.SUPPRESS)  # the process in which jax runs
    args = parser.parse_args()
    if args.quick:
        args.rounds, args.compile = 3, []
    return args


# --- the process that measures --------------------------------------------------------------------------------------


def measure(args: argparse.Namespace) -> dict:
    """All workloads on args.threads[0] threads of this process."""
    (threads,) = args.threads
    import torch
    from floors import Floors
    from rivals import versions
    from sweep import sweep
    from workloads import WORKLOADS

    from recc.tuning.measure import machine

    torch.set_num_threads(threads)
    if args.jax:
        return {"workloads": {spec: workload(WORKLOADS[spec], None, args) for spec in args.only or WORKLOADS}}
    floors = Floors(threads)
    results: dict = {"machine": machine() | versions(), "workloads": {}}
    if args.sweep or not (args.only or args.layers):
        results["sweep"] = sweep(floors, args.rounds)
    if threads > 1 and (args.layers or not (args.only or args.sweep)):
        from layers import layers

        results["layers"] = layers(args.rounds)
    for spec in [] if args.sweep or args.layers else args.only or WORKLOADS:
        results["workloads"][spec] = workload(WORKLOADS[spec], floors, args)
    results["machine_floors"] = machine_floors(floors)
    return results


def workload(w, floors, args: argparse.Namespace) -> dict:
    """Times of all that runs this workload, by kind of pass and name; agreement; what is missing and why."""
    import torch
    from candidates import AGREE, candidates, difference, reference
    from decoding import steps, timed
    from workloads import draw

    from recc.tuning.measure import rounds, whole

    began = time.perf_counter()
    tensors = draw(w)
    dy = torch.randn(output_of(w, tensors).shape, generator=torch.Generator().manual_seed(1))
    found, missing = candidates(w, tensors, dy, tuple(args.compile), args.jax)
    want, agreement, good = reference(w, tensors, dy), {}, []
    for candidate in found:
        try:
            agreement[candidate.name] = difference(candidate.results(), want)
        except Exception as error:
            missing[candidate.name] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        if agreement[candidate.name] < AGREE:
            good.append(candidate)
        else:
            missing[candidate.name] = f"differs from the reference by {agreement[candidate.name]:.1e}; not timed"
    del want
    token, absent = ({}, {}) if args.jax else steps(w, tensors)
    missing |= {f"{name}, decode": reason for name, reason in absent.items() if name not in missing}
    missing |= disagreeing(token)

    cases = {
        "forward": {c.name: rested(whole(c.forward), c.rest) for c in good},
        "both": {c.name: rested(parts(c.both), c.rest) for c in good if c.trains},
        "decode": {name: lambda s=step: {"": timed(s)} for name, step in token.items()},
    }
    forward, backward = ({}, {}) if floors is None else bounds(w, floors)
    cases["forward"] |= {f"{FLOOR}{name}": whole(run) for name, run in forward.items()}
    cases["both"] |= {f"{FLOOR}{name}": whole(run) for name, run in backward.items()}
    times = {kind: rounds(group, args.rounds) for kind, group in cases.items()}
    for name, reason in missing.items():
        print(f"  {w.spec}: {name}: {reason}", file=sys.stderr)
    print(f"{w.spec}: {w.shape()}: {time.perf_counter() - began:.0f} s", file=sys.stderr)
    said = {"about": {c.name: c.about for c in good if c.about}, "missing": missing}
    return {"shape": w.shape(), "study": w.study, "seconds": times, "agreement": agreement, **said}


def output_of(w, tensors):
    """The output by the loop in torch, for its shape."""
    import torch
    from loops import run

    with torch.no_grad():
        return run(w.spec, tensors)


def disagreeing(token: dict[str, Callable]) -> dict[str, str]:
    """Decode steps whose first output is not that of the loop in torch; they are taken out."""
    import torch
    from candidates import AGREE
    from rivals import LOOP

    if not token:
        return {}
    with torch.no_grad():
        first = {name: step().double() for name, step in token.items()}
    apart = {name: ((y - first[LOOP]).norm() / first[LOOP].norm()).item() for name, y in first.items()}
    wrong = {name: error for name, error in apart.items() if not error < AGREE}
    for name in wrong:
        del token[name]
    return {f"{name}, decode": f"differs from the loop by {error:.1e}; not timed" for name, error in wrong.items()}


def bounds(w, floors) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Calls that do what the forward and the backward pass must do at least."""
    rows = w.batch * w.time * w.heads
    if w.exponentials or w.streams:
        forward, backward = {}, {}
        if w.exponentials:
            forward["exponentials"] = floors.exponentials(rows * w.exponentials)
        if w.streams:
            count = rows * w.sizes["D"]
            forward["streaming triad"] = floors.stream("triad", 3, count * w.streams // 3 // 16 * 16)
        if w.streams and not w.exponentials:
            backward["5 streams"] = floors.stream("five", 5, count)
        return forward, backward
    count = rows * w.multiply_adds
    return (
        {"multiply-adds": floors.multiply_adds(count)},
        {"multiply-adds": floors.multiply_adds(w.backward_work * count)},
    )


def machine_floors(floors) -> dict[str, float]:
    """Gigabytes, multiply-adds and exponentials a second: the best of some runs, each array 64 MiB."""
    count, best = 1 << 24, {}
    for kernel, arrays in (("copy_plain", 2), ("copy", 2), ("triad_plain", 3), ("triad", 3), ("five", 5)):
        best[f"{kernel}, GB/s"] = arrays * 4 * count / least(floors.stream(kernel, arrays, count)) / 1e9
    best["multiply-adds, GFLOP/s"] = 2e9 / least(floors.multiply_adds(10**9)) / 1e9
    best["exp, ns"] = least(floors.exponentials(10**8)) / 1e8 * 1e9
    return best


def least(run: Callable[[], object]) -> float:
    def once() -> float:
        began = time.perf_counter()
        run()
        return time.perf_counter() - began

    return min(once() for _ in range(8))


def parts(both: Callable[[], float | None]) -> Callable[[], dict[str, float]]:
    """Both passes, and of them the backward one where it has a time of its own."""

    def call() -> dict[str, float]:
        began = time.perf_counter()
        backward = both()
        whole = time.perf_counter() - began
        return {"": whole} if backward is None else {"": whole, BACKWARD: backward}

    return call


def rested(case: Callable[[], dict], seconds: float) -> Callable[[], dict]:
    """The case, and time in which what it leaves behind does not disturb the next one."""

    def call() -> dict:
        found = case()
        time.sleep(seconds)
        return found

    return call


# --- the process that asks for it -----------------------------------------------------------------------------------


def in_own_processes(threads: int, args: argparse.Namespace) -> dict:
    """`measure` in a process that has so many threads and cores, and in another one what jax takes."""
    from candidates import NATIVE
    from rivals import BESIDE, JAX, installed

    results = in_own_process(threads, args)
    if installed("jax") and not (args.sweep or args.layers):
        other = in_own_process(threads, args, "--jax")["workloads"]
        for spec, entry in results["workloads"].items():
            for kind, times in other[spec]["seconds"].items():
                names = {JAX: JAX, NATIVE: BESIDE[JAX]}
                entry["seconds"][kind] |= {name: times[key] for key, name in names.items() if JAX in times}
            for about in ("agreement", "missing"):
                entry[about] |= {name: x for name, x in other[spec][about].items() if name == JAX}
    return results


def in_own_process(threads: int, args: argparse.Namespace, *more: str) -> dict:
    """`measure` in a process that has so many threads and cores."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "results.json"
        command = [sys.executable, __file__, "--measure", str(file), "--threads", str(threads)]
        command += ["--rounds", str(args.rounds), "--compile", *args.compile]
        command += ["--only", *args.only] if args.only else []
        command += ["--sweep"] * args.sweep + ["--layers"] * args.layers
        command += more
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        return json.loads(file.read_text())


def added(old: dict, new: dict) -> dict:
    """The old results, with what the new ones have of machines, workloads and floors in place of their own. What is not
    installed now was there when the old ones were measured."""
    for threads, found in new["threads"].items():
        kept = old["threads"].get(threads, {"workloads": {}})
        there = {name: value for name, value in found["machine"].items() if value != "not installed"}
        machine = {**found["machine"], **kept.get("machine", {}), **there}
        workloads = {**kept["workloads"], **found["workloads"]}
        old["threads"][threads] = {**kept, **found, "machine": machine, "workloads": workloads}
    return {**old, **{key: value for key, value in new.items() if key != "threads"}}


def confine(threads: int) -> None:
    """To so many cores, for libraries that have no switch of their own."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])


def main() -> None:
    args = parse()
    if args.measure:
        confine(args.threads[0])
        warnings.filterwarnings("ignore")
        args.measure.write_text(json.dumps(measure(args)))
        return
    from first_use import first_use
    from native_report import figures, markdown, plot

    threads = [] if args.first_use else [n for n in args.threads if n > 1 or not args.layers]
    results = {"threads": {str(n): in_own_processes(n, args) for n in threads}}
    if args.first_use or not (args.only or args.sweep or args.layers):
        results["first_use"] = first_use()
    file = args.output / "native.json"
    if args.add and file.is_file():
        results = added(json.loads(file.read_text()), results)
    results.setdefault("first_use", {})
    results["figures"] = figures(results)
    text = markdown(results)
    if not args.quick:
        args.output.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(results, indent=1) + "\n")
        (args.output / "native.md").write_text(text)
        plot(results, args.output / "native.png")
    print(text)


if __name__ == "__main__":
    main()
