"""The process that sends: what runs there. `apart` starts it, and asks it.

It sends for the process that started it and, where that offers it (`apart.shared`), for some of that one's children.
"""

import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from multiprocessing.connection import Connection

from cluster.tracking.account import Note, Trouble
from cluster.tracking.delivery import Delivery, first_line

MOST = 4
"""Other processes that it sends for: MLflow takes some 15 ms of one core for a step of 128 curves."""
LOOK_EVERY_MS = 1000
"""How often the process looks whether its parent is still there: a fork of the parent may hold the socket open."""
_first_rounds = threading.Lock()
"""MLflow breaks if two threads import it at once, and a store is made once."""


def of_mlflow() -> dict[str, str]:
    """What the environment says to MLflow: the store with its password, certificates, time-outs."""
    return {key: value for key, value in os.environ.items() if key.startswith("MLFLOW_")}


def main() -> None:
    """Be the process that sends; the command's arguments are the numbers of the socket to the parent, of the parent,
    and of the socket where others may ask, if they may.
    """
    handle, parent, *offered = map(int, sys.argv[1:])
    for asked in (signal.SIGINT, signal.SIGTERM):  # a machine's shutdown asks everybody; the parent still has rows
        signal.signal(asked, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(handle, parent), daemon=True).start()
    for number in offered:
        threading.Thread(target=_listen, args=(number, of_mlflow()), daemon=True).start()
    serve(Connection(handle))
    os._exit(0)  # MLflow's own threads are not waited for


def serve(connection: Connection) -> None:
    """Rounds of runs as they are asked for, until the other end is closed."""
    deliveries: dict[str, Delivery] = {}
    begun: set[str] = set()
    with suppress(EOFError, OSError):
        while True:
            key, folder, system_metrics_s, state = connection.recv()
            if state is None:
                if key in deliveries:
                    deliveries.pop(key).close()
                continue
            with nullcontext() if key in begun else _first_rounds:
                try:
                    if key not in deliveries:
                        deliveries[key] = Delivery(folder, state, system_metrics_s)
                except Exception as error:  # MLflow that cannot be imported, each with its own
                    trouble = Trouble(text=first_line(error), refusal=True, remedy="try: counterpoint doctor")
                    connection.send(Note(trouble=trouble))
                    continue
                for note in deliveries[key].round(state):
                    connection.send(note)
                    if "done" in note:
                        begun.add(key)
    for delivery in deliveries.values():
        delivery.close()


def _listen(number: int, environment: Mapping[str, str]) -> None:
    """Serve those who ask, each in a thread."""
    places = threading.Semaphore(MOST)
    with socket.socket(fileno=number) as listening:
        while True:
            other = Connection(listening.accept()[0].detach())
            threading.Thread(target=_serve_other, args=(other, environment, places), daemon=True).start()


def _serve_other(other: Connection, environment: Mapping[str, str], places: threading.Semaphore) -> None:
    """Serve one that has the same environment, while there is a place; the answer is this process's number, or 0."""
    with other, suppress(EOFError, OSError):
        if other.recv() != environment or not places.acquire(blocking=False):
            other.send(0)
            return
        try:
            other.send(os.getpid())
            serve(other)
        finally:
            places.release()


def _end_with(handle: int, parent: int) -> None:
    """End this process when its parent has: at once, whatever is under way."""
    poll = select.poll()
    poll.register(handle, 0)  # that the other end was closed is reported always
    while not poll.poll(LOOK_EVERY_MS) and os.getppid() == parent:
        pass
    os._exit(0)
