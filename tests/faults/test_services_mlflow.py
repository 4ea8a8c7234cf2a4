"""Faults 45: MLflow is away before or during a run; the run goes on, and its log is replayed when it is back."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

import counterpoint
from cluster.settings import UserError
from cluster.tracking import Tracker, replay, replay_below
from cluster.tracking import store as mlflow_store
from cluster.tracking.account import Account
from cluster.tracking.config import TrackingConfig
from cluster.tracking.ui import SERVED_VARIABLE, ui_command

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own
STEPS = 400
STEP_S = 0.05
"""A quick step; the tracker may take a hundredth of it."""


def _points(store: str, run: str) -> list[int]:
    from mlflow.tracking import MlflowClient

    return [point.step for point in MlflowClient(store).get_metric_history(run, "loss")]


def _run_id(run_dir: Path) -> str:
    found: str = json.loads((run_dir / "tracking" / "state.json").read_text())["run_id"]
    return found


def _train(tracker: Tracker, steps: range) -> float:
    """Tell every step, and return the seconds that took in this thread."""
    start = time.thread_time()
    for step in steps:
        tracker.metrics({"loss": 1.0 / step, "clips_per_s": 100.0}, step)
    return time.thread_time() - start


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One SQLite store for the runs of this file; making its tables takes MLflow some seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """A switch: where it is on, every request to MLflow fails as it does without a network."""
    switch = {"on": True}
    connected = mlflow_store.MlflowStore.send

    def send(self: mlflow_store.MlflowStore, records: Any) -> None:
        if switch["on"]:
            raise requests.ConnectionError("no route to host")
        connected(self, records)

    monkeypatch.setattr(mlflow_store.MlflowStore, "send", send)
    monkeypatch.setattr("cluster.tracking.sender.SEND_INTERVAL_S", 0.02)
    monkeypatch.setattr("cluster.tracking.sender.LONGEST_WAIT_S", 0.1)
    return switch


def test_an_outage_during_a_run_loses_and_doubles_nothing(store: str, tmp_path: Path, outage: dict[str, bool]) -> None:
    run_dir = tmp_path / "run"
    tracker = Tracker(TrackingConfig(uri=store, system_metrics_s=0), run_dir)

    for first in range(1, STEPS, STEPS // 8):
        outage["on"] = not outage["on"]
        _train(tracker, range(first, first + STEPS // 8))
    outage["on"] = False

    assert tracker.close(wait_s=120)
    assert _points(store, _run_id(tmp_path / "run")) == list(range(1, STEPS + 1))


def test_a_log_that_could_not_be_sent_waits_and_is_replayed(
    store: str, tmp_path: Path, outage: dict[str, bool], caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = tmp_path / "run"
    with caplog.at_level(logging.WARNING):
        tracker = Tracker(TrackingConfig(uri=store, system_metrics_s=0), run_dir)
        tracker.params({"seed": 1})
        _train(tracker, range(1, STEPS + 1))
        done = tracker.close(wait_s=0.1)

    assert not done
    assert f"wait in {run_dir / 'tracking'}" in caplog.text
    outage["on"] = False
    assert replay(run_dir)
    assert _points(store, _run_id(run_dir)) == list(range(1, STEPS + 1))


def test_all_that_waits_below_a_folder_is_sent_parents_first(
    store: str,
    tmp_path: Path,
    outage: dict[str, bool],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A sweep and two of its trials ended during the outage; another trial runs, one has sent all, one is damaged."""
    config, sweep = TrackingConfig(uri=store, system_metrics_s=0), tmp_path / "sweep"
    trials = [sweep / "trials" / str(number) for number in range(5)]
    ended = [Tracker(config, sweep), *(Tracker(config, trial, parent=sweep) for trial in trials[:2])]
    for tracker in ended:
        _train(tracker, range(1, 4))
        assert not tracker.close(wait_s=0.05)
    running = Account(trials[2])
    running.set_home(store, "counterpoint")
    with running.changing() as state:
        state["facts"] = 1
    for account in (trials[3] / "tracking", trials[4] / "tracking"):
        account.mkdir(parents=True)
        (account / "state.json").write_text("{}")
    (trials[4] / "tracking" / "state.json").write_text("{")

    outage["on"] = False
    monkeypatch.setattr("sys.argv", ["counterpoint", "replay", str(sweep), "--json"])
    with pytest.raises(SystemExit) as stopped:
        counterpoint.main()

    ends = json.loads(capsys.readouterr().out)
    assert list(ends.items())[:3] == [(str(run), "sent") for run in (sweep, *trials[:2])]
    assert "another process is running there" in ends[str(trials[2])]
    assert "is damaged" in ends[str(trials[4])]
    assert list(ends) == [str(run) for run in (sweep, *trials[:3], trials[4])]
    assert stopped.value.code == 1
    running.close()
    for run in (sweep, *trials[:2]):
        assert _points(store, _run_id(run)) == [1, 2, 3]
    with pytest.raises(UserError, match=r"no run that is tracked in MLflow"):
        list(replay_below(tmp_path / "nowhere"))


