"""Laws of the process that sends a run's log: MLflow gets the same as from a thread, and it ends with its parent."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from cluster.settings import UserError
from cluster.tracking import Tracker, TrackingConfig, apart, replay, serving
from cluster.tracking.account import NOTHING_SENT, STATE, Account, Note, is_waiting, read_state
from trainers.state.metrics_log import MetricsLog

pytestmark = [
    pytest.mark.medium,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),  # MLflow's own
]
LATEST_S = 120.0
"""No law: a machine whose cores are all busy imports MLflow in tens of seconds."""


def until(true: Callable[[], bool], seconds: float = LATEST_S) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    return found


def is_there(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose runs share one SQLite store."""
    yield tmp_path_factory.mktemp("outputs-apart")
    if apart.is_running():
        apart.running().kill()


@pytest.fixture
def client(outputs: Path) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(f"sqlite:///{outputs / 'mlflow.db'}")


def config(outputs: Path, **options: Any) -> TrackingConfig:
    return TrackingConfig(uri=f"sqlite:///{outputs / 'mlflow.db'}", **({"system_metrics_s": 0.0} | options))


def run_id(run_dir: Path) -> str:
    found: str = json.loads((run_dir / "tracking" / "state.json").read_text())["run_id"]
    return found


def logged(outputs: Path, name: str, *, alone: bool) -> Path:
    """A run of two starts, the second repeating a step, with a damaged row and a value that MLflow refuses."""
    run_dir, bad = outputs / name, "m" * 300
    log = MetricsLog(run_dir / "metrics.jsonl")
    (outputs / "report.md").write_text("# report")
    for first, last in ((1, 4), (3, 6)):
        log.cut_back(first - 1)
        with Tracker(config(outputs), run_dir, apart=alone) as tracker:
            tracker.params({"optim.steps": last, "seed": 0})
            tracker.tags({"recipe": "own"})
            for step in range(first, last + 1):
                log.write({"step": step, "loss": float(10 * first + step), "share/encoder": 0.5, bad: 1.0})
            with (run_dir / "metrics.jsonl").open("ab") as file:
                file.write(b'{"step": 2, "lo\n')
            tracker.metrics({"score": float(first)}, first)
            tracker.dataset("labelled", "d" * 64, "/data/labelled")
            tracker.artifact(outputs / "report.md", "report")
            assert tracker.close(wait_s=LATEST_S)
    return run_dir


def seen(client: Any, run_dir: Path) -> dict[str, Any]:
    """All that MLflow shows of a run, without what each run has for itself: ids and times."""
    run = client.get_run(run_id(run_dir))
    curves = {
        key: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]
        for key in run.data.metrics
    }
    files = [file.path for file in client.list_artifacts(run.info.run_id, "report")]
    tags = {key: value for key, value in run.data.tags.items() if key not in ("counterpoint.run", "mlflow.runName")}
    data = [(one.dataset.name, one.dataset.digest) for one in run.inputs.dataset_inputs]
    return {
        "curves": curves,
        "params": run.data.params,
        "tags": tags,
        "data": data,
        "files": files,
        "end": run.info.status,
    }


