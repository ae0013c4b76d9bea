"""Verification: every shipped spec passes it, and an op that is wrong anywhere does not."""

from __future__ import annotations

import dataclasses
import itertools
import math
import types

import pytest
import torch
from recc.backends.c import build, passes
from recc.backends.torch import layout, primitives, scans
from recc.backends.torch import op as contract
from recc.backends.torch.module import generate

from recc import library
from recc.analysis import analyse
from recc.frontend import parse_text
from recc.runtime import cases, probe, verify
from recc.runtime.api import source
from recc.strategies import Refused, choose
from recc.tile import pairs


def spec(name):
    return parse_text(*library.find(name))[0]


@pytest.mark.parametrize("name", library.names())
def test_every_lowering_of_every_shipped_spec_equals_the_reference(name):
    report = verify.verify(spec(name), quick=True)
    worst = sorted(report.failures, key=lambda row: -row.error)[:5]
    assert report.ok, "\n".join([report.repro, *map(str, worst)])
    assert not report.notes  # the reference is finite at every corner


def test_all_of_it_is_compared():
    report = verify.verify(spec("gated_delta_net"))
    lowerings = {"chunk", "chunk/16", "sequential", "native", "standalone", "analysis"}
    assert {row.strategy for row in report.rows} == lowerings
    assert list(report.refused) == ["coupled", "scan", "block_scan", "convolution", "frozen", "wavefront", "newton"]
    assert "diagonal+rank" in report.refused["scan"].text
    gradients = {f"gradient {x.name}" for x in spec(report.name).inputs}
    everything = {"output o", "final S", "gradient initial S", *gradients}
    for strategy in lowerings - {"analysis"}:
        assert {row.what for row in report.rows if row.strategy == strategy} == everything
    (done,) = {frozenset(r.case for r in report.rows if r.strategy == name) for name in lowerings - {"analysis"}}
    for dtype in ("float64", "float32"):
        assert {f"T={time} {dtype} plain" for time in (0, 1, 15, 16, 17, 64, 200, 1000)} <= done
        words = {case.split()[2] for case in done if dtype in case}
        assert words >= {*cases.CALLS, "decay_zero", "decay_strong", "decay_mixed", "low", "high", "large"}


# --- it can fail ----------------------------------------------------------------------------------------------

_numbers = itertools.count()


def op_of(name, *, strategy=None, edit=None, support=None, order=None):
    """An op with an edited text of its tile functions, replaced support functions, or gradients in another order."""
    rec = spec(name)
    plan = analyse(rec)
    generated = generate(plan, choose(plan, strategy))
    text = generated.functions
    if edit is not None:
        assert edit[0] in text, text
        text = text.replace(*edit)
    meta = {**generated.meta, "digest": f"broken{next(_numbers)}"}
    if order is not None:
        meta["gradients"] = order(meta["gradients"])
    space = {**vars(primitives), **vars(scans), **(support or {})}
    exec(text, space)
    tiles = [space[part] for part in ("forward_tiles", "backward_tiles", "step_tiles", "initial_tiles")]
    return contract.Op(meta, *tiles)


def report_of(monkeypatch, name, op, case=None):
    monkeypatch.setattr(verify, "compile_recurrence", lambda rec, **_: op)
    return verify.verify(spec(name), strategies=["default"], quick=True, case=case)


def swapped(names):
    places = {"d_q": "d_k", "d_k": "d_q"}
    return [places.get(name, name) for name in names]


def forgetful(x, dim):
    return x.half().cumsum(dim).double()


def at_last_row(x, dim, end):
    return x.select(dim, -1)


def loose(bx, by, strict, dtype):
    return primitives.decay_matrix(bx, by, False, dtype)


def slower(exponent, dtype):
    return (0.999 * exponent).to(dtype).exp()


