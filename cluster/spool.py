"""An append-only queue on disk: what is put in is sent once, whatever dies in between.

Records are JSON lines in ``records-G.jsonl``; ``state.json`` says how far they are sent. A sender reads, sends and then
moves the mark, so a record may be sent again after a kill, never lost: the receiver must not mind it coming twice.
"""

import fcntl
import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.settings import UserError
from cluster.storage import write_atomic

KEEP_BYTES = 4 << 20
"""A sent file above this size makes room for the next generation."""
_log = logging.getLogger(__name__)


def waiting_bytes(folder: Path) -> int:
    """What a spool has not marked as sent, as its disk tells without opening it.

    Raises:
        UserError: if its mark cannot be read.
    """
    mark = folder / "state.json"
    try:
        state = json.loads(mark.read_text(encoding="utf-8"))
        size = (folder / f"records-{state['generation']}.jsonl").stat().st_size
        return size - int(state["offset"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{mark}: is damaged ({error}): what waits there cannot be told") from None


class Spool:
    """One run's queue; one process at a time has it open, one thread puts and one takes.

    Raises:
        UserError: if another process has it open.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._lock = threading.Lock()
        self._open = True
        self._damaged = (0, -1)  # the last line that was named: generation and offset
        self._owner = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._owner)
            raise UserError(f"{folder.parent}: another process is running there; wait for it, or stop it") from None
        mark = folder / "state.json"
        self.state: dict[str, Any] = json.loads(mark.read_text(encoding="utf-8")) if mark.exists() else {}
        self._generation: int = self.state.setdefault("generation", 0)
        for file in folder.glob("records-*.jsonl"):
            if file != self._path():
                file.unlink()  # sent whole before the kill that left it
        self.offset: int = self.state.setdefault("offset", 0)
        self._file = self._open_whole()

    def put(self, record: Mapping[str, Any]) -> None:
        """Append a record of plain JSON types; it survives a kill of this process once this returns.

        Raises:
            OSError: if the disk takes no more; nothing of the record stays.
        """
        line = memoryview(json.dumps(record, separators=(",", ":")).encode() + b"\n")
        with self._lock:
            whole = os.fstat(self._file).st_size
            try:
                while line:
                    line = line[os.write(self._file, line) :]  # a disk that fills up takes a part
            except OSError:
                os.ftruncate(self._file, whole)  # the next record must not be glued to it
                raise

    def take(self, most: int = 1000) -> tuple[list[dict[str, Any]], int]:
        """The oldest records not marked as sent, and the mark that covers them.

        A line that is no record is left out and named once.
        """
        records: list[dict[str, Any]] = []
        end = self.offset
        with self._path().open("rb") as file:
            file.seek(self.offset)
            for line in file:
                if len(records) == most or not line.endswith(b"\n"):
                    break
                try:
                    records.append(json.loads(line))
                except ValueError:  # no JSON, or no text at all
                    self._tell_damaged(end)
                end += len(line)
        return records, end

    def waiting(self) -> int:
        """Bytes not yet marked as sent."""
        return self._path().stat().st_size - self.offset

    def mark(self, end: int) -> bool:
        """Remember on disk that everything before ``end`` is sent, with whatever ``state`` holds now.

        Returns:
            False where the spool was closed meanwhile: it is another's now.
        """
        old = self._path()
        with self._lock:  # a record put meanwhile must not go to a file that is on its way out
            if not self._open:
                return False
            self.offset = end
            full = end >= KEEP_BYTES and end == old.stat().st_size
            if full:
                self._generation, self.offset = self._generation + 1, 0
            self.state |= {"generation": self._generation, "offset": self.offset}
            write_atomic(self.folder / "state.json", json.dumps(self.state))
            if full:
                os.close(self._file)
                self._file = self._open_whole()
                old.unlink()
            return True

    def close(self) -> None:
        """Let another open it."""
        with self._lock:
            self._open = False
            os.close(self._file)
            fcntl.flock(self._owner, fcntl.LOCK_UN)  # a forked child may hold a copy of the handle
            os.close(self._owner)

    def _tell_damaged(self, offset: int) -> None:
        if (self._generation, offset) > self._damaged:  # it is read again and again while MLflow is away
            self._damaged = (self._generation, offset)
            _log.warning("%s: the line at byte %d is damaged, it is left out", self._path(), offset)

    def _path(self) -> Path:
        return self.folder / f"records-{self._generation}.jsonl"

    def _open_whole(self) -> int:
        """Open for appending, cutting off the line that a kill left half written."""
        handle = os.open(self._path(), os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        content = self._path().read_bytes()
        os.ftruncate(handle, content.rfind(b"\n") + 1)
        return handle
