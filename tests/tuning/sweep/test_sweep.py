"""Sweeps under Ray: what stops, crashes, is killed and goes on; trials are fakes unless the test is slow."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import psutil
import pyarrow.parquet as pq
import pytest

from cluster.machine.placement import Bundle
from cluster.progress import SILENT
from cluster.ray_runtime.session import ray_session
from cluster.settings import ROOT, load_config
from trainers.config import ExperimentConfig
from trainers.loop import STOP_FILE
from tuning.placement import Need
from tuning.sweep import runner as sweep_runner
from tuning.sweep import trial
from tuning.sweep.config import StopConfig
from tuning.sweep.jobs import Job
from tuning.sweep.plan import SweepPlan
from tuning.sweep.sweep import run_sweep
from tuning.sweep.trial import SweepTrial

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
MakePlan = Callable[..., SweepPlan]


@pytest.fixture(scope="module")
def ray() -> Iterator[None]:
    with ray_session(workers=2):
        yield


@pytest.fixture
def fake_trials(monkeypatch: pytest.MonkeyPatch) -> type[SweepTrial]:
    """Trials whose objective is a formula: -(log10 τ + 1)², reported twice on the way. Trial 1 raises each time it is
    started; the process of trial 2 dies once."""

    class Fake(SweepTrial):  # of this function: Ray's workers cannot import a test
        def _work(self) -> None:
            import math
            import os
            from pathlib import Path

            from cluster.settings import RunError

            job: Job = self._job
            job.folder.mkdir(parents=True, exist_ok=True)
            starts = Path(job.folder, "starts")
            starts.write_text(starts.read_text() + "x" if starts.exists() else "x")
            if job.name == "trial-002" and starts.read_text() == "x":
                os._exit(9)
            if job.name == "trial-001":
                self._items.put(RunError(f"{job.name} burst"))
                return
            value = -((math.log10(job.experiment["loss"]["temperature"]) + 1) ** 2)
            for step in (1, 2):
                self._items.put({"step": step, "metric": value})
            self._items.put({"done": True, "values": [value], "step": 4, "metric": value, "seconds": 0.1})

    monkeypatch.setattr(sweep_runner, "SweepTrial", Fake)
    return Fake


def test_an_actor_that_tune_drops_unused_has_started_nothing(
    fake_trials: type[SweepTrial], make_plan: MakePlan, tmp_path: Path
) -> None:
    """Tune starts an actor for a waiting trial, and drops it where another becomes free: two would write one run."""
    job = make_plan().job(
        "trial-000", tmp_path / "trials/000", {"loss.temperature": 0.1}, one=Need(bundles=(Bundle(cpus=1),), alone=True)
    )
    actor = fake_trials(job.packed())
    actor.cleanup()
    assert not job.folder.exists()

    actor = fake_trials(job.packed())
    steps = [actor.step()["step"] for _ in range(3)]
    actor.cleanup()
    assert steps == [1, 2, 4]
    assert (job.folder / "starts").read_text() == "x"


def test_a_request_to_stop_leaves_an_evaluation_where_it_is_and_the_trial_goes_on_with_the_next_start(
    make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This evaluation would never end."""
    plan, goes_on = make_plan(), threading.Event()
    job = plan.job("trial-000", plan.folder / "trials/000", {}, one=Need(bundles=(Bundle(cpus=1),), alone=True))
    trained: list[Path] = []

    def pretrained(*_: object, **__: object) -> int:
        trained.append(job.folder)
        return 0

    def hangs(_job: Job) -> list[float]:
        plan.folder.mkdir(parents=True)
        (plan.folder / STOP_FILE).write_text("signal 15")
        goes_on.wait(120)
        return [0.5]

    monkeypatch.setattr("trainers.pretrain.pretrain", pretrained)
    monkeypatch.setattr(trial, "_evaluate", hangs)
    actor = SweepTrial(job.packed())
    assert actor.step() == trial.PREEMPTED
    actor.cleanup()
    assert not (job.folder / STOP_FILE).exists()  # a run that is over is not asked
    again = SweepTrial(job.packed())
    assert again.step() == trial.PREEMPTED  # no evaluation begins after the request
    (plan.folder / STOP_FILE).unlink()
    goes_on.set()
    monkeypatch.setattr(trial, "_evaluate", lambda _job: [0.25])
    assert SweepTrial(job.packed()).step()["values"] == [0.25]
    assert len(trained) == 3


