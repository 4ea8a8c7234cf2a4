"""Columns are made and read as Arrow makes and reads them, without pandas."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from cluster.settings import ROOT
from data_shards.format.columns import TextColumn, TextLists, arrow_numbers, arrow_texts, numbers_of

WITHOUT_PANDAS = """
import sys
import numpy as np
from data_shards.format.columns import TextColumn, TextLists, arrow_numbers, numbers_of
column = TextColumn.of(["a", None, "é"])
assert column[np.array([2, 0])].tolist() == ["é", "a"]
assert TextLists.of([["a"], []])[0] == ("a",)
assert numbers_of(arrow_numbers(np.arange(3))).tolist() == [0, 1, 2]
assert "pandas" not in sys.modules
"""


def test_no_column_needs_pandas() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_PANDAS], cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stderr


@pytest.mark.parametrize("texts", [[], ["a"], ["a", None, "é🎹", ""], [None, None], [str(n) for n in range(100)]])
def test_texts_are_those_that_arrow_makes(texts: list[str | None]) -> None:
    made = arrow_texts(texts)
    made.validate(full=True)
    assert made.equals(pa.array(texts, pa.large_string()))
    assert list(TextColumn.of(texts)) == texts


@pytest.mark.parametrize("lists", [[], [[]], [["a"], [], ["b", "é"]]])
def test_lists_are_those_that_arrow_makes(lists: list[list[str]]) -> None:
    made = TextLists.of(lists)
    made.arrow().validate(full=True)
    assert made.arrow().equals(pa.array(lists, pa.large_list(pa.large_string())))
    assert [made[row] for row in range(len(lists))] == [tuple(texts) for texts in lists]


@pytest.mark.parametrize("kind", ["int8", "uint32", "int64", "float32", "float64"])
def test_numbers_go_to_arrow_and_back(kind: str) -> None:
    values = np.arange(-3, 9).astype(kind)
    for chosen in (values, values[::2], values[:0], values.reshape(3, 4)[:, 1]):
        made = arrow_numbers(chosen)
        assert made.equals(pa.array(np.ascontiguousarray(chosen)))
        back = numbers_of(made)
        assert back.dtype == kind
        assert back.tolist() == chosen.tolist()
    assert numbers_of(arrow_numbers(values)[2:5]).tolist() == values[2:5].tolist()
