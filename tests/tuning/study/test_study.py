"""A study end to end: rows trained and evaluated in processes, resumed after a kill, and known truth."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.progress import SILENT
from cluster.settings import ROOT, UserError
from tuning.study.plan import plan_study, read_study
from tuning.study.sets import compose
from tuning.study.study import StudyResult, outline, run_study

STUDY = """
title: three rows
source: a test
pretrain: conf/pretrain/tiny.yaml
set: {data.batch: 8, views.samples: 16384, optim.steps: 4, run.snapshot_every: 2}
rows:
  half: {data.b_s: 0.5}
  none: {data.b_s: 0}
evaluations:
  - preset: conf/evaluation/tiny.yaml
    set: {tasks.tags.max_epochs: 2, confidence.resamples: 100}
    metrics: {AP: tags/ap, key@10: key/weighted@10}
metrics: {loss: loss}
published: {half: {AP: 0.425}}
scales:
  paper:
    about: all there is
    corpora:
      labelled: {tracks: 40, seconds: 5.0, valid_share: 0.2, test_share: 0.3}
      unlabelled: {tracks: 12, seconds: 5.0, valid_share: 0.0, test_share: 0.0, seed: 1}
"""


def write(folder: Path, extra_row: str = "") -> Path:
    file = folder / "mine.yaml"
    file.write_text(STUDY.replace("  none: {data.b_s: 0}\n", "  none: {data.b_s: 0}\n" + extra_row))
    return file


def run(file: Path, folder: Path, **settings: object) -> StudyResult:
    own = {f"study.{key}": value for key, value in settings.items()} | {"study.dir": str(folder)}
    plan, chosen = plan_study(str(file), "paper", own)
    return run_study(plan, chosen, progress=SILENT)


def values(tree: dict[str, Any]) -> dict[str, Any]:
    return {row["name"]: row["values"] for row in tree["rows"]}


def test_rows_that_no_clip_is_left_for_are_refused_by_name_before_anything_is_made(
    tmp_path: Path, tiny_sets: tuple[Path, Path]
) -> None:
    file = write(tmp_path, "  few: {data.p_s: 0.0001}\n  same: {data.unlabelled: $labelled}\n")
    sets = dict(zip(("sets.labelled", "sets.unlabelled"), map(str, tiny_sets), strict=True))
    own = {f"study.{key}": value for key, value in (sets | {"dir": str(tmp_path / "study")}).items()}
    plan, settings = plan_study(str(file), "paper", own)
    for refuse in (partial(outline, plan, settings), partial(run_study, plan, settings, progress=SILENT)):
        with pytest.raises(UserError) as refused:
            refuse()
        first, second = str(refused.value).splitlines()
        assert re.match(r"row few: data\.p_s = 0\.0001 leaves none of \d+ labelled clips", first)
        assert second.startswith("row same: the unlabelled set has no training clip of its own")
    assert not (tmp_path / "study").exists()


def test_a_set_on_which_a_task_cannot_run_is_refused_before_anything_is_trained(
    tmp_path: Path, tiny_sets: tuple[Path, Path]
) -> None:
    sets = {"study.sets.labelled": str(tiny_sets[0]), "study.sets.unlabelled": str(tiny_sets[1])}
    own = sets | {"study.sets.evaluation": str(tiny_sets[1]), "study.dir": str(tmp_path / "study")}
    plan, settings = plan_study(str(write(tmp_path)), "paper", own)
    for refuse in (partial(outline, plan, settings), partial(run_study, plan, settings, progress=SILENT)):
        with pytest.raises(UserError, match=rf"conf/evaluation/tiny\.yaml on {tiny_sets[1]}: task tags: "):
            refuse()
    assert not (tmp_path / "study").exists()


@pytest.mark.timeout(600)
def test_rows_are_trained_evaluated_and_tabled_and_one_that_fails_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "  far too fast: {optim.learning_rate: 1.0e+30}\n")
    folder = tmp_path / "outputs" / "study"
    first = run(file, folder)
    assert list(values(first.tree)) == ["half", "none", "untrained", "constant"]
    assert first.tree["missing"] == ["far too fast"]
    assert "not finite" in first.tree["failed"]["far too fast, seed 0"]
    assert first.tree["rows"][0]["published"] == {"AP": 0.425}
    assert 0 < first.tree["rows"][0]["values"]["AP"]["value"] < 1
    _check_mlflow(first.tracking)

    done = folder / "rows" / "half" / "seed-0" / "done.json"
    before = done.stat().st_mtime_ns
    second = run(write(tmp_path), folder)  # the same rows without the one that failed
    assert done.stat().st_mtime_ns == before, "a finished run was done again"
    assert values(second.tree) == values(first.tree)
    assert not second.tree["missing"]


def _check_mlflow(uri: str) -> None:
    from mlflow.tracking import MlflowClient

    store = uri.partition("#")[0]
    client = MlflowClient(store)
    (experiment,) = [e for e in client.search_experiments() if e.name == "counterpoint"]
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs["three rows (paper)"]
    child = runs["half, seed 0"]
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    names = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert names >= {"study.md", "study.json", "study.png"}
    assert "![study.png](" in parent.data.tags["mlflow.note.content"]
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{parent.info.run_id}"])
    assert "params.`optim.learning_rate`" in view["selectedColumns"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_study_that_is_stopped_or_killed_goes_on_and_ends_with_the_same_table(
    number: signal.Signals, tmp_path: Path
) -> None:
    file = write(tmp_path)
    file.write_text(file.read_text().replace("optim.steps: 4", "optim.steps: 60"))
    unbroken = run(file, tmp_path / "unbroken")
    folder = tmp_path / "broken"
    command = [sys.executable, "-m", "counterpoint", "study", str(file), f"study.dir={folder}"]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    metrics = folder / "rows" / "half" / "seed-0" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 10):
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.1)
        assert child.poll() is None, "it ended before it could be stopped"
    if number == signal.SIGKILL:
        os.killpg(child.pid, number)  # the driver and its processes, as a machine that goes down
        assert child.wait() == -number
    else:
        child.send_signal(number)
        assert child.wait() == 143
        assert not (folder / "study.json").exists()
    resumed = run(file, folder)
    assert values(resumed.tree) == values(unbroken.tree)


HANGING = """
import multiprocessing, time
from pathlib import Path
from own_encoder import TinyNet