def test_crashed_trials_are_started_again_or_shown_with_their_reason_and_the_others_finish(
    ray: None, fake_trials: type[SweepTrial], make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("sweep.confirm_seeds=0", "sweep.trials=5", "stop.rule=none", "tracking.enabled=false")
    result = run_sweep(plan, progress=SILENT)
    rows = {row["number"]: row for row in result.rows}
    assert {number: row["state"] for number, row in rows.items()} == dict.fromkeys(range(5), "done") | {1: "failed"}
    assert (rows[1]["reason"], rows[1]["crashes"]) == ("trial-001 burst", 1)
    assert rows[2]["crashes"] == 1
    assert rows[2]["reason"].startswith("its process died: ")
    starts = {number: (tmp_path / f"sweep/trials/{number:03d}/starts").read_text() for number in rows}
    assert starts == {0: "x", 1: "xx", 2: "xx", 3: "x", 4: "x"}
    best = max((row for row in rows.values() if row["state"] == "done"), key=lambda row: row["tags/ap"])
    assert result.best == best["number"]
    read = load_config(ExperimentConfig, tmp_path / "sweep/best.yaml")
    assert read.loss.temperature == best["loss.temperature"]
    table = pq.read_table(tmp_path / "sweep/trials.parquet")
    assert table.schema.metadata == {b"schema_version": b"1"}
    assert table.column("tags/ap").to_pylist() == [row["tags/ap"] for row in result.rows]
    assert set(result.importances) == {"loss.temperature", "data.b_s"}
    assert result.importances["loss.temperature"] > result.importances["data.b_s"]
    assert all((tmp_path / "sweep" / f"{name}.png").stat().st_size for name in ("history", "parallel", "importances"))
    assert not (tmp_path / "sweep/tune").exists()

    monkeypatch.delattr("tuning.sweep.sweep.ray_session")  # a finished sweep starts no Ray
    monkeypatch.delattr("evaluation.report.canvas.png")  # and draws nothing again
    again = run_sweep(make_plan("sweep.confirm_seeds=0", "sweep.trials=5", "stop.rule=none", "tracking.enabled=false"),
                      progress=SILENT)  # fmt: skip
    assert again.rows == result.rows
    assert (tmp_path / "sweep/trials/003/starts").read_text() == "x"


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_trials_may_be_asked_to_stop_and_may_end_before_their_first_metric(
    ray: None, monkeypatch: pytest.MonkeyPatch, make_plan: MakePlan, rule: str
) -> None:
    class Early(SweepTrial):
        def _work(self) -> None:
            ended = {"values": [0.5], "step": 4, "seconds": 0.1}
            self._items.put({"done": True} | ({"preempted": True} if self._job.name == "trial-000" else ended))

    monkeypatch.setattr(sweep_runner, "SweepTrial", Early)
    plan = make_plan("sweep.confirm_seeds=0", "sweep.trials=2", f"stop.rule={rule}", "tracking.enabled=false")
    rows = {row["number"]: row["state"] for row in run_sweep(plan, progress=SILENT).rows}
    assert rows == {0: "running", 1: "done"}  # the first goes on with the next start


def test_a_trial_with_workers_takes_no_core_itself(
    ray: None, monkeypatch: pytest.MonkeyPatch, make_plan: MakePlan
) -> None:
    """As many trials at a time as the cores hold workers: were a driver to take part of a core, one would not fit."""

    class Greedy(SweepTrial):
        def _work(self) -> None:
            import ray as ray_

            cores = ray_.cluster_resources()["CPU"]  # type: ignore[no-untyped-call]
            # Both trials ask for half of all cores, for a gang as Ray Train does, and hold them until both have theirs.
            group = ray_.util.placement_group([{"CPU": 1}] * int(cores // 2))
            ready = group.wait(60)
            self._items.put({"step": 1, "metric": float(ready)})
            mark = self._job.folder.parent / f"{self._job.name}.ready"
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.write_text(str(ready))
            limit = time.monotonic() + 60
            while len(list(mark.parent.glob("*.ready"))) < 2 and time.monotonic() < limit:
                time.sleep(0.05)
            together = len(list(mark.parent.glob("*.ready"))) == 2
            ray_.util.remove_placement_group(group)
            value = float(ready and together)
            self._items.put({"done": True, "values": [value], "step": 4, "metric": value, "seconds": 0.1})

    import ray as ray_

    cores = int(ray_.cluster_resources()["CPU"]) // 2 * 2  # type: ignore[no-untyped-call]
    monkeypatch.setattr(sweep_runner, "SweepTrial", Greedy)
    plan = make_plan(
        f"resources.num_workers={cores // 2}",
        f"resources.min_workers={cores // 2}",  # with Ray Train, also where that is one worker
        f"data.batch={cores * 4}",
        "sweep.trials=2",
        "sweep.concurrency=2",
        "sweep.confirm_seeds=0",
        "stop.rule=none",
        "tracking.enabled=false",
    )
    result = run_sweep(plan, progress=SILENT)
    assert [row["tags/ap"] for row in result.rows] == [1.0, 1.0]


@pytest.mark.parametrize("rule", ["asha", "median"])
def test_a_rule_compares_a_trial_with_those_of_an_earlier_start(rule: Literal["asha", "median"]) -> None:
    """A resumed sweep: three trials have ended; of two new ones the worse stops at the first rung."""
    curves = [[(2, 0.5), (4, 0.6)], [(2, 0.4), (4, 0.5)], [(2, 0.6), (4, 0.7)]]
    scheduler = sweep_runner.scheduler_of(StopConfig(rule=rule, grace_steps=2), 8, curves)
    assert scheduler is not None
    controller: Any = SimpleNamespace(get_live_trials=list)
    decisions = {}
    for name, value in (("worse", 0.1), ("better", 0.9)):
        trial: Any = sweep_runner._Past(name)
        scheduler.on_trial_add(controller, trial)
        decisions[name] = scheduler.on_trial_result(controller, trial, {"step": 2, "metric": value})
    assert decisions == {"worse": "STOP", "better": "CONTINUE"}
    assert sweep_runner.scheduler_of(StopConfig(rule="none"), 8, curves) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["resources.num_workers=2", "stop.rule=none"],
        [
            'objective.metrics=["tags/ap","tags/auroc"]',
            "sweep.sampler=nsga2",
            "stop.rule=none",
            "sweep.confirm_seeds=1",
        ],
        ["stop.rule=median", "stop.min_trials=1", "sweep.concurrency=1"],
    ],
    ids=["trials of two workers", "two objectives", "median"],
)
def test_real_trials_end_and_the_table_shows_how(
    ray: None, make_plan: MakePlan, tmp_path: Path, words: list[str]
) -> None:
    plan = make_plan(*words, "sweep.confirm_seeds=0")
    result = run_sweep(plan, progress=SILENT)
    states = [row["state"] for row in result.rows]
    assert result.code == 0
    assert len(states) == 3
    assert "done" in states
    assert set(states) <= ({"done", "stopped"} if "stop.rule=median" in words else {"done"})
    metrics = plan.config.objective.metrics
    for row in result.rows:
        evaluated = row["state"] == "done"
        assert (row["step"] == 4) == evaluated, row
        assert all((row[metric] is not None) == evaluated for metric in metrics), row
        beaten = any(
            all(other[m] is not None and other[m] >= row[m] for m in metrics)
            and any(other[m] > row[m] for m in metrics)
            for other in result.rows
            if evaluated and other["state"] == "done"
        )
        assert row["front"] == (evaluated and not beaten), row
    if plan.resources.num_workers == 2:
        state = json.loads((tmp_path / "sweep/trials/000/snapshots/last/state.json").read_text())
        assert state["provenance"]["world_size"] == 2


KILLED = """
import sys
import threading
from pathlib import Path
from cluster.progress import SILENT
from tuning.sweep.sweep import run_sweep
from tuning.sweep.config import load_sweep
from tuning.sweep.plan import plan_sweep

if __name__ == "__main__":
    result = run_sweep(plan_sweep(load_sweep(Path(sys.argv[1]), sys.argv[2:]), sys.argv[1]), progress=SILENT)
    sys.exit(result.code)
"""


@pytest.mark.slow
def test_a_sweep_whose_driver_is_killed_keeps_its_finished_trials_and_goes_on_with_the_others(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    """Real trials: pretraining, evaluation, MLflow, confirmation."""
    keys = list(make_plan().space)
    words = ["sweep.trials=4", "sweep.confirm_seeds=2", "optim.steps=6", "stop.rule=none", "sweep.concurrency=2"]
    command = [sys.executable, "-c", KILLED, str(tmp_path / "mine.yaml"), *words]
    driver = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    journal = tmp_path / "sweep/trials.csv"
    try:
        limit = time.monotonic() + 600
        while not (journal.exists() and ",done," in journal.read_text()):
            assert driver.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.2)
    finally:
        family = psutil.Process(driver.pid).children(recursive=True) if driver.poll() is None else []
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    psutil.wait_procs(family, timeout=60)
    done = {row["number"]: row for row in _rows(tmp_path) if row["state"] == "done"}
    assert 1 <= len(done) < 4
    stamps = {number: _stamp(tmp_path, number) for number in done}

    assert subprocess.run(command, cwd=ROOT, timeout=800, check=False).returncode == 0
    rows = {row["number"]: row for row in _rows(tmp_path)}
    for number, row in done.items():
        assert (rows[number]["tags/ap"], rows[number]["loss.temperature"]) == (row["tags/ap"], row["loss.temperature"])
        assert _stamp(tmp_path, number) == stamps[number]
    assert sorted(rows) == [0, 1, 2, 3]
    assert {row["state"] for row in rows.values()} == {"done"}
    _check_confirmation(tmp_path)
    _check_mlflow(tmp_path / "mlflow.db", keys)


def _rows(folder: Path) -> list[dict[str, Any]]:
    return list(pq.read_table(folder / "sweep/trials.parquet").to_pylist())


def _stamp(folder: Path, number: int) -> int:
    return (folder / f"sweep/trials/{number:03d}/metrics.jsonl").stat().st_mtime_ns


def _check_confirmation(folder: Path) -> None:
    if next(row for row in _rows(folder) if row["preset"])["tags/ap"] == max(r["tags/ap"] for r in _rows(folder)):
        return  # the preset itself was best: nothing to confirm
    found = json.loads((folder / "sweep/confirm.json").read_text())["metrics"]["tags/ap"]
    assert found["difference"]["low"] <= found["difference"]["value"] <= found["difference"]["high"]
    assert len(found["by_seed"]["best"]) == 2


def _check_mlflow(store: Path, keys: list[str]) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{store}")
    experiment = client.get_experiment_by_name("counterpoint")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    parent = runs["sweep"]
    trials = [run for name, run in runs.items() if name and name.startswith("trial-")]
    assert len(trials) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    files = {f.path for folder in ("sweep", "figures") for f in client.list_artifacts(parent.info.run_id, folder)}
    assert {"sweep/best.yaml", "sweep/trials.parquet", "figures/history.png", "figures/parallel.png"} <= files
    assert "6 evaluation/tags.ap" in trials[0].data.metrics
    assert {"0 objective/tags.ap" in trial.data.metrics for trial in trials} == {True}
    view = json.loads(experiment.tags[f"mlflow.sharedViewState.{parent.info.run_id}"])
    assert view["selectedColumns"] == ["metrics.`0 objective/tags.ap`", *(f"params.`{key}`" for key in keys)]
    assert parent.data.tags["mlflow.note.content"].startswith("[Compare the trials](#/experiments/")
    assert "objective/best" in parent.data.metrics
