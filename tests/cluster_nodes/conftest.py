"""Several machines on one: each node has a network namespace with its own address, its own processes, its own /tmp/ray.

A switch, itself a namespace, joins them; nothing of the machine's own network is touched. A node is one process tree
below `unshare --pid --kill-child`: killing it is what pulling a machine's plug is. What a killed test run left behind
is cleared by the next one, by the number of its dead process in the names.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from cluster.settings import ROOT

ADDRESSES = {"head": "10.77.0.1", "one": "10.77.0.11", "two": "10.77.0.12", "desk": "10.77.0.99"}
"""The head has no core for work; the desk runs no Ray: it is where a person sits and submits."""
START_TIMEOUT_S = 300
PREFIX = "counterpoint-test"
Words = list[str]
COUNT = """
import json, sys, urllib.request
url, token = sys.argv[1:]
asked = urllib.request.Request(f"{url}/api/v0/nodes", headers={"Authorization": f"Bearer {token}"})
found = json.load(urllib.request.urlopen(asked, timeout=10))["data"]["result"]["result"]
print(sum(node["state"] == "ALIVE" for node in found))
"""


def _missing() -> str:
    """Why this machine cannot have namespaces; empty where it can."""
    tools = [tool for tool in ("ip", "unshare", "nsenter", "mount") if shutil.which(tool) is None]
    if tools:
        return f"{', '.join(tools)} not installed (iproute2, util-linux)"
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    tried = subprocess.run(["unshare", "--net", "--mount", "--pid", "--fork", "true"], capture_output=True, text=True)
    return f"this kernel or container refuses namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def _ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


def _namespaces() -> list[str]:
    return [line.split()[0] for line in _ip("netns", "list").splitlines() if line.startswith(PREFIX)]


def _remove(namespace: str) -> None:
    for pid in _ip("netns", "pids", namespace).split():
        os.kill(int(pid), signal.SIGKILL)
    _ip("netns", "del", namespace)


def _clear_leftovers() -> None:
    for namespace in _namespaces():
        owner = re.match(rf"{PREFIX}-(\d+)-", namespace)
        if owner and not psutil.pid_exists(int(owner[1])):
            _remove(namespace)


class Nodes:
    """A head, two nodes with a core each, and a desk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.token = os.urandom(32).hex()
        self.url = f"http://{ADDRESSES['head']}:8265"
        self.gcs = f"{ADDRESSES['head']}:6379"
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        for name in ADDRESSES:
            secret = folder / name / ".ray" / "auth_token"
            secret.parent.mkdir(parents=True)
            secret.touch(mode=0o600)
            secret.write_text(self.token)
            (folder / name / "ray").mkdir()

    def wire(self) -> None:
        """The switch, and a cable from it to each node."""
        switch = self._namespace("switch")
        _ip("netns", "add", switch)
        _ip("-n", switch, "link", "add", "bridge", "type", "bridge")
        _ip("-n", switch, "link", "set", "bridge", "up")
        for name, address in ADDRESSES.items():
            space = self._namespace(name)
            _ip("netns", "add", space)
            _ip("link", "add", "name", name, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("-n", switch, "link", "set", name, "master", "bridge", "up")
            _ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            for interface in ("lo", "eth0"):
                _ip("-n", space, "link", "set", interface, "up")

    def start(self, name: str) -> None:
        """Boot a node; it is there when the head counts it."""
        common = ["--block", "--disable-usage-stats", "--object-store-memory=100000000"]
        common.append(f"--node-ip-address={ADDRESSES[name]}")
        command = ["ray", "start", *common]
        if name == "head":
            command += ["--head", "--port=6379", "--num-cpus=0", f"--dashboard-host={ADDRESSES['head']}"]
        else:
            command += [f"--address={self.gcs}", "--num-cpus=1"]
        with (self.folder / f"{name}.log").open("a") as log:
            self._running[name] = subprocess.Popen(
                self._inside(name, command), env=self._environment(name), stdout=log, stderr=log
            )

    def await_nodes(self, count: int) -> None:
        """Return when the head counts so many living nodes; one that gave up meanwhile is booted again."""
        deadline = time.monotonic() + START_TIMEOUT_S
        alive = ""
        while time.monotonic() < deadline:
            for name, process in list(self._running.items()):
                if process.poll() is not None:  # Ray alone gives a node 30 s, few on a busy machine
                    self.start(name)
            asked = subprocess.run(
                self._inside("desk", [sys.executable, "-c", COUNT, self.url, self.token]),
                capture_output=True,
                text=True,
            )
            alive = asked.stdout.strip() or asked.stderr
            if alive == str(count):
                return
            time.sleep(1)
        logs = "\n".join(file.read_text()[-2000:] for file in self.folder.glob("*.log"))
        pytest.fail(f"{count} nodes did not come up ({alive}):\n{logs}")

    def kill(self, name: str) -> None:
        """Pull the plug: every process of the node is gone at once."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def popen(self, name: str, command: Words, **variables: str) -> subprocess.Popen[str]:
        """A command at a node, its output as text; the desk has no processes of its own to enter."""
        where = self._entered(name, command) if name in self._running else self._inside(name, command)
        return subprocess.Popen(
            where, env=self._environment(name) | variables, cwd=ROOT, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(
        self, name: str, command: Words, *, timeout_s: float = 240, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A command at a node, waited for; its output is in ``stdout``."""
        process = self.popen(name, command, **variables)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            pytest.fail(f"{' '.join(command)} took more than {timeout_s} s:\n{process.communicate()[0]}")
        return subprocess.CompletedProcess(command, process.returncode, output)

    def close(self) -> None:
        """Nothing stays: no process, no namespace, and with them no cable."""
        for name in list(self._running):
            self.kill(name)
        for namespace in _namespaces():
            if namespace.startswith(self._namespace("")):
                _remove(namespace)

    def _namespace(self, name: str) -> str:
        return f"{PREFIX}-{os.getpid()}-{name}"

    def _inside(self, name: str, command: Words) -> Words:
        """The command as the first process of a node of its own."""
        enter = ["ip", "netns", "exec", self._namespace(name), "unshare", "--mount", "--pid", "--fork"]
        script = 'mount --make-rprivate / && mkdir -p /tmp/ray && mount --bind "$0" /tmp/ray && exec "$@"'
        home = str(self.folder / name / "ray")
        return [*enter, "--kill-child=KILL", "--mount-proc", "sh", "-c", script, home, *command]

    def _entered(self, name: str, command: Words) -> Words:
        """The command beside those of a running node."""
        (first,) = psutil.Process(self._running[name].pid).children()
        return ["nsenter", "--target", str(first.pid), "--mount", "--pid", "--net", f"--wd={ROOT}", *command]

    def _environment(self, name: str) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
        kept |= {"HOME": str(self.folder / name), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}
        kept |= {"RAY_agent_register_timeout_ms": "300000"}  # a busy machine: Ray alone gives its agents 30 s
        return kept | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}


