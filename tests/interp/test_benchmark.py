"""The GPU benchmark's own calls, on kernels in Triton's interpreter: what it would launch, it can launch."""

from __future__ import annotations

from pathlib import Path

import pytest

import recc

FOLDER = Path(recc.__file__).parent.parent / "benchmarks"
if not (FOLDER / "gpu.py").is_file():
    pytest.skip("the benchmarks lie in the checkout", allow_module_level=True)


def measured(spec: str, folder: str) -> list[tuple[str, list[str], dict]]:
    """Of every pass of a spec: what was timed, and what is missing and why."""
    import sys

    import torch

    sys.path.insert(0, str(FOLDER))
    import gpu
    import gpu_cases

    from recc.tuning import measure

    def made(spec, shape, device):
        return gpu_cases.task_of(spec, shape, device, torch.float32)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECC_CACHE_DIR", folder)
        patch.setattr(gpu, "ROUNDS", 1)
        patch.setattr(gpu, "own", lambda task: [(gpu_cases.KERNELS, {"backend": "triton"})])
        patch.setattr(gpu, "rivals", lambda spec: ())
        clock = measure.WallClock()
        found = gpu.measure_spec(spec, clock, clock.now() + 600, lambda results: None,
                                 (gpu_cases.Shape(1, 5, 2, 4),), "cpu", made)  # fmt: skip
    return [(entry["pass"], sorted(entry["seconds"]), entry["missing"]) for entry in found]


@pytest.mark.parametrize("spec", ["simple_gla", "hgrn"])
def test_every_pass_runs(spec, interpreted, tmp_path):
    found = interpreted(measured, spec, str(tmp_path))
    assert len(found) == 3
    assert [(seconds, missing) for _, seconds, missing in found] == [(["copy", "recc"], {})] * 3
