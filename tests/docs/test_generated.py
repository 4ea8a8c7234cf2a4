"""The generated pages are those of the code."""

import re

import pytest

import counterpoint
from cluster.settings import ROOT
from docs.reference import pages


@pytest.mark.parametrize("name", ["configuration.md", "command_line.md", "python.md"])
def test_a_generated_page_is_that_of_the_code(name: str) -> None:
    there = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert there == pages()[name], "python -m docs.reference writes it again"


def test_every_public_name_is_documented() -> None:
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^::: counterpoint\.(\w+)$", text, re.MULTILINE)) == sorted(counterpoint.__all__)
