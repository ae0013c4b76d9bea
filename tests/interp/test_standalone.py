"""The file that `recc compile --emit triton` writes needs torch and triton alone, and runs on its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from recc.cli import main

SCRIPT = """
import sys
sys.modules["recc"] = None
import torch
import out
torch.manual_seed(0)
q, k, v = (torch.randn(1, 20, 2, 8, requires_grad=True) for _ in range(3))
g = -torch.rand(1, 20, 2, 8)
whole = out.gla(q, k, v, g)
state, tokens = out.gla.initial_state(1, heads=2, sizes={"K": 8, "V": 8}), []
for t in range(20):
    token, state = out.gla.step(q[:, t], k[:, t], v[:, t], g[:, t], state=state)
    tokens.append(token)
steps = torch.stack(tokens, 1)
assert (steps - whole).abs().max() < 1e-5 * steps.abs().max()
by_kernels, by_steps = (torch.autograd.grad(x.square().sum(), (q, k, v)) for x in (whole, steps))
for x, y in zip(by_kernels, by_steps):
    assert (x - y).abs().max() < 1e-5 * y.abs().max()
"""


@pytest.mark.parametrize("options", [("--chunk", "16"), ("--strategy", "sequential")])
def test_file_runs_on_its_own(options, tmp_path):
    assert main(["compile", "gla", "--emit", "triton", *options, "-o", str(tmp_path / "out.py")]) == 0
    assert "# gla.rec:" in (tmp_path / "out.py").read_text()
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_refusals(capsys):
    assert main(["compile", "s4d", "--emit", "triton", "--strategy", "convolution"]) == 2
    message = capsys.readouterr().err
    assert "they have no FFT" in message and "use the torch backend" in message


def test_unknown_target(capsys):
    assert main(["compile", "gla", "--emit", "ptx", "--target", "gfx942"]) == 2
    assert "there are sm_90, sm_80, sm_100" in capsys.readouterr().err