def test_a_run_that_ended_during_an_outage_is_opened_again_at_once(
    store: str, tmp_path: Path, outage: dict[str, bool]
) -> None:
    """As a report is published behind a run, in the same process or the next."""
    for first in (1, 11, 21):
        outage["on"] = first < 21
        tracker = Tracker(TrackingConfig(uri=store, system_metrics_s=0), tmp_path / "run")
        _train(tracker, range(first, first + 10))
        assert tracker.close(wait_s=120 if first == 21 else 0.05) == (first == 21)

    assert _points(store, _run_id(tmp_path / "run")) == list(range(1, 31))


def test_a_request_that_never_ends_keeps_no_folder(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it brings late, or the next opener brings again, is one run with every point once."""
    monkeypatch.setattr("cluster.tracking.sender.LAST_REQUEST_S", 0.05)
    under_way, answered = threading.Event(), threading.Event()
    connected = mlflow_store.MlflowStore.send

    def hang(self: mlflow_store.MlflowStore, records: Any) -> None:
        under_way.set()
        assert answered.wait(120)
        connected(self, records)

    with monkeypatch.context() as patched:
        patched.setattr(mlflow_store.MlflowStore, "send", hang)
        tracker = Tracker(TrackingConfig(uri=store, system_metrics_s=0), tmp_path / "run")
        tracker.metrics({"loss": 1.0}, 1)
        assert under_way.wait(120)
        assert not tracker.close(wait_s=0.05)
    with Tracker(TrackingConfig(uri=store, system_metrics_s=0), tmp_path / "run") as second:
        second.metrics({"loss": 0.5}, 2)
        assert second.close(wait_s=120)
    state = (tmp_path / "run/tracking/state.json").read_text()
    answered.set()
    tracker._sender.join(120)

    assert not tracker._sender.is_alive()
    assert (tmp_path / "run/tracking/state.json").read_text() == state
    assert _points(store, _run_id(tmp_path / "run")) == [1, 2]


@pytest.mark.timed
def test_a_server_that_is_away_costs_a_step_less_than_a_hundredth(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And is said to be away once, with what to do, before the first step."""
    with socket.socket() as taken:  # bound but not listening: every connection is refused
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}"
        tracker = Tracker(TrackingConfig(uri=uri, system_metrics_s=0), tmp_path / "run")
        (said,) = [record.message for record in caplog.records if "does not answer" in record.message]
        assert said.startswith(uri)
        assert said.endswith("is the server up, is tracking.uri or MLFLOW_TRACKING_URI right?")
        spent_s = _train(tracker, range(1, STEPS + 1))
        start = time.monotonic()
        assert not tracker.close(wait_s=0.5)
        waited_s = time.monotonic() - start

    assert spent_s / STEPS < STEP_S / 100
    assert waited_s < 5


def test_a_store_of_no_kind_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mlflow:5000: no store of MLflow; write sqlite:///FILE or http://HOST:PORT"):
        Tracker(TrackingConfig(uri="mlflow:5000"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


class Server:
    """A real MLflow server that can be killed and come back."""

    def __init__(self, folder: Path, port: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._command = ui_command(port=port)
        self._environment = os.environ | {SERVED_VARIABLE: f"sqlite:///{folder / 'server.db'}"}
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline:
            try:
                if requests.get(f"{self.uri}/health", timeout=5).ok:
                    return
            except requests.RequestException:
                time.sleep(0.2)
        pytest.fail((self._folder / "server.log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(tmp_path: Path, port: int) -> Iterator[Server]:
    server = Server(tmp_path, port)
    yield server
    server.kill()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_server_killed_and_restarted_has_every_point_once(server: Server, tmp_path: Path) -> None:
    """Away before the run, killed in the middle with points on the way, back before the end; then once more."""
    tracker = Tracker(TrackingConfig(uri=server.uri, system_metrics_s=0), tmp_path / "run")
    _train(tracker, range(1, 101))
    server.start()
    while tracker.run_id is None:
        time.sleep(0.1)
    _train(tracker, range(101, 201))
    server.kill()
    _train(tracker, range(201, 301))
    (tmp_path / "report.json").write_text("{}")
    tracker.artifact(tmp_path / "report.json")
    server.start()
    _train(tracker, range(301, STEPS + 1))

    assert tracker.close(wait_s=120)
    assert _points(server.uri, _run_id(tmp_path / "run")) == list(range(1, STEPS + 1))
    page = f"{server.uri}/#/experiments/{tracker._account.state['experiment_id']}/runs/{tracker.run_id}"
    assert tracker.url.partition("?")[0] == page


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_that_ended_during_an_outage_is_replayed_to_a_real_server(server: Server, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom cluster.tracking import Tracker, TrackingConfig\n"
        "tracker = Tracker(TrackingConfig(uri=sys.argv[1], system_metrics_s=0), Path(sys.argv[2]))\n"
        "for step in range(1, 401):\n    tracker.metrics({'loss': 1.0 / step}, step)\n"
        "tracker.close(wait_s=1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, server.uri, str(tmp_path / "run")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    server.start()

    assert replay(tmp_path / "run", wait_s=120)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    (run,) = client.search_runs([home.experiment_id for home in client.search_experiments()])
    assert _points(server.uri, run.info.run_id) == list(range(1, STEPS + 1))
    assert run.info.status == "FINISHED"
