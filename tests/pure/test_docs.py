"""What README.md and docs/ say is so: the spec shown, the table of specs, the Python examples, the options."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import recc
from recc import library
from recc.cli import arguments

ROOT = Path(recc.__file__).parent.parent
if not (ROOT / "README.md").is_file():
    pytest.skip("the tests of the documentation need a checkout", allow_module_level=True)


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def blocks(path: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", read(path), re.MULTILINE | re.DOTALL)


def test_table_in_readme_is_current():
    from recc.cli.list import between_markers, markdown, table

    text = read("README.md")
    assert between_markers(text, markdown(table()), "README.md") == text, "run `make readme`"


def test_page_of_specs_is_current():
    from specs_page import page

    assert read("docs/specs.md") == page(), "run `make readme`"


def test_spec_in_readme_is_the_file():
    assert read("specs/gated_delta_net.rec") in blocks("README.md", "")


@pytest.mark.parametrize("path", ["README.md", "docs/index.md", "docs/native.md"])
def test_python_examples_run(path):
    examples = blocks(path, "python")
    assert examples
    torch.manual_seed(0)
    for example in examples:
        exec(compile(example, path, "exec"), {})


def test_message_in_readme_is_the_ops():
    (message,) = re.findall(r'the spec\'s own names: "(.*?)"', read("README.md"))
    k, v = torch.zeros(2, 7, 4, 63), torch.zeros(2, 7, 4, 64)
    with pytest.raises(ValueError, match=re.escape(message)):
        recc.load("gated_delta_net")(v, k, v, torch.zeros(2, 7, 4), torch.zeros(2, 7, 4))


def test_every_command_and_option_is_documented():
    text = read("docs/cli.md")
    for name, parser in arguments.parser()._subparsers._group_actions[0].choices.items():
        assert f"## recc {name}" in text
        for action in parser._actions:
            for option in action.option_strings:
                assert option in ("-h", "--help") or f"`{option}" in text or f"{option}`" in text, (name, option)


@pytest.mark.parametrize("path", ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))])
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)\)", read(path)):
        if target.startswith("https://"):
            continue
        assert (ROOT / path).parent.joinpath(target).exists(), target


def test_names_of_specs_are_those_of_their_files():
    from recc.frontend import parse_text

    for name in library.names():
        assert [rec.name for rec in parse_text(*library.find(name))] == [name]
