"""Two encoders compared: their paired difference in every form of a report, and Holm over all that is compared."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from evaluation.config import ConfidenceConfig, EvaluationConfig
from evaluation.metrics.confidence import holm
from evaluation.metrics.samples import MetricSamples
from evaluation.report.comparison import compared, differences_from, explained
from evaluation.report.rows import build_tree
from evaluation.report.text_forms import csv_text
from evaluation.report.write import Report, write_report
from evaluation.scores.score import Scored

RESAMPLES = 1000


def scored(gaps: dict[str, float], seed: int) -> Scored:
    """A task of metrics ``a`` and ``b``: every model lies as far below ``trained`` as its gap, give or take .01."""
    rng = np.random.default_rng(seed)
    base_R = 0.6 + 0.05 * rng.standard_normal(RESAMPLES + 1)
    metrics = {}
    for metric in ("a", "b"):
        noise = {model: 0.01 * rng.standard_normal(RESAMPLES + 1) for model in gaps}
        for noise_R in noise.values():
            noise_R[0] = 0.0
        metrics[metric] = {model: MetricSamples(base_R - gap + noise[model], {}) for model, gap in gaps.items()}
    return Scored(
        metrics=metrics, conventions={"a": "as it is", "b": "as it is"}, n=40, clusters=20, counts={"test": 40},
        classes=(), masked=(), notes=(),
    )  # fmt: skip


def tree_of(gaps: dict[str, float], **changes: Any) -> dict[str, Any]:
    config = EvaluationConfig(confidence=ConfidenceConfig(resamples=RESAMPLES), **changes)
    about = {"evaluation": {"confidence": {"level": 0.95, "resamples": RESAMPLES}, "against": {"other": "runs/other"}}}
    tasks = {"one": scored(gaps, 1), "two": scored(gaps, 2)}
    return build_tree(tasks, config=config, left_out={}, provenance=about)


GAPS = {"trained": 0.0, "untrained": 0.2, "other": 0.1, "near": 0.0, "random": 0.5, "constant": 0.5}


def test_holm_counts_every_metric_against_every_compared_encoder_and_no_baseline() -> None:
    tree = tree_of(GAPS)
    assert compared(tree) == ["other", "near"]
    family = {(m, k): row["p"] for m in ("other", "near") for k, row in tree["differences"][m].items()}
    assert len(family) == 8
    adjusted = holm(family)
    for (model, metric), p in adjusted.items():
        assert tree["differences"][model][metric]["p_holm"] == p
    for model in ("untrained", "random", "constant"):
        assert not any("p_holm" in row for row in tree["differences"][model].values())


def test_claims_named_beforehand_are_the_family_alone() -> None:
    tree = tree_of(GAPS, claims=("one/a",))
    marked = {(m, k) for m, rows in tree["differences"].items() for k, row in rows.items() if "p_holm" in row}
    assert marked == {("untrained", "one/a"), ("other", "one/a"), ("near", "one/a")}
    verdicts = {one.metric: one.verdict for one in differences_from(tree, "other")}
    assert verdicts == {"one/a": "better", "one/b": "unclear", "two/a": "unclear", "two/b": "unclear"}


def test_a_metric_that_is_undefined_is_not_in_the_family() -> None:
    lost = scored(GAPS, 3)
    for row in lost.metrics.values():
        for samples in row.values():
            samples.values_R[:] = np.nan
    tasks = {"one": scored(GAPS, 1), "lost": lost}
    tree = build_tree(tasks, config=EvaluationConfig(), left_out={}, provenance={})
    marked = {k for rows in tree["differences"].values() for k, row in rows.items() if "p_holm" in row}
    assert marked == {"one/a", "one/b"}
    assert [one.verdict for one in differences_from(tree, "other")][2:] == ["unclear", "unclear"]


@pytest.mark.parametrize(("gap", "verdict"), [(0.1, "better"), (-0.1, "worse"), (0.0, "unclear")])
def test_the_verdict_is_of_the_reported_encoder(gap: float, verdict: str) -> None:
    tree = tree_of(GAPS | {"other": gap})
    assert {one.verdict for one in differences_from(tree, "other")} == {verdict}


def test_a_difference_needs_its_interval_and_holms_p() -> None:
    tree = tree_of(GAPS)
    tree["differences"]["other"]["one/a"] |= {"low": 0.01, "high": 0.1, "p_holm": 0.06}
    assert differences_from(tree, "other")[0].verdict == "unclear"
    tree["differences"]["other"]["one/a"] |= {"p_holm": 0.04}
    assert differences_from(tree, "other")[0].verdict == "better"


def test_the_difference_stands_in_every_form(tmp_path: Path) -> None:
    tree = tree_of(GAPS)
    report = write_report(tree, tmp_path)
    row = tree["differences"]["other"]["one/a"]
    assert row["value"] == pytest.approx(0.1)
    number, span = f"+{row['value']:.3f}".replace("0.", "."), f"+{row['low']:.3f}".replace("0.", ".")
    for form in ("report.md", "report.html", "report.tex"):
        text = (tmp_path / form).read_text()
        at = text.index("Difference from other, runs/other")
        assert "Difference from near" in text[at:], form
        assert number in text[at:], form
        assert span in text[at:], form
        assert "better" in text[at:], form
    assert "8 comparisons" in (tmp_path / "report.html").read_text()
    (line,) = [
        r for r in csv.DictReader(io.StringIO(csv_text(tree))) if (r["metric"], r["model"]) == ("one/a", "other")
    ]
    found = [float(line[name]) for name in ("difference", "difference_low", "difference_high", "p", "p_holm")]
    assert found == pytest.approx([row[name] for name in ("value", "low", "high", "p", "p_holm")])
    assert json.loads((tmp_path / "report.json").read_text())["differences"]["other"]["one/a"] == row
    screen = Console(width=200, record=True, file=io.StringIO())
    for table in report.comparisons():
        screen.print(table)
    shown = screen.export_text()
    assert all(word in shown for word in ("difference from other", "difference from near", number, span, "better"))


def test_a_report_without_another_encoder_has_no_comparison(tmp_path: Path) -> None:
    tree = tree_of({name: gap for name, gap in GAPS.items() if name not in ("other", "near")})
    report = write_report(tree, tmp_path)
    assert report.comparisons() == []
    for form in ("report.md", "report.html", "report.tex"):
        assert "Difference from" not in (tmp_path / form).read_text()
    assert Report(tree, tmp_path, {}).flat()


def test_too_few_resamples_for_holm_are_said_with_how_many_are_needed() -> None:
    tree = tree_of(GAPS)
    assert "too few" not in explained(tree)  # 8 comparisons: the least p is 2 · 8 / 1,001 = .016
    tree["provenance"]["evaluation"]["confidence"]["resamples"] = 100
    assert "100 resamples are too few for that: set confidence.resamples=319 or more" in explained(tree)
