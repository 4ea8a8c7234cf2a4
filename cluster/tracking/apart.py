"""A process that sends the logs of this one's runs to MLflow, so that training's interpreter only writes them.

It does what the thread of a driver does, by the same `delivery`: it follows a run's logs on disk, and is handed the
account's state round by round. MLflow is imported there alone. All runs of a process share one, which stays for the
next; docs/decisions/021-sending-apart.md has the reasons.

It ends with the process that started it, however that ends, because the kernel closes their socket. It does not send
the rest first: nothing is marked as sent but by the account, so the next start of the run, or `replay`, goes on there.
"""

import os
import select
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from cluster.tracking.account import Note, Trouble
from cluster.tracking.delivery import Delivery, first_line

LOOK_EVERY_MS = 1000
"""How often the process looks whether its parent is still there: a fork of the parent may hold the socket open."""
_MAIN = "from cluster.tracking.apart import main; main()"
_ROOT = Path(__file__).parents[2]
_starting = threading.Lock()


class Apart:
    """A `Delivery` in the process that sends."""

    def __init__(self, folder: Path, _state: Mapping[str, Any], system_metrics_s: float = 0.0) -> None:
        self.over = threading.Event()
        """Set where nothing is sent any more."""
        self._key = uuid.uuid4().hex
        self._about = folder.absolute(), system_metrics_s
        self._process: _Process | None = None
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


class _Process:
    """The process that sends, as its parent has it."""

    def __init__(self) -> None:
        self.owner, self.environment = os.getpid(), _of_mlflow()
        self._asking = threading.Lock()
        self._connection, theirs = Pipe()
        # A session of its own: Ctrl-C in a terminal is for the parent, which asks for the end in order.
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-c", _MAIN, str(theirs.fileno()), str(self.owner)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # ours is the command's, and may be JSON
                pass_fds=[theirs.fileno()],
                start_new_session=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([*filter(None, sys.path), str(_ROOT)])},
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def usable(self) -> bool:
        """Whether it is there, for this process and with this environment."""
        return self.owner == os.getpid() and self.environment == _of_mlflow() and self._child.poll() is None

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

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()


_running: _Process | None = None


def running() -> _Process:
    """The process that sends for this one; started where there is none, or none with this environment.
    Raises OSError if it cannot be started.
    """
    global _running
    with _starting:
        if _running is None or not _running.usable():
            if _running and _running.owner == os.getpid():
                _running.kill()
            _running = _Process()
        return _running


def is_running() -> bool:
    """Whether this process has one that sends."""
    return _running is not None and _running.usable()


def _of_mlflow() -> dict[str, str]:
    """What the environment says to MLflow: the store with its password, certificates, time-outs."""
    return {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}


def main() -> None:
    """Be the process that sends: the socket's number and the parent's are the command's arguments."""
    handle, parent = map(int, sys.argv[1:])
    for number in (signal.SIGINT, signal.SIGTERM):  # a machine's shutdown asks everybody; the parent still has rows
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(handle, parent), daemon=True).start()
    serve(Connection(handle))
    os._exit(0)  # MLflow's own threads are not waited for


def serve(connection: Connection) -> None:
    """Rounds of runs as they are asked for, until the other end is closed."""
    deliveries: dict[str, Delivery] = {}
    with suppress(EOFError, OSError):
        while True:
            key, folder, system_metrics_s, state = connection.recv()
            if state is None:
                if key in deliveries:
                    deliveries.pop(key).close()
                continue
            try:
                if key not in deliveries:
                    deliveries[key] = Delivery(folder, state, system_metrics_s)
            except Exception as error:  # MLflow that cannot be imported, each with its own
                trouble = Trouble(text=first_line(error), refusal=True, remedy="try: counterpoint doctor")
                connection.send(Note(trouble=trouble))
                continue
            for note in deliveries[key].round(state):
                connection.send(note)


def _end_with(handle: int, parent: int) -> None:
    """End this process when its parent has: at once, whatever is under way."""
    poll = select.poll()
    poll.register(handle, 0)  # that the other end was closed is reported always
    while not poll.poll(LOOK_EVERY_MS) and os.getppid() == parent:
        pass
    os._exit(0)
