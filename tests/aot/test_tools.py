"""What the command line shows of kernels for GPUs that need not be there."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("triton")

from kernels import recurrence
from recc.backends.triton import aot, module
from recc.backends.triton.schedule import Unserved

from recc import library
from recc.analysis import analyse
from recc.cli import kernels, main
from recc.frontend import parse_text

SMALL = ["--dim", "K=32,V=32", "--chunk", "16", "--time", "128"]


def test_explain_shows_what_each_launch_uses(capsys):
    assert main(["explain", "simple_gla", "--target", "sm_90", *SMALL]) == 0
    said = capsys.readouterr().out
    assert "kernels for sm_90" in said and "matrix instructions" in said and "backward: 2 launches" in said
    assert main(["explain", "simple_gla", "--target", "sm_90", "--json", *SMALL]) == 0
    found = json.loads(capsys.readouterr().out)["kernels"]
    assert found["served"] and found["sizes"] == {"K": 32, "V": 32}
    assert all(0 < row["registers"] <= 255 and row["bytes"] > 0 for row in found["launches"])
    # q, k, v, o and a state for each of the chunks' 16 tokens, all in bfloat16, is the least.
    forward = sum(row["bytes"] for row in found["launches"] if row["kernel"].startswith("forward"))
    assert forward >= 4 * 32 * 2 + 2 * 32 * 32 / 16


def test_explain_says_how_sequences_are_walked(capsys):
    few = ["--dim", "K=16,V=16", "--chunk", "16", "--batch", "1", "--heads", "2", "--time", "16384"]
    assert main(["explain", "gated_delta_net", "--target", "sm_90", "--json", *few]) == 0
    found = json.loads(capsys.readouterr().out)["kernels"]
    walks = {walk["kernel"]: walk for walk in found["walks"]}
    assert walks["forward_fused"]["outer"] >= 256 and walks["forward_fused"]["programs"] == 2
    assert "multiprocessors" in walks["backward_walk"]["why"]
    launches = {row["kernel"]: row for row in found["launches"]}
    assert {"forward_own", "forward_transition", "forward_cross", "backward_cross"} <= set(launches)
    assert all(row["bytes"] > 0 and row["spills"] == 0 for row in launches.values())


def test_explain_says_that_few_tokens_are_walked_one_by_one(capsys):
    asked = ["explain", "hgrn", "--target", "sm_90", "--json", "--dim", "D=16", "--time"]
    found = {}
    for time in ("8", "4096"):
        assert main([*asked, time]) == 0
        found[time] = json.loads(capsys.readouterr().out)["kernels"]
    assert [found[time]["few"]["walks"] for time in ("8", "4096")] == [True, False]
    assert found["8"]["strategies"][0]["strategy"] == "sequential" and "one by one" in found["8"]["few"]["why"]
    assert {row["kernel"] for row in found["8"]["launches"]} == {"forward_walk", "backward_walk", "decode_walk"}


def test_explain_says_what_to_do_where_registers_spill(capsys, monkeypatch):
    monkeypatch.setattr(aot, "compile_launch", lambda *launch: None)
    monkeypatch.setattr(aot, "facts", lambda kernel: {"registers": 255, "spills": 8, "shared": 0, "matrix": 0})
    asked = ["explain", "hgrn", "--target", "sm_90", "--dim", "D=16"]
    assert main(asked) == 0
    assert "`recc tune SPEC --fit --target sm_90` searches" in " ".join(capsys.readouterr().out.split())
    assert main([*asked, "--chunk", "16"]) == 0
    assert "--fit" not in capsys.readouterr().out


def test_explain_says_when_newtons_method_is_taken():
    plan = analyse(recurrence("para_gru"))
    taken = {(time, programs): kernels._solved(plan, "sm_90", time, programs)["newton"]
             for time in (16, 8192) for programs in (2, 4096)}  # fmt: skip
    assert [call for call, newton in taken.items() if newton] == [(8192, 2)]
    assert "predicted" in kernels._solved(plan, "sm_90", 16, 2)["why"]
    assert not module.solvable(analyse(recurrence("lstm")))


def test_explain_says_why_there_are_no_kernels(capsys):
    assert main(["explain", "s4d", "--target", "sm_90", "--strategy", "convolution"]) == 0
    assert "kernels for sm_90: none" in capsys.readouterr().out
    assert main(["explain", "gla", "--target", "vega"]) == 2
    assert "no GPU is called `vega`" in capsys.readouterr().err


def test_a_scan_with_tiles_too_large_is_refused():
    """The state of plstm_2d_diffusive has three dims, and is contracted along one of them with a matrix of a token."""
    text, path = library.find("plstm_2d_diffusive")
    (small,) = parse_text(text, str(path), dims={"Y": 4, "K": 2, "V": 2})
    assert module.chosen(analyse(small)).parallel
    plan = analyse(recurrence("plstm_2d_diffusive"))
    choice = module.chosen(plan)
    assert not choice.parallel
    refused = dict(choice.refused[plan.components[0].states])["scan"]
    assert "a program has room for" in refused.text and "sequential" in refused.help
    (shown,) = kernels._strategies(plan, choice)
    assert shown["strategy"] == "sequential" and list(shown["refused"]) == ["scan"]
    with pytest.raises(Unserved, match="tiles of tokens x K x Y "):
        module.generate(plan, module.chosen(plan, "scan"))


def test_sass_is_what_the_gpu_runs(capsys):
    assert main(["compile", "simple_gla", "--emit", "sass", *SMALL[:4]]) == 0
    said = capsys.readouterr().out
    assert "EXIT" in said and "HMMA" in said and "// forward_fused: shared" in said


def test_any_nvidia_target_has_a_form():
    assert aot.target_of("sm_89").arch == 89 and aot.target_of("gfx942").backend == "hip"
    for name in ("apple", "sm_1", "sm_91"):  # of which a compiler would end the process
        with pytest.raises(ValueError, match="there are sm_80"):
            aot.target_of(name)
