"""Rows of metrics: one JSON object a line, ``{"step": 3, "loss": 0.5}``, as metrics.jsonl has them.

A reader never trusts a line: one that was half written, is no text, no object, has no step or a value that is no number
is skipped and counted.
"""

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

TIME = "time_ms"
"""When a row was written, milliseconds since 1970; no metric."""
CHUNK_BYTES = 1 << 18
LARGEST_STEP = 2**63 - 1
_log = logging.getLogger(__name__)

Row = dict[str, Any]


def parse_row(line: bytes) -> Row | None:
    """A row with an integer step ≥ 0 and numbers, or None where the line is damaged.

    >>> parse_row(b'{"step": 3, "loss": 0.5}')
    {'step': 3, 'loss': 0.5}
    >>> parse_row(b'{"step": 3, "lo'), parse_row(b'{"step": true}'), parse_row(b'{"step": 1, "loss": "low"}')
    (None, None, None)
    """
    try:
        row: Row = json.loads(line)
        values = [float(value) for value in row.values() if type(value) in (int, float)]
        valid = len(values) == len(row) and type(row["step"]) is int and 0 <= row["step"] <= LARGEST_STEP
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return None
    return row if valid else None


class RowReader:
    """Reads what is new behind ``offset`` in a file of rows that is appended to, or replaced by another of the same
    name; it may not be there yet.
    """

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.path, self.offset = path, offset
        self.damaged = 0
        """Lines skipped so far."""
        self._file: BinaryIO | None = None

    def read(self) -> list[Row]:
        """New rows, those of a large file in parts; a last line without its end is none yet.
        Raises OSError if the file cannot be read now.
        """
        while self._is_open():
            assert self._file is not None
            self._file.seek(self.offset)
            chunk = self._file.read(CHUNK_BYTES)
            if b"\n" not in chunk:
                chunk += self._file.readline()  # a line longer than a part
            whole = chunk[: chunk.rfind(b"\n") + 1]
            self.offset += len(whole)
            rows = [parse_row(line) for line in whole.split(b"\n")[:-1]]
            self.damaged += rows.count(None)
            if any(rows) or not whole:
                return [row for row in rows if row is not None]
        return []

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_open(self) -> bool:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return False
        # The open file keeps its inode from being given to the one that replaces it.
        if self._file is not None and not os.path.samestat(os.fstat(self._file.fileno()), found):
            self.close()
            self.offset = 0
        self._file = self._file or self.path.open("rb")
        if self.offset > found.st_size:
            self.offset = 0
        return True


def read_rows(path: Path) -> Iterator[Row]:
    """All rows of a file, in order; a warning counts the damaged lines."""
    reader = RowReader(path)
    try:
        while rows := reader.read():
            yield from rows
    finally:
        reader.close()
    if reader.damaged:
        _log.warning("%s: %d damaged lines were skipped", path, reader.damaged)
