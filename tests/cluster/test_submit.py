"""What is refused before anything is sent; jobs on a real cluster are in tests/faults/test_services_jobs.py."""

from pathlib import Path

import pytest

from cluster import submit, ui
from cluster.settings import UserError
from cluster.submit import Cluster


@pytest.mark.parametrize(
    ("given", "url"),
    [("head:8265", "http://head:8265"), ("https://h/", "https://h"), (None, submit.DEFAULT_CLUSTER)],
)
def test_a_cluster_may_be_written_short(given: str | None, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert submit._url(given) == url


def test_what_is_no_url_is_said_to_be_none() -> None:
    with pytest.raises(UserError, match="write http://HOST:8265"):
        Cluster("ray://head:10001")


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1: nothing answers"):
        Cluster("127.0.0.1:1")


def test_without_a_token_nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(UserError, match="no token for the cluster"):
        Cluster("127.0.0.1:1")


def test_a_password_never_travels_in_a_jobs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert submit._environment()["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@mlflow:5000")
    with pytest.raises(UserError, match="holds a password") as caught:
        submit._environment()
    assert "hunter2" not in str(caught.value)


def test_pages_open_to_others_need_a_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    assert "--app-name" not in ui.ui_command("sqlite:////x/mlflow.db")
    with pytest.raises(UserError, match=r"--host 0\.0\.0\.0 would show every run"):
        ui.ui_command("sqlite:////x/mlflow.db", host="0.0.0.0")


def test_pages_of_no_runs_or_of_a_server_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs yet"):
        ui.serve_ui(f"sqlite:///{tmp_path / 'mlflow.db'}")
    with pytest.raises(UserError, match="open http://mlflow:5000"):
        ui.serve_ui("http://mlflow:5000")
