"""The catalogue of errors: the Markdown files in `diagnostics/` hold specs and what is said about them.

``pytest --update-golden`` writes the messages as they are now into the files.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import recc.frontend
from recc.frontend import SpecError, check_text, format_text, parse_text
from recc.frontend.codes import FAMILIES, TITLES, page
from recc.frontend.diagnostics import render
from recc.frontend.prelude import FUNCTIONS

FILES = sorted((Path(__file__).parent / "diagnostics").glob("*.md"))
CASE = re.compile(r"```rec\n(.*?)```\n\n```text\n(.*?)```", re.S)
FRONT_END = [code for code in TITLES if code < "E0500"]


def shown(spec: str) -> str:
    text = render(check_text(spec, "spec.rec"), spec)
    return text + "\n" if text else ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_messages(path: Path, update_golden: bool):
    old = path.read_text("utf-8")
    assert old.count("```rec") == len(CASE.findall(old)), "a spec without its block of text"
    new = CASE.sub(lambda case: f"```rec\n{case[1]}```\n\n```text\n{shown(case[1])}```", old)
    if update_golden:
        path.write_text(new, "utf-8")
    else:
        assert new == old


@pytest.mark.parametrize("code", FRONT_END)
def test_every_code_has_a_case(code: str):
    assert any(f"[{code}]: " in path.read_text("utf-8") for path in FILES)


@pytest.mark.parametrize("code", TITLES)
def test_every_code_has_a_page(code: str):
    lines = page(code).splitlines()
    assert lines[0] == f"# {code}: {TITLES[code]}"
    assert len(lines) > 5 and code[:3] in FAMILIES


@pytest.mark.parametrize("code", FRONT_END)
def test_every_page_shows_the_error_and_its_remedy(code: str):
    wrong, right = re.findall(r"```rec\n(.*?)```", page(code), re.S)
    assert {item.code for item in check_text(wrong)} == {code}
    assert check_text(right) == [] and format_text(right) == right


def test_no_page_without_a_code():
    assert {path.stem for path in (Path(recc.frontend.__file__).parent / "pages").iterdir()} == set(TITLES)


def test_short_and_json():
    spec = "recurrence r\ninput x\nstate h = 0\noutput h\nh[t] = h + y\n"
    found = check_text(spec, "a/b.rec")
    assert render(found, spec, "short").split("\n") == [
        "a/b.rec:5:8: error[E0403]: the state `h` is read without a time",
        "a/b.rec:5:12: error[E0201]: nothing is called `y`",
    ]
    first, second = json.loads(render(found, spec, "json"))
    assert first["code"] == "E0403" and first["path"] == "a/b.rec" and first["severity"] == "error"
    assert second["span"] == {"line": 5, "col": 12, "end_line": 5, "end_col": 13}
    assert second["helps"] == ["declare it: `input y`, or define it: `y = ...`"]


def test_spec_error_is_the_rendered_report():
    spec = "recurrence r\nstate h = 0\noutput h\nh[t] = y\n"
    with pytest.raises(SpecError) as caught:
        parse_text(spec, "spec.rec")
    assert str(caught.value) == render(check_text(spec, "spec.rec"), spec)
    assert [item.code for item in caught.value.diagnostics] == ["E0201"] and caught.value.text == spec


def test_a_guess_is_a_name_that_there_is():
    first, second = check_text("recurrence r\ninput x\noutput y\ny = x + foo1 + foo2\n")
    assert second.message == "nothing is called `foo2`" and second.helps[0].startswith("declare it")
    few, many = ("\n".join(f"name{i} = x" for i in range(count)) for count in (20, 2_000))
    for names, helps in ((few, "did you mean `name1`"), (many, "declare it")):
        (found,) = check_text(f"recurrence r\ninput x\noutput y\n{names}\ny = x + nam1\n")
        assert found.helps[0].startswith(helps)


def test_sizes_from_outside():
    spec = "recurrence r\ndim R = 2\ninput k : R\nstate s = 0\noutput s\nsteps r : R\ns[t,r] = s[t,r-1] + k[r]\n"
    assert parse_text(spec, dims={"R": 3})[0].dims == {"R": 3}
    for dims, code in [({"Q": 2}, "E0205"), ({"R": 0}, "E0313"), ({"R": True}, "E0313"), ({"R": 65}, "E0412")]:
        with pytest.raises(SpecError, match=code):
            parse_text(spec, dims=dims)


def test_what_is_too_long():
    assert [item.code for item in check_text("recurrence r\ny = " + "x + " * 10_000)] == ["E0109"]
    assert [item.code for item in check_text("#" * 300_000)] == ["E0109"]


def test_control_characters_are_shown_as_marks():
    spec = "recurrence r\ninput x\ny = x \0 + \x1b\n"
    shown = render(check_text(spec), spec)
    assert "U+0000" in shown and "\0" not in shown and "\x1b" not in shown


LANGUAGE = Path(__file__).parents[2] / "docs" / "language.md"


def test_the_reference_lists_every_code(update_golden: bool):
    rows = [f"| {code} | {title} |" for code, title in TITLES.items()]
    table = "\n".join(["<!-- codes -->", "| code | what it is about |", "|---|---|", *rows, "<!-- /codes -->"])
    old = LANGUAGE.read_text("utf-8")
    new = re.sub(r"<!-- codes -->.*<!-- /codes -->", lambda _: table, old, flags=re.S)
    if update_golden:
        LANGUAGE.write_text(new, "utf-8")
    else:
        assert new == old, "run `pytest --update-golden`"


def test_the_reference_names_every_function_and_its_specs_are_right():
    text = LANGUAGE.read_text("utf-8")
    table = text[text.index("| functions |") : text.index("## Micro-steps")]
    assert set(FUNCTIONS) <= set(re.findall(r"\w+", " ".join(re.findall(r"`([^`]*)`", table))))
    for spec in re.findall(r"```rec\n(.*?)```", text, re.S):
        assert check_text(spec) == [] and format_text(spec) == spec


def test_line_ends_of_windows():
    spec = "recurrence r\ninput x\nstate h = 0\noutput h\nh[t] = h + x\n"
    windows = spec.replace("\n", "\r\n")
    assert render(check_text(windows), windows) == render(check_text(spec), spec)
    assert format_text(windows) == format_text(spec)
