"""A process that sends the logs of this one's runs to MLflow, so that training's interpreter only writes them.

It does what the thread of a driver does, by the same `delivery`: it follows a run's logs on disk, and is handed the
account's state round by round. MLflow is imported there alone. All runs of a process share one, which stays for the
next, and a sweep offers its own to its trials (`shared`); docs/decisions/021-sending-apart.md has the reasons. What
runs in it is in `serving`.

It ends with the process that started it, however that ends, because the kernel closes their socket. It does not send
the rest first: nothing is marked as sent but by the account, so the next start of the run, or `replay`, goes on there.
"""

import os
import socket
import subprocess
import sys
import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from cluster.tracking.account import Note, Trouble
from cluster.tracking.delivery import first_line
from cluster.tracking.serving import of_mlflow

OFFER = "COUNTERPOINT_SENDER"
"""Variable with the socket of a process that sends for the children of the one that started it."""
ANSWER_S = 10.0
"""A process that does not answer so long is not asked to send."""
LONGEST_PATH = 107
"""Bytes of a socket's path, by Linux."""
_MAIN = "from cluster.tracking.serving import main; main()"
_ROOT = Path(__file__).parents[2]
_starting = threading.Lock()


class Apart:
    """A `Delivery` in the process that sends."""

    def __init__(self, folder: Path, _state: Mapping[str, Any], system_metrics_s: float = 0.0) -> None:
        self.over = threading.Event()
        """Set where nothing is sent any more."""
        self._key = uuid.uuid4().hex
        self._about = folder.absolute(), system_metrics_s
        self._process: _Sender | None = None
        self._under_way = threading.Lock()

    def round(self, state: Mapping[str, Any]) -> Iterator[Note]:
        """As `Delivery.round`. Where the process was killed, the next round starts another."""
        with self._under_way:
            try:
                self._process = running()
                yield from self._process.ask(self._key, *self._about, state)
            except (EOFError, OSError) as error:
                yield Note(
                    trouble=Trouble(
                        text=f"the process that sends has ended, {first_line(error)}",
                        refusal=False,
                        remedy="was it killed for memory? Once there is some",
                    )
                )

    def close(self) -> None:
        """Let the run go; where a round is still under way, the process that does not answer is killed."""
        if self._under_way.acquire(blocking=False):
            if self._process:
                self._process.forget(self._key)
            self._under_way.release()
        elif self._process:
            self._process.kill()


class _Sender(ABC):
    """A process that sends, as a process whose runs it sends for has it."""

    pid: int
    """Of the process that sends."""

    def __init__(self, connection: Connection) -> None:
        self.owner, self.environment = os.getpid(), of_mlflow()
        self._asking = threading.Lock()
        self._connection = connection

    def usable(self) -> bool:
        """Whether it is there, for this process and with this environment."""
        return self.owner == os.getpid() and self.environment == of_mlflow()

    def ask(self, key: str, folder: Path, system_metrics_s: float, state: Mapping[str, Any]) -> Iterator[Note]:
        """A round of one run. Raises EOFError or OSError if the process has ended."""
        with self._asking:
            whole = False
            try:
                self._connection.send((key, folder, system_metrics_s, state))
                while not whole:
                    note: Note = self._connection.recv()
                    whole = "done" in note or "trouble" in note
                    yield note
            finally:
                if not whole:  # it has ended, or what it answers is no longer read
                    self.kill()

    def forget(self, key: str) -> None:
        """A run has ended."""
        with self._asking, suppress(OSError):
            self._connection.send((key, None, 0.0, None))

    @abstractmethod
    def kill(self) -> None:
        """Ask it no more; what it was asked is given up."""


class _Offer(NamedTuple):
    """Where others may ask the process that sends for this one."""

    path: str
    listening: socket.socket


class _OwnSender(_Sender):
    """One that this process starts; killing it ends it."""

    def __init__(self) -> None:
        ours, theirs = Pipe()
        super().__init__(ours)
        self._offer = _offer
        given = [theirs.fileno(), *([_offer.listening.fileno()] if _offer else [])]
        numbers = [str(given[0]), str(self.owner), *map(str, given[1:])]
        # A session of its own: Ctrl-C in a terminal is for the parent, which asks for the end in order.
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, *numbers],
                stdin=subprocess.DEVNULL,
                stdout=2,  # ours is the command's, and may be JSON
                pass_fds=given,
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(_ROOT)])},
            )
        self.pid = self._child.pid

    def usable(self) -> bool:
        return super().usable() and self._child.poll() is None and _offer in (None, self._offer)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()


class _ParentsSender(_Sender):
    """The one of the process that started this one; killing it closes the connection alone, for it serves others too.

    Raises:
        EOFError, OSError: if it is not there, has no place, or has another environment.
    """

    def __init__(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.connect(path)
            super().__init__(Connection(connected.detach()))
        self._connection.send(self.environment)
        self.pid = self._connection.recv() if self._connection.poll(ANSWER_S) else 0
        if not self.pid:
            self.kill()
            raise ConnectionRefusedError(path)
        self._gone = False

    def usable(self) -> bool:
        return super().usable() and not self._gone

    def kill(self) -> None:
        self._gone = True
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as copy:
            copy.shutdown(socket.SHUT_RDWR)  # wakes who waits for an answer; closing does not


_offer: _Offer | None = None
_running: _Sender | None = None


@contextmanager
def shared() -> Iterator[None]:
    """Within, some of the processes that this one starts send through the one that sends for it.

    They find it by the environment. Those on other machines, and all but the first few (`serving.MOST`), have their
    own.
    """
    global _offer
    with TemporaryDirectory(prefix="counterpoint-") as folder, socket.socket(socket.AF_UNIX) as listening:
        path = str(Path(folder, "sender"))
        if len(os.fsencode(path)) <= LONGEST_PATH:
            listening.bind(path)
            listening.listen()
            _offer = _Offer(path, listening)
            os.environ[OFFER] = path
        try:
            yield
        finally:
            _offer = None
            os.environ.pop(OFFER, None)


def running() -> _Sender:
    """The process that sends for this one; started where there is none, or none with this environment.
    Raises OSError if it cannot be started.
    """
    global _running
    with _starting:
        if _running is None or not _running.usable():
            if _running and _running.owner == os.getpid():
                _running.kill()
            _running = _offered() or _OwnSender()
        return _running


def _offered() -> _Sender | None:
    """That of the process which started this one, if it takes this one."""
    path = os.environ.get(OFFER)
    if path is None or _offer:
        return None
    try:
        return _ParentsSender(path)
    except (EOFError, OSError):
        return None


def is_running() -> bool:
    """Whether this process has one that sends."""
    return _running is not None and _running.usable()
