"""What is known of a run, and how far MLflow has it: the folder ``RUN/tracking/``.

The rows of a run stand in ``RUN/metrics.jsonl``, which its training writes; what only its driver knows (load of the
machine, scores of a sweep, evaluations) in ``tracking/metrics.jsonl``. ``tracking/state.json`` holds parameters, tags
and the like, and a cursor into both files. What is behind the cursor is sent again after an outage or a kill, and all
of it where the store is another one. MLflow keeps a row that is sent twice once, because each has its time.
"""

import json
import logging
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, TypedDict

from cluster.files.json_lines import TIME, read_rows
from cluster.files.locks import sole_writer
from cluster.files.storage import write_atomic
from cluster.settings import RunError, UserError

STATE, ROWS = "state.json", "metrics.jsonl"
NOTHING_SENT: Mapping[str, Any] = {"step": -1, "own_bytes": 0, "facts": 0, "status": None}
_FRESH: Mapping[str, Any] = {
    "params": {},
    "tags": {},
    "datasets": [],
    "view": None,
    "files": [],
    "facts": 0,
    "status": None,
    "skipped": {},
    "sent": NOTHING_SENT,
}
_log = logging.getLogger(__name__)


class Trouble(TypedDict):
    """Why nothing is sent now."""

    text: str
    """The error in a line, without credentials."""
    refusal: bool
    """Whether it is no outage: the answer stays the same until somebody changes something."""
    remedy: str


class Note(TypedDict, total=False):
    """What became of a part of a run's log."""

    sent: Mapping[str, Any]
    """Parts of the state's ``sent``."""
    known: Mapping[str, str]
    """MLflow's ids of run and experiment."""
    skipped: Mapping[str, int]
    """Values that MLflow never takes, by name, and how many were left out so far."""
    refused: Mapping[str, str]
    """Such a value that is new: name → reason."""
    file: Mapping[str, Any]
    """A file of the state that was sent."""
    sample: tuple[int, Mapping[str, float]]
    """When the machine's load was sampled, milliseconds since 1970, and the values."""
    damaged: int
    """Lines of both logs skipped so far."""
    anew: bool
    """The MLflow run was deleted for good: all is sent to another."""
    done: bool
    """Of a round's last note: whether nothing was left."""
    trouble: Trouble
    """Of a round's last note, in place of ``done``."""


