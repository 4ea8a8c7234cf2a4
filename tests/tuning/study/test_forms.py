"""Every cell of a study's tables stands below the head that it belongs to."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from tests.tuning.study.test_results import draws, finish, plan_of
from tuning.study.report import csv_text, markdown
from tuning.study.results import collect, study_tree
from tuning.study.scaling import Step, project


def tables(text: str) -> list[list[dict[str, str]]]:
    """The tables of a page in Markdown: rows by head; a head that comes again has its number behind it."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            found[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        elif found[-1]:
            found.append([])
    numbered = []
    for head, _, *rows in filter(None, found):
        names = [f"{name}{head[:at].count(name) or ''}" for at, name in enumerate(head)]
        numbered.append([dict(zip(names, row, strict=True)) for row in rows])
    return numbered


@pytest.fixture
def tree(tmp_path: Path) -> dict[str, Any]:
    plan = plan_of(tmp_path)
    finish(plan, {(row, s): draws(0.4) for row in ("none", "half") for s in (0, 1)})
    found = study_tree(plan, collect(plan), {})
    paper = {"other": {"AP": 0.425, "AUROC": 0.875}}
    return found | {"published": paper, "reduced": {"optim.steps": {"paper": 90_000, "here": 4}}}


def test_values_of_the_paper_and_of_here_stand_below_their_heads(tree: dict[str, Any]) -> None:
    rows, *others = tables(markdown(tree))
    half = next(row for row in rows if row["row"] == "half")
    assert (half["AP"][:4], half["paper"], half["seeds"]) == (".400", ".425", "2")
    paper, reduced = others[-1], others[-2]
    assert paper == [{"row": "other", "AP": ".425", "AUROC": ".875"}]
    assert reduced == [{"": "optim.steps", "paper": reduced[0]["paper"], "here": "4"}]


def test_a_line_of_the_csv_stands_below_its_head(tree: dict[str, Any]) -> None:
    lines = list(csv.DictReader(io.StringIO(csv_text(tree))))
    half = next(line for line in lines if (line["row"], line["column"]) == ("half", "AP"))
    assert (float(half["value"]), half["seeds"], half["published"]) == (0.4, "2", "0.425")
    assert float(half["low"]) <= 0.4 <= float(half["high"])


def test_a_projection_stands_below_its_head() -> None:
    grid = [
        Step(world=world, batch=batch, views=2, width=128, parameters=1_000, seconds=batch / 1e3)
        for world in (1, 2)
        for batch in (32, 4096)
    ]
    found: Any = project(grid, places=2)
    measured, projected = tables(found["markdown"])
    for shown, row in zip(measured, found["measured"], strict=True):
        assert (shown["W"], shown["B"]) == (str(row["world"]), str(row["batch"]))
        assert (shown["measured s"], shown["model s"]) == (f"{row['seconds']:.3f}", f"{row['model']:.3f}")
    for shown, row in zip(projected, found["projected"], strict=True):
        assert (shown["scaling"], shown["W"], shown["B"]) == (row["scaling"], f"{row['world']:,}", f"{row['batch']:,}")
        assert float(shown["step s"]) == pytest.approx(row["seconds"], rel=5e-3)
        assert float(shown["of it views"]) == pytest.approx(row["views"], rel=5e-3)
        assert float(shown["fixed"]) == pytest.approx(row["fixed"], rel=5e-3)
