"""metrics.jsonl: one line a step, the record that outlives every restart."""

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cluster.storage import write_atomic

POLL_S = 0.5
_log = logging.getLogger(__name__)


class MetricsLog:
    """Appends rows; a resumed run first cuts the file back to its snapshot, so every step stands once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def cut_back(self, step: int) -> None:
        """Drop what was written after ``step``: those steps will be done again."""
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_atomic(self.path, "".join(f"{json.dumps(row)}\n" for row in rows))

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row with its ``step``."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(row)}\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Rows in order. A last line cut off by a kill is not a row."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


class MetricsTail:
    """Follows a metrics.jsonl that another process writes, and hands on every step once, in a thread of this one.

    A worker that restarts cuts the file back and writes some steps again: those that were handed on are not repeated.

    Args:
        path: the file; it may not be there yet.
        after: rows up to this step are known already.
        watch: called with each new row. Where it raises, the rest of the rows goes unwatched and the log says so: a run
            is worth more than its audience.
    """

    def __init__(self, path: Path, *, after: int, watch: Callable[[Mapping[str, Any]], None]) -> None:
        self.path, self.after, self.watch = path, after, watch
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="metrics-tail", daemon=True)
        self._seen = (0, 0)

    def __enter__(self) -> "MetricsTail":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        try:
            while not self._ended.wait(POLL_S):
                self._read()
            self._read()
        except Exception:
            _log.exception("the figures of %s after step %d are shown nowhere else", self.path, self.after)

    def _read(self) -> None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return
        inode, offset = self._seen
        if inode != found.st_ino or offset > found.st_size:
            offset = 0
        with self.path.open("rb") as file:
            file.seek(offset)
            whole = file.read().rpartition(b"\n")[0]
        self._seen = (found.st_ino, offset + len(whole) + bool(whole))
        for line in whole.splitlines():
            row = json.loads(line)
            if row["step"] > self.after:
                self.after = row["step"]
                self.watch(row)
