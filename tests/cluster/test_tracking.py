"""Laws of the tracker: nothing lost, nothing twice, no secret, no waiting."""

import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.files.json_lines import read_rows
from cluster.settings import PreemptedError, UserError, validate
from cluster.tracking import Tracker, replay, replay_below, set_aside, store
from cluster.tracking.account import Account
from cluster.tracking.config import TrackingConfig, connection_uri, default_store, store_uri, with_key
from cluster.tracking.pages import NOTE, run_page, trials_link
from cluster.tracking.sender import Sender
from cluster.tracking.store import MlflowStore
from trainers.state.metrics_log import MetricsLog

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # MLflow's own
QUIET = {"system_metrics_s": 0.0}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose runs share one SQLite store; making its tables takes MLflow some seconds."""
    return tmp_path_factory.mktemp("outputs-of-tests")


@pytest.fixture
def client(outputs: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")


def config(outputs: Path, **options: Any) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{outputs / 'mlflow.db'}", **(QUIET | options))


def run_id(run_dir: Path) -> str:
    found: str = json.loads((run_dir / "tracking" / "state.json").read_text())["run_id"]
    return found


@pytest.mark.parametrize(("seed", "runs"), [(1, 1), (2, 2)])
def test_an_attempt_with_other_settings_that_starts_anew_is_another_run(
    outputs: Path, client: Any, seed: int, runs: int
) -> None:
    folder = outputs / f"anew-{seed}"
    with Tracker(config(outputs), folder) as tracker:
        tracker.params({"seed": 1, "optim.steps": 9})
        for step in range(1, 4):
            tracker.metrics({"loss": 9.0}, step)
    first = run_id(folder)
    set_aside(config(outputs), folder, {"seed": seed})
    with Tracker(config(outputs), folder) as tracker:
        tracker.params({"seed": seed, "optim.steps": 9})
        for step in range(1, 6):
            tracker.metrics({"loss": 1.0}, step)
    told = {one: [point.value for point in client.get_metric_history(one, "loss")] for one in (first, run_id(folder))}
    assert len(told) == runs
    assert told[first] == ([9.0] * 3 if runs == 2 else [9.0] * 3 + [1.0] * 2)
    assert told[run_id(folder)][-2:] == [1.0] * 2
    assert len(told[run_id(folder)]) == 5
    assert client.get_run(first).info.status == ("KILLED" if runs == 2 else "FINISHED")


def test_a_run_is_in_mlflow_as_it_was_told(outputs: Path, client: Any, tmp_path: Path) -> None:
    (tmp_path / "report.md").write_text("# report")
    with Tracker(config(outputs, name="semisupcon"), outputs / "told") as tracker:
        tracker.params({"optim.steps": 40, "loss.temperature": 1e-1, "data.labelled": None, "views.count": [2, 3]})
        for step in range(1, 4):
            tracker.metrics({"loss": 1 / step, "key/weighted@10": float("nan")}, step)
        tracker.tags({"snapshot": "abc"})
        tracker.dataset("labelled", "d" * 64, "/data/labelled")
        tracker.artifact(tmp_path / "report.md", "report")
        (tmp_path / "report.md").write_text("changed afterwards")

    run = client.get_run(run_id(outputs / "told"))
    assert run.info.run_name == "semisupcon"
    assert run.info.status == "FINISHED"
    assert run.data.params == {
        "optim.steps": "40",
        "loss.temperature": "0.1",
        "data.labelled": "null",
        "views.count": "[2, 3]",
    }
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert len(client.get_metric_history(run.info.run_id, "key/weighted_at_10")) == 3
    assert run.data.tags["snapshot"] == "abc"
    assert run.data.tags["mlflow.source.git.commit"]
    (data,) = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("labelled", "d" * 36)
    assert json.loads(data.dataset.source) == {"uri": "/data/labelled", "manifest": "d" * 64}
    copy = client.download_artifacts(run.info.run_id, "report/report.md", str(tmp_path))
    assert Path(copy).read_text() == "# report"
    assert not list((outputs / "told" / "tracking" / "files").glob("*"))


def test_a_resumed_run_goes_on_in_the_same_mlflow_run_and_tells_no_step_twice(outputs: Path, client: Any) -> None:
    for first, last, steps in ((1, 4, 4), (3, 6, 6)):  # the second start repeats steps 3 and 4
        with Tracker(config(outputs), outputs / "resumed") as tracker:
            tracker.params({"optim.steps": steps, "seed": 0})
            for step in range(first, last + 1):
                tracker.metrics({"loss": float(step)}, step)

    run = client.get_run(run_id(outputs / "resumed"))
    points = client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in points] == [1, 2, 3, 4, 5, 6]
    assert run.data.params == {"optim.steps": "4", "seed": "0"}
    assert run.data.tags["resumed.optim.steps"] == "6"


@pytest.mark.parametrize(
    ("error", "status"),
    [(OSError("gone"), "FAILED"), (PreemptedError("gone"), "KILLED"), (KeyboardInterrupt("gone"), "KILLED")],
    ids=["failed", "stopped", "broken off"],
)
def test_a_run_that_breaks_is_shown_as_failed_and_one_that_was_asked_to_stop_as_killed(
    outputs: Path, client: Any, error: BaseException, status: str
) -> None:
    run_dir = outputs / f"broken by {type(error).__name__}"

    def work() -> None:
        with Tracker(config(outputs), run_dir):
            raise error

    with pytest.raises(type(error), match="gone"):
        work()

    assert client.get_run(run_id(run_dir)).info.status == status


def test_a_trial_is_nested_under_its_sweep(outputs: Path, client: Any) -> None:
    with (
        Tracker(config(outputs), outputs / "sweep"),
        Tracker(config(outputs), outputs / "sweep" / "trial-1", parent=outputs / "sweep"),
    ):
        pass

    tags = client.get_run(run_id(outputs / "sweep" / "trial-1")).data.tags
    assert tags["mlflow.parentRunId"] == run_id(outputs / "sweep")


def test_secrets_reach_neither_the_disk_nor_mlflow(outputs: Path, client: Any) -> None:
    with Tracker(config(outputs), outputs / "secret") as tracker:
        tracker.params({"storage.api_key": "hunter2", "data.labelled": "s3://ann:hunter2@bucket/x", "views.tokens": 3})
        tracker.dataset("labelled", "d", "https://bucket/x?X-Amz-Signature=hunter2")

    written = b"".join(path.read_bytes() for path in (outputs / "secret").rglob("*") if path.is_file())
    assert b"hunter2" not in written
    params = client.get_run(run_id(outputs / "secret")).data.params
    assert params["storage.api_key"] == "[redacted]"
    assert params["data.labelled"] == "s3://[redacted]@bucket/x"
    assert params["views.tokens"] == "3"


def test_the_stores_own_password_stays_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    given = "http://ann:hunter2@127.0.0.1:1"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    with Tracker(TrackingConfig(system_metrics_s=0), tmp_path / "run") as tracker:
        tracker.params({"seed": 0})
        tracker.close(wait_s=0.1)

    written = b"".join(path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert b"http://127.0.0.1:1" in written
    assert "hunter2" not in f"{written!r} {caplog.text} {tracker.url}"
    assert with_key(tracker.uri) == given
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@127.0.0.1:2")
    assert with_key(tracker.uri) == tracker.uri  # the key to another door


def test_a_configuration_cannot_hold_a_password() -> None:
    for uri in ("http://ann:hunter2@h:5000", "postgresql://ann:hunter2@db/runs", "http://h?token=hunter2"):
        with pytest.raises(
            UserError, match=r"mine: uri must hold no user, password or key, .*MLFLOW_TRACKING_"
        ) as said:
            validate(TrackingConfig, {"uri": uri}, "mine")
        assert "hunter2" not in str(said.value)


def test_what_mlflow_refuses_for_good_holds_up_nothing(
    outputs: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), Tracker(config(outputs), outputs / "refused") as tracker:
        tracker.params({"x" * 400: 1})  # longer than a name may be
        tracker.metrics({"loss": 1.0}, 1)

    run = client.get_run(run_id(outputs / "refused"))
    assert run.data.metrics == {"loss": 1.0}
    assert run.info.status == "FINISHED"
    assert f"MLflow refuses parameter {'x' * 400}, it is left out" in caplog.text


def test_system_load_is_sampled_beside_the_run(outputs: Path, client: Any) -> None:
    tracker = Tracker(config(outputs, system_metrics_s=1.0), outputs / "load")
    while "system/cpu_utilization_percentage" not in tracker._account.last_steps:
        tracker._sender.join(0.05)
    tracker.close()

    metrics = client.get_run(run_id(outputs / "load")).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 0


CRASH = """
import os, signal, sys
from pathlib import Path
from cluster.tracking import Tracker, TrackingConfig
tracker = Tracker(TrackingConfig(uri=sys.argv[1], system_metrics_s=0), Path(sys.argv[2]))
tracker.params({"seed": 7})
for step in range(1, 501):
    tracker.metrics({"loss": float(step)}, step)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_driver_loses_no_point(outputs: Path, client: Any) -> None:
    store = f"sqlite:///{outputs / 'mlflow.db'}"

    done = subprocess.run([sys.executable, "-c", CRASH, store, str(outputs / "killed")], check=False)

    assert done.returncode == -signal.SIGKILL
    assert replay(outputs / "killed")
    run = client.get_run(run_id(outputs / "killed"))
    assert run.data.params == {"seed": "7"}
    assert [p.step for p in client.get_metric_history(run.info.run_id, "loss")] == list(range(1, 501))


