"""The generated C file as a reader sees it: what it defines is used, what it computes is said, no line is too long."""

from __future__ import annotations

import re

import pytest
from recc.backends.c.kernel import generate
from recc.backends.c.limits import refusal
from recc.backends.c.tidy import LONGEST, needed, wrapped
from recc.backends.c.vectors import Real

from recc.analysis import analyse
from recc.frontend import parse_text
from recc.library import find, names

SERVED = [name for name in names() if refusal(analyse(parse_text(*find(name))[0])) is None]


def source(name: str, real: Real) -> str:
    rec = parse_text(*find(name))[0]
    return generate(analyse(rec), {dim: size or 32 for dim, size in rec.dims.items()}, real, 16).source


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("real", [Real("float", 8), Real("double", 4)], ids=["float", "double"])
def test_what_is_defined_is_used_and_no_line_is_too_long(name, real):
    text = source(name, real)
    assert max(map(len, text.splitlines())) <= LONGEST
    code = "\n".join(line.partition("//")[0] for line in text.splitlines())
    defined = re.findall(r"^LANES \w+ (\w+)\(", code, re.MULTILINE)
    assert "load" in defined and "store" in defined
    for word in defined:
        assert len(re.findall(rf"\b{word}\b", code)) > defined.count(word), f"nothing uses {word}"


@pytest.mark.parametrize("name", SERVED)
def test_each_loop_says_what_it_is_and_which_line_it_comes_from(name):
    rec = parse_text(*find(name))[0]
    forward, backward = source(name, Real("float", 8)).split(f"void {name}_backward(")
    for state in rec.states:
        own = rf"([^:]*, )?{re.escape(state.name)}[,:]"
        assert re.search(rf"// the loop over tokens that carries {own}", forward)
        assert re.search(rf"// the loop over tokens, last to first, that carries the cotangents? of {own}", backward)
    lines = rec.text.split("\n")
    quoted = re.findall(rf"// {name}\.rec:(\d+)  (.*)", forward)
    assert quoted and all(lines[int(line) - 1].startswith(text) for line, text in quoted)
    updates = {rec.place(state.name).line for state in rec.states if not state.delay}
    assert updates <= {int(line) for line, _ in quoted}


@pytest.mark.parametrize("name", ["gla", "gated_delta_net", "lstm", "s5", "mlstm"])
def test_each_loop_over_cotangents_says_whose_gradient_it_computes(name):
    """By lines of the spec, right below what the loop carries."""
    lines = source(name, Real("float", 8)).partition(f"void {name}_backward(")[2].splitlines()
    loops = [place for place, line in enumerate(lines) if "last to first, that carries" in line]
    spec = parse_text(*find(name))[0].text.split("\n")
    assert loops
    for place in loops:
        below = [lines[place]]
        while lines[place + len(below)].lstrip().startswith("//"):
            below.append(lines[place + len(below)])
        found = re.findall(rf"// gradient of {name}\.rec:(\d+)  (.*)", "\n".join(below))
        assert found and all(spec[int(number) - 1].startswith(text) for number, text in found), below


def sized(name: str, size: int):
    return generate(analyse(parse_text(*find(name))[0]), {"K": size, "V": size}, Real("float", 16), 32)


def test_a_token_of_a_delta_rule_passes_over_the_state_once():
    forward = sized("gated_delta_net", 64).parts["forward"]
    core = forward[forward.index("that carries S: a strip") :]
    token = core[core.index("for (long t = 0; t < c; t++) {") : core.index("// after the loop")]
    assert token.count("for (long i = 0; i < 64; i += 4)") == 1
    assert token.count("= load(last_S_at") == token.count("store(last_S_at") == 16  # 4 rows of 4 vectors


@pytest.mark.parametrize("name", ["gla", "gated_delta_net"])
def test_lines_of_inputs_and_results_are_asked_for_once(name):
    """A tile's turns share them, so that each line of a chunk's tokens is one turn's."""
    forward, backward = (sized(name, 64).parts[part] for part in ("forward", "backward"))
    for text, token in ((forward, "(t + 32)"), (backward, "(t - 32)")):
        assert re.search(rf"{re.escape(token)} \* \w+, 0, 2\);", text)
        assert re.search(r"\+ t \* \w+, 1, 2\);", text)
    written = re.search(r"real \*const written0 = (.*?);", backward, re.DOTALL)[1]
    ends = [int(turn) for turn in re.findall(r"share < (\d+)", written)]
    assert ends == [4, 8, 12, *((16,) if name == "gla" else (13, 14))]  # d_q, d_k, d_v of 64 numbers, and the gates'
    assert "written1" not in backward
    turns = 32 if name == "gla" else 16
    assert f"share * {64 * 64 // turns};" in backward and f"entering_S + t * {64 * 64 // turns // 32}," in backward


