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


def test_file_runs_on_its_own(tmp_path):
    assert main(["compile", "gla", "--emit", "triton", "--chunk", "16", "-o", str(tmp_path / "out.py")]) == 0
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name, words", [("lru", "state `x` is complex"), ("gru", "has no Triton kernels")])
def test_refusals(name, words, capsys):
    assert main(["compile", name, "--emit", "triton"]) == 2
    message = capsys.readouterr().err
    assert words in message and "use the torch backend" in message


def test_unknown_target(capsys):
    assert main(["compile", "gla", "--emit", "ptx", "--target", "gfx942"]) == 2
    assert "there are sm_90, sm_80, sm_100" in capsys.readouterr().err
