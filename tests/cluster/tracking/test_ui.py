"""`counterpoint ui`: open on loopback, behind a password elsewhere."""

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
from typer.testing import CliRunner

from cluster.settings import ROOT, RunError, UserError
from cluster.tracking import Tracker, ui
from cluster.tracking.config import TrackingConfig
from commands.app import app

PASSWORD = "correct horse battery"


def test_pages_of_no_runs_or_of_a_server_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs yet"):
        ui.serve_ui(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(UserError, match="open http://mlflow:5000"):
        ui.serve_ui("http://mlflow:5000")
    with pytest.raises(UserError, match=r"open http://\[redacted\]@mlflow:5000"):
        ui.serve_ui("http://ann:pa55@mlflow:5000")


@pytest.mark.parametrize("store", ["mlruns", "sqlite://runs.db", "oracle://host/runs", "/home/ann/outputs"])
def test_what_is_no_store_of_mlflow_is_refused_before_a_server_is_started(store: str) -> None:
    with pytest.raises(UserError, match=r"no store of MLflow; write sqlite:///FILE or http://HOST:PORT"):
        ui.serve_ui(store)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_port_that_is_taken_is_refused_with_the_next(tmp_path: Path, family: int, host: str) -> None:
    (tmp_path / "mlflow.db").touch()
    with socket.socket(family) as taken:
        try:
            taken.bind((host, 0))
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error.strerror}")
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port} of {host}: Address already in use; .*--port {port + 1}"):
            ui.serve_ui(f"sqlite:///{tmp_path / 'mlflow.db'}", host=host, port=port)


def test_a_host_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(UserError, match=r"no name: .*; --host is an address or a name of this machine"):
        ui.serve_ui(f"sqlite:///{tmp_path / 'mlflow.db'}", host="no name")


def test_a_short_password_is_refused_before_anything_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "admin")
    (tmp_path / "mlflow.db").touch()
    with pytest.raises(UserError, match="has 5 characters; take 12 or more"):
        ui.serve_ui(f"sqlite:///{tmp_path / 'mlflow.db'}", host="0.0.0.0", port=_free_port())


def test_no_secret_stands_on_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", PASSWORD)
    command = ui.ui_command(host="0.0.0.0")
    assert "basic-auth" in command
    assert PASSWORD not in " ".join(command)
    assert "basic-auth" not in ui.ui_command()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5"])
def test_the_address_that_is_shown_is_one_that_the_server_answers(host: str) -> None:
    command = ui.ui_command(host=host, port=5001)
    allowed = command[command.index("--allowed-hosts") + 1].split(",")
    assert ui.page_address(host, 5001).removeprefix("http://") in allowed


def test_a_databases_password_is_in_the_servers_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    store = "postgresql://ann:hunter2@db/runs"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    started: list[tuple[list[str], dict[str, str]]] = []

    class Ended:
        """A server that ended at once."""

        returncode = 3

        def __init__(self, command: list[str], env: dict[str, str], **_: object) -> None:
            started.append((command, env))

        def poll(self) -> int:
            return 3

    monkeypatch.setattr(subprocess, "Popen", Ended)
    with pytest.raises(
        RunError, match=rf"try: {ui.SERVED_VARIABLE}=postgresql://\[redacted\]@db/runs .*mlflow"
    ) as output:
        ui.serve_ui("postgresql://db/runs", port=_free_port())
    ((command, given),) = started
    assert given[ui.SERVED_VARIABLE] == store
    assert given["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"  # else nine processes more
    assert "hunter2" not in " ".join(command) + str(output.value)


def test_a_password_on_the_command_line_is_refused() -> None:
    words = ["ui", "--store", "postgresql://ann:hunter2@db/runs"]
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, UserError)
    assert "put it into MLFLOW_TRACKING_URI" in str(done.exception)
    assert "hunter2" not in str(done.exception) + done.output


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
        return number


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outputs")
    with Tracker(
        TrackingConfig(uri=f"sqlite:///{folder / 'mlflow.db'}", system_metrics_s=0), folder / "run"
    ) as tracker:
        tracker.params({"seed": 1})
    return folder / "mlflow.db"


@pytest.fixture
def page(store: Path, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, psutil.Process, Path]]:
    """`counterpoint ui` as a user starts it: its address, its process, what it wrote."""
    host, variables = request.param
    port, log = _free_port(), tmp_path / "ui.log"
    words = ["ui", "--store", f"sqlite:///{store}", "--host", host, "--port", str(port)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")} | variables
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "counterpoint", *words], cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        while "http://" not in log.read_text():
            assert process.poll() is None, log.read_text()
            psutil.Process(process.pid).cpu_percent(0.2)
        yield f"http://127.0.0.1:{port}", psutil.Process(process.pid), log
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def answer(url: str, auth: tuple[str, str] | None = None) -> int:
    return requests.get(f"{url}/api/2.0/mlflow/experiments/search?max_results=5", auth=auth, timeout=60).status_code


def everything_public(process: psutil.Process, log: Path) -> str:
    """What other users of the machine, and readers of its logs, can see."""
    family = [process, *process.children(recursive=True)]
    return log.read_text() + "".join(" ".join(each.cmdline()) for each in family)


@pytest.mark.slow
@pytest.mark.parametrize("page", [("0.0.0.0", {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD})], indirect=True)
def test_pages_for_others_ask_for_the_password_of_the_environment(page: tuple[str, psutil.Process, Path]) -> None:
    url, process, log = page
    assert answer(url) == 401
    assert answer(url, ("admin", "wrong" * 4)) == 401
    assert answer(url, ("admin", PASSWORD)) == 200
    assert PASSWORD not in everything_public(process, log)


@pytest.mark.slow
@pytest.mark.parametrize("page", [("0.0.0.0", {})], indirect=True)
def test_a_password_is_made_where_none_is_given_and_kept_to_its_owner(
    page: tuple[str, psutil.Process, Path], store: Path
) -> None:
    url, process, log = page
    file = store.with_name("ui_password")
    password = file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert re.search(rf"password in {re.escape(str(file))}", log.read_text().replace("\n", ""))
    assert answer(url) == 401
    assert answer(url, ("admin", password)) == 200
    search = f"{url}/ajax-api/2.0/mlflow/runs/search"  # as the page asks: a POST with its own origin
    asked = requests.post(
        search, json={"experiment_ids": ["1"]}, headers={"Origin": url}, auth=("admin", password), timeout=60
    )
    assert asked.status_code == 200
    assert password not in everything_public(process, log)


@pytest.mark.slow
@pytest.mark.parametrize("page", [("127.0.0.1", {})], indirect=True)
def test_pages_on_loopback_ask_for_nothing_and_leave_nothing(page: tuple[str, psutil.Process, Path]) -> None:
    url, process, _ = page
    assert answer(url) == 200
    family = process.children(recursive=True)
    assert len(family) == 3  # a supervisor, MLflow's command and its one server
    assert sum(each.memory_full_info().pss for each in (process, *family)) < 600 << 20
    process.terminate()
    assert psutil.wait_procs([*family, process], timeout=60)[1] == []
