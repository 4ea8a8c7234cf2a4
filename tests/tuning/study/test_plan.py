"""A study is data: its grid, its scales, and everything that is refused before the first run starts."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import ROOT, UserError, load_config
from tuning.study.config import Axis, Claim, Evaluation, Scale, Start, Study, StudySettings
from tuning.study.plan import Plan, make_plan, read_study, rows_of, scaled, slug

STUDIES = sorted(file.stem for file in (ROOT / "conf" / "study").glob("*.yaml"))
REQUIRED = {
    *("table2", "table3", "table4", "table6", "table7", "figure2", "figure3", "figure6"),
    *("locality", "evidence", "batch_size", "views", "world_size"),
    *("loev", "loev_retrieval", "loev_curves", "loev_views", "evidence_loev"),
}


def study(**changes: Any) -> Study:
    one = Study(
        title="one",
        source="nowhere",
        pretrain="conf/pretrain/tiny.yaml",
        axes=(
            Axis(name="b_s", levels={"none": {"data.b_s": 0}, "half": {"data.b_s": 0.5}}),
            Axis(name="M", levels={"2": {"views.count": 2}, "4": {"views.count": 4}}),
        ),
        rows={"all labels": {"data.b_s": 1}},
        evaluations=(Evaluation(preset="conf/evaluation/tiny.yaml", metrics={"AP": "tags/ap"}),),
        scales={"paper": Scale(about="all of it"), "tiny": Scale(about="less", set={"optim.steps": 3}, seeds=2)},
    )
    return replace(one, **changes)


def settings(tmp_path: Path) -> StudySettings:
    sets = {name: f"/sets/{name}" for name in ("labelled", "unlabelled", "evaluation")}
    return StudySettings(dir=str(tmp_path), sets=sets)


def sets_of(one: Study) -> dict[str, str]:
    """Every name that a study's rows and evaluations stand for."""
    values = [*one.set.values(), *(value for row in rows_of(one) for value in row.overrides.values())]
    values += [evaluation.shards for evaluation in one.evaluations]
    names = {value[1:] for value in values if isinstance(value, str) and value.startswith("$")}
    return {name: f"/sets/{name}" for name in names | {"labelled", "unlabelled"}}


@cache
def plans_of(name: str) -> dict[str, Plan]:
    """A study's plan at each of its scales, made once for all tests."""
    one = read_study(name)
    settings = {scale: StudySettings(dir="/runs", sets=sets_of(scaled(one, scale))) for scale in one.scales}
    return {scale: make_plan(one, scale, settings[scale], {}) for scale in one.scales}


@pytest.mark.parametrize("name", STUDIES)
def test_no_study_trains_a_probe_that_nobody_reads(name: str) -> None:
    for scale, plan in plans_of(name).items():
        for run in plan.runs:
            for asked, config in run.evaluations:
                probed = {name for name, task in config.tasks.items() if task.probe}
                read = {metric.partition("/")[0] for metric in asked.metrics.values() if "@" not in metric}
                elsewhere = {"singer", "technique"}  # each of VocalSet's variants has the column of one
                assert probed - elsewhere <= read, (scale, asked.preset)


def test_every_study_of_the_papers_is_there() -> None:
    assert set(STUDIES) >= REQUIRED


@pytest.mark.parametrize("name", STUDIES)
def test_every_row_of_every_scale_is_a_valid_experiment(name: str) -> None:
    for scale, plan in plans_of(name).items():
        assert len({run.folder for run in plan.runs}) == len(plan.runs)
        assert len({run.fingerprint for run in plan.runs}) >= len(plan.rows)
        if scale != "paper":
            assert plan.reduced, f"{scale} must say what it reduces"
    unknown = set(read_study(name).published) - {row.name for row in plans_of(name)["paper"].rows}
    assert not unknown, "published values of rows that are not there"


def test_table_7_keeps_the_rows_of_a_batch(tmp_path: Path) -> None:
    one = read_study("table7")
    plan = make_plan(one, "paper", StudySettings(dir=str(tmp_path), sets=sets_of(one)), {})
    assert {run.experiment.data.batch * run.experiment.views.count for run in plan.runs} == {192}
    assert len(plan.runs) == 15
    assert one.published["SSL, 8 × 24"] == {"AUROC": 0.886, "AP": 0.403}


def test_rows_are_all_combinations_and_those_beside_them() -> None:
    rows = rows_of(study())
    assert [row.name for row in rows] == ["none, 2", "none, 4", "half, 2", "half, 4", "all labels"]
    assert rows[2].place == {"b_s": "half", "M": "2"}
    assert rows[2].overrides == {"data.b_s": 0.5, "views.count": 2}


