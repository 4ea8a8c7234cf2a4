"""Processor time of this process and of everything that it started, whoever waits for it.

Ray's processes do not wait for theirs, so the kernel adds their time to nobody's: it is read while they run. What a
process takes in the last moment of its life is not counted.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import psutil

from cluster.processes.repeat import repeated

LOOK_EVERY_S = 1.0
HERE, TRAINING, RAY, OTHERS = "this process", "training workers", "Ray", "other processes"
_TRAINING_TITLE = "TrainWorker"
"""In the title that Ray gives the processes which train."""


class Process(NamedTuple):
    """A process that was seen, perhaps for the last time."""

    kind: str
    seconds: float


class CpuTime:
    """What was seen of the processes below one, by number and start."""

    def __init__(self, root: int) -> None:
        self.root = psutil.Process(root)
        self.seen: dict[tuple[int, float], Process] = {}

    def look(self) -> None:
        """Note the time of all processes below."""
        for child in self.root.children(recursive=True):
            with suppress(psutil.Error):  # it ended meanwhile
                key, taken = (child.pid, child.create_time()), child.cpu_times()
                kind = self.seen[key].kind if key in self.seen else OTHERS  # one that ends has no command line any more
                self.seen[key] = Process(kind, taken.user + taken.system)
                if (found := kind_of(child.cmdline())) != OTHERS:
                    self.seen[key] = Process(found, taken.user + taken.system)

    def by_kind(self) -> dict[str, float]:
        """Seconds of each kind of process that was seen."""
        found: dict[str, float] = {}
        for kind, seconds in list(self.seen.values()):
            found[kind] = found.get(kind, 0.0) + seconds
        return found


@contextmanager
def cpu_watch() -> Iterator[Callable[[], dict[str, float]]]:
    """Look at the processes of this one every second; gives a function that says the seconds so far, of this process
    since the watch began and of each kind of process below.
    """
    times, began = CpuTime(os.getpid()), time.process_time()
    with repeated(times.look, LOOK_EVERY_S, "cpu-time"):
        yield lambda: {HERE: time.process_time() - began} | times.by_kind()


def kind_of(command: Sequence[str]) -> str:
    """The kind of process with this command line."""
    words = " ".join(command)
    if words.startswith("ray::"):
        return TRAINING if _TRAINING_TITLE in words else RAY
    return RAY if "/ray/" in words else OTHERS
