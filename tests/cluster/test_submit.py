"""What is refused before anything is sent; jobs on a real cluster are in tests/faults/test_services_jobs.py."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cluster import submit
from cluster.settings import RunError, UserError
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


class Flaky:
    """A jobs API whose stream breaks off, and is then as new."""

    def __init__(self, breaks: int) -> None:
        self.breaks = breaks

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        yield "one\ntw"
        if self.breaks:
            self.breaks -= 1
            raise ConnectionResetError("the head's cable")
        yield "o\n"
        yield "three\n"

    def get_job_info(self, _job: str) -> Any:
        status = SimpleNamespace(value="FAILED", is_terminal=lambda: True)
        return SimpleNamespace(status=status, driver_exit_code=7)


def follower(client: Any, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster.__new__(Cluster)
    cluster.url, cluster._client = "http://head:8265", client
    monkeypatch.setattr(submit, "_POLL_S", 0.0)
    return cluster


def test_output_is_shown_once_however_often_the_way_there_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    assert follower(Flaky(3), monkeypatch).follow("job", shown.append) == 7
    assert "".join(shown) == "one\ntwo\nthree\n"


def test_a_cluster_that_stays_away_ends_the_following_not_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(submit, "LOST_S", 0.05)
    with pytest.raises(RunError, match=r"no answer for .*the job may go on: counterpoint submit logs job"):
        follower(Flaky(1 << 30), monkeypatch).follow("job", lambda _: None)


def test_a_password_never_travels_in_a_jobs_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert submit._environment()["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:hunter2@mlflow:5000")
    with pytest.raises(UserError, match="holds a password") as caught:
        submit._environment()
    assert "hunter2" not in str(caught.value)
