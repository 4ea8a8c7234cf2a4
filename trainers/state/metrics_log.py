"""metrics.jsonl: one line a step, the record that outlives every restart."""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.files.json_lines import TIME, RowReader, read_rows
from cluster.files.storage import write_atomic
from cluster.processes.repeat import repeated

METRICS = "metrics.jsonl"
POLL_S = 0.5
_log = logging.getLogger(__name__)


class MetricsLog:
    """Appends rows; a resumed run first cuts the file back to its snapshot, so no step is duplicated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def cut_back(self, step: int) -> None:
        """Drop what was written after ``step``: those steps will be done again. Damaged lines go too."""
        if not self.path.exists():  # a start that is refused leaves no empty file
            return
        rows = [row for row in read_metrics(self.path) if row["step"] <= step]
        write_atomic(self.path, "".join(f"{json.dumps(row)}\n" for row in rows))

    def write(self, row: Mapping[str, float]) -> None:
        """Append a row with its ``step``; the time is added."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps({**row, TIME: time.time_ns() // 1_000_000})}\n")


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Rows in order; damaged lines, and a last line cut off by a kill, are none."""
    return read_rows(path)


@contextmanager
def follow_metrics(path: Path, *, after: int, watch: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Hand on every step of a metrics.jsonl once, in a thread, while another process writes it.

    A worker that restarts cuts the file back and writes some steps again: those that were handed on are not repeated.

    Args:
        path: the file; it may not be there yet.
        after: rows up to this step are known already.
        watch: called with each new row. An exception of its is logged once, and the next row is handed on: a run does
            not end for its progress bar.
    """
    tail = _Tail(path, after, watch)
    try:
        with repeated(tail.hand_on, POLL_S, "metrics-tail"):
            yield
    finally:
        tail.hand_on()
        tail.rows.close()


class _Tail:
    def __init__(self, path: Path, after: int, watch: Callable[[Mapping[str, Any]], None]) -> None:
        self.path, self.after, self.watch = path, after, watch
        self.rows = RowReader(path)
        self._failed = False

    def hand_on(self) -> None:
        try:
            while rows := self.rows.read():
                for row in rows:
                    self._give(row)
        except OSError as error:  # storage that does not answer now
            self._warn(error)

    def _give(self, row: Mapping[str, Any]) -> None:
        if row["step"] <= self.after:
            return
        self.after = row["step"]
        try:
            self.watch(row)
        except Exception as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            _log.warning("%s: a row after step %d was not shown (%s)", self.path, self.after, error, exc_info=error)
