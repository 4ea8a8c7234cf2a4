"""Faults 45 from above: MLflow is away from beginning to end, and a sweep, a study and the quickstart end well.

What runs in processes and actors elsewhere runs in this process here, so that nothing but MLflow is missing. Its URI
holds a password, which must stand nowhere afterwards.
"""

import socket
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster.machine.placement import Machine
from cluster.processes import map as local
from cluster.progress import SILENT
from cluster.tracking import Tracker
from cluster.tracking.account import is_waiting
from data_shards.sources.synthetic.corpus import SyntheticConfig
from tuning import quickstart
from tuning.study.plan import plan_study
from tuning.study.study import run_study
from tuning.sweep import runner as sweep_runner
from tuning.sweep import sweep
from tuning.sweep.jobs import Job
from tuning.sweep.plan import SweepPlan
from tuning.sweep.trial import run_job

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # MLflow's own
]
MARKER = "correct-horse"
STUDY = """
title: one row
source: a test
pretrain: conf/pretrain/tiny.yaml
set: {data.batch: 8, views.samples: 16384, optim.steps: 2}
rows:
  half: {data.b_s: 0.5}
evaluations:
  - preset: conf/evaluation/tiny.yaml
    set: {tasks.tags.max_epochs: 2, confidence.resamples: 100}
    metrics: {AP: tags/ap}
  - preset: conf/evaluation/tiny.yaml
    set: {tasks.tags.max_epochs: 1, confidence.resamples: 100}
    metrics: {again: tags/ap}
scales:
  paper: {about: all there is}
"""


@pytest.fixture(autouse=True)
def away(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every connection to the server is refused; a run that ends waits a moment for it, not half a minute."""
    defaults: Any = Tracker.close.__kwdefaults__
    monkeypatch.setitem(defaults, "wait_s", 0.1)
    with socket.socket() as taken:  # bound but not listening
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{MARKER}@127.0.0.1:{taken.getsockname()[1]}")
        yield


def check(folder: Path, trackers: int, output: str) -> None:
    """The logs wait, each in its run's folder, and nobody finds the password."""
    tracked = {file.parent.parent for file in folder.rglob("tracking/state.json")}
    assert len(tracked) == trackers
    assert all(is_waiting(run) for run in tracked)
    found = [path for path in folder.rglob("*") if path.is_file() and MARKER.encode() in path.read_bytes()]
    assert not found
    assert "does not answer" in output
    assert "is not shown in MLflow" not in output
    assert MARKER not in output


def test_a_sweep_without_mlflow_evaluates_every_trial(
    make_plan: Callable[..., SweepPlan],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Tuner:
        """One trial after the other."""

        def __init__(self, search: sweep_runner._Search) -> None:
            self.search = search

        def fit(self) -> None:
            for trial in map(str, range(9)):
                found = self.search.suggest(trial)
                if not isinstance(found, dict):
                    return
                self.search.on_trial_complete(trial, run_job(Job.unpacked(found), lambda _: None))

    @contextmanager
    def no_ray(**_: Any) -> Iterator[Any]:
        yield SimpleNamespace(cpus=2, local=True, machines=[Machine(address="here", cpus=2)])

    monkeypatch.setattr(sweep_runner, "_tuner", lambda search, *_: Tuner(search))
    monkeypatch.setattr(sweep, "ray_session", no_ray)
    plan = make_plan("sweep.trials=2", "sweep.confirm_seeds=1", "stop.rule=none", "sweep.seed=3")
    result = sweep.run_sweep(plan, progress=SILENT)
    assert [row["state"] for row in result.rows] == ["done", "done"]
    runs = 2 if result.best == 0 else 4  # where the preset is the best there is nothing to confirm
    assert len(result.confirmed) == (runs > 2)
    check(tmp_path, 1 + runs, f"{caplog.text} {result}")


def test_a_study_without_mlflow_has_its_table(
    evaluation_set: Path,
    tiny_sets: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Here(Executor):
        """A pool whose only process is this one."""

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def submit(self, call: Callable[..., Any], /, *given: Any, **named: Any) -> Future[Any]:
            future: Future[Any] = Future()
            try:
                future.set_result(call(*given, **named))
            except Exception as error:  # the study reports it
                future.set_exception(error)
            return future

    monkeypatch.setattr(local, "ProcessPoolExecutor", Here)
    (tmp_path / "mine.yaml").write_text(STUDY)
    places = {"labelled": evaluation_set, "unlabelled": tiny_sets[1], "evaluation": evaluation_set}
    sets = {f"study.sets.{name}": str(place) for name, place in places.items()}
    plan, settings = plan_study(str(tmp_path / "mine.yaml"), "paper", {"study.dir": str(tmp_path / "study")} | sets)
    result = run_study(plan, settings, progress=SILENT)
    assert not result.tree["failed"]
    assert {"AP", "again"} <= result.tree["rows"][0]["values"].keys()
    check(tmp_path, 2, f"{caplog.text} {result}")


@pytest.mark.slow
def test_the_quickstart_without_mlflow_has_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    labelled = SyntheticConfig(tracks=48, seconds=8.0, valid_share=0.25, test_share=0.25, seed=0)
    monkeypatch.setattr(quickstart, "LABELLED", labelled)
    monkeypatch.setattr(quickstart, "UNLABELLED", SyntheticConfig(tracks=24, seconds=8.0, valid_share=0, test_share=0))
    small = {"data.batch": 8, "optim.steps": 2, "resources.num_workers": 0}
    result = quickstart.run_quickstart(tmp_path / "out", small, progress=SILENT)
    assert (tmp_path / "out" / "report.json").is_file()
    assert result.tracking.startswith("http://127.0.0.1:")
    check(tmp_path, 1, f"{caplog.text} {result}")
