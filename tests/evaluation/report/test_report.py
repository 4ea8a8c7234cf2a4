import csv
import io
import json
import re
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from evaluation.config import EvaluationConfig
from evaluation.metrics.samples import MetricSamples
from evaluation.report import text_forms
from evaluation.report.canvas import DARK, LIGHT, in_dark
from evaluation.report.figures import _metrics, _render, _tags
from evaluation.report.rows import build_tree, intervals, number, text_rows
from evaluation.report.tables import TextTable
from evaluation.report.text_forms import csv_text, latex, markdown
from evaluation.report.write import Report, write_report
from evaluation.scores.score import Scored

EVIL = '<script>alert("x")</script>|$\\frac{$'


def scored(values: dict[str, list[float]], tags: dict[str, float] | None = None, **changes: Any) -> Scored:
    samples = {model: MetricSamples(np.array(row), tags or {}) for model, row in values.items()}
    defaults: dict[str, Any] = {
        "n": 40,
        "clusters": 20,
        "counts": {"test": 40},
        "classes": (),
        "masked": (),
        "notes": (),
    }
    return Scored(metrics={"ap": samples}, conventions={"ap": "as it is done"}, **(defaults | changes))


@pytest.fixture
def tree() -> dict[str, Any]:
    good = {"trained": [0.6, 0.55, 0.65], "untrained": [0.4, 0.38, 0.42], "constant": [0.2, 0.2, 0.2]}
    lost = {"trained": [np.nan] * 3, "untrained": [np.nan] * 3, "constant": [np.nan] * 3}
    tasks = {"tags": scored(good, {EVIL: 0.3, "calm": 0.9}, masked=(EVIL,), notes=(EVIL,)), "none": scored(lost)}
    return build_tree(
        tasks, config=EvaluationConfig(), left_out={"mood": EVIL}, provenance={"encoder": "abc", "title": EVIL}
    )