FRESH = """
import sys, threading
from pathlib import Path
from cluster.tracking import Tracker, TrackingConfig
store, run_dir = sys.argv[1], Path(sys.argv[2])
with Tracker(TrackingConfig(uri=store, system_metrics_s=1), run_dir) as tracker:
    import optuna, pandas, ray.train  # what a driver imports meanwhile
    tracker.metrics({"loss": 1.0}, 1)
    sent = tracker.close()
print(sent)
"""


def test_a_fresh_process_sends_while_its_driver_still_imports(outputs: Path, client: Any) -> None:
    """MLflow breaks for good when two threads import it at once."""
    store = f"sqlite:///{outputs / 'mlflow.db'}"

    done = subprocess.run(
        [sys.executable, "-c", FRESH, store, str(outputs / "fresh")], check=False, capture_output=True, text=True
    )

    assert done.stdout.strip() == "True", done.stderr
    assert client.get_run(run_id(outputs / "fresh")).data.metrics["loss"] == 1.0


def test_sending_again_changes_nothing(outputs: Path, client: Any, tmp_path: Path) -> None:
    """What a kill between sending and noting it causes."""
    state: dict[str, Any] = {"identity": "again", "name": "again", "started_ms": 1}
    file = tmp_path / "a.txt"
    file.write_text("a")
    records: list[dict[str, Any]] = [
        {"kind": "params", "values": {"seed": "1"}, "time_ms": 1},
        {"kind": "metrics", "values": {"loss": 0.5, "nan": float("nan")}, "step": 1, "time_ms": 2},
        {"kind": "dataset", "name": "d", "digest": "e", "source": "{}", "context": "training", "time_ms": 3},
        {"kind": "file", "path": str(file), "folder": "", "time_ms": 4},
    ]

    ids = set[str]()
    for _ in range(3):
        state.pop("run_id", None)  # the kill came before the id was noted
        MlflowStore(config(outputs).uri or "", "counterpoint", state, lambda: None).send(records)
        ids.add(state["run_id"])

    (only,) = ids
    assert len(client.get_metric_history(only, "loss")) == len(client.get_metric_history(only, "nan")) == 1
    assert len(client.get_run(only).inputs.dataset_inputs) == 1
    assert [file.path for file in client.list_artifacts(only)] == ["a.txt"]