@contextmanager
def _cluster() -> Iterator[Nodes]:
    _clear_leftovers()
    folder = Path(tempfile.mkdtemp(prefix="nodes-", dir="/tmp"))
    nodes = Nodes(folder)
    try:
        nodes.wire()
        for count, name in enumerate(("head", "one", "two"), 1):
            nodes.start(name)
            nodes.await_nodes(count)
        yield nodes
    finally:
        nodes.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def nodes() -> Iterator[Nodes]:
    """A running cluster of three Ray nodes and a desk; skipped where the machine does not allow it."""
    reason = _missing()
    if reason:
        pytest.skip(reason)
    with _cluster() as started:
        yield started


@pytest.fixture
def clear() -> Callable[[], list[str]]:
    """Clear what dead runs have left, and give the names of what is still there."""
    reason = _missing()
    if reason:
        pytest.skip(reason)

    def clear_and_list() -> list[str]:
        _clear_leftovers()
        return _namespaces()

    return clear_and_list


@pytest.fixture
def whole(nodes: Nodes) -> Callable[[], None]:
    """Bring back what a test has killed, before the next one."""

    def bring_back() -> None:
        for name in ("one", "two"):
            if name not in nodes._running:
                nodes.start(name)
        nodes.await_nodes(3)

    return bring_back