class Reader(HTMLParser):
    """Collects tags, attributes and the text outside style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_a_users_words_never_become_markup(tree: dict[str, Any], tmp_path: Path) -> None:
    write_report(tree, tmp_path)
    page = Reader((tmp_path / "report.html").read_text())
    assert "script" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert any(EVIL in text for text in page.text)  # shown as it is
    assert "<script" not in (tmp_path / "report.md").read_text().split("## Provenance")[0]


def test_every_cell_of_the_other_tables_stays_one_cell(tree: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    table = TextTable(EVIL, ["a|b", EVIL], [[EVIL, "x"], ["y\nz", "|"]], caption=EVIL)
    monkeypatch.setattr(text_forms, "extra_tables", lambda _: [table])
    text = markdown(tree).split("## Conventions")[1].split("## Provenance")[0]
    assert "<script" not in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}


def test_the_page_needs_nothing_from_elsewhere(tree: dict[str, Any], tmp_path: Path) -> None:
    write_report(tree, tmp_path)
    page = Reader((tmp_path / "report.html").read_text())
    links = [v for _, attributes in page.tags for k, v in attributes.items() if k in ("src", "href", "srcset")]
    assert links
    assert all(v is not None and v.startswith("data:image/svg+xml;base64,") for v in links)


def test_an_undefined_metric_is_null_in_json_and_a_dash_in_text(tree: dict[str, Any], tmp_path: Path) -> None:
    write_report(tree, tmp_path)
    back = json.loads((tmp_path / "report.json").read_text())
    assert back["metrics"]["none/ap"]["value"] is None
    assert text_rows(back)[1].value == "–"
    assert "| none/ap | – |" in markdown(back)


def test_every_form_says_the_same_numbers(tree: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(tree))))
    assert [(r["metric"], r["model"], r["value"]) for r in rows[:1]] == [("tags/ap", "trained", "0.6")]
    assert len(rows) == 6
    assert "| tags/ap | .600 | [.5" in markdown(tree)
    assert r"tags/ap & .600 & [.5" in latex(tree)
    assert latex(tree).isascii()


def test_a_difference_is_better_only_when_its_interval_excludes_zero(tree: dict[str, Any]) -> None:
    assert text_rows(tree)[0].verdict == "better"
    overlap = {"trained": [0.5, 0.3, 0.7], "untrained": [0.4, 0.4, 0.4]}
    unsure = build_tree({"t": scored(overlap)}, config=EvaluationConfig(), left_out={}, provenance={})
    assert text_rows(unsure)[0].verdict == "unclear"
    lower = {"trained": [0.3, 0.2, 0.3], "untrained": [0.4, 0.4, 0.4]}
    assert (
        text_rows(build_tree({"t": scored(lower)}, config=EvaluationConfig(), left_out={}, provenance={}))[0].verdict
        == "worse"
    )


def test_equal_numbers_make_equal_files(tree: dict[str, Any], tmp_path: Path) -> None:
    files = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        write_report(tree, folder)
        files.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert files[0] == files[1]


def test_the_tracker_gets_plain_finite_numbers(tree: dict[str, Any], tmp_path: Path) -> None:
    flat = Report(tree, tmp_path, {}).flat()
    assert flat["tags/ap"] == 0.6
    assert all(np.isfinite(value) for value in flat.values())


@pytest.mark.parametrize(
    ("value", "text"), [(0.1234, ".123"), (-0.5, "−.500"), (1.0, "1.000"), (0.99951, "1.000"), (12.5, "12.500")]
)
def test_numbers_read_well(value: float, text: str) -> None:
    assert number(value) == text


@pytest.fixture
def jackknifed() -> dict[str, Any]:
    """An AP that reads high: its interval ends at the value, around a bias-corrected one far below."""
    rng = np.random.default_rng(0)
    left_out = 0.33 + 0.001 * rng.random(40)
    samples = {
        model: MetricSamples(np.array([0.325, 0.3, 0.35]), {}, left_out)
        for model in ("trained", "untrained", "constant")
    }
    plain = {model: MetricSamples(np.array([0.5, 0.4, 0.6]), {}) for model in ("trained", "untrained", "constant")}
    task = replace(scored({}), metrics={"ap": samples, "auroc": plain}, conventions={"ap": "step sum", "auroc": "area"})
    return build_tree({"tags": task}, config=EvaluationConfig(), left_out={}, provenance={})


def test_every_form_shows_the_bias_corrected_value_and_names_the_interval(
    jackknifed: dict[str, Any], tmp_path: Path
) -> None:
    row = jackknifed["metrics"]["tags/ap"]
    assert row["low"] < row["corrected"] < row["high"] == row["value"] == 0.325
    assert row["interval"] == "jackknife"
    assert "corrected" not in jackknifed["metrics"]["tags/auroc"]
    report = write_report(jackknifed, tmp_path)
    shown = f"bias-corrected {number(row['corrected'])}"
    caption = (
        "95% intervals: paired percentiles of the clustered bootstrap; "
        "of ap the jackknife over groups of clusters, its bias removed, which lies around the bias-corrected value"
    )
    page = " ".join(Reader((tmp_path / "report.html").read_text()).text)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(report.table())
    forms = [page, (tmp_path / "report.md").read_text(), (tmp_path / "report.tex").read_text(), console.export_text()]
    for text in forms:
        assert shown in text
        assert caption in " ".join(text.split()).replace(r"\%", "%")
    rows = list(csv.DictReader(io.StringIO(csv_text(jackknifed))))
    assert [(r["interval"], bool(r["corrected"])) for r in rows[:2]] == [("jackknife", True), ("percentile", False)]
    assert row["convention"] == "step sum; 95% interval: jackknife over groups of clusters, its bias removed"
    assert f"{caption} (open)" in page  # the figure's own caption


def test_a_caption_without_a_jackknife_names_none(tree: dict[str, Any]) -> None:
    assert intervals(tree) == "95% intervals: paired percentiles of the clustered bootstrap"


def test_the_dark_picture_is_the_light_one_in_other_colours(tree: dict[str, Any]) -> None:
    def without_names(svg: bytes) -> str:  # of markers: hashes of their style
        names: dict[str, str] = {}
        return re.sub(r"\bm[0-9a-f]{10}\b", lambda found: names.setdefault(found[0], f"m{len(names)}"), svg.decode())

    for draw in (partial(_metrics, tree), partial(_tags, tree["tasks"]["tags"]["by_tag"]["ap"])):
        light, dark = (_render(draw(theme), "svg", "none") for theme in (LIGHT, DARK))
        assert light != dark
        assert without_names(in_dark(light)) == without_names(dark)