def test_two_processes_cannot_tell_of_one_run(tmp_path: Path) -> None:
    account = Account(tmp_path / "run")

    with pytest.raises(UserError, match="another process is running there"):
        Tracker(TrackingConfig(uri="sqlite:////nowhere/mlflow.db"), tmp_path / "run")
    account.close()


def test_a_tracker_that_is_off_leaves_no_trace(tmp_path: Path) -> None:
    with Tracker(TrackingConfig(enabled=False), tmp_path / "run") as tracker:
        tracker.metrics({"loss": 1.0}, 1)
        tracker.params({"seed": 1})
    assert not (tmp_path / "run").exists()


def test_runs_below_one_outputs_folder_share_a_store(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_store(Path("/a/outputs/x")) == default_store(Path("/a/outputs/sweep/trials/3"))
    monkeypatch.chdir("/")
    assert default_store(Path("outputs/x")) == "sqlite:////outputs/mlflow.db"


def test_a_user_without_a_name_is_tracked_by_number(
    outputs: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(number: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {number}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    with Tracker(config(outputs), outputs / "nobody") as tracker:
        assert tracker.close(wait_s=120)
    assert client.get_run(run_id(outputs / "nobody")).data.tags["mlflow.user"] == str(os.getuid())


def test_a_store_in_a_file_is_the_same_from_every_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine/runs.db")
    assert store_uri(TrackingConfig(), Path("run")) == "sqlite:////mine/runs.db"
    assert store_uri(TrackingConfig(uri="http://mlflow:5000"), Path("run")) == "http://mlflow:5000"


def test_the_page_of_a_run_shows_no_password() -> None:
    url = run_page("https://ann:hunter2@mlflow.example/", "1", "abc")
    assert url == "https://[redacted]@mlflow.example/#/experiments/1/runs/abc?workflowType=machine_learning"


@pytest.mark.parametrize(("field", "value"), [("system_metrics_s", 0.5), ("experiment", "")])
def test_impossible_settings_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} must"):
        TrackingConfig(**{field: value})


def rows_of(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


def test_a_disk_that_fills_up_in_the_middle_of_a_row_damages_no_other(
    outputs: Path, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """And the row waits in memory until there is room."""
    room = [10]
    opened = Path.open

    class Small(io.FileIO):
        def write(self, line: Any) -> int:
            if not room[0]:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            part = super().write(line[: room[0]]) or 0
            room[0] -= part
            return part

    def small(path: Path, mode: str = "r", **options: Any) -> Any:
        return Small(path, mode) if mode == "ab" else opened(path, mode, **options)

    run_dir = outputs / "full disk"
    with Tracker(config(outputs), run_dir) as tracker:
        tracker.metrics({"score": 0.0}, 0)
        with monkeypatch.context() as full:
            full.setattr("cluster.tracking.account.Path.open", small)
            tracker.metrics({"score": 1.0}, 1)
            assert rows_of(run_dir / "tracking/metrics.jsonl") == [0]
            room[0] = 1 << 20
            tracker.metrics({"score": 2.0}, 2)
        assert tracker.close(wait_s=120)
    assert "No space left" in caplog.text
    assert [point.step for point in client.get_metric_history(run_id(run_dir), "score")] == [0, 1, 2]


DAMAGED = [
    b'{"step": 2, "lo',
    b"\xff\xfe\x00",
    b"NaN",
    b"[]",
    b'{"step": "2"}',
    b'{"step": 2, "loss": "low"}',
    b"",
    b"[" * 9999,
]


def test_damaged_rows_are_skipped_and_counted_and_hold_up_nothing(
    outputs: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """In both files; the last line of the driver's own was cut off by a kill."""
    run_dir = outputs / "damaged"
    damaged = b"\n".join(DAMAGED)
    (run_dir / "tracking").mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 0.5}\n' + damaged + b'\n{"step": 3, "loss": 0.25}\n')
    (run_dir / "tracking/metrics.jsonl").write_bytes(b'{"step": 1, "score": 1}\n{"step": 2, "sc')
    with caplog.at_level(logging.WARNING), Tracker(config(outputs), run_dir) as tracker:
        tracker.metrics({"score": 3.0}, 3)
        assert tracker.close(wait_s=120)
    points = {key: client.get_metric_history(run_id(run_dir), key) for key in ("1 train/loss", "score")}
    assert [(point.step, point.value) for point in points["1 train/loss"]] == [(1, 0.5), (3, 0.25)]
    assert [(point.step, point.value) for point in points["score"]] == [(1, 1.0), (3, 3.0)]
    assert f"{run_dir}: {len(DAMAGED) + 1} damaged lines were skipped" in caplog.text


@pytest.mark.parametrize("content", ["", "{", "[]", '{"uri": 1}', '{"uri": "sqlite:///x", "sent": 3}'])
def test_a_damaged_account_keeps_no_run_from_resuming(outputs: Path, content: str) -> None:
    folder = outputs / f"damaged account {len(content)}"
    (folder / "tracking").mkdir(parents=True)
    (folder / "tracking/state.json").write_text(content)
    with Tracker(config(outputs), folder) as tracker:
        assert tracker.close(wait_s=120)
    assert (folder / "tracking/state.damaged").read_text() == content


def test_rows_of_the_training_are_sent_as_they_stand_in_its_file(outputs: Path, client: Any) -> None:
    """A worker that restarts cuts the file back and repeats steps: they are not sent twice."""
    run_dir = outputs / "trained"
    log = MetricsLog(run_dir / "metrics.jsonl")
    for first, last in ((1, 5), (4, 9)):
        log.cut_back(first - 1)
        with Tracker(config(outputs), run_dir) as tracker:
            for step in range(first, last):
                log.write({"step": step, "loss": float(10 * first + step)})
            assert tracker.close(wait_s=120)
    points = client.get_metric_history(run_id(run_dir), "1 train/loss")
    assert [(point.step, point.value) for point in points] == [(s, 10.0 + s) for s in range(1, 5)] + [
        (s, 40.0 + s) for s in range(5, 9)
    ]
    assert "time_ms" not in client.get_run(run_id(run_dir)).data.metrics


def test_a_cursor_that_was_lost_after_sending_doubles_nothing(outputs: Path, client: Any) -> None:
    run_dir = outputs / "lost cursor"
    log = MetricsLog(run_dir / "metrics.jsonl")
    log.write({"step": 1, "loss": 0.5})
    for step in (1, 2):
        with Tracker(config(outputs), run_dir) as tracker:
            tracker.metrics({"score": 0.5}, step)
            assert tracker.close(wait_s=120)
        mark = run_dir / "tracking/state.json"
        state = json.loads(mark.read_text())
        state["sent"] |= {"step": -1, "own_bytes": 0, "facts": 0, "status": None}
        mark.write_text(json.dumps(state))
    assert replay(run_dir)
    assert [point.step for point in client.get_metric_history(run_id(run_dir), "1 train/loss")] == [1]
    assert [point.step for point in client.get_metric_history(run_id(run_dir), "score")] == [1, 2]


def test_another_experiment_gets_the_whole_run(outputs: Path, client: Any) -> None:
    run_dir = outputs / "moved"
    for number, experiment in enumerate(("one", "other")):
        with Tracker(config(outputs, experiment=experiment), run_dir) as tracker:
            tracker.params({"seed": 3})
            tracker.metrics({"score": float(number)}, number)
            assert tracker.close(wait_s=120)
    run = client.get_run(run_id(run_dir))
    assert client.get_experiment(run.info.experiment_id).name == "other"
    assert run.data.params == {"seed": "3"}
    assert [point.value for point in client.get_metric_history(run.info.run_id, "score")] == [0.0, 1.0]


def test_a_sender_that_dies_has_not_sent_everything(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Sender, "run", lambda _: None)
    tracker = Tracker(config(outputs), outputs / "unsent")
    assert not tracker.close(wait_s=120)
    assert f"wait in {outputs / 'unsent' / 'tracking'}" in caplog.text


@pytest.mark.parametrize("gone", ["experiment", "run"])
def test_what_was_deleted_in_mlflow_is_an_outage_with_a_remedy(
    outputs: Path, client: Any, caplog: pytest.LogCaptureFixture, gone: str
) -> None:
    """Nothing counts as sent; once it is restored, everything is."""
    run_dir = outputs / f"deleted {gone}"
    home = config(outputs, experiment=f"of a deleted {gone}")
    with Tracker(home, run_dir) as tracker:
        assert tracker.close(wait_s=120)
    run = client.get_run(run_id(run_dir))
    client.delete_experiment(run.info.experiment_id) if gone == "experiment" else client.delete_run(run.info.run_id)
    with Tracker(home, run_dir) as tracker:
        tracker.params({"seed": 1})
        tracker.metrics({"score": 0.5}, 1)
        MetricsLog(run_dir / "metrics.jsonl").write({"step": 1, "loss": 0.5})
        assert not tracker.close(wait_s=1)
    assert "restore the run or its experiment in MLflow" in caplog.text
    assert f"counterpoint replay '{run_dir}'" in caplog.text
    assert "left out" not in caplog.text

    if gone == "experiment":
        client.restore_experiment(run.info.experiment_id)
    else:
        client.restore_run(run.info.run_id)
    assert list(replay_below(run_dir)) == [(run_dir, "sent")]
    found = client.get_run(run_id(run_dir))
    assert found.info.run_id == run.info.run_id
    assert found.data.metrics == {"1 train/loss": 0.5, "score": 0.5}
    assert found.data.params == {"seed": "1"}


def test_a_name_that_mlflow_refuses_is_an_outage_and_another_name_takes_the_log(outputs: Path, client: Any) -> None:
    run_dir = outputs / "long name"
    with Tracker(config(outputs, experiment="x" * 600), run_dir) as tracker:
        tracker.metrics({"score": 0.5}, 1)
        assert not tracker.close(wait_s=1)
    with Tracker(config(outputs), run_dir) as tracker:
        assert tracker.close(wait_s=120)
    assert client.get_run(run_id(run_dir)).data.metrics == {"score": 0.5}


def test_columns_are_curves_in_groups_and_replay_sends_the_same_names(outputs: Path, client: Any) -> None:
    """What the driver names itself keeps its name, and metrics.jsonl its columns."""
    run_dir = outputs / "groups"
    MetricsLog(run_dir / "metrics.jsonl").write({"step": 1, "loss": 0.5, "share/encoder": 0.75, "hardness": 2.0})
    with Tracker(config(outputs), run_dir) as tracker:
        tracker.metrics({"6 evaluation/tags.ap": 0.25}, 1)
        assert tracker.close(wait_s=120)
    sent = client.get_run(run_id(run_dir)).data.metrics
    named = {"1 train/loss": 0.5, "5 time/share.encoder": 0.75, "4 views/hardness": 2.0, "6 evaluation/tags.ap": 0.25}
    assert sent == named
    (row,) = read_rows(run_dir / "metrics.jsonl")
    assert {"step", "loss", "share/encoder", "hardness"} < row.keys()

    account = Account(run_dir)
    account.set_home(account.state["uri"], "replayed")
    account.close()
    assert replay(run_dir)
    run = client.get_run(run_id(run_dir))
    assert client.get_experiment(run.info.experiment_id).name == "replayed"
    assert run.data.metrics == named


def test_a_view_and_a_description_are_sent_to_another_experiment_too(outputs: Path, client: Any) -> None:
    run_dir = outputs / "viewed"
    for experiment in ("viewed", "viewed elsewhere"):
        with Tracker(config(outputs, experiment=experiment), run_dir) as tracker:
            if experiment == "viewed":
                tracker.view(["0 objective/tags.ap"], ["optim.learning_rate"])
                tracker.tags({NOTE: trials_link("Trials")})
            assert tracker.close(wait_s=120)
    run = client.get_run(run_id(run_dir))
    tags = client.get_experiment(run.info.experiment_id).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{run.info.run_id}"])
    assert view["selectedColumns"] == ["metrics.`0 objective/tags.ap`", "params.`optim.learning_rate`"]
    assert f"runs?viewStateShareKey={run.info.run_id}&" in run.data.tags[NOTE]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ZeroDivisionError])
@pytest.mark.parametrize(("kind", "name"), [("view", "view"), ("file", "file plan.txt"), ("metrics", "metric bad")])
def test_an_error_that_nobody_foresaw_leaves_out_one_record_by_name(
    outputs: Path,
    client: Any,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    *,
    error: type[Exception],
    kind: str,
    name: str,
) -> None:
    own = store._SENDERS[kind]

    def fail(client: Any, run: str, records: Any) -> None:
        if kind != "metrics" or any("bad" in record["values"] for record in records):
            raise error("nobody foresaw it")
        own(client, run, records)

    monkeypatch.setitem(store._SENDERS, kind, fail)
    run_dir = outputs / f"unforeseen {kind} {error.__name__}"
    (outputs / "plan.txt").write_text("plan")
    with Tracker(config(outputs), run_dir) as tracker:
        tracker.view(["loss"], [])
        tracker.artifact(outputs / "plan.txt")
        tracker.params({"seed": 1})
        for step in (1, 2):
            tracker.metrics({"score": float(step), "bad": 1.0}, step)
        assert tracker.close(wait_s=120)
    assert f"MLflow refuses {name}, it is left out: {error.__name__}('nobody foresaw it')" in caplog.text
    run = client.get_run(run_id(run_dir))
    assert run.data.params == {"seed": "1"}
    assert run.data.metrics["score"] == 2.0
    assert run.info.status == "FINISHED"


def test_one_metric_that_mlflow_never_takes_is_left_out_by_name_and_counted(
    outputs: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir, bad = outputs / "bad metric", "m" * 300
    log = MetricsLog(run_dir / "metrics.jsonl")
    with caplog.at_level(logging.WARNING), Tracker(config(outputs), run_dir) as tracker:
        for step in range(1, 31):
            log.write({"step": step, "loss": float(step), bad: 1.0})
        assert tracker.close(wait_s=120)
    assert f"left out: metric 4 views/{bad} (30)" in caplog.text
    assert [point.step for point in client.get_metric_history(run_id(run_dir), "1 train/loss")] == list(range(1, 31))


def test_a_database_error_or_a_missing_right_is_an_outage(
    outputs: Path, client: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import BAD_REQUEST, PERMISSION_DENIED, TEMPORARILY_UNAVAILABLE

    for code, word in (
        (BAD_REQUEST, ""),
        (TEMPORARILY_UNAVAILABLE, "Once it is back"),
        (PERMISSION_DENIED, "USERNAME"),
    ):
        run_dir = outputs / f"refused {code}"

        def refuse(*_: Any, code: int = code, **__: Any) -> None:
            raise MlflowException("database is locked", code)

        with monkeypatch.context() as away:
            for name in ("log_batch", "set_tag", "create_run"):
                away.setattr(f"mlflow.tracking.MlflowClient.{name}", refuse)
            with Tracker(config(outputs), run_dir) as tracker:
                tracker.metrics({"score": 0.5}, 1)
                assert not tracker.close(wait_s=1)
        assert word in caplog.text
        assert replay(run_dir)
        assert client.get_run(run_id(run_dir)).data.metrics == {"score": 0.5}


def test_a_store_in_a_folder_of_any_name_has_the_run_and_its_files(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    folder = tmp_path / "a b?c=1&d#e%20f+ü"
    (tmp_path / "report.md").write_text("# report")
    with Tracker(TrackingConfig(uri=f"sqlite:///{folder}/m.db", system_metrics_s=0), tmp_path / "run") as tracker:
        tracker.artifact(tmp_path / "report.md")
        assert tracker.close(wait_s=240)
    assert (folder / "m.db").is_file()
    assert [path.parent.name for path in folder.rglob("report.md")] == ["artifacts"]
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, "run", "report.md"}
    client: Any = MlflowClient(connection_uri(f"sqlite:///{folder}/m.db"))
    assert [file.path for file in client.list_artifacts(run_id(tmp_path / "run"))] == ["report.md"]


def test_a_start_that_fails_leaves_the_folder_free(
    outputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = []  # a traceback that somebody keeps holds the failed tracker
    for place in ("cluster.tracking.tracker.Sender", "cluster.tracking.account.Account.set_home"):
        with monkeypatch.context() as broken:
            broken.setattr(place, full)
            with pytest.raises(OSError, match="No space") as error:
                Tracker(config(outputs), tmp_path)
            kept.append(error)
    with Tracker(config(outputs), tmp_path) as tracker:
        tracker.metrics({"loss": 1.0}, 1)
    assert run_id(tmp_path)
