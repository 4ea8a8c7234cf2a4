"""The newcomer's command on a corpus that is small enough for every run of the tests."""

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.processes.cpu_time import HERE, RAY, TRAINING
from cluster.progress import SILENT
from cluster.settings import UserError
from data_shards.sources.synthetic.corpus import SyntheticConfig
from tuning import quickstart

REQUIRED = {"tags/auroc", "tags/ap", "key/weighted@10", "tempo/acc1@10"}


@pytest.mark.ray
@pytest.mark.timeout(600)
def test_the_quickstart_leaves_a_report_a_snapshot_and_an_mlflow_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = SyntheticConfig(tracks=48, seconds=8.0, valid_share=0.25, test_share=0.25, seed=0)
    monkeypatch.setattr(quickstart, "LABELLED", labelled)
    monkeypatch.setattr(quickstart, "UNLABELLED", SyntheticConfig(tracks=24, seconds=8.0, valid_share=0, test_share=0))
    out = tmp_path / "outputs" / "quickstart"
    small = {"data.batch": 8, "optim.steps": 4, "run.snapshot_every": 2}
    result = quickstart.run_quickstart(out, small, progress=SILENT)

    report = json.loads((out / "report.json").read_text())
    assert report["metrics"].keys() >= REQUIRED
    assert report["baselines"].keys() >= {"untrained", "constant"}
    for table in (report["metrics"], report["baselines"]["untrained"], report["baselines"]["constant"]):
        for name in REQUIRED:
            metric = table[name]
            assert metric["low"] <= metric["value"] <= metric["high"], name
            assert metric["n"] == 12
            assert metric["convention"]
    assert report["provenance"]["step"] == 4
    assert result.snapshot == out / "snapshots" / "step-4"
    assert list(result.seconds) == ["shards", "pretraining", "of which steps", "evaluation", "MLflow"]
    assert 0 < result.seconds["of which steps"] < result.seconds["pretraining"]
    assert result.cpu_seconds.keys() >= {HERE, TRAINING, RAY}
    assert all(seconds >= 0 for seconds in result.cpu_seconds.values())
    _check_mlflow(result.tracking)


def test_the_code_that_the_command_named_is_trusted_by_its_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trusted: list[bool] = []

    def evaluate(*_: Any, trust_code: bool = False, **__: Any) -> None:
        trusted.append(trust_code)
        raise UserError("evaluated")

    monkeypatch.setattr(quickstart, "try_own_parts", lambda *_: None)
    monkeypatch.setattr(quickstart, "build_sets", lambda *_: None)
    monkeypatch.setattr(quickstart, "pretrain", lambda *_, **__: 0)
    monkeypatch.setattr(quickstart, "evaluate", evaluate)
    with pytest.raises(UserError, match="evaluated"):
        quickstart.run_quickstart(tmp_path / "out", {"encoder.name": "my_parts:Net"}, progress=SILENT)
    assert trusted == [True]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"loss.temprature": 1}, "did you mean loss.temperature"),
        ({"run.dir": "x"}, "run.dir of the quickstart is --out"),
    ],
)
def test_a_wrong_key_is_refused_before_anything_is_composed(
    overrides: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        quickstart.run_quickstart(tmp_path / "out", overrides, progress=SILENT)
    assert not (tmp_path / "out").exists()


def _check_mlflow(store: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("counterpoint")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "quickstart"
    assert run.info.status == "FINISHED"
    assert run.data.params["data.b_s"] == "0.5"
    assert len(client.get_metric_history(run.info.run_id, "1 train/loss")) == 4
    assert {"6 evaluation/tags.ap", "1 train/loss", "5 time/clips_per_s"} <= run.data.metrics.keys()
    assert any(name.startswith("system/") for name in run.data.metrics)
    files = {file.path for folder in ("report", "figures") for file in client.list_artifacts(run.info.run_id, folder)}
    assert {"report/report.json", "report/report.html"} <= files
    assert sum(name.startswith("figures/") for name in files) >= 2