BROKEN = {
    "as it is": ({}, None),
    "a slightly wrong decay": ({"support": {"decay_of": slower}}, "final S"),
    "a mask that is not strict": ({"support": {"decay_matrix": loose}}, "gradient"),  # the solve ignores the diagonal
    "swapped gradients": ({"order": swapped}, "gradient"),
    "log decays summed in half precision": ({"support": {"cumsum": forgetful}}, "output o"),
    "the last row taken for the end of a sequence": ({"support": {"at_end": at_last_row}}, "final S"),
    "a lost factor of a gradient": ({"edit": ("d_beta = ", "d_beta = 1.001 * ")}, "gradient beta"),
    "a final state of the wrong dtype": ({"edit": ("(o, S_S_out,", "(o, S_S_out.double(),")}, None),
    "an exception": ({"edit": ("return (o, S_S_out,", "return (0 / 0, S_S_out,")}, "output (all)"),
    "a not-a-number": ({"edit": ("return (o, S_S_out,", "return (o * float('nan'), S_S_out,")}, "output o"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_wrong_op_is_caught(monkeypatch, fault):
    how, seen = BROKEN[fault]
    report = report_of(monkeypatch, "gated_delta_net", op_of("gated_delta_net", **how), case="T=17")
    if seen is None:
        assert report.ok  # a state's dtype is put right by the contract around the tile functions
        return
    assert not report.ok
    assert any(row.what.startswith(seen) for row in report.failures)


def test_float32_alone_shows_a_loss_of_precision(monkeypatch):
    """Sums of log decays in float32 are right to the eye: float64 runs cannot tell, the float32 limit can."""

    def narrow(x, dim):
        return x.cumsum(dim)  # as wide as its input

    op = op_of("gated_delta_net", support={"cumsum": narrow})
    report = report_of(monkeypatch, "gated_delta_net", op, case="T=80 decay_strong")
    assert {row.dtype for row in report.failures} <= {"float32"}


def test_a_wrong_step_a_wrong_order_of_sequences_and_lost_segments_are_caught(monkeypatch):
    rec = spec("simple_gla")
    op = op_of("simple_gla", edit=("def step_tiles(q, k, v, g, S_S):", "def step_tiles(k, q, v, g, S_S):"))
    report = report_of(monkeypatch, "simple_gla", op)
    assert {row.case.split()[2] for row in report.failures} == {"step"}

    honest = layout.Layout._pack

    def unsorted(self, cu_seqlens, device):
        honest(self, cu_seqlens, device)
        self.order = torch.arange(len(self.order))

    monkeypatch.setattr(layout.Layout, "_pack", unsorted)
    report = report_of(monkeypatch, "simple_gla", op_of("simple_gla"), case="packed")
    assert not report.ok
    monkeypatch.setattr(layout.Layout, "_pack", honest)

    def first(self, length):
        return [layout.Segment(self, self.spans[:length])] if self.spans else []

    monkeypatch.setattr(layout.Layout, "segments", first)
    report = report_of(monkeypatch, "simple_gla", op_of("simple_gla"), case="segments")
    assert not report.ok and rec.name in report.repro


def test_the_standalone_file_is_run_and_held_to_torch(monkeypatch):
    rec = spec("simple_gla")
    text = source(rec)
    monkeypatch.setattr(verify, "source", lambda rec: text.replace("return (o, S_S_out,", "return (-o, S_S_out,"))
    report = verify.verify(rec, strategies=["standalone"], case="T=17 plain")
    assert {row.what for row in report.failures} >= {"output o"}

    monkeypatch.setattr(verify, "source", lambda rec: text + "\nimport numpy\n")
    report = verify.verify(rec, strategies=["standalone"], case="T=17 plain")
    assert not report.ok and "numpy" in report.failures[0].note

    monkeypatch.setattr(verify, "source", lambda rec: text + "\n1 / 0\n")
    assert "ZeroDivisionError" in verify.verify(rec, strategies=["standalone"], case="T=17 plain").failures[0].note


def test_wrong_native_code_is_caught(monkeypatch):
    honest, right = passes.generate, "v_sigmoid(xz__0)"

    def careless(*given, **options):
        made = honest(*given, **options)
        assert right in made.source
        wrong = {name: text.replace(right, f"1.0001 * {right}") for name, text in made.parts.items()}
        return dataclasses.replace(made, parts=wrong)

    monkeypatch.setattr(passes, "generate", careless)
    # under a name of its own: a process registers equal passes once, and another test may have had right ones
    rec = dataclasses.replace(spec("min_gru"), name="careless_gru")
    report = verify.verify(rec, strategies=["native"], case="T=17 plain")
    assert report.failures and {row.strategy for row in report.failures} == {"native"}


def test_native_code_is_left_out_where_there_is_none(monkeypatch):
    monkeypatch.delitem(pairs.FUNCTIONS, "exp")
    report = verify.verify(spec("lru"), case="T=17 plain")
    assert "native" not in {row.strategy for row in report.rows} and "complex" in report.refused["native"].text
    monkeypatch.setattr(build, "find_compiler", lambda: None)
    report = verify.verify(spec("gla"), case="T=17 plain")
    assert report.ok and "native" not in {row.strategy for row in report.rows}
    (note,) = report.notes
    assert note.startswith("`native` is not verified, since no C compiler was found: install one")
    for name, why in (("lru", "complex"), ("gla", "no C compiler was found")):
        with pytest.raises(ValueError, match=f"`native` cannot be verified: .*{why}"):
            verify.verify(spec(name), strategies=["native"])


def test_a_complex_number_as_a_transition():
    text = """recurrence turning
dim D
input x : D
state h : D complex = 0
output y : D
h[t] = exp(complex(-0.1, 0.3)) * h[t-1] + x
y    = real(h[t])
example T = 33, heads = 2, D = 8
"""
    report = verify.verify(parse_text(text)[0], case="T=17 plain")
    assert report.ok and {"scan", "convolution", "sequential"} <= {row.strategy for row in report.rows}


# --- the probe ------------------------------------------------------------------------------------------------


def claim(name, state, **facts):
    """The probe's findings where a component's kind is claimed to be another."""
    plan = analyse(spec(name))
    components = [
        dataclasses.replace(c, kind=dataclasses.replace(c.kind, **facts)) if state in c.states else c
        for c in plan.components
    ]
    return probe.findings(dataclasses.replace(plan, components=tuple(components)))


@pytest.mark.parametrize(
    "name, state, facts",
    [
        ("gla", "S", {"structure": "scalar"}),
        ("gla", "S", {"structure": "identity"}),
        ("gla", "S", {"structure": "zero"}),
        ("simple_gla", "S", {"structure": "identity"}),
        ("delta_net", "S", {"structure": "diagonal"}),
        ("delta_net", "S", {"mixing": "V"}),
        ("delta_net", "S", {"ranks": ()}),
        ("delta_product", "S", {"ranks": (None,)}),  # it has rank 2
        ("mlstm", "m", {"kind": "logsumexp"}),
        ("lstm", "c", {"jacobian": "diagonal"}),
    ],
)
def test_a_wrong_claim_about_a_component_is_caught(name, state, facts):
    right, wrong = claim(name, state), claim(name, state, **facts)
    assert all(error <= limit for *_, error, limit, _ in right)
    assert any(error > 1e3 * limit for *_, error, limit, _ in wrong), wrong


def test_a_nonlinear_update_is_not_affine():
    """A component that is called affine and is not."""
    plan = analyse(spec("gru"))
    affine = analyse(spec("min_gru")).components[0].kind
    component = dataclasses.replace(plan.components[0], kind=affine)
    found = probe.findings(dataclasses.replace(plan, components=(component,)))
    assert found[0][0] == "h: affine" and found[0][3] > 1e-3


# --- what is reported -----------------------------------------------------------------------------------------


def test_the_repro_line_repeats_the_failure(monkeypatch):
    op = op_of("gla", edit=("d_v = ", "d_v = 1.01 * "))
    report = report_of(monkeypatch, "gla", op)
    first = report.failures[0]
    assert report.repro == f'recc verify {report.path} --strategy default --case "{first.case}"'
    again = report_of(monkeypatch, "gla", op, case=first.case)
    assert again.failures[0] == first
    assert {row.case for row in again.rows} == {first.case}


def test_one_strategy_one_case():
    report = verify.verify(spec("gla"), strategies=["scan"], case="T=17 float32 decay_strong")
    assert not report.rows  # corners are tried at another length
    report = verify.verify(spec("gla"), strategies=["scan"], case="float32 decay_strong")
    assert {(row.strategy, row.dtype, row.case) for row in report.rows} == {
        ("scan", "float32", "T=80 float32 decay_strong")
    }
    report = verify.verify(spec("gla"), strategies=["analysis"])
    assert [row.what for row in report.rows] == ["S: affine", "S: transition diagonal"]


def test_what_was_asked_for_and_cannot_serve_is_an_error():
    with pytest.raises(Refused, match="not affine|nonlinear"):
        verify.verify(spec("gru"), strategies=["chunk"])
    with pytest.raises(ValueError, match="no strategy is called `chnk`; there are chunk, coupled, scan"):
        verify.verify(spec("gru"), strategies=["chnk"])


def test_progress_counts_up_to_the_end():
    seen = []
    verify.verify(spec("hgrn"), strategies=["scan"], quick=True, progress=lambda *at: seen.append(at))
    assert [done for done, _, _ in seen] == list(range(len(seen)))
    assert {total for _, total, _ in seen} == {len(seen) - 1}
    assert seen[0][2] == "hgrn T=0 plain"


def test_the_table_is_short_and_names_the_worst(monkeypatch):
    from rich.console import Console

    op = op_of("gla", edit=("d_v = ", "d_v = 1.01 * "))
    report = report_of(monkeypatch, "gla", op, case="T=17")
    console = Console(width=200, record=True, file=types.SimpleNamespace(write=lambda _: None, flush=lambda: None))
    console.print(report.table())
    lines = console.export_text().splitlines()
    assert len(lines) < 15
    (failed,) = [line for line in lines if "FAILED" in line and "float64" in line]
    assert "gradients" in failed and "gradient v, T=17 float64" in failed


def test_a_spec_without_an_example_and_with_several_outputs():
    text = """recurrence pair
dim    K, V
input  k : K
input  v : V
input  f in [0, 1]
state  S : K x V = 0
state  n : K
output a : V
output b : K

S[t] = f * S[t-1] + outer(k, v)
n[t] = f * n[t-1] + k
a    = k @ S[t-1]
b    = n[t] * k
"""
    report = verify.verify(parse_text(text, "pair.rec")[0], quick=True)
    assert report.ok, report.repro
    assert {"output a", "output b", "final n", "gradient initial n"} <= {row.what for row in report.rows}


def test_a_reference_that_is_not_finite_is_said():
    text = """recurrence broken
dim    D
input  x : D
state  h : D = 0
output y : D

h[t] = h[t-1] + log(x)
y    = h[t]
"""
    report = verify.verify(parse_text(text, "broken.rec")[0], case="T=17 plain")
    assert any("not finite" in note for note in report.notes)


def test_scales_do_not_divide_by_a_gradient_that_is_zero():
    truth = {"gradient a": torch.tensor([100.0, -2.0]), "gradient b": torch.zeros(3), "final S": torch.zeros(0)}
    scales, most = verify._scales(truth)
    assert scales["gradient b"] == pytest.approx(0.1) and scales["final S"] == 0.0
    assert most["gradient b"] == pytest.approx(1000)
    assert verify._error(torch.tensor([0.0, 1e-12, 0.0]), truth["gradient b"], scales["gradient b"]) < verify.LIMIT
    assert verify._error(torch.tensor([0.0, math.nan, 0.0]), truth["gradient b"], 0.1) == math.inf


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_sixteen_bits_have_a_budget_of_their_own(dtype):
    """What torch computes from 16-bit tensors with float32 states is within it; an error of one part in ten is not."""
    rec = parse_text(*library.find("gated_delta_net"))[0]
    op = verify.compile_recurrence(rec, strategy="chunk")
    rows = verify.compare(rec, cases.Case(40, "plain"), [dtype], {"op": op}, [])
    assert rows and [row.what for row in rows if not row.ok] == []

    def off(**named):
        output, final = op(**named)
        return 1.1 * output, final

    off.passes = op.passes
    bad = verify.compare(rec, cases.Case(40, "plain"), [dtype], {"off": off}, [])
    assert "output o" in [row.what for row in bad if not row.ok]
