"""What a sweep refuses before it takes anything, and what its plan shows."""

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cluster.machine.placement import Bundle
from cluster.settings import ROOT, UserError, load_config, to_tree
from trainers.checks import dry_run
from trainers.checks.footprint import Step
from trainers.config import ExperimentConfig, without_ray_train
from tuning.placement import Need, here, need
from tuning.sweep.config import experiment_tree, load_sweep
from tuning.sweep.journal import SweepJournal
from tuning.sweep.outcome import best_preset, importances, note, rows_of, shown, write_table
from tuning.sweep.plan import SweepPlan, describe_plan
from tuning.sweep.space import check_space, read_space
from tuning.sweep.sweep import _Trials

ALONE = Need(bundles=(Bundle(cpus=1),), alone=True)

MakePlan = Callable[..., SweepPlan]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sweep.trails=3"], "did you mean sweep.trials"),
        (["sweep.trials=0"], "trials must be >= 1, got 0"),
        (["optim.stepps=3"], "did you mean optim.steps"),
        (["run.dir=there"], "run.dir is the sweep's"),
        (["tracking.enabled=false", "experiment.seed=3"], "write seed=…, as for pretrain"),
        (["space.data.b_s=1"], "the space is set in"),
        (["sweep.sampler=nsga2"], "several objective.metrics"),
        (['objective.metrics=["tags/app"]'], "gives no tags/app; it gives tags/auroc, tags/ap"),
        (["run.quick_every=0"], "run.quick_every"),
        (["stop.grace_steps=4"], "must be < optim.steps=4"),
        (["resources.num_workers=3"], "3 ranks do not divide data.batch = 8"),
        (["preset=conf/pretrain/quickstrat.yaml"], "did you mean"),
        (["data.labelled=nowhere"], "nowhere"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(
    make_plan: MakePlan, tmp_path: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(UserError) as refused:
        make_plan(*overrides)
    assert words in str(refused.value)
    assert not (tmp_path / "sweep").exists()


def test_a_share_that_the_shards_turn_into_nothing_is_refused_with_the_path(make_plan: MakePlan) -> None:
    with pytest.raises(UserError, match=r"data.p_s = 0.001 is in the space, but"):
        make_plan(space={"data.p_s": {"log_uniform": [0.001, 1.0]}})


def test_no_place_that_travels_to_a_trial_is_relative(
    make_plan: MakePlan, evaluation_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(evaluation_set.parent)
    plan = make_plan(f"objective.shards={evaluation_set.name}", f"data.labelled={evaluation_set.name}")
    assert plan.evaluation.data.shards == plan.experiment.data.labelled == str(evaluation_set)


def test_a_dry_run_shows_the_space_a_sample_the_trials_and_the_time(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not the process that measures steps (tests/trainers/checks/test_footprint.py): a busy machine gives it up.
    steps = [Step(clips=clips, seconds=clips / 4, host_bytes=1 << 30, gpu_bytes=0, parameters=5) for clips in (0, 4)]
    monkeypatch.setattr(dry_run, "measure_steps", lambda *_, **__: steps)
    reported = describe_plan(make_plan("resources.num_workers=2", "sweep.concurrency=3"))
    assert reported["space"]["loss.temperature"] == {"log_uniform": [0.05, 0.5]}
    assert 0.25 <= reported["sample"]["data.b_s"] <= 0.75
    assert (reported["trials"], reported["at_a_time"], reported["a_trial"]["cores"]) == (3, 3, 2)
    assert reported["first"] == "the preset"
    # 3 trials and 6 runs that confirm, each of 4 steps of a second, 3 at a time; shown in three digits.
    assert reported["estimate"]["hours"] == pytest.approx(12 / 3600, rel=5e-3)
    assert not (tmp_path / "sweep").exists()


def test_a_trial_of_one_worker_trains_in_its_actor_and_of_two_under_ray_train(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    one, two = (make_plan(f"resources.num_workers={count}") for count in (1, 2))
    jobs = [
        plan.job("trial", tmp_path / "trial", {}, one=need(plan.experiment, here(2), "a trial")) for plan in (one, two)
    ]
    assert [job.experiment["resources"]["num_workers"] for job in jobs] == [0, 2]
    small, large = (need(plan.experiment, here(2), "a trial") for plan in (one, two))
    assert (small.driver, large.driver) == (Bundle(cpus=1), None)
    assert [job.evaluation_cpus for job in jobs] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("keys", "without"),
    [
        (["resources.num_workers=1"], True),
        (["resources.num_workers=2"], False),
        (["resources.num_workers=0"], True),
        (["resources.num_workers=1", "resources.min_workers=1"], False),
        (["resources.num_workers=1", "views.placement=pool"], False),
    ],
)
def test_only_one_fixed_worker_that_needs_nothing_of_ray_does_without_ray_train(keys: list[str], without: bool) -> None:
    config = load_config(ExperimentConfig, None, keys)
    found = without_ray_train(config)
    assert (found.resources.num_workers == 0) == without
    assert replace(found, resources=config.resources) == config


def test_a_trial_is_the_preset_with_its_values_in_a_folder_of_its_own(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    job = plan.job("trial-007", tmp_path / "sweep/trials/007", {"data.b_s": 0.375}, one=ALONE)
    assert job.experiment["data"]["b_s"] == 0.375
    assert (job.experiment["run"]["keep"], job.folder.name) == (1, "007")
    assert job.experiment["tracking"]["uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert job.evaluation["split"] == "valid"
    assert plan.job("best", tmp_path, {}, one=ALONE, seed=1000).evaluation["split"] == "test"
    assert type(job).unpacked(job.packed()) == job


def test_the_best_preset_is_the_trials_configuration_and_pretrain_reads_it(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    values = {"loss.temperature": 0.123456789, "data.b_s": 0.5}
    file = tmp_path / "best.yaml"
    file.write_text(best_preset(plan, values, "Trial 3.\nschema 1"))
    read = load_config(ExperimentConfig, file)
    expected = plan.job("t", tmp_path, values, one=ALONE).experiment
    for section in ("data", "views", "augment", "frontend", "encoder", "head", "loss", "optim"):
        assert to_tree(read)[section] == expected[section], section
    assert (read.seed, read.run.dir) == (0, "outputs/pretrain")
    assert file.read_text().startswith("# Trial 3.\n# schema 1\n")


def test_a_stopped_trial_has_no_objective_though_optuna_remembers_its_quick_score(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan()
    journal = SweepJournal(tmp_path, plan.config.sweep, plan.space, objectives=1, first=plan.first)
    first, second = journal.next(), journal.next()
    assert first is not None
    assert second is not None
    journal.note(first.number, curve=[[2, 0.9]])
    journal.stopped(first.number, [(2, 0.9)])
    journal.note(second.number, curve=[[2, 0.5]], step=4, seconds=1.0)
    journal.done(second.number, [0.6])
    rows = rows_of(journal, plan)
    assert [(row["state"], row["tags/ap"], row["quick/knn"], row["step"]) for row in rows] == [
        ("stopped", None, 0.9, 2),
        ("done", 0.6, 0.5, 4),
    ]
    best = journal.best()
    assert best is not None
    assert best.number == second.number
    assert importances(journal, 0, tmp_path) == {}


def test_trials_that_end_out_of_order_all_stand_on_the_trackers_curve(make_plan: MakePlan, tmp_path: Path) -> None:
    """The tracker takes no step twice, and none that goes back."""
    plan = make_plan()
    plan.folder.mkdir()
    journal = SweepJournal(tmp_path, plan.config.sweep, plan.space, objectives=1)
    curve: list[tuple[int, float]] = []
    tracker: Any = SimpleNamespace(metrics=lambda values, step: curve.append((step, values["objective/tags.ap"])))
    nobody: Any = None
    source = _Trials(plan, journal, nobody, tracker, lambda _done, _words: None)
    for _ in range(3):
        journal.next()
    for number, score in ((2, 0.2), (0, 0.4), (1, 0.3)):
        source.done(number, {"values": [score], "step": 4, "seconds": 1.0}, [])
    assert curve == [(1, 0.2), (2, 0.4), (3, 0.3)]


@pytest.mark.parametrize("width", [60, 200])
def test_the_table_fits_its_terminal_leaves_out_what_matters_least_and_shows_every_crash(
    make_plan: MakePlan, tmp_path: Path, width: int
) -> None:
    paths = [f"augment.{name}.p" for name in ("gain", "polarity", "noise", "filter", "pitch", "delay")]
    plan = make_plan(space={path: {"uniform": [0.0, 1.0]} for path in paths})
    journal = SweepJournal(tmp_path, plan.config.sweep, plan.space, objectives=1)
    for number, score in enumerate((0.5, None, 0.7)):
        trial = journal.next()
        assert trial is not None
        journal.failed(number, "not [finite]") if score is None else journal.done(number, [score])
    console = Console(width=width, record=True, file=io.StringIO())
    weights = {path: 0.1 * place for place, path in enumerate(paths)}
    console.print(shown(rows_of(journal, plan), plan, weights, width))
    lines = console.export_text().splitlines()
    assert [line.split()[0] for line in lines if line.split()[1:2] in (["done"], ["failed"])] == ["2", "0", "1"]
    assert any("not [finite]" in line for line in lines)
    assert not any("…" in line for line in lines)
    left_out = [line for line in lines if "in trials.csv also" in line]
    assert bool(left_out) == (width == 60)
    assert all(paths[0] in line and paths[-1] not in line for line in left_out)
    reported = note(rows_of(journal, plan), plan, ["no difference is shown"])
    assert reported.startswith("no difference is shown\n\n| trial | state | tags/ap |")
    assert reported.splitlines()[4].startswith("| 2 | done | 0.700 |")


def test_of_hundreds_of_trials_a_terminal_shows_the_best_and_says_where_the_others_are(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(space={"augment.gain.p": {"uniform": [0.0, 1.0]}})
    journal = SweepJournal(tmp_path, replace(plan.config.sweep, trials=160), plan.space, objectives=1)
    for number in range(160):
        assert journal.next() is not None
        journal.failed(number, f"because {number}") if number < 30 else journal.done(number, [number / 160])
    rows = rows_of(journal, plan)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shown(rows, plan, {}, 200))
    text = console.export_text()
    listed = [int(words[0]) for words in map(str.split, text.splitlines()) if words[1:2] == ["done"]]
    assert listed == list(range(159, 59, -1))
    assert text.count("because") == 20
    assert "in trials.csv also 60 more trials, 10 more reasons" in " ".join(text.split())
    files = write_table(rows, tmp_path)
    assert len(files["csv"].read_text().splitlines()) == 161
    before = [file.stat().st_mtime_ns for file in files.values()]
    assert write_table(rows, tmp_path) == files
    assert [file.stat().st_mtime_ns for file in files.values()] == before  # nothing is new: figures need not be drawn
    write_table([rows[0] | {"reason": "another"}, *rows[1:]], tmp_path)
    assert all(file.stat().st_mtime_ns > then for file, then in zip(files.values(), before, strict=True))


@pytest.mark.parametrize("file", sorted((ROOT / "conf/sweep").glob("*.yaml")), ids=lambda file: file.name)
def test_the_shipped_sweeps_have_spaces_that_fit(file: Path) -> None:
    config = load_sweep(file, [])
    base = experiment_tree(config)
    check_space(read_space(config.space, str(file)), base, str(file), lambda _: None)
