"""docs/faults.md names a test for every fault, and every test that it names is there."""

import re

from cluster.settings import ROOT

ROW = re.compile(r"^\| ([\d, –]+) \|(.*)$", re.MULTILINE)
TEST = re.compile(r"`(tests/[\w/]+\.py)?::(\w+)`")


def rows() -> dict[int, str]:
    found: dict[int, str] = {}
    for numbers, text in ROW.findall((ROOT / "docs/faults.md").read_text(encoding="utf-8")):
        for part in numbers.split(","):
            first, _, last = part.partition("–")
            found |= dict.fromkeys(range(int(first), int(last or first) + 1), text)
    return found


def test_every_fault_has_a_row_with_tests_that_exist() -> None:
    assert sorted(rows()) == list(range(1, 152))
    for number, text in rows().items():
        named, file = TEST.findall(text), ""
        assert named, number
        assert len(named) == text.count("::")
        for given, test in named:
            file = given or file
            assert re.search(rf"^def {test}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), (number, test)