class Account:
    """One run's folder ``tracking``, open in one process at a time; raises UserError where another has it open."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / "tracking"
        self._lock = threading.RLock()
        self._closing = ExitStack()
        self._closing.enter_context(sole_writer(self.folder, "stop it"))
        try:
            self.state = _usable_state(self.folder / STATE)
            self.last_steps = self._last_steps()
        except BaseException:
            self._closing.close()
            raise
        self._open, self._warned, self._unwritten, self._damaged = True, False, b"", 0

    def set_home(self, uri: str, experiment: str) -> None:
        """Note store and experiment; where they are others than before, everything will be sent there."""
        home = {"uri": uri, "experiment": experiment}
        if any(self.state.get(key, value) != value for key, value in home.items()):
            self.forget_sent()
        self.state |= home

    def forget_sent(self) -> None:
        """Send everything anew: the run is not in MLflow, or not where it is wanted."""
        with self._lock:
            for key in ("run_id", "experiment_id"):
                self.state.pop(key, None)
            self.state |= {"sent": dict(NOTHING_SENT), "skipped": {}}

    @contextmanager
    def changing(self) -> Iterator[dict[str, Any]]:
        """The state, to be changed by one thread at a time and saved then; not after `close`."""
        with self._lock:
            yield self.state
            self._save()

    def snapshot(self) -> dict[str, Any]:
        """The state as it is now."""
        with self._lock:
            return deepcopy(self.state)

    def take(self, note: Note) -> bool:
        """Take down what was sent; False after `close`: the folder is another's then."""
        with self._lock:
            if not self._open:
                return False
            if note.get("anew"):
                self.forget_sent()
            for name, reason in note.get("refused", {}).items():
                _log.warning("MLflow refuses %s, it is left out: %s", name, reason)
            if "file" in note:
                self._remove_file(note["file"])
            if "sample" in note:
                time_ms, values = note["sample"]
                step = 1 + max((self.last_steps.get(key, -1) for key in values), default=-1)
                self.add_row(values, step, time_ms)
            self._damaged = note.get("damaged", self._damaged)
            new: dict[str, Any] = {**note.get("known", {}), "sent": {**self.state["sent"], **note.get("sent", {})}}
            new["skipped"] = note.get("skipped", self.state["skipped"])
            if any(self.state.get(key) != value for key, value in new.items()):
                self.state |= new
                self._save()
            return True

    def add_row(self, values: Mapping[str, float], step: int, time_ms: int | None = None) -> None:
        """Append a row of the driver's own. On a full disk it waits in memory for the next one, with a warning."""
        row = {"step": int(step), TIME: now_ms() if time_ms is None else time_ms, **values}
        with self._lock:
            self.last_steps.update(dict.fromkeys(values, step))
            self._unwritten += json.dumps(row, separators=(",", ":")).encode() + b"\n"
            self._write_rows()

    def add_file(self, path: Path, record: Mapping[str, Any]) -> None:
        """Keep a copy of a file, and what it is to MLflow, until it is sent."""
        name = f"{uuid.uuid4().hex}/{path.name}"
        copy = self.folder / "files" / name
        copy.parent.mkdir(parents=True)
        shutil.copyfile(path, copy)
        with self.changing() as state:
            state["files"].append({**record, "path": name})

    def _remove_file(self, file: Mapping[str, Any]) -> None:
        """Delete a copy that was sent."""
        with self.changing() as state:
            state["files"].remove(file)
        shutil.rmtree((self.folder / "files" / file["path"]).parent, ignore_errors=True)

    def close(self) -> None:
        """Let another process open it."""
        with self._lock:
            if not self._open:
                return
            self._write_rows()
            self._save()
            if self._unwritten:
                _log.warning("%s: %d rows are lost, the disk is full", self.folder, self._unwritten.count(b"\n"))
            if self._damaged:
                _log.warning("%s: %d damaged lines were skipped", self.folder.parent, self._damaged)
            self._open = False
            self._closing.close()

    def _last_steps(self) -> dict[str, int]:
        """Of each curve of the driver's own; a line that a kill left half written is ended, and then skipped."""
        path = self.folder / ROWS
        steps: dict[str, int] = {}
        if path.exists():
            with path.open("rb+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
        for row in read_rows(path):
            steps |= {key: int(row["step"]) for key in row.keys() - {"step", TIME}}
        return steps

    def _write_rows(self) -> None:
        if not self._open or not self._unwritten:
            return
        try:
            with (self.folder / ROWS).open("ab", buffering=0) as file:
                end = file.seek(0, os.SEEK_END)
                try:
                    left = self._unwritten
                    while left:  # a disk that fills up takes a part
                        left = left[file.write(left) :]
                except OSError:
                    file.truncate(end)  # the next row must not be glued to it
                    raise
            self._unwritten = b""
        except OSError as error:
            self._warn(error)

    def _save(self) -> None:
        if not self._open:  # it is another's now
            return
        try:
            write_atomic(self.folder / STATE, json.dumps(self.state))
        except (OSError, RunError) as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s: cannot be written now (%s); it is tried again", self.folder, error)


def now_ms() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def read_state(path: Path) -> dict[str, Any]:
    """What a run's state.json holds; nothing where it is not there. Raises UserError if it is damaged."""
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if "uri" not in state.keys():  # noqa: SIM118 - a list has none
            return {}
        if not (state.keys() >= _FRESH.keys() and state["sent"].keys() >= NOTHING_SENT.keys()):
            raise ValueError("keys are missing")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: is damaged ({type(error).__name__}: {error}); delete it, and the run's next start sends "
            "everything to a new MLflow run"
        ) from None
    return state


def is_waiting(run_dir: Path) -> bool:
    """Whether MLflow lacks something of a run, as its folder says; nothing is opened for writing.
    Raises UserError if the run's state is damaged.
    """
    state = read_state(run_dir / "tracking" / STATE)
    if "uri" not in state:
        return False
    sent = state["sent"]
    own = run_dir / "tracking" / ROWS
    return bool(
        state["files"]
        or sent["facts"] != state["facts"]
        or sent["status"] != state["status"]
        or (own.stat().st_size if own.exists() else 0) > sent["own_bytes"]
        or any(row["step"] > sent["step"] for row in read_rows(run_dir / ROWS))
    )


def _usable_state(path: Path) -> dict[str, Any]:
    """The state to go on with; a damaged one is set aside, and everything is sent to a new MLflow run."""
    try:
        state = read_state(path)
    except UserError as error:
        aside = path.with_suffix(".damaged")
        path.replace(aside)
        _log.warning("%s; it is kept as %s, and the run is a new one in MLflow", error, aside)
        state = {}
    own = {"identity": uuid.uuid4().hex, "started_ms": now_ms()}
    return deepcopy(dict(_FRESH)) | own | state