def test_a_long_row_is_asked_for_by_all_turns():
    """x and dt have a line for each of 32 turns; B and C, one each, share a third place."""
    plan = analyse(parse_text(*find("mamba"))[0])
    forward = generate(plan, {"D": 512, "N": 16}, Real("float", 16), 32).parts["forward"]
    places = re.findall(r"real \*const nexts\d = (.*?);", forward, re.DOTALL)
    assert places[:2] == ["in_x_at + share * 16", "in_dt_at + share * 16"] and len(places) == 3
    assert re.findall(r"in_[BC]_at", places[2]) == ["in_B_at", "in_C_at"] and places[2].endswith(": work")
    assert "-exp__00" in forward and "-mul" not in forward  # the sign of exp(A_log) is taken once, not of each token's


def test_tokens_of_a_chunk_follow_from_what_a_tile_reads():
    """Not from the state's size, where the backward pass holds one tile's states: memory grows by a state a chunk."""
    assert [sized("gla", size).chunk for size in (64, 128, 256)] == [32, 32, 32]
    assert [sized("gated_delta_net", size).chunk for size in (64, 128, 256)] == [32, 16, 8]


@pytest.mark.parametrize("name", ["gated_delta_net_layer", "gla_layer"])
def test_a_sum_over_states_of_a_chunk_runs_along_them(name):
    """Behind the memory stands a norm, so the backward pass reads the memory of each token before its own loop."""
    backward = source(name, Real("float", 16)).split(f"void {name}_backward(")[1]
    assert re.search(r"load\(states_S", backward) and not re.search(r"gather\(states_S", backward)


def test_a_tile_goes_on_from_the_sum_of_the_tiles_before_it():
    forward, backward = source("simple_gla", Real("float", 16)).split("void simple_gla_backward(")
    for text in (forward, backward):
        assert re.search(r"vec dot\w+a = load\(dot\w+ .*\) \+ ", text)
        assert not re.search(r"store\((dot\w+ [^,]*), load\(\1\)", text), "an addition that is no multiply-add"


@pytest.mark.parametrize("name", ["lstm", "gru", "delta_product"])
def test_the_text_is_the_same_each_time(name):
    texts, kept = set(), []
    for _ in range(6):
        texts.add(source(name, Real("float", 8)))
        kept.append([object() for _ in range(1000)])  # so that addresses differ
    assert len(texts) == 1


def test_needed_keeps_what_is_needed_for_what_is_needed():
    first = "\n".join([
        "typedef float real;", "#define ONE 1", "#if defined(X)", "#define PAST 1", "#else", "#define PAST 2", "#endif",
        "// about low", "LANES real low(real x) {", "    return x;", "}", "LANES real high(real x) { return low(x); }",
        "LANES real past(real x) { return PAST; } // as high",
    ])  # fmt: skip
    assert needed(first, "high(1)") == "\n".join([
        "typedef float real;", "// about low", "LANES real low(real x) {", "    return x;", "}",
        "LANES real high(real x) { return low(x); }", "",
    ])  # fmt: skip
    past = needed(first, "past(1) // high")
    assert "#else" in past and "real high" not in past


def test_long_lines_are_broken_where_they_may_be():
    long = "    call(" + ", ".join(f"argument_number_{n}" for n in range(20)) + ");  // a note"
    broken = wrapped(long + "\n").splitlines()
    assert broken[0] == "    // a note" and max(map(len, broken)) <= 120
    assert "".join(line.strip() + " " for line in broken[1:]).strip() == long.strip().removesuffix("  // a note")
    comment = wrapped("// " + "word " * 60 + "\n").splitlines()
    assert all(line.startswith("// ") and len(line) <= 120 for line in comment)
    assert wrapped("short\n") == "short\n"
