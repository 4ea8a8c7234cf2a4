"""The table of a study: paired over resamples and seeds, claims decided by intervals, published values beside ours."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cluster.settings import UserError
from evaluation.metrics.samples import MetricSamples, save_resamples
from tuning.study.config import Axis, Claim, Evaluation, Plot, Scale, Study, StudySettings, parse_metric
from tuning.study.plan import Plan, make_plan, read_study, scaled
from tuning.study.report import csv_text, draw, markdown, write_study
from tuning.study.results import Line, averaged, check_claims, collect, over_seeds, study_tree
from tuning.study.runs import DONE, evaluation_folder, is_done

RESAMPLES = 400
CLAIM = Claim(statement="half is better", metric="AP", row="half", over="none", sign="higher")


def plan_of(folder: Path, *, seeds: int = 2, claims: tuple[Claim, ...] = (CLAIM,)) -> Plan:
    study = Study(
        title="labels",
        source="nowhere",
        pretrain="conf/pretrain/tiny.yaml",
        axes=(Axis(name="b_s", levels={"none": {"data.b_s": 0}, "half": {"data.b_s": 0.5}}),),
        evaluations=(
            Evaluation(
                preset="conf/evaluation/tiny.yaml",
                metrics={"AP": "tags/ap", "fall": "tags/ap change under reverb"},
                set={"robustness.corruptions": ["reverb"]},
            ),
        ),
        metrics={"loss": "loss"},
        published={"half": {"AP": 0.425}},
        claims=claims,
        plot=Plot(x="b_s"),
        seeds=seeds,
        scales={"paper": Scale(about="all")},
    )
    sets = {name: f"/sets/{name}" for name in ("labelled", "unlabelled", "evaluation")}
    return make_plan(study, "paper", StudySettings(dir=str(folder), sets=sets), {})


def finish(plan: Plan, values: dict[tuple[str, int], NDArray[np.float64]]) -> None:
    """Lay down what finished runs leave behind."""
    for run in plan.runs:
        if (run.row, run.seed) not in values:
            continue
        ap_R = values[run.row, run.seed]
        models = {name: MetricSamples(x, {}) for name, x in (("trained", ap_R), ("untrained", ap_R * 0 + 0.1))}
        evaluation_folder(run, 0).mkdir(parents=True)
        found = dict(models)
        models["constant"] = MetricSamples(ap_R * 0 + 0.05, {})
        save_resamples(
            {
                "tags/ap": models,
                "tags/ap under clean": found,
                "tags/ap under reverb": {name: MetricSamples(0.5 * one.values_R, {}) for name, one in found.items()},
            },
            evaluation_folder(run, 0) / "resamples.parquet",
        )
        rows = [{"step": step, "loss": 10.0 if step <= 2 else 1.0 + run.seed} for step in (1, 2, 3, 4)]
        (run.folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (run.folder / DONE).write_text(json.dumps({"fingerprint": run.fingerprint}))


def draws(centre: float, seed: int = 0) -> NDArray[np.float64]:
    """One test set's luck, the same for every run of that seed: what pairing must cancel."""
    luck_R = np.random.default_rng(seed).normal(0, 0.1, RESAMPLES + 1)
    luck_R[0] = 0
    return centre + luck_R


def lines_of(**centres: float) -> dict[str, Line]:
    return {name: Line(values={"AP": MetricSamples(draws(x), {})}, by_seed={}, seeds=1) for name, x in centres.items()}


