"""What MLflow shows of reports: each in its place, those of an earlier snapshot too, and none is a reason to fail."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import to_tree
from cluster.tracking import Tracker
from cluster.tracking.account import Account
from cluster.tracking.config import TrackingConfig
from evaluation.report.tracking import log_report
from evaluation.report.write import Report

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracked run of 200 steps, its snapshots left out."""
    folder = tmp_path_factory.mktemp("outputs")
    with Tracker(tracked(folder / "run"), folder / "run") as tracker:
        tracker.metrics({"loss": 0.1}, 200)
    return folder / "run"


def tracked(run: Path) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{run.parent / 'mlflow.db'}", system_metrics_s=0)


def report(run: Path, folder: Path, step: int, value: float) -> Report:
    """As `evaluate` leaves it."""
    folder.mkdir(exist_ok=True)
    about = {"config": {"tracking": to_tree(tracked(run)), "loss": {"temperature": 0.3}}}
    tree = {
        "metrics": {"tags/ap": row(value)},
        "baselines": {"untrained": {"tags/ap": row(0.1)}},
        "differences": {"untrained": {"tags/ap": row(value - 0.1)}},
        "provenance": {
            "snapshot": str(run / f"snapshots/step-{step}"),
            "step": step,
            "pretraining": about,
            "manifest_hash": "d" * 64,
            "evaluation": {"data": {"shards": "/data/mtat"}},
        },
    }
    for name in ("report.json", "report.html", "report.md"):
        (folder / name).write_text(f"{step}: {value}")
    (folder / "curve.png").write_text("a figure")
    return Report(tree, folder, {"curve": folder / "curve.png"})


def row(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.05, "high": value + 0.05, "n": 100, "convention": ""}


def shown(run: Path, key: str) -> tuple[list[tuple[int, float]], set[str]]:
    from mlflow.tracking import MlflowClient

    client: Any = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}")
    identity = json.loads((run / "tracking/state.json").read_text())["run_id"]
    points = [(point.step, point.value) for point in client.get_metric_history(identity, key)]
    files = [
        found.path for top in client.list_artifacts(identity) for found in client.list_artifacts(identity, top.path)
    ]
    below = [found.path for top in files for found in client.list_artifacts(identity, top)]
    return points, {*files, *below}


def test_an_earlier_snapshot_and_one_evaluated_again_are_logged(run: Path) -> None:
    for step, value in ((200, 0.5), (100, 0.25), (200, 0.75)):
        assert log_report(report(run, run, step, value)) == f"sqlite:///{run.parent / 'mlflow.db'}"
    points, files = shown(run, "6 evaluation/tags.ap")
    assert points == [(200, 0.5), (100, 0.25), (200, 0.75)]
    assert {"report/report.json", "figures/curve.png"} <= files


def test_an_evaluated_run_describes_itself_and_names_the_set_of_its_evaluation(run: Path) -> None:
    from mlflow.tracking import MlflowClient

    described = run.parent / "described"
    Tracker(tracked(described), described).close()
    log_report(report(described, described, 200, 0.5), objective=["tags/ap"])
    identity = json.loads((described / "tracking/state.json").read_text())["run_id"]
    found = MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}").get_run(identity)
    note = found.data.tags["mlflow.note.content"]
    assert "| `tags/ap` | .500 [.450, .550] | .100 | +.400 [+.350, +.450] |" in note
    assert f"![figures/curve.png](get-artifact?path=figures%2Fcurve.png&run_uuid={identity})" in note
    assert "| `loss.temperature` | `0.3` | `0.1` |" in note
    assert found.inputs is not None
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("evaluation", "d" * 36)
    assert dataset.tags[0].value == "evaluation"
    assert found.data.metrics["0 objective/tags.ap"] == 0.5


def test_the_difference_from_another_encoder_is_published_as_a_group_of_its_own(run: Path) -> None:
    found = report(run, run, 200, 0.5)
    delta = {"value": 0.1, "low": 0.05, "high": 0.2, "p": 0.01, "p_holm": 0.02}
    models = ("untrained", "other")
    found.tree["baselines"] = {model: {"tags/ap": row(0.4)} for model in models}
    found.tree["differences"] = {model: {"tags/ap": dict(delta)} for model in models}
    log_report(found, "compared")
    for end, value in (("", 0.1), (".low", 0.05), (".high", 0.2), (".p_holm", 0.02)):
        assert shown(run, f"6 evaluation-compared-against-other/tags.ap{end}")[0] == [(200, value)]
    assert shown(run, "6 evaluation-compared-against-untrained/tags.ap")[0] == []
    note = json.loads((run / "tracking/state.json").read_text())["tags"]["mlflow.note.content"]
    assert "| metric | trained | untrained | difference from untrained |" in note
    assert "| `tags/ap` | .500 | .400 | +.100 [+.050, +.200] | .020 | better |" in note


def test_a_run_that_was_killed_stays_so_when_it_is_evaluated(run: Path) -> None:
    from mlflow.tracking import MlflowClient

    killed = run.parent / "killed"
    Tracker(tracked(killed), killed).close("KILLED")
    for _ in range(2):
        log_report(report(killed, killed, 200, 0.5))
    identity = json.loads((killed / "tracking/state.json").read_text())["run_id"]
    assert MlflowClient(f"sqlite:///{run.parent / 'mlflow.db'}").get_run(identity).info.status == "KILLED"


def test_two_evaluations_of_a_run_stand_beside_each_other(run: Path) -> None:
    for preset, value in (("mtat", 0.5), ("gtzan", 0.25)):
        log_report(report(run, run / f"report of {preset}", 200, value), preset)
    for preset, value in (("mtat", 0.5), ("gtzan", 0.25)):
        points, files = shown(run, f"6 evaluation-{preset}/tags.ap")
        assert points == [(200, value)]
        assert {f"report/report of {preset}/report.json", f"figures/report of {preset}/curve.png"} <= files


def test_a_report_is_whole_where_its_run_cannot_be_tracked(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another process tells of the run; an old snapshot has a password in its configuration."""
    made = report(run, run, 200, 0.5)
    account = Account(run)
    with caplog.at_level(logging.WARNING):
        assert log_report(made) is None
        account.close()
        assert "is not shown in MLflow" in caplog.text
        assert "another process is running there" in caplog.text
        made.tree["provenance"]["pretraining"]["config"]["tracking"]["uri"] = "http://ann:hunter2@h"
        assert log_report(made) is None
    assert "uri must hold no user, password or key" in caplog.text
    assert "hunter2" not in caplog.text