def test_mlflow_gets_from_the_process_what_it_gets_from_the_thread(
    outputs: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    found, said = [], []
    for alone in (False, True):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run_dir = logged(outputs, f"alone {alone}", alone=alone)
        found.append(seen(client, run_dir))
        said.append([record.getMessage().replace(str(run_dir), "RUN") for record in caplog.records])
        assert not is_waiting(run_dir)
    assert found[0] == found[1]
    assert [step for step, _ in found[1]["curves"]["1 train/loss"]] == [1, 2, 3, 4, 5, 6]
    assert said[0] == said[1]
    assert any("MLflow refuses metric 4 views/mmm" in words for words in said[1])
    assert any("RUN: 1 damaged lines were skipped" in words for words in said[1])


APART = """
import os, sys
from pathlib import Path
from cluster.tracking import Tracker, TrackingConfig, apart
from trainers.state.metrics_log import MetricsLog
store, run_dir = sys.argv[1], Path(sys.argv[2])
log = MetricsLog(run_dir / "metrics.jsonl")
tracker = Tracker(TrackingConfig(uri=store, system_metrics_s=1), run_dir, apart=True)
for step in range(1, 201):
    log.write({"step": step, "loss": float(step)})
    tracker.metrics({"score": float(step)}, step)
while "close" in sys.argv and "system/cpu_utilization_percentage" not in tracker._account.last_steps:
    tracker._sender.join(0.05)
print(tracker.close(wait_s=240) if "close" in sys.argv else apart.running().pid, flush=True)
print([name for name in sys.modules if name.partition(".")[0] == "mlflow"], flush=True)
tracker._sender.join(300) if "close" not in sys.argv else None
sys.stdin.read()
"""


def test_the_process_that_trains_never_imports_mlflow(outputs: Path, client: Any) -> None:
    """And the machine's load is sampled all the same."""
    run_dir = outputs / "clean"
    store = f"sqlite:///{outputs / 'mlflow.db'}"
    done = subprocess.run(
        [sys.executable, "-c", APART, store, str(run_dir), "close"],
        check=False,
        capture_output=True,
        text=True,
        input="",
    )
    assert done.stdout.splitlines() == ["True", "[]"], done.stderr
    metrics = client.get_run(run_id(run_dir)).data.metrics
    assert metrics["1 train/loss"] == metrics["score"] == 200.0
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100


@pytest.fixture
def parent() -> Iterator[Callable[..., tuple[subprocess.Popen[str], int]]]:
    """Starts a process that trains, and returns it with the number of the one that sends for it."""
    with ExitStack() as stack:

        def start(*arguments: object) -> tuple[subprocess.Popen[str], int]:
            command = [sys.executable, "-c", APART, *map(str, arguments)]
            process = stack.enter_context(
                subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True)
            )
            stack.callback(process.kill)
            assert process.stdout
            return process, int(process.stdout.readline())

        yield start


def test_it_ends_within_ten_seconds_of_a_killed_parent_and_replay_brings_the_rest_once(
    outputs: Path, client: Any, parent: Callable[..., tuple[subprocess.Popen[str], int]]
) -> None:
    run_dir = outputs / "killed"
    training, sender = parent(f"sqlite:///{outputs / 'mlflow.db'}", run_dir)
    state = run_dir / "tracking" / "state.json"
    assert until(lambda: "run_id" in json.loads(state.read_text()))
    os.kill(sender, signal.SIGTERM)  # a machine's shutdown asks everybody; the parent may have rows to come
    os.kill(sender, signal.SIGINT)
    assert is_there(sender)
    training.kill()
    assert until(lambda: not is_there(sender), 10.0)
    assert replay(run_dir, wait_s=LATEST_S)
    for key in ("1 train/loss", "score"):
        steps = [point.step for point in client.get_metric_history(run_id(run_dir), key)]
        assert steps == list(range(1, 201))


