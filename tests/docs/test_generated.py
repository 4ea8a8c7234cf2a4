"""The generated pages are those of the code."""

import pytest

from cluster.settings import ROOT
from commands.reference import pages


@pytest.mark.parametrize("name", ["configuration.md", "command_line.md"])
def test_a_generated_page_is_that_of_the_code(name: str) -> None:
    there = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert there == pages()[name], "python -m commands.reference writes it again"
