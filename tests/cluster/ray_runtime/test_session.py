"""A local session: a token is required, the workers fit and import the packages, nothing is left behind."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.ray_runtime import session
from cluster.ray_runtime.credentials import ensure_token, reach, token_path
from cluster.ray_runtime.session import ray_session
from cluster.settings import ROOT, RunError, UserError

LOCAL = """
import json, os, psutil, signal, stat, sys, threading
from cluster.ray_runtime.credentials import token_path
from cluster.ray_runtime.session import ray_session
signal.signal(signal.SIGTERM, mine := lambda *_: None)
with ray_session(workers=2, dashboard=sys.argv[1] == "True") as session:
    import ray
    words = [one.cmdline() for one in psutil.Process().children(recursive=True)]
    needless = sum(any("ray::IDLE" in word or word.endswith("default_worker.py") for word in line) for line in words)
    same = []
    def nested():  # as a trial does it, in a thread of its own
        with ray_session(workers=1) as inner:
            same.append(inner.address == session.address and not inner.local)
    nested()
    (thread := threading.Thread(target=nested)).start()
    thread.join()
    assert ray.is_initialized()

    @ray.remote(num_cpus=1)
    def work():
        import cluster.settings
        return os.getpid(), cluster.settings.__file__

    pids = ray.get([work.remote(), work.remote()])
    print(json.dumps({
        "local": session.local, "same": same == [True, True], "cpus": session.cpus,
        "needless": needless, "packages": sorted({file for _, file in pids}),
        "mode": stat.filemode(token_path().stat().st_mode), "auth": os.environ["RAY_AUTH_MODE"],
        "sigterm": signal.getsignal(signal.SIGTERM) is mine, "logs": os.path.isdir(session.logs),
        "dashboard": session.dashboard,
        "services": [name for name in ("dashboard", "monitor", "log_monitor") if any(
            word.endswith(f"/{name}.py") for line in words for word in line
        )],
    }))
print(ray.is_initialized())
"""


@pytest.mark.ray
@pytest.mark.parametrize("dashboard", [True, False])
def test_a_local_session_is_guarded_large_enough_and_gone_afterwards(tmp_path: Path, dashboard: bool) -> None:
    """In a process with a home of its own, so that its token is made here."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "RAY_ADDRESS": ""}

    done = subprocess.run(
        [sys.executable, "-c", LOCAL, str(dashboard)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )

    assert done.returncode == 0, done.stderr
    printed, after = done.stdout.splitlines()
    found = json.loads(printed)
    assert found["cpus"] >= 3  # two workers and what drives them
    assert not found["needless"]  # no worker was started before there was work for it
    assert found["packages"] == [str(ROOT / "cluster" / "settings.py")]
    assert found["mode"] == "-rw-------"
    assert found["auth"] == "token"
    assert found["dashboard"].startswith("http://127.0.0.1:" if dashboard else "http://")
    assert found["services"] == (["dashboard", "monitor"] if dashboard else [])
    assert found["local"]
    assert found["same"]
    assert found["sigterm"]
    assert found["logs"]
    assert after == "False"


def test_a_token_is_made_once_and_kept_to_its_owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "deep" / "token"))
    ensure_token()
    first = token_path().read_text()
    token_path().chmod(0o644)
    ensure_token()

    assert token_path().read_text() == first
    assert len(bytes.fromhex(first)) == 32
    assert stat.S_IMODE(token_path().stat().st_mode) == 0o600
    assert [path.name for path in token_path().parent.iterdir()] == ["token"]


def test_a_cluster_that_is_not_there_is_named_at_once() -> None:
    with pytest.raises(UserError, match=r"127\.0\.0\.1:1: nothing answers"):
        reach("127.0.0.1:1")
    with pytest.raises(UserError, match="write host:port"):
        reach("head")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://head:8265", "counterpoint submit --cluster http://head:8265"),
        ("127.0.0.1:1", "is the cluster's head running"),
    ],
)
def test_an_impossible_address_is_refused_before_ray_starts(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 64)  # a machine where no cluster ever ran has no token file
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    with pytest.raises(UserError, match=message), ray_session(address=address):
        pytest.fail("no session can be here")


def test_joining_without_a_token_names_where_it_belongs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))

    with (
        pytest.raises(UserError, match=f"copy the head's ~/.ray/auth_token to {tmp_path}"),
        ray_session(address="127.0.0.1:1"),
    ):
        pytest.fail("no session can be here")


def test_a_local_session_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    with pytest.raises(UserError, match="RAY_AUTH_MODE=disabled"), ray_session():
        pytest.fail("no session can be here")


def test_a_local_ray_that_is_late_has_time_and_then_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray._private import ray_constants

    seconds: list[int] = []

    def late(_: object) -> None:
        seconds.append(ray_constants.RAY_DASHBOARD_STARTUP_TIMEOUT_S)
        raise RuntimeError("The last 20 lines of dashboard.log:\nregistered 65 routes")

    monkeypatch.setattr(session, "_start", late)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    with (
        pytest.raises(RunError, match=r"did not start: The last 20 lines .*the same command tries again"),
        ray_session(),
    ):
        raise AssertionError("never entered")
    assert seconds == [session.DASHBOARD_S]
