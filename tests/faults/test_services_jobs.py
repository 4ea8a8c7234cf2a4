"""Faults 48 and the laws of jobs, on a real Ray head of this test alone: own ports, own folder, own token."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from cluster.ray_runtime.jobs import Cluster
from cluster.settings import ROOT, UserError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning"),  # Ray 2.60 on aiohttp 3.14
]
START_TIMEOUT_S = 180
PROGRAM = """
import os, signal, sys, time
print("job says", *sys.argv[1:], flush=True)
if sys.argv[1] == "wait":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    print("ready", flush=True)
    time.sleep(600)
print("outputs" in os.listdir(), os.path.exists("shard-00000.tar"), os.environ["COUNTERPOINT_REVISION"] != "")
sys.exit(int(sys.argv[2]))
"""


@dataclass(frozen=True)
class Head:
    url: str
    gcs: str
    token: str


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    home = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets below it have at most 107 characters of path
    names = ["port", "dashboard-port", "dashboard-agent-listen-port", "dashboard-agent-grpc-port"]
    names += ["ray-client-server-port", "metrics-export-port", "node-manager-port", "object-manager-port"]
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--temp-dir={home}"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    command += [
        "--dashboard-host=127.0.0.1",
        "--num-cpus=2",
        "--object-store-memory=100000000",
        "--disable-usage-stats",
    ]
    token = os.urandom(32).hex()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "PATH": path}
    environment["RAY_agent_register_timeout_ms"] = "300000"  # a busy machine: Ray alone gives its agents 30 s
    environment.pop("RAY_ADDRESS", None)
    with (home / "head.log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    head = Head(f"http://127.0.0.1:{ports['dashboard-port']}", f"127.0.0.1:{ports['port']}", token)
    try:
        _wait(head, process, home / "head.log")
        yield head
    finally:
        process.terminate()  # ends the processes it started, and no other Ray
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(home, ignore_errors=True)


def _wait(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    proof = {"Authorization": f"Bearer {head.token}"}
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{head.url}/api/jobs/", headers=proof, timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.2)
    pytest.fail(f"ray start --head did not come up:\n{log.read_text()}")


@pytest.fixture
def known(head: Head, monkeypatch: pytest.MonkeyPatch) -> Head:
    """The head, with its token in this process."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    return head


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout: its `counterpoint` says what it was told."""
    (tmp_path / "counterpoint.py").write_text(PROGRAM)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "weights").write_bytes(b"0" * 1000)
    (tmp_path / "shard-00000.tar").write_bytes(b"0" * 1000)
    return tmp_path


@pytest.mark.parametrize("proof", [{}, {"Authorization": "Bearer " + "0" * 64}], ids=["no token", "wrong token"])
def test_a_job_submitted_without_the_token_is_refused(head: Head, proof: dict[str, str]) -> None:
    job = {"entrypoint": "touch /tmp/should-not-exist"}

    answer = requests.post(f"{head.url}/api/jobs/", json=job, headers=proof, timeout=10)

    assert answer.status_code in (401, 403)
    with_token = {"Authorization": f"Bearer {head.token}"}
    assert requests.get(f"{head.url}/api/jobs/", headers=with_token, timeout=10).json() == []


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from cluster.ray_runtime.jobs import Cluster; Cluster('{url}')", "the cluster refuses this token"),
        (
            "from cluster.ray_runtime import session; session.ray_session(address='{gcs}').__enter__()",
            "refuses this token",
        ),
    ],
    ids=["jobs", "session"],
)
def test_a_wrong_token_is_said_to_be_wrong(head: Head, code: str, message: str) -> None:
    """In a process of its own: Ray keeps the first token it reads."""
    environment = os.environ | {"RAY_AUTH_TOKEN": "f" * 64, "RAY_AUTH_MODE": "token"}

    done = subprocess.run(
        [sys.executable, "-c", code.format(url=head.url, gcs=head.gcs)],
        env=environment, capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip

    assert done.returncode == 1
    assert "cluster.settings.UserError" in done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("code", [0, 3])
def test_a_job_has_the_exit_code_of_its_command_and_no_shards(known: Head, checkout: Path, code: int) -> None:
    cluster, output = Cluster(known.url), list[str]()

    job = cluster.submit(["say", str(code), "loss.temperature=0.05", "a b"], root=checkout)
    got = cluster.follow(job, output.append)

    assert got == code
    text = "".join(output)
    assert f"job says say {code} loss.temperature=0.05 a b" in text
    assert "False False True" in text  # no outputs, no shard, a revision
    assert text.count("job says") == 1
    assert cluster.logs(job) == text
    assert cluster.jobs()[0].command == f"say {code} loss.temperature=0.05 'a b'"


@pytest.fixture
def locked_checkout(checkout: Path) -> Path:
    """One that brings the package `cluster`, and with it the check of its own lock."""
    shutil.copytree(ROOT / "cluster", checkout / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
    return checkout


def test_a_cluster_with_other_versions_than_the_lock_is_refused(known: Head, locked_checkout: Path) -> None:
    (locked_checkout / "requirements.lock").write_text("torch==2.0.1 \\\n    --hash=sha256:00\n")
    cluster, output = Cluster(known.url), list[str]()

    job = cluster.submit(["say", "0"], root=locked_checkout)
    got = cluster.follow(job, output.append)

    text = "".join(output)
    assert got == 2
    assert "torch is" in text
    assert "not 2.0.1; run `make setup` on its nodes, or submit with --install" in text
    assert "job says" not in text


@pytest.mark.slow
def test_install_makes_the_environment_of_the_lock(known: Head, locked_checkout: Path, tmp_path: Path) -> None:
    """With a wheel made here, for the head may have no network; Ray copies its own environment and adds to it."""
    wheel = tmp_path / "counterpoint_probe-1.0-py3-none-any.whl"
    about = "counterpoint_probe-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("counterpoint_probe.py", "VERSION = '1.0'")
        archive.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: counterpoint-probe\nVersion: 1.0\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    (locked_checkout / "requirements.lock").write_text(f"counterpoint-probe @ {wheel.as_uri()}\n")
    program = "import counterpoint_probe\nprint('installed', counterpoint_probe.VERSION)\n"
    (locked_checkout / "counterpoint.py").write_text(program)
    cluster, output = Cluster(known.url), list[str]()

    job = cluster.submit(["say"], root=locked_checkout, install=True)

    assert cluster.follow(job, output.append) == 0, "".join(output)
    assert "installed 1.0" in "".join(output)


def test_a_stopped_job_may_save_itself_and_ends_with_143(known: Head, checkout: Path) -> None:
    cluster = Cluster(known.url)
    job = cluster.submit(["wait"], root=checkout)
    stopped: list[str] = []

    def stop_when_ready(text: str) -> None:
        if "ready" in text and not stopped:
            stopped.append(cluster.stop(job))

    assert cluster.follow(job, stop_when_ready) == 143
    assert stopped == ["STOPPED"]
    assert {entry.name: entry.status for entry in cluster.jobs()}[job] == "STOPPED"


def test_an_unknown_job_is_named(known: Head) -> None:
    with pytest.raises(UserError, match="no-such-job: no such job on"):
        Cluster(known.url).logs("no-such-job")


def test_a_session_joins_the_cluster_it_is_told(known: Head) -> None:
    """In a process of its own, as a user's; the workers find the packages of this checkout."""
    code = (
        "import ray\n"
        "from cluster.ray_runtime.session import ray_session\n"
        f"with ray_session(address='{known.gcs}') as session:\n"
        "    print(session.local, session.nodes, session.cpus)\n"
        "    @ray.remote\n"
        "    def found():\n"
        "        import cluster.settings, os\n"
        "        return os.path.exists('.venv'), cluster.settings.__file__ != ''\n"
        "    print(ray.get(found.remote()))\n"
    )
    environment = os.environ | {"RAY_AUTH_TOKEN": known.token}
    environment.pop("RAY_AUTH_MODE", None)

    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT, timeout=300
    )

    assert done.stdout.splitlines() == ["False 1 2.0", "(False, True)"], done.stderr