def test_a_scale_lists_exactly_what_it_changes(tmp_path: Path) -> None:
    plan = make_plan(study(), "tiny", settings(tmp_path), {"loss.temperature": 0.2})
    assert plan.reduced == {"optim.steps": (30, 3), "seeds": (1, 2), "loss.temperature": (0.1, 0.2)}
    assert [run.seed for run in plan.runs[:2]] == [0, 1]
    assert all(run.experiment.loss.temperature == 0.2 for run in plan.runs)


def test_what_decides_the_numbers_changes_the_fingerprint_and_nothing_else_does(tmp_path: Path) -> None:
    def fingerprint(**overrides: object) -> str:
        keys = {key.replace("__", "."): value for key, value in overrides.items()}
        return make_plan(study(), "tiny", settings(tmp_path), keys).runs[0].fingerprint

    assert fingerprint() == fingerprint(run__keep=7) == fingerprint(resources__num_workers=2)
    assert len({fingerprint(), fingerprint(optim__steps=4), fingerprint(loss__temperature=0.3)}) == 3


@pytest.mark.parametrize(
    ("changes", "overrides", "message"),
    [
        ({}, {"loss.temprature": 0.1}, "unknown key loss.temprature; did you mean loss.temperature"),
        ({}, {"data.b_s": 0.001}, "no labelled one; take batch"),
        ({}, {"run.dir": "here"}, "run.dir: a study sets these itself"),
        ({"rows": {"none, 2": {}}}, {}, "names a row twice: none, 2"),
        (
            {"evaluations": (Evaluation(preset="conf/evaluation/tiny.yaml", shards="$mtat", metrics={"AP": "a"}),)},
            {},
            "of mtat",
        ),
        (
            {"claims": (Claim(statement="c", metric="AUC", row="none, 2", over="none, 4", sign="lower"),)},
            {},
            "no column AUC",
        ),
        (
            {"claims": (Claim(statement="c", metric="AP", row="none, 3", over="none, 4", sign="lower"),)},
            {},
            "no row none, 3",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is_made(
    changes: dict[str, Any], overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    one = study(**changes)
    if "data.b_s" in overrides:
        one = study(axes=(), rows={"one": {}})
    with pytest.raises(UserError, match=message):
        make_plan(one, "tiny", settings(tmp_path), overrides)
    assert not any(tmp_path.iterdir())


def test_two_axes_may_not_set_the_same_key() -> None:
    axis = Axis(name="again", levels={"2": {"data.b_s": 1}})
    with pytest.raises(UserError, match=r"two axes of the study set data\.b_s"):
        rows_of(study(axes=(*study().axes, axis)))


def test_an_unknown_study_or_scale_names_those_that_are_there() -> None:
    with pytest.raises(UserError, match="no study table5; known are ads_ladder, batch_size"):
        read_study("table5")
    with pytest.raises(UserError, match="no scale huge; this study has paper, tiny"):
        scaled(study(), "huge")


def test_a_study_of_ones_own_is_a_yaml_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "title: mine\nsource: me\npretrain: conf/pretrain/tiny.yaml\nrows: {a: {}, b: {data.b_s: 0}}\n"
        "metrics: {loss: loss}\nscales: {paper: {about: all}}\n"
    )
    assert [row.name for row in rows_of(read_study(str(file)))] == ["a", "b"]
    file.write_text(file.read_text() + "colour: red\n")
    with pytest.raises(UserError, match="unknown key colour"):
        load_config(Study, file)


def test_a_folders_name_keeps_rows_apart() -> None:
    assert slug("p_s = .05, b_s = .5") != slug("p_s = 05, b_s = 5")
    assert slug("SampleCNN, 0.5/1") == "samplecnn-0.5-1"


def test_rows_that_would_share_a_folder_are_refused() -> None:
    rows: dict[str, dict[str, Any]] = {"α = 0.5, Adam": {"data.b_s": 0.5}, "β = 0.5, adam": {"data.b_s": 0}}
    with pytest.raises(UserError, match=r"rows 'α = 0.5, Adam', 'β = 0.5, adam' would share a folder"):
        rows_of(study(rows=rows))


LOEV = {"head.variant": ["pitch"], "data.b_s": 0}
SPACED = Evaluation(
    preset="conf/evaluation/tiny.yaml", metrics={"AP": "tags/ap", "AP in pitch": "tags/ap in pitch"}, rows=("loev",)
)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, r"column AP in pitch: its evaluation has spaces none; add it: set: \{spaces: \[pitch\]\}"),
        ({"set": {"spaces": ["stretch"]}}, "column AP in pitch: its evaluation has spaces stretch; add it"),
        (
            {"set": {"spaces": ["pitch", "stretch"]}},
            "evaluates the space stretch, its encoder has embedding, invariant, pitch; set the evaluation's rows",
        ),
        (
            {"set": {"spaces": ["pitch"]}, "rows": ()},
            "row plain: conf/evaluation/tiny.yaml evaluates the space pitch, its encoder has embedding; set the "
            "evaluation's rows, or head.variant",
        ),
    ],
)
def test_a_space_that_a_row_will_not_have_is_refused_before_it_is_trained(
    changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    one = study(axes=(), rows={"plain": {"data.b_s": 0}, "loev": LOEV}, evaluations=(replace(SPACED, **changes),))
    with pytest.raises(UserError, match=words):
        make_plan(one, "paper", settings(tmp_path), {})


def test_a_claim_compares_columns_that_its_rows_have(tmp_path: Path) -> None:
    plain = Evaluation(preset="conf/evaluation/tiny.yaml", metrics={"AP": "tags/ap"}, rows=("plain",))
    evaluations = (replace(SPACED, set={"spaces": ["pitch"]}), plain)
    of: dict[str, Any] = {"statement": "s", "metric": "AP in pitch", "row": "loev", "sign": "higher"}

    def planned(**changes: str) -> None:
        rows = {"plain": {"data.b_s": 0}, "loev": LOEV}
        one = study(axes=(), rows=rows, evaluations=evaluations, claims=(Claim(**of | changes),))
        make_plan(one, "paper", settings(tmp_path), {})

    planned(over="plain", over_metric="AP")  # one column of two evaluations has the rows of both
    planned(over="loev", over_metric="AP")
    with pytest.raises(UserError, match="no row plain; AP in pitch has loev, untrained"):
        planned(over="plain")
    with pytest.raises(UserError, match="no column AP in tempo; there are AP, AP in pitch"):
        planned(over="loev", over_metric="AP in tempo")


def test_a_row_starts_from_the_run_of_its_own_seed(tmp_path: Path) -> None:
    start = Start(pretrain="conf/pretrain/tiny.yaml", set={"optim.steps": 2, "data.labelled": "$unlabelled"})
    rows = {"cold": {}, "warm": {"init_from": "$audio"}}
    one = study(axes=(), rows=rows, starts={"audio": start}, seeds=2)
    plan = make_plan(one, "paper", settings(tmp_path), {"optim.learning_rate": 0.5})
    assert [(run.seed, run.evaluations) for run in plan.starts] == [(0, ()), (1, ())]
    assert plan.starts[0].experiment.data.labelled == "/sets/unlabelled"
    assert plan.starts[0].experiment.optim.learning_rate != 0.5, "keys of the command line are of rows"
    by_row = {(run.row, run.seed): run.experiment.init_from for run in plan.runs}
    assert by_row == {
        ("cold", 0): None,
        ("cold", 1): None,
        ("warm", 0): str(plan.starts[0].folder),
        ("warm", 1): str(plan.starts[1].folder),
    }


def test_a_start_that_the_study_has_not_is_named(tmp_path: Path) -> None:
    one = study(rows={"warm": {"init_from": "$audio"}})
    with pytest.raises(UserError, match="needs the shards of audio"):
        make_plan(one, "paper", settings(tmp_path), {})


def test_a_wrong_key_of_a_start_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    start = Start(pretrain="conf/pretrain/tiny.yaml", set={"optim.stepps": 2})
    with pytest.raises(UserError, match=r"optim\.stepps"):
        make_plan(study(starts={"audio": start}), "paper", settings(tmp_path), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tags/app", r"column AP: conf/evaluation/tiny\.yaml gives no tags/app; did you mean tags/ap\?"),
        ("mood/f1", r"gives no mood/f1; it gives tags/auroc, tags/ap, "),
        ("tags/ap under reverb", r"measures nothing under reverb; set robustness\.severities or "),
        ("distance/semitones@4", r"measures no distance; set equivariance\.semitones or "),
    ],
)
def test_a_metric_that_an_evaluation_does_not_report_is_refused_before_a_row_is_trained(
    tmp_path: Path, text: str, message: str
) -> None:
    one = Evaluation(preset="conf/evaluation/tiny.yaml", metrics={"AP": text})
    with pytest.raises(UserError, match=message):
        make_plan(study(evaluations=(one,)), "paper", settings(tmp_path), {})
