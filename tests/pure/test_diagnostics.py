"""The catalogue of errors: the Markdown files in `diagnostics/` hold specs and what is said about them.

``pytest --update-golden`` writes the messages as they are now into the files.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recc.frontend import check_text
from recc.frontend.codes import FAMILIES, TITLES, page
from recc.frontend.diagnostics import render

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
    assert len(lines) > 8 and code[:3] in FAMILIES


def test_no_page_without_a_code():
    pages = Path(page.__globals__["__file__"]).parent / "pages"
    assert {path.stem for path in pages.iterdir()} == set(TITLES)
