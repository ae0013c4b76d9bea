"""Properties of any spec: its spelling does not matter, and a compiled op equals the sequential reference."""

from __future__ import annotations

import random
import re

import pytest
import rewriting
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from problems import SPECS, assert_same, call, error, facts, gradients, overflows, parsed, part, problem

import recc
from recc.ir.interpreter import run
from recc.runtime.samples import CORNERS

every_spec = pytest.mark.parametrize("name", SPECS)


def examples(count: int) -> settings:
    """The same examples in each run; a failure shows the same one again without a database."""
    skipped = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=skipped)


# --- spelling -----------------------------------------------------------------------------------------------


@examples(100)
@given(st.randoms(use_true_random=False))
def test_every_spelling_of_a_memory_has_the_same_plan(rng: random.Random):
    terms = rewriting.random_memory(rng)
    assert facts(rewriting.Speller(rng).spec(terms)) == facts(rewriting.plain(terms))


@examples(25)
@given(st.randoms(use_true_random=False))
def test_every_spelling_of_a_memory_computes_the_same(rng: random.Random):
    terms = rewriting.random_memory(rng)
    speller = rewriting.Speller(rng)
    text = speller.spec(terms)
    inputs, params, start = problem(parsed(text), 2, 19, seed=rng.randrange(100))
    op = recc.loads(text, chunk=rng.choice([4, 8, 16]))
    outputs, final = call(op, inputs, params, start)
    flip = {"S": start["S"].mT} if speller.flipped else start
    expected, end = run(parsed(rewriting.plain(terms)), inputs, initial_state=flip)
    assert_same(outputs, expected)
    assert_same(final, {"S": end["S"].mT} if speller.flipped else end)


@pytest.mark.parametrize("written", [" + outer(k, v)", ""])
def test_ranks_under_keys_that_nothing_else_is_written_under(written: str):
    """What is solved for them has no value of its own, so that a part of the system, or all of it, is the number 0."""
    text = f"""recurrence two
dim K, V
input q, k, w, u : K unit
input v : V
input a in [0.3, 1]
state S : K x V = 0
output o : V
S[t] = a * S[t-1]{written} - outer(k, w @ S[t-1]) - a / 2 * outer(u, k @ S[t-1])
o = q @ S[t] + v
"""
    inputs, params, start = problem(parsed(text), 2, 19)
    leaves = {name: x.requires_grad_() for group in (inputs, start) for name, x in group.items()}
    results = [call(recc.loads(text, strategy=name), inputs, params, start) for name in ("chunk", "sequential")]
    for ours, theirs in zip(*results, strict=True):
        assert_same(ours, theirs)
    assert_same(*(gradients(*each, leaves) for each in results))


@examples(40)
@given(st.randoms(use_true_random=False))
def test_every_spelling_of_a_product_of_factors_has_the_same_plan(rng: random.Random):
    count, decayed = rng.choice([1, 2, 3]), rng.random() < 0.5
    micro, written = rewriting.micro_steps(count, decayed), rewriting.product_of_factors(rng, count, decayed)
    (fact,) = facts(micro)
    assert facts(written) == [fact] and fact[2:4] == ("diagonal+rank", count)
    inputs, params, start = problem(parsed(micro), 1, 11, seed=rng.randrange(100))
    outputs, final = call(recc.loads(micro, chunk=4), inputs, params, start)
    split = {f"{name}{r}": x.select(3, r) for name, x in inputs.items() if name in ("k", "b") for r in range(count)}
    others = {name: x for name, x in inputs.items() if name not in ("k", "b")}
    same, end = call(recc.loads(written, chunk=4), {**others, **split}, params, start)
    assert_same(same, outputs)
    assert_same(end, final)


@every_spec
def test_names_do_not_matter(name: str):
    """Renaming everything that a spec declares, its dims too, renames the plan and changes nothing else."""
    text, rec, rng = SPECS[name], parsed(SPECS[name]), random.Random(name)
    things = (*rec.inputs, *rec.params, *(rec.origin or rec).states, *rec.outputs)
    locals_ = re.findall(r"^(\w+) *(?:\[[^]]*\])? *=", text, re.MULTILINE)
    declared = sorted({*rec.dims, *locals_, *(thing.name for thing in things if thing.name.isidentifier())} - {"t"})
    table = {word: f"{rng.choice('aZ_mQ')}{rng.randrange(10**6)}" for word in declared}

    def translated(word: str | None) -> str | None:
        """A derived scale is called after its state, a state at the start of its chunk after it and the chunk."""
        rename = lambda found: (found[1] or "") + table.get(found[2], found[2])  # noqa: E731
        return None if word is None else re.sub(r"\b(log_scale_)?(\w+)", rename, word)

    # A function keeps its name where it is called; between two dims of a type, x is the product sign.
    code = re.sub(r'""".*?"""', "", text, flags=re.DOTALL)
    words = r"(?<=[A-Z] )x(?= [A-Z])|\b[A-Za-z_]\w*\b(?!\()"
    product = lambda m: m[0] == "x" and re.match("[A-Z] $", code[m.start() - 2 : m.start()])  # noqa: E731
    renamed = re.sub(words, lambda m: m[0] if product(m) else translated(m[0]), code)
    expected = []
    for states, *same, mixing, reads, strategy in facts(text):
        new = tuple(map(translated, states)), *same, translated(mixing), frozenset(map(translated, reads)), strategy
        expected.append(new)
    assert sorted(facts(renamed)) == sorted(expected)

    inputs, params, start = problem(rec, 2, 19)
    outputs, final = call(recc.loads(text, chunk=8), inputs, params, start)
    start = {translated(key): x for key, x in start.items()}
    others, end = recc.loads(renamed, chunk=8)(
        *inputs.values(), *params.values(), initial_state=start, return_final_state=True
    )
    others = others if isinstance(others, tuple) else (others,)
    assert_same(dict(zip(outputs, others, strict=True)), outputs)
    assert_same(end, {translated(key): x for key, x in final.items()})


