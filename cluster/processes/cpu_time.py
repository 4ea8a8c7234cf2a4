"""Processor time of this process and of everything that it started, whoever waits for it.

Ray's processes do not wait for theirs, so the kernel adds their time to nobody's: it is read from /proc while they run.
What a process takes in the last moment of its life is not counted. Where there is no /proc, only this process is.
"""

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

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
        self.root = root
        self.seen: dict[tuple[int, int], Process] = {}

    def look(self) -> None:
        """Note the time of all processes below."""
        stats: dict[int, list[str]] = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                stats[int(place.name)] = (place / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
        below = {self.root}
        while found := {pid for pid, stat in stats.items() if int(stat[1]) in below} - below:
            below |= found
        ticks = os.sysconf("SC_CLK_TCK")
        for pid in below & stats.keys() - {self.root}:
            key = pid, int(stats[pid][19])
            kind = kind_of(Path(f"/proc/{pid}/cmdline"))
            if kind in (None, OTHERS) and key in self.seen:
                kind = self.seen[key].kind  # one that ends has no command line any more
            self.seen[key] = Process(kind or OTHERS, (int(stats[pid][11]) + int(stats[pid][12])) / ticks)

    def by_kind(self) -> dict[str, float]:
        """Seconds of each kind of process that was seen."""
        found: dict[str, float] = {}
        for kind, seconds in list(self.seen.values()):
            found[kind] = found.get(kind, 0.0) + seconds
        return found


class CpuWatch:
    """A context in which a thread looks at the processes of this one every second."""

    def __init__(self) -> None:
        self._times = CpuTime(os.getpid())
        self._began = time.process_time()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-time", daemon=True)

    def __enter__(self) -> "CpuWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self._times.look()

    def seconds(self) -> dict[str, float]:
        """Seconds so far of this process since the watch was made, and of each kind of process below."""
        return {HERE: time.process_time() - self._began} | self._times.by_kind()


def kind_of(command_line: Path) -> str | None:
    """The kind of process with this command line in /proc; None where it has ended."""
    try:
        words = command_line.read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return None
    if words.startswith("ray::"):
        return TRAINING if _TRAINING_TITLE in words else RAY
    return RAY if "/ray/" in words else OTHERS