def test_pairing_sees_a_difference_that_the_rows_own_intervals_hide(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish(plan, {(row, s): draws(x) for row, x in (("none", 0.40), ("half", 0.42)) for s in (0, 1)})
    tree = study_tree(plan, collect(plan), {})
    none, half = (row["values"]["AP"] for row in tree["rows"][:2])
    assert none["high"] > half["low"]
    (claim,) = tree["claims"]
    assert claim["value"] == pytest.approx(0.02)
    assert claim["low"] == pytest.approx(0.02)
    assert claim["holds"] is True


def test_the_variance_of_training_counts_where_there_are_seeds(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=2)
    values = {("none", 0): draws(0.3), ("none", 1): draws(0.5), ("half", 0): draws(0.5), ("half", 1): draws(0.32)}
    finish(plan, values)
    tree = study_tree(plan, collect(plan), {})
    (claim,) = tree["claims"]
    assert claim["value"] == pytest.approx(0.01)
    assert claim["low"] < -0.1 < 0.1 < claim["high"]
    assert claim["holds"] is False
    assert claim["data_needed"] > 100  # an error ten times the difference
    assert f"| not shown | × {claim['data_needed']:,.0f} |" in markdown(tree)


def test_a_claim_in_the_other_direction_does_not_hold() -> None:
    lines = lines_of(none=0.5, half=0.4)
    (claim,) = check_claims((CLAIM,), lines)
    assert claim["holds"] is False
    assert claim["high"] < 0


def test_several_claims_are_one_family() -> None:
    lines = lines_of(none=0.4, half=0.5)
    alone, together = check_claims((CLAIM,), lines)[0], check_claims((CLAIM, CLAIM, CLAIM), lines)[0]
    assert together["p_holm"] == pytest.approx(3 * alone["p_holm"])
    assert together["holds"] is True
    crowd = check_claims((CLAIM,) * 11, lines)[0]  # 11 · 2/401 is above .05, whatever the interval says
    assert crowd["low"] > 0
    assert crowd["holds"] is False


def test_the_interval_of_macro_ap_is_the_jackknifes_of_the_reports_over_seeds_too() -> None:
    """The percentiles lie above the value, as on few positives; without the groups they would be the interval."""
    left_out = [np.array([0.50, 0.52, 0.48, 0.50]), np.array([0.54, 0.52, 0.56, 0.54])]
    runs = [
        MetricSamples(np.r_[x, np.full(RESAMPLES, x + 0.1)], {}, g, 1e-9)
        for x, g in zip((0.5, 0.54), left_out, strict=True)
    ]
    both = averaged(runs)
    assert both.left_out_G is not None
    np.testing.assert_allclose(both.left_out_G, [0.52] * 4)
    assert both.seed_variance == pytest.approx(0.0004)  # of the mean of two runs that lie 0.04 apart
    found = both.row(0.95)
    assert found["value"] == pytest.approx(0.52)
    assert found["low"] is not None
    assert found["high"] is not None
    assert found["high"] - 0.52 == pytest.approx(0.52 - found["low"]) == pytest.approx(3.182 * 0.02, rel=1e-3)
    alone = averaged(runs[:1])
    assert alone.row(0.95) == runs[0].row(0.95)
    assert averaged([replace(run, left_out_G=None) for run in runs]).row(0.95)["low"] == pytest.approx(0.60)


def test_a_row_has_the_columns_of_its_evaluations(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=1)
    evaluated = replace(plan.study.evaluations[0], rows=("half",))
    study = replace(plan.study, evaluations=(evaluated,), claims=())
    settings = StudySettings(dir=str(tmp_path), sets=dict.fromkeys(("labelled", "unlabelled", "evaluation"), "/s"))
    plan = make_plan(study, "paper", settings, {})
    assert [len(run.evaluations) for run in plan.runs] == [0, 1]
    finish(plan, {(row, 0): draws(0.4) for row in ("none", "half")})
    tree = study_tree(plan, collect(plan), {})
    by_name = {row["name"]: row["values"] for row in tree["rows"]}
    assert "AP" not in by_name["none"]
    assert by_name["half"]["AP"]["value"] == pytest.approx(0.4)
    assert by_name["untrained"]["AP"]["value"] == pytest.approx(0.1)  # of the first run that has the column
    assert "| none | – | – |" in markdown(tree)
    assert draw(tree, study.plot)
    with pytest.raises(UserError, match="no row none; AP has half, untrained"):
        make_plan(replace(study, claims=(CLAIM,)), "paper", settings, {})
    with pytest.raises(UserError, match="evaluates third; the study has half, none"):
        make_plan(replace(study, evaluations=(replace(evaluated, rows=("third",)),)), "paper", settings, {})


def test_over_seeds_is_the_mean_on_the_set_itself_and_spreads_with_the_seeds() -> None:
    values_SR = np.stack([np.full(RESAMPLES, 1.0), np.full(RESAMPLES, 3.0)])
    mean_R = over_seeds(values_SR)
    assert mean_R[0] == 2.0
    assert set(np.unique(mean_R)) == {1.0, 2.0, 3.0}
    np.testing.assert_array_equal(over_seeds(values_SR + 1) - mean_R, 1.0)


def test_a_table_shows_what_is_done_and_names_what_is_not(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish(plan, {("none", 0): draws(0.4), ("none", 1): draws(0.4), ("half", 0): draws(0.4)})
    tree = study_tree(plan, collect(plan), {"half, seed 1": "the loss is not finite"})
    assert [row["name"] for row in tree["rows"]] == ["none", "untrained", "constant"]
    assert tree["missing"] == ["half"]
    assert tree["claims"][0]["holds"] is None
    text = markdown(tree)
    assert "Not done yet: half." in text
    assert "**Failed** half, seed 1: the loss is not finite" in text
    assert "undecided: a row is missing" in text


def test_every_form_has_the_papers_value_and_the_median_of_the_late_steps(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish(plan, {(row, s): draws(0.4) for row in ("none", "half") for s in (0, 1)})
    tree = study_tree(plan, collect(plan), {})
    half = next(row for row in tree["rows"] if row["name"] == "half")
    assert half["published"] == {"AP": 0.425}
    assert half["values"]["loss"]["value"] == 1.5  # seeds of 1 and 2; the first half of the steps is 10
    assert half["values"]["fall"]["value"] == pytest.approx(-0.5)
    constant = next(row for row in tree["rows"] if row["name"] == "constant")
    assert constant["values"]["fall"]["value"] is None
    assert constant["values"]["AP"]["value"] == pytest.approx(0.05)
    assert "| .425 |" in markdown(tree)
    assert "The paper's values" not in markdown(tree)
    assert "| 16 × 12 | .425 |" in markdown(tree | {"published": {"16 × 12": {"AP": 0.425}}})
    assert "half,AP,0.4," in csv_text(tree)
    files = write_study(tree, tmp_path / "out", plan.study.plot)
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert json.loads(files["json"].read_text())["claims"][0]["metric"] == "AP"


def test_a_metric_that_a_row_does_not_have_is_a_dash_and_valid_json(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish(plan, {("none", seed): draws(0.4) for seed in (0, 1)})
    for run in plan.runs[:2]:
        (run.folder / "metrics.jsonl").write_text('{"step": 1}\n')
    tree = study_tree(plan, collect(plan), {})
    assert tree["rows"][0]["values"]["loss"]["value"] is None
    assert json.loads(write_study(tree, tmp_path / "out", None)["json"].read_text()) == tree


@pytest.mark.parametrize("plot", [None, Plot(x="b_s"), Plot(x="columns")])
def test_every_kind_of_plot_draws_all_rows(plot: Plot | None, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish(plan, {(row, s): draws(0.4) for row in ("none", "half") for s in (0, 1)})
    figure = draw(study_tree(plan, collect(plan), {}), plot)
    labels = {text.get_text() for axes in figure.axes for text in (*axes.get_xticklabels(), *axes.get_yticklabels())}
    shown = [*figure.legends, *(legend for axes in figure.axes if (legend := axes.get_legend()) is not None)]
    legends = {text.get_text() for legend in shown for text in legend.get_texts()}
    assert {"none", "half"} <= labels | legends


def test_a_metric_that_the_report_does_not_have_is_named(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish(plan, {("none", 0): draws(0.4), ("none", 1): draws(0.4)})
    for run in plan.runs[:2]:
        save_resamples(
            {"key/weighted@10": {"trained": MetricSamples(draws(0), {})}},
            evaluation_folder(run, 0) / "resamples.parquet",
        )
    with pytest.raises(UserError, match=r"no metric tags/ap; it has key/weighted@10"):
        collect(plan)


def test_a_folder_of_other_settings_is_not_taken_for_this_study(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    finish(plan, {("none", 0): draws(0.4)})
    assert is_done(plan.runs[0])
    (plan.runs[0].folder / DONE).write_text(json.dumps({"fingerprint": "another"}))
    with pytest.raises(UserError, match=r"holds results of other settings; choose another study\.dir"):
        is_done(plan.runs[0])


def test_what_a_user_wrote_is_a_label_and_no_markup(tmp_path: Path) -> None:
    tree: dict[str, Any] = {
        "columns": ["a $b$"],
        "rows": [
            {"name": "x $y", "place": {}, "values": {"a $b$": {"value": 0.5, "low": 0.4, "high": 0.6}}, "published": {}}
        ],
    }
    figure = draw(tree, None)
    figure.savefig(tmp_path / "plot.png")  # a dollar sign would start mathematics that does not end
    assert figure.axes[0].get_yticklabels()[0].get_text() == r"x \$y"


def test_a_claim_of_one_seed_is_marked_and_what_more_seeds_gave(tmp_path: Path) -> None:
    claim = replace(CLAIM, more_seeds="three: +.014 [+.001, +.025], p .152, not shown")
    for seeds, verdict in ((1, "holds for one seed; other seeds were not run"), (2, "holds")):
        plan = plan_of(tmp_path / str(seeds), seeds=seeds, claims=(claim,))
        finish(plan, {(row, s): draws(x) for row, x in (("none", 0.3), ("half", 0.4)) for s in range(seeds)})
        tree = study_tree(plan, collect(plan), {})
        assert (tree["claims"][0]["holds"], tree["claims"][0]["seeds"]) == (True, seeds)
        text = markdown(tree)
        assert f"| {verdict} |" in text
        assert ("| more seeds gave |" in text) is (seeds == 1)
        assert (claim.more_seeds in text) is (seeds == 1)


def test_a_table_names_the_jackknife_where_a_row_has_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=1)
    finish(plan, {(row, 0): draws(0.4) for row in ("none", "half")})
    lines = collect(plan)
    tree = study_tree(plan, lines, {})
    assert "jackknife" not in markdown(tree)
    groups = 0.41 + 0.001 * np.random.default_rng(0).random(20)
    ap = replace(lines["half"].values["AP"], left_out_G=groups)
    lines["half"] = replace(lines["half"], values=lines["half"].values | {"AP": ap})
    text = markdown(study_tree(plan, lines, {}))
    assert "Of AP a row's own is the jackknife's around the bias-corrected value." in text
    assert ", bias-corrected ." in text


@pytest.mark.parametrize("name", ["evidence", "evidence_loev"])
def test_a_tiny_evidence_study_has_what_three_seeds_gave_for_every_claim(name: str) -> None:
    tiny = scaled(read_study(name), "tiny")
    assert tiny.seeds == 1
    assert all(claim.more_seeds.startswith("three: ") for claim in tiny.claims)
    assert not any(claim.more_seeds for claim in scaled(read_study(name), "small").claims)


def test_a_column_in_a_space_reads_that_model_and_the_baselines_as_they_are(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, seeds=1)
    evaluated = replace(
        plan.study.evaluations[0],
        metrics={"whole": "tags/ap", "pitch": "tags/ap in pitch", "hit": "tags/ap in pitch under reverb"},
        set={"spaces": ["pitch"]},
    )
    claim = replace(CLAIM, metric="pitch", row="half", over="half", over_metric="whole")
    runs = [replace(run, evaluations=((evaluated, run.evaluations[0][1]),)) for run in plan.runs]
    plan = replace(plan, study=replace(plan.study, evaluations=(evaluated,), claims=(claim,)), runs=tuple(runs))
    finish(plan, {(row, 0): draws(0.4) for row in ("none", "half")})
    for run in plan.runs:
        found = {
            metric: {
                "trained": MetricSamples(draws(0.40 + shift), {}),
                "trained/pitch": MetricSamples(draws(0.42 + shift), {}),
                "untrained": MetricSamples(draws(0.1), {}),
            }
            for metric, shift in (("tags/ap", 0.0), ("tags/ap under reverb", -0.2))
        }
        save_resamples(found, evaluation_folder(run, 0) / "resamples.parquet")
    tree = study_tree(plan, collect(plan), {})
    rows = {row["name"]: {name: cell["value"] for name, cell in row["values"].items()} for row in tree["rows"]}
    assert rows["half"] == pytest.approx({"whole": 0.40, "pitch": 0.42, "hit": 0.22, "loss": 1.0})
    assert rows["untrained"]["pitch"] == rows["untrained"]["whole"] == pytest.approx(0.1)
    (found_claim,) = tree["claims"]  # two columns of one row, on the same resamples
    assert found_claim["low"] == pytest.approx(0.02)
    assert found_claim["holds"] is True


def test_a_panel_a_metric_has_its_spaces_along_the_bottom() -> None:
    cells = {name: {"value": x, "low": x - 0.1, "high": x + 0.1} for name, x in (("AP", 0.4), ("AP in pitch", 0.5))}
    undefined = {"value": None, "low": None, "high": None}
    rows = [
        {"name": "loev", "values": cells | {"key": undefined}},
        {"name": "plain", "values": {"AP": cells["AP"], "key": cells["AP"]}},
    ]
    tree = {"columns": ["AP", "AP in pitch", "key"], "spaces": {"AP in pitch": "pitch"}, "rows": rows}
    figure = draw(tree, Plot(x="spaces"))
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["AP", "key"]
    assert [[one.get_text() for one in axes.get_xticklabels()] for axes in panels] == [
        ["embedding", "pitch"],
        ["embedding"],
    ]


@pytest.mark.parametrize("text", ["tags/ap under reverb in pitch", "tags/ap in a in b", "tags/ap in "])
def test_a_metric_in_another_order_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="the order is NAME in SPACE change under CONDITION"):
        parse_metric(text)
