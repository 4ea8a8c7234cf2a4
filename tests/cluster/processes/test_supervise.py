"""A supervised command leaves nobody behind: not after SIGTERM, not after its starter was killed, not by itself."""

import os
import signal
import subprocess
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection

import pytest

from cluster.processes.map import end_with_parent
from cluster.settings import ROOT

# A server whose child moves to a session of its own and, like the server, does not mind SIGTERM. Both hold the pipe.
FAMILY = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[2] == "server":
    fd = sys.argv[1]
    subprocess.Popen([sys.executable, "-c", sys.argv[3], fd, "child"], start_new_session=True, pass_fds=[int(fd)])
    ends = len(sys.argv) > 4
else:
    os.write(int(sys.argv[1]), b"up")
    ends = False
while not ends:
    time.sleep(60)
"""
SUPERVISE = """
import os, sys
from cluster.processes import supervise
supervise.GRACE_S = 0.1
sys.exit(supervise.main(os.getppid(), sys.argv[1:]))
"""
STARTER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", *sys.argv[2:]], pass_fds=[int(sys.argv[1])], cwd=sys.path[0] or ".")
time.sleep(600)
"""


def words(fd: int, *more: str) -> list[str]:
    server = [sys.executable, "-c", FAMILY, str(fd), "server"]
    return [*server, FAMILY, *more]


@pytest.fixture
def pipe() -> tuple[int, int]:
    return os.pipe()


def all_gone(reader: int) -> bool:
    """Waits for the end of the pipe, which every process of the family holds open."""
    with os.fdopen(reader, "rb") as source:
        return source.read() == b""


def start(pipe: tuple[int, int], *command: str) -> subprocess.Popen[bytes]:
    """Start, and wait until the youngest of the family is up."""
    reader, writer = pipe
    process = subprocess.Popen([sys.executable, "-c", *command], pass_fds=[writer], cwd=ROOT)
    os.close(writer)
    assert os.read(reader, 2) == b"up"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_whole_family(pipe: tuple[int, int], number: int) -> None:
    process = start(pipe, SUPERVISE, *words(pipe[1]))
    process.send_signal(number)
    assert all_gone(pipe[0])
    assert process.wait() == 143


def test_the_family_ends_with_a_starter_that_was_killed(pipe: tuple[int, int]) -> None:
    process = start(pipe, STARTER, str(pipe[1]), SUPERVISE, *words(pipe[1]))
    process.kill()
    assert all_gone(pipe[0])
    process.wait()


def test_what_a_command_leaves_behind_ends_with_it(pipe: tuple[int, int]) -> None:
    process = start(pipe, SUPERVISE, *words(pipe[1], "ends"))
    assert all_gone(pipe[0])
    assert process.wait() == 0


def _wait_for_ever(up: Connection) -> None:
    end_with_parent()
    up.send("up")
    up.recv()  # never: the parent is killed, and this end keeps its own copy open


def _parent(up: Connection) -> None:
    context = get_context("spawn")
    context.Process(target=_wait_for_ever, args=(up,)).start()
    context.Event().wait()


@pytest.mark.dist
def test_a_pool_worker_ends_with_a_parent_that_was_killed() -> None:
    context = get_context("spawn")
    here, there = context.Pipe()
    parent = context.Process(target=_parent, args=(there,))
    parent.start()
    there.close()
    assert here.recv() == "up"
    parent.kill()
    with pytest.raises((EOFError, ConnectionResetError)):
        here.recv()
    parent.join()