def test_it_ends_with_its_parent_while_a_request_hangs(
    tmp_path: Path, parent: Callable[..., tuple[subprocess.Popen[str], int]]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes connections and never answers
        server.settimeout(LATEST_S)
        training, sender = parent(f"http://127.0.0.1:{server.getsockname()[1]}", tmp_path / "run")
        connections = [server.accept()[0] for _ in range(2)]  # the parent's look at the server, and a request
        training.kill()
        assert until(lambda: not is_there(sender), 10.0)
        for connection in connections:
            connection.close()
    assert is_waiting(tmp_path / "run")


def test_a_process_that_was_killed_is_replaced_and_nothing_is_lost_or_doubled(
    outputs: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = outputs / "replaced"
    log = MetricsLog(run_dir / "metrics.jsonl")
    with Tracker(config(outputs), run_dir, apart=True) as tracker:
        for step in range(1, 11):
            log.write({"step": step, "loss": float(step)})
        assert until(lambda: tracker._account.state["sent"]["step"] == 10)
        os.kill(apart.running().pid, signal.SIGKILL)
        for step in range(11, 31):
            log.write({"step": step, "loss": float(step)})
        assert tracker.close(wait_s=LATEST_S)
    steps = [point.step for point in client.get_metric_history(run_id(run_dir), "1 train/loss")]
    assert steps == list(range(1, 31))


def test_nothing_is_marked_that_a_killed_process_did_not_send(
    outputs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It never comes back; `close` waits no longer than it was told, and says what waits and what to do."""
    monkeypatch.setattr("cluster.tracking.sender.LONGEST_WAIT_S", 0.1)
    monkeypatch.setattr("cluster.tracking.apart._MAIN", "import os; os._exit(3)")
    monkeypatch.setenv("MLFLOW_OF_THIS_TEST", "1")  # another environment, so another process
    run_dir = outputs / "never"
    tracker = Tracker(config(outputs), run_dir, apart=True)
    MetricsLog(run_dir / "metrics.jsonl").write({"step": 1, "loss": 0.5})
    assert not tracker.close(wait_s=1)
    assert is_waiting(run_dir)
    assert "the process that sends has ended" in caplog.text
    assert f"counterpoint replay '{run_dir}'" not in caplog.text  # no space in its name
    assert f"counterpoint replay {run_dir}" in caplog.text
    monkeypatch.undo()
    assert replay(run_dir, wait_s=LATEST_S)


def test_a_process_that_does_not_answer_is_killed_and_the_folder_is_free(
    outputs: Path, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.tracking.sender.LAST_REQUEST_S", 0.1)
    run_dir = outputs / "hangs"
    tracker = Tracker(config(outputs), run_dir, apart=True)
    assert until(lambda: tracker.run_id is not None)
    sender = apart.running().pid
    os.kill(sender, signal.SIGSTOP)
    MetricsLog(run_dir / "metrics.jsonl").write({"step": 1, "loss": 0.5})
    assert not tracker.close(wait_s=3)
    assert not is_there(sender)
    with Tracker(config(outputs), run_dir, apart=True) as second:
        assert second.close(wait_s=LATEST_S)
    points = client.get_metric_history(run_id(run_dir), "1 train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.5)]


def test_a_run_that_was_deleted_in_mlflow_is_an_outage_with_a_remedy_and_its_log_waits(
    outputs: Path, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The words come from the process that has MLflow, and nothing counts as sent; once restored, everything is."""
    run_dir = outputs / "deleted"
    log = MetricsLog(run_dir / "metrics.jsonl")
    with Tracker(config(outputs), run_dir, apart=True) as tracker:
        assert tracker.close(wait_s=LATEST_S)
    client.delete_run(run_id(run_dir))
    with Tracker(config(outputs), run_dir, apart=True) as tracker:
        log.write({"step": 1, "loss": 0.5})
        assert until(lambda: tracker._sender._trouble is not None)
        assert not tracker.close(wait_s=1)
    assert "restore the run or its experiment in MLflow" in caplog.text
    assert f"counterpoint replay {run_dir}" in caplog.text
    assert is_waiting(run_dir)
    client.restore_run(run_id(run_dir))
    assert replay(run_dir, wait_s=LATEST_S)
    points = client.get_metric_history(run_id(run_dir), "1 train/loss")
    assert [(point.step, point.value) for point in points] == [(1, 0.5)]


def test_runs_of_one_process_share_the_process_that_sends(outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Tracker(config(outputs), outputs / "first", apart=True) as tracker:
        assert until(lambda: tracker.run_id is not None)
        first = apart.running().pid
    with Tracker(config(outputs), outputs / "second", apart=True) as tracker:
        assert until(lambda: tracker.run_id is not None)
        assert apart.running().pid == first
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")  # what it was started without
    assert not apart.is_running()


def asking(outputs: Path, run_dir: Path) -> Callable[[], Generator[Note, None, None]]:
    """Asks for all of a run whose step was sent before, as if nothing had been."""
    MetricsLog(run_dir / "metrics.jsonl").write({"step": 1, "loss": 0.5})
    with Tracker(config(outputs), run_dir, apart=True) as tracker:
        assert tracker.close(wait_s=LATEST_S)
    state = read_state(run_dir / "tracking" / STATE) | {"sent": NOTHING_SENT}

    def ask() -> Generator[Note, None, None]:
        answers = apart.Apart(run_dir / "tracking", state).round(state)
        assert isinstance(answers, Generator)
        return answers

    return ask


def test_a_process_whose_answers_are_read_no_further_is_killed_and_the_next_answer_is_whole(outputs: Path) -> None:
    """Half an answer must not be taken for that of the next question, perhaps of another run."""
    ask = asking(outputs, outputs / "unread")
    answers = ask()
    sender = apart.running().pid
    assert "done" not in next(answers)
    answers.close()
    assert not is_there(sender)
    assert "done" in [*ask()][-1]


def test_two_processes_cannot_send_one_run(outputs: Path) -> None:
    with (
        Tracker(config(outputs), outputs / "held", apart=True),
        pytest.raises(UserError, match="another process is running there"),
    ):
        Tracker(config(outputs), outputs / "held", apart=True)


def test_a_store_that_cannot_be_opened_is_a_trouble_and_no_end(tmp_path: Path) -> None:
    """What the process answers where its own part fails: the parent's thread must not wait for ever."""
    account = Account(tmp_path / "run")
    account.set_home("gopher://nowhere", "x")
    account.state |= {"name": "n", "parent": None, "status": {"status": "RUNNING", "time_ms": 1}}
    ours, theirs = Pipe()
    thread = threading.Thread(target=serving.serve, args=(theirs,))
    thread.start()
    for state in (account.snapshot(), account.snapshot()):
        ours.send(("key", account.folder, 0.0, state))
        note: Note = ours.recv()
        assert note["trouble"]["text"]
    ours.close()
    thread.join(LATEST_S)
    assert not thread.is_alive()
    account.close()


# --- one for several processes ---


def test_children_send_through_the_process_of_the_one_that_started_them_and_one_that_is_killed_harms_none(
    outputs: Path, client: Any, parent: Callable[..., tuple[subprocess.Popen[str], int]]
) -> None:
    store = f"sqlite:///{outputs / 'mlflow.db'}"
    killed, other = outputs / "killed child", outputs / "other child"
    with apart.shared(), Tracker(config(outputs), outputs / "of children", apart=True) as tracker:
        assert until(lambda: tracker.run_id is not None)
        sender = apart.running().pid
        first, of_first = parent(store, killed)
        assert until(lambda: "run_id" in json.loads((killed / "tracking" / STATE).read_text()))
        first.kill()
        second, of_second = parent(store, other)
        assert sender == of_first == of_second
        assert until(lambda: json.loads((other / "tracking" / STATE).read_text())["sent"]["step"] == 200)
        second.kill()
        assert is_there(sender)
        tracker.metrics({"score": 1.0}, 1)
        assert tracker.close(wait_s=LATEST_S)
        assert apart.running().pid == sender
    for run_dir in (killed, other):
        assert replay(run_dir, wait_s=LATEST_S)
        points = client.get_metric_history(run_id(run_dir), "1 train/loss")
        assert [(point.step, point.value) for point in points] == [(step, float(step)) for step in range(1, 201)]


@pytest.fixture
def offered(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The number of a process that sends, offered to this one as to a child of the one that started it."""
    if apart.is_running():
        apart.running().kill()
    with apart.shared():
        process = apart._OwnSender()
        monkeypatch.setattr(apart, "_offer", None)
        monkeypatch.setattr(apart, "_running", None)
        yield process.pid
        process.kill()
    if apart._running:
        apart._running.kill()


def test_where_the_offered_process_has_ended_a_child_starts_its_own_and_nothing_is_lost_or_doubled(
    outputs: Path, client: Any, offered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = outputs / "left alone"
    log = MetricsLog(run_dir / "metrics.jsonl")
    with Tracker(config(outputs), run_dir, apart=True) as tracker:
        log.write({"step": 1, "loss": 1.0})
        assert until(lambda: tracker._account.state["sent"]["step"] == 1)
        assert apart.running().pid == offered
        monkeypatch.setattr(apart, "ANSWER_S", 0.1)  # its socket is still there, and nobody answers
        os.kill(offered, signal.SIGKILL)
        log.write({"step": 2, "loss": 2.0})
        assert tracker.close(wait_s=LATEST_S)
        assert apart.running().pid != offered
    steps = [point.step for point in client.get_metric_history(run_id(run_dir), "1 train/loss")]
    assert steps == [1, 2]


def test_a_child_that_gives_up_its_question_leaves_the_process_to_others(outputs: Path, offered: int) -> None:
    ask = asking(outputs, outputs / "given up")
    answers = ask()
    assert "done" not in next(answers)
    answers.close()
    assert is_there(offered)
    assert not apart.is_running()
    assert "done" in [*ask()][-1]
    assert apart.running().pid == offered


def test_a_process_sends_for_so_many_others_and_for_those_with_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MOST", 1)
    path = str(tmp_path / "sender")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    threading.Thread(target=serving._listen, args=(listening.detach(), serving.of_mlflow()), daemon=True).start()

    def taken() -> bool:
        try:
            apart._ParentsSender(path).kill()
        except ConnectionRefusedError:
            return False
        return True

    first = apart._ParentsSender(path)
    assert first.pid == os.getpid()
    assert not taken()
    first.kill()
    assert until(taken)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    assert not taken()


def test_a_path_too_long_for_a_socket_offers_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with apart.shared():
        assert apart.OFFER not in os.environ