class Hangs(TinyNet):
    def forward(self, mel):
        place = Path(__file__).parent
        if self.training and multiprocessing.parent_process():  # the driver looks at it first
            (place / "begun").touch()
            while (place / "hang").exists():
                time.sleep(0.1)
        return super().forward(mel)
"""


@contextlib.contextmanager
def killed_at_the_end(command: subprocess.Popen[str]) -> Iterator[None]:
    """A command with its session: one that does not end fails its test, and does not hold it."""
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)


@pytest.mark.medium
@pytest.mark.timeout(200)
def test_a_study_ends_soon_after_a_request_to_stop_though_its_row_does_not_and_the_same_command_resumes(
    tmp_path: Path, tiny_sets: tuple[Path, Path]
) -> None:
    """The step of the row would never end."""
    (tmp_path / "hanging.py").write_text(HANGING)
    (tmp_path / "hang").touch()
    tree = {
        "title": "hanging", "source": "a test", "pretrain": "conf/pretrain/tiny.yaml",
        "set": {"data.batch": 8, "data.b_s": 0.5, "views.samples": 16384,
                "optim.steps": 2, "encoder.name": "hanging:Hangs", "encoder.channels": None,
                "tracking.enabled": False},
        "rows": {"only": {}}, "metrics": {"loss": "loss"}, "scales": {"paper": {"about": "all there is"}},
    }  # fmt: skip
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    command = [sys.executable, "-c", "from commands.app import main; main()", "study", "mine.yaml", "study.dir=study"]
    command += [
        f"study.sets.{name}={folder}" for name, folder in zip(("labelled", "unlabelled"), tiny_sets, strict=True)
    ]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'examples'}:{tmp_path}"}
    start = partial(subprocess.Popen, command, cwd=tmp_path, env=environment, start_new_session=True)
    with start(stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as study, killed_at_the_end(study):
        while not (tmp_path / "begun").exists():
            with contextlib.suppress(subprocess.TimeoutExpired):
                study.wait(0.1)
            assert study.poll() is None, study.communicate()
        study.send_signal(signal.SIGTERM)
        _, said = study.communicate()
    assert study.returncode == 143, said
    assert "the same command resumes" in said
    assert not list(tmp_path.rglob("done.json"))
    (tmp_path / "hang").unlink()
    with start(stdout=subprocess.DEVNULL) as study:
        assert study.wait() == 0
    assert len(list(tmp_path.rglob("done.json"))) == 1


FASTER = {"optim.channels_last": "auto"}
"""Sums in another order, in three quarters of the time."""


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The music of both studies of evidence, rendered once."""
    corpora, others = (read_study(name).scales["tiny"].corpora for name in ("evidence", "evidence_loev"))
    assert corpora == others
    folder = tmp_path_factory.mktemp("rendered")
    compose({folder / name: config for name, config in corpora.items()}, SILENT)
    return folder


