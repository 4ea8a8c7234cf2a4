"""What is refused before anything is sent; jobs on a real cluster are in tests/faults/test_services_jobs.py."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from ray.exceptions import AuthenticationError

from cluster.ray_runtime import jobs as submit
from cluster.ray_runtime.jobs import Cluster
from cluster.settings import RunError, UserError


@pytest.mark.parametrize(
    ("given", "url"),
    [("head:8265", "http://head:8265"), ("https://h/", "https://h"), (None, submit.DEFAULT_CLUSTER)],
)
def test_a_cluster_may_be_written_short(given: str | None, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    assert submit._url(given) == url


def test_what_is_no_url_is_refused() -> None:
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

    def __init__(self, breaks: int, error: Exception | None = None) -> None:
        self.breaks, self.error = breaks, error or ConnectionResetError("the head's cable")

    async def tail_job_logs(self, _job: str) -> AsyncIterator[str]:
        yield "one\ntw"
        if self.breaks:
            self.breaks -= 1
            raise self.error
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


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("the head's cable"),
        asyncio.IncompleteReadError(b"", 1),
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientPayloadError("half an answer"),
        aiohttp.WSServerHandshakeError(SimpleNamespace(real_url="http://head:8265"), (), status=502),  # type: ignore[arg-type]  # as much of a request as it looks at
    ],
    ids=lambda error: type(error).__name__,
)
def test_output_is_shown_once_however_often_the_way_there_breaks(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shown: list[str] = []
    assert follower(Flaky(3, error), monkeypatch).follow("job", shown.append) == 7
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


def test_a_password_never_travels_in_a_jobs_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    client = SimpleNamespace(submit_job=lambda **job: sent.append(job))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    there = follower(client, monkeypatch)
    with pytest.raises(UserError, match=r"tracking.uri=http://\[redacted\]@h: it holds a password") as caught:
        there.submit(["pretrain", "conf/x.yaml", "tracking.uri=http://ann:hunter2@h"], root=tmp_path)
    assert "hunter2" not in str(caught.value)
    assert not sent
    there.submit(["pretrain", "conf/x.yaml", "tracking.uri=http://h"], root=tmp_path)
    assert "tracking.uri=http://h" in sent[0]["entrypoint"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (AuthenticationError("Authentication failed: Invalid token"), "refuses this token"),
        (RuntimeError("Unexpected token < in JSON at position 0"), "no jobs API of Ray answers there"),
        (RuntimeError("Request failed with status code 500: port 40123 is taken"), "no jobs API of Ray answers there"),
    ],
)
def test_a_token_is_blamed_only_where_it_was_refused(error: Exception, message: str) -> None:
    assert message in str(submit._explained("http://head:8265", error))
