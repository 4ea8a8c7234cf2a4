"""Laws of the tracker: nothing lost, nothing twice, no secret, no waiting."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.mlflow_pages import run_page
from cluster.mlflow_store import MlflowStore
from cluster.settings import PreemptedError, UserError, validate
from cluster.spool import Spool
from cluster.tracking import Tracker, replay, set_aside
from cluster.tracking_config import TrackingConfig, default_store, store_uri, with_key
from cluster.tracking_sender import Sender

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
    assert "MLflow refuses params, it is left out" in caplog.text


def test_system_load_is_sampled_beside_the_run(outputs: Path, client: Any) -> None:
    tracker = Tracker(config(outputs, system_metrics_s=1.0), outputs / "load")
    sampled = tracker._system
    assert sampled is not None
    while "system/cpu_utilization_percentage" not in tracker._told.get("steps", {}):
        sampled.join(0.05)
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
    spool = Spool(tmp_path / "run" / "tracking")

    with pytest.raises(UserError, match="another process is running there"):
        Tracker(TrackingConfig(uri="sqlite:////nowhere/mlflow.db"), tmp_path / "run")
    spool.close()


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


def test_a_spool_keeps_its_order_through_new_files_and_torn_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.spool.KEEP_BYTES", 100)
    taken: list[int] = []
    for start in range(0, 60, 20):
        spool = Spool(tmp_path)
        for number in range(start, start + 20):
            spool.put({"number": number})
            if number % 7 == 0:
                records, mark = spool.take(3)
                taken += [record["number"] for record in records]
                spool.mark(mark)
        os.write(spool._file, b'{"number": 10')  # a kill in the middle of a line
        spool.close()
    spool = Spool(tmp_path)
    taken += [record["number"] for record in spool.take()[0]]
    spool.close()

    assert taken == list(range(60))


def test_a_disk_that_fills_up_in_the_middle_of_a_line_damages_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = os.write
    room = [10]

    def short(handle: int, line: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        part = written(handle, line[: room[0]])
        room[0] -= part
        return part

    spool = Spool(tmp_path)
    spool.put({"number": 0})
    with monkeypatch.context() as full:
        full.setattr("cluster.spool.os.write", short)
        with pytest.raises(OSError, match="No space left"):
            spool.put({"number": 1})
        room[0] = 1 << 20
        spool.put({"number": 2})
    records, _ = spool.take()
    spool.close()

    assert records == [{"number": 0}, {"number": 2}]


def test_a_damaged_line_is_named_once_and_holds_up_nothing(
    outputs: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    spool = Spool(outputs / "damaged" / "tracking")
    os.write(spool._file, b'{"kind": "par{"kind": "tags", "values": {}}\n\xff\n')
    spool.close()
    with caplog.at_level(logging.WARNING), Tracker(config(outputs), outputs / "damaged") as tracker:
        tracker.metrics({"loss": 1.0}, 1)
        assert tracker.close(wait_s=120)

    assert client.get_run(run_id(outputs / "damaged")).data.metrics == {"loss": 1.0}
    named = [record.getMessage() for record in caplog.records if "is damaged" in record.getMessage()]
    assert [line.split()[5] for line in named] == ["0", "44"]


def test_a_sender_that_dies_has_not_sent_everything(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Sender, "run", lambda _: None)
    tracker = Tracker(config(outputs), outputs / "unsent")
    assert not tracker.close(wait_s=120)
    assert f"wait in {outputs / 'unsent' / 'tracking'}" in caplog.text


def test_sent_records_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.spool.KEEP_BYTES", 100)
    spool = Spool(tmp_path)
    for number in range(60):
        spool.put({"number": number})
        spool.mark(spool.take()[1])
    size = sum(path.stat().st_size for path in tmp_path.glob("records-*"))
    spool.close()

    assert size <= 120