def evidence(file: str, rendered: Path, folder: Path, *, steps: int) -> dict[str, Any]:
    """A study of evidence in fewer steps than its scale has: the signs of its claims, not their values."""
    shutil.copytree(rendered, folder / "shards")
    own = {"study.dir": str(folder), "study.parallel": 2, "optim.steps": steps} | FASTER
    plan, settings = plan_study(file, "tiny", own)
    tree = run_study(plan, settings, progress=SILENT).tree
    assert not tree["failed"]
    assert not tree["missing"]
    return tree


def changed(name: str, folder: Path, **tiny: Callable[[Any], Any]) -> str:
    """A study of the checkout with other entries in its scale `tiny`, as a file; each is given what the scale has."""
    tree = yaml.safe_load((ROOT / "conf" / "study" / f"{name}.yaml").read_text(encoding="utf-8"))
    scale = tree["scales"]["tiny"]
    scale.update({key: change(scale[key]) for key, change in tiny.items()})
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return str(folder / f"{name}.yaml")


@pytest.mark.timeout(900)
def test_the_evidence_on_rendered_music_stretch_and_pitch_shift_break_what_they_change(
    rendered: Path, tmp_path: Path
) -> None:
    tree = evidence("evidence", rendered, tmp_path / "study", steps=60)
    assert {claim["statement"]: claim["holds"] for claim in tree["claims"]} == dict.fromkeys(
        (
            "time-stretch lowers tempo agreement among neighbours",
            "time-stretch raises key agreement among neighbours",
            "pitch shift lowers key agreement among neighbours",
            "pitch shift raises tempo agreement among neighbours",
        ),
        True,
    )
    for claim in tree["claims"]:
        assert claim["low"] <= claim["value"] <= claim["high"]


@pytest.mark.timeout(1200)
def test_the_ladder_of_texts_on_rendered_music_retrieves_and_dropped_views_help_queries_of_few_tags(
    tmp_path: Path,
) -> None:
    own = {"study.dir": str(tmp_path / "study"), "study.parallel": 2, "study.seeds": 1}
    file = changed(
        "ads_ladder",
        tmp_path,
        starts=lambda starts: {"audio": starts["audio"] | {"set": starts["audio"]["set"] | {"optim.steps": 60}}},
        corpora=lambda corpora: corpora | {"other": corpora["other"] | {"tracks": 150}},
    )
    plan, settings = plan_study(file, "tiny", own | FASTER | {"optim.steps": 60})  # of 120
    tree = run_study(plan, settings, progress=SILENT).tree
    assert not tree["failed"]
    by_row = {name: {column: one["value"] for column, one in row.items()} for name, row in values(tree).items()}
    chance = by_row.pop("constant")
    untrained = by_row.pop("untrained")
    assert len(by_row) == 5
    for name, row in by_row.items():
        assert row["R@10"] >= 4 * chance["R@10"], name
        assert row["R@10"] > untrained["R@10"], name
        assert row["mAP of 3 tags"] > 2 * chance["mAP of 3 tags"], name
    assert by_row["+ dropped views"]["mAP of 3 tags"] > by_row["+ captions"]["mAP of 3 tags"]
    verdicts = {claim["statement"]: claim for claim in tree["claims"]}
    assert verdicts["training beats the untrained towers"]["holds"]
    # Swaps show nothing at this size, and the table says so; a large harm would be a fault.
    assert abs(verdicts["swapped attributes raise the accuracy of swaps"]["value"]) < 0.1


@pytest.mark.timeout(900)
def test_the_evidence_of_loev_each_space_keeps_the_property_that_it_varies_with(rendered: Path, tmp_path: Path) -> None:
    def of_few(evaluations: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [one | {"set": one["set"] | {"equivariance.clips": 40}} for one in evaluations]

    file = changed("evidence_loev", tmp_path, evaluations=of_few)
    tree = evidence(file, rendered, tmp_path / "study", steps=50)
    assert [claim["holds"] for claim in tree["claims"]] == [True] * 6
