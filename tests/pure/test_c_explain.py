"""What `recc explain` says of native code is what the generated file does."""

from __future__ import annotations

import io
import json
import re

import pytest
from recc.backends.c.explain import Section, view
from recc.backends.c.kernel import generate
from recc.backends.c.vectors import Real
from rich.console import Console

from recc.analysis import analyse
from recc.cli import main
from recc.frontend import parse_text
from recc.library import find, names
from recc.tile import pairs


def plan_of(name: str, **dims: int):
    return analyse(parse_text(*find(name), dims=dims)[0])


def page(facts: dict, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    console.print(Section(facts))
    return console.file.getvalue()


@pytest.mark.parametrize("name", names())
def test_every_spec_has_a_section(name):
    plan = plan_of(name)
    facts = view(plan, 32)
    text = page(facts)
    assert all(line == line.rstrip() and len(line) <= 120 for line in text.splitlines())
    states = {state for core in facts["forward"] for state in core["states"]}
    assert states == {state.name for state in plan.recurrence.states}
    assert {f"d_{state}" for state in states} == {state for core in facts["backward"] for state in core["states"]}


@pytest.mark.parametrize("width", [20, 60, 250])
def test_any_width_will_do(width):
    assert page(view(plan_of("gated_delta_net"), 32), width)


@pytest.mark.parametrize("name", ["gla", "gated_delta_net", "gru", "hgrn", "mlstm"])
@pytest.mark.parametrize("vector_bytes", [16, 64])
def test_loops_and_tokens_are_those_of_the_file(name, vector_bytes):
    plan = plan_of(name)
    facts = view(plan, vector_bytes)
    kernel = generate(plan, facts["sizes"], Real("float", facts["lanes"]), 32 if vector_bytes == 64 else 16)
    assert facts["lanes"] == vector_bytes // 4 and facts["tokens_between_saved_states"] == kernel.chunk
    forward, backward = kernel.source.split(f"void {name}_backward")
    for part, cores in ((forward, facts["forward"]), (backward, [*facts["again"], *facts["backward"]])):
        for core in cores:
            if core["vector_axis"] is None:
                continue
            size = facts["sizes"][core["vector_axis"].rstrip("'")]
            step = core["vectors"] * core["vector_width"]
            lane = rf"for \(long l = 0; l < {size}; l \+= {step}\)"
            row = core["row_axis"] and rf"for \(long i = 0; i < {facts['sizes'][core['row_axis'].rstrip(chr(39))]}; i"
            token = r"for \(long t = "
            order = {
                "tile": [lane, row, token],
                "strip": [lane, token, row],
                "whole": [token, lane, row],
            }[core["shape"]]
            assert re.search(r"[^\0]*?".join(filter(None, order)), part), core


def test_what_is_coupled_decides_the_shape():
    (free,) = view(plan_of("gla"), 32)["forward"]
    assert (free["shape"], free["coupled"], free["loops"][-1]) == ("tile", [], "t")
    (coupled,) = view(plan_of("gated_delta_net"), 32)["forward"]
    assert (coupled["shape"], coupled["coupled"], coupled["loops"]) == ("strip", ["K"], ["V", "t", "K"])
    (dense,) = view(plan_of("gru"), 32)["forward"]
    assert (dense["shape"], dense["loops"][0]) == ("whole", "t") and dense["moves"]


def test_sizes_are_those_that_were_asked_for(capsys):
    assert main(["explain", "gla", "--dims", "K=16,V=32", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["native"]
    assert facts["sizes"] == {"K": 16, "V": 32} and facts["served"]


def test_explain_shows_it(capsys):
    assert main(["explain", "gated_delta_net"]) == 0
    out = capsys.readouterr().out
    assert "native code: loops over tokens" in out
    assert "why: S: the next state waits for sums over K" in out or "why: S, d_S: the next state waits" in out


def test_explain_says_why_native_code_does_not_serve(capsys, monkeypatch):
    monkeypatch.delitem(pairs.FUNCTIONS, "exp")
    facts = view(plan_of("lru"))
    assert facts == {"served": False, "reason": {"text": "`exp` has no form for complex values", "line": 17}}
    assert page(facts) == "native code: does not serve\n  why: `exp` has no form for complex values (line 17)\n"