# --- the compiled op and the sequential reference -----------------------------------------------------------


@st.composite
def settings_of_a_run(draw) -> tuple[int, int, str | None, bool]:
    chunk = draw(st.sampled_from([2, 4, 8, 16, 32, 64]))
    time = draw(st.sampled_from([0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk + 3, 200]))
    return chunk, time, draw(st.sampled_from([None, *CORNERS])), draw(st.booleans())


@every_spec
def test_chunked_is_sequential(name: str):
    """Outputs, final state and all gradients, for any chunk size and length, on ordinary inputs and on hard ones."""

    @examples(10)
    @given(settings_of_a_run())
    def check(setting: tuple[int, int, str | None, bool]) -> None:
        chunk, time, corner, reverse = setting
        rec, op = parsed(SPECS[name]), recc.loads(SPECS[name], chunk=chunk)
        tensors = problem(rec, 2, time, corner=corner)
        leaves = {name: x.requires_grad_() for group in tensors for name, x in group.items()}
        inputs, params, start = tensors
        outputs, final = call(op, inputs, params, start, reverse=reverse)
        expected, end = run(rec, inputs, params, initial_state=start, reverse=reverse)
        if overflows(expected):
            return
        assert_same(outputs, expected)
        assert_same(final, end)
        # A gradient is a sum of terms of about 1, which may cancel: an entry far below 1 has the rounding of those.
        assert_same(gradients(outputs, final, leaves), gradients(expected, end, leaves), least=1.0)

    check()


@every_spec
def test_splitting_and_packing(name: str):
    @examples(4)
    @given(st.lists(st.integers(0, 21), min_size=2, max_size=4), st.booleans())
    def check(lengths: list[int], reverse: bool) -> None:
        bounds = [0]
        for length in lengths:
            bounds.append(bounds[-1] + length)
        rec, op = parsed(SPECS[name]), recc.loads(SPECS[name], chunk=8)
        inputs, params, start = problem(rec, 1, bounds[-1])
        pieces = list(zip(bounds, bounds[1:], strict=False))

        whole, end = call(op, inputs, params, start, reverse=reverse)
        if overflows(whole):
            return
        state = start
        for first, last in reversed(pieces) if reverse else pieces:
            outputs, state = call(op, part(inputs, first, last), params, state, reverse=reverse)
            assert_same(outputs, part(whole, first, last))
        assert_same(state, end)

        offsets = torch.tensor(bounds)
        starts = {key: torch.cat([x * (i + 1) for i in range(len(pieces))]) for key, x in start.items()}
        packed, ends = call(op, inputs, params, starts, cu_seqlens=offsets, reverse=reverse)
        for i, (first, last) in enumerate(pieces):
            own = {key: x[i : i + 1] for key, x in starts.items()}
            outputs, final = call(op, part(inputs, first, last), params, own, reverse=reverse)
            if overflows(outputs):
                continue
            assert_same(part(packed, first, last), outputs)
            assert_same({key: x[i : i + 1] for key, x in ends.items()}, final)

    check()


@every_spec
def test_steps_are_the_forward_pass(name: str):
    rec, op = parsed(SPECS[name]), recc.loads(SPECS[name], chunk=8)
    inputs, params, start = problem(rec, 2, 13)
    outputs, final = call(op, inputs, params, start)
    trajectory, state = [], start
    for t in range(13):
        result, state = op.step(**{key: x[:, t] for key, x in inputs.items()}, **params, state=state)
        trajectory.append(result if isinstance(result, tuple) else (result,))
    columns = zip(op.outputs, zip(*trajectory, strict=True), strict=True)
    stepped = {item["name"]: torch.stack(values, 1) for item, values in columns}
    assert_same(stepped, outputs)
    assert_same(state, final)


@every_spec
def test_reverse_is_a_flip(name: str):
    rec, op = parsed(SPECS[name]), recc.loads(SPECS[name], chunk=8)
    inputs, params, start = problem(rec, 2, 19)
    outputs, final = call(op, inputs, params, start, reverse=True)
    flipped, end = call(op, {key: x.flip(1) for key, x in inputs.items()}, params, start)
    assert_same(outputs, {key: x.flip(1) for key, x in flipped.items()})
    assert_same(final, end)


@every_spec
@pytest.mark.parametrize("corner", [None, "decay_mixed"])
def test_float32_is_as_good_as_the_loop(name: str, corner: str | None, backend: str):
    """Within four times the error that the sequential loop itself has in float32, or a few units in the last place."""
    rec, op = parsed(SPECS[name]), recc.load(name, backend="torch" if backend == "torch" else None)
    tensors = problem(rec, 2, 200, corner=corner, dtype=torch.float32)
    exact = run(rec, *tensors[:2], initial_state=tensors[2], dtype=torch.float64)
    loop = run(rec, *tensors[:2], initial_state=tensors[2])
    for mine, other, true in zip(call(op, *tensors), loop, exact, strict=True):
        for key, x in true.items():
            budget = 4 * error(other[key].to(x.dtype), x) + 4e-7
            assert mine[key].dtype == other[key].dtype
            assert error(mine[key].to(x.dtype), x) <= budget, key
