"""What MLflow lacks of one run, sent in order: facts, files, the rows of both logs, the end.

It works where MLflow is imported: in a thread of the process that tracks the run (`sender`), or in a process of its own
(`apart`). It follows the logs on disk and writes nothing there; what becomes of them goes back as notes, which the
account takes down.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from cluster.files.json_lines import TIME, Row, RowReader
from cluster.files.storage import without_credentials
from cluster.tracking.account import NOTHING_SENT, ROWS, STATE, Note, Trouble, now_ms, read_state
from cluster.tracking.pages import curve_name
from cluster.tracking.store import MlflowStore, Refused, is_refusal, remedy
from cluster.tracking.system_metrics import sampled_load

_NAMED = {"metrics": "metric", "params": "parameter", "tags": "tag"}
_KNOWN = ("run_id", "experiment_id")

Record = dict[str, Any]


class Delivery:
    """Sends one run's log, round by round.

    Args:
        folder: the account's.
        state: of the account.
        system_metrics_s: seconds between samples of the machine's load, which are noted; 0 = none.
    """

    def __init__(self, folder: Path, state: Mapping[str, Any], system_metrics_s: float = 0.0) -> None:
        self.over = threading.Event()
        """Set where nothing is sent any more: Python may be shutting down under a request."""
        self._folder, self._started_ms = folder, int(state["started_ms"])
        self._uri, parent = state["uri"], state["parent"]
        self._store_state = {key: state[key] for key in ("identity", "name", "started_ms", *_KNOWN) if key in state}
        self._store = MlflowStore(self._uri, state["experiment"], self._store_state, lambda: _run_id(parent))
        self._skipped = dict(state["skipped"])
        self._rows: list[Row] = []
        self._cursor: dict[str, Any] = {}
        self._follow(state["sent"])
        self._samples: SimpleQueue[tuple[int, Mapping[str, float]]] = SimpleQueue()
        self._system = ExitStack()
        if system_metrics_s:
            self._system.enter_context(sampled_load(system_metrics_s, self._sampled))

    def round(self, state: Mapping[str, Any]) -> Iterator[Note]:
        """Send what there is of an account in its ``state`` of now.
        The last note says whether that was all, or what the trouble is; nothing is raised.
        """
        try:
            yield from self._send(state)
        except Exception as error:  # an outage: requests, sqlalchemy and MLflow itself have their own errors
            note = Note(trouble=trouble_of(error, self._uri))
            if "run_id" not in self._store_state and "run_id" in state:  # deleted for good: there will be a new one
                self._rows, self._skipped = [], {}
                self._follow(NOTHING_SENT)
                note["anew"] = True
            yield note

    def close(self) -> None:
        """Sample and read nothing any more."""
        self._system.close()
        self._training.close()
        self._own.close()

    def _send(self, state: Mapping[str, Any]) -> Iterator[Note]:
        running = state["status"]["status"] == "RUNNING"
        if not running:
            self._system.close()
        more = False
        while not self._samples.empty():  # first: an outage must not keep them here
            yield Note(sample=self._samples.get())
            more = True  # a row of the driver's own, once it is taken down
        if running:
            yield from self._send_status(state)
        if state["facts"] != state["sent"]["facts"]:
            yield from self._bring(_facts(state))
            yield self._noted({"facts": state["facts"]})
        for file in state["files"]:
            path = self._folder / "files" / file["path"]
            yield from self._bring([{**file, "path": str(path.absolute())}])
            yield Note(file=file)
        if not self._rows:
            self._rows, self._cursor = self._unsent(state["sent"]["step"])
        more = more or bool(self._rows)
        yield from self._bring([_metrics(row) for row in self._rows])
        self._rows = []
        yield self._noted(self._cursor)
        if not more:
            yield from self._send_status(state)
        yield Note(done=not more)

    def _send_status(self, state: Mapping[str, Any]) -> Iterator[Note]:
        if state["status"] != state["sent"]["status"]:
            yield from self._bring([{"kind": "status", **state["status"]}])
            yield self._noted({"status": state["status"]})

    def _noted(self, sent: Mapping[str, Any]) -> Note:
        known = {key: self._store_state[key] for key in _KNOWN if key in self._store_state}
        damaged = self._training.damaged + self._own.damaged
        return Note(sent=sent, known=known, skipped=dict(self._skipped), damaged=damaged)

    def _bring(self, records: Sequence[Record]) -> Iterator[Note]:
        """Send records; values that MLflow can never take are left out, counted by name, and noted once."""
        records = [kept for record in records if (kept := self._without_skipped(record)) is not None]
        if not records:
            return
        try:
            self._store.send(records)
        except Refused:
            if self.over.is_set():
                raise
            for name, group in _by_name(records):
                try:
                    self._store.send(group)
                except Refused as error:
                    self._skipped[name] = len(group)
                    yield Note(refused={name: str(error)}, skipped=dict(self._skipped))

    def _without_skipped(self, record: Record) -> Record | None:
        """A record without the values that MLflow refused before, which are counted; None where nothing is left."""
        if record["kind"] not in _NAMED:
            return record
        for key in record["values"]:
            if _name(record, key) in self._skipped and record["kind"] == "metrics":
                self._skipped[_name(record, key)] += 1
        values = {key: value for key, value in record["values"].items() if _name(record, key) not in self._skipped}
        return record | {"values": values} if values else None

    def _follow(self, sent: Mapping[str, Any]) -> None:
        """Read both logs, from where MLflow has them."""
        self._training = RowReader(self._folder.parent / ROWS)
        self._own = RowReader(self._folder / ROWS, sent["own_bytes"])
        self._own_sent = sent["own_bytes"]

    def _unsent(self, sent_step: int) -> tuple[list[Row], dict[str, Any]]:
        """The next rows that MLflow does not have, and how the cursor stands once it has them."""
        try:
            rows = [row for row in self._training.read() if row["step"] > sent_step]
            own = self._own.read()
        except OSError:
            self._follow({"own_bytes": self._own_sent})  # what was read is not lost
            raise
        self._own_sent = self._own.offset
        timed = [_as_curves(self._with_time(row)) for row in rows] + [self._with_time(row) for row in own]
        return timed, {"step": max([sent_step, *(row["step"] for row in rows)]), "own_bytes": self._own_sent}

    def _with_time(self, row: Row) -> Row:
        """A row without a time has one too, the same whenever it is sent."""
        given = row.get(TIME)
        return row if type(given) is int and given >= 0 else row | {TIME: self._started_ms + row["step"]}

    def _sampled(self, values: Mapping[str, float]) -> None:
        self._samples.put((now_ms(), values))


def trouble_of(error: Exception, uri: str) -> Trouble:
    """An error of MLflow, its store or the way there, in words."""
    shown = without_credentials(uri)
    return Trouble(text=first_line(error), refusal=is_refusal(error), remedy=remedy(error, shown))


def first_line(error: BaseException) -> str:
    """An error's kind and the first line of what it says, without credentials."""
    return without_credentials(f"{type(error).__name__}: {error}").split("\n")[0]


def _facts(state: Mapping[str, Any]) -> list[Record]:
    facts: list[Record] = [{"kind": kind, "values": state[kind]} for kind in ("params", "tags") if state[kind]]
    facts += [{"kind": "dataset", **dataset} for dataset in state["datasets"]]
    return facts + ([{"kind": "view", "view": state["view"]}] if state["view"] else [])


def _metrics(row: Row) -> Record:
    values = {key: float(value) for key, value in row.items() if key not in ("step", TIME)}
    return {"kind": "metrics", "values": values, "step": row["step"], "time_ms": row[TIME]}


def _as_curves(row: Row) -> Row:
    """A row of the training's metrics.jsonl, its columns named as MLflow's curves."""
    return {key if key in ("step", TIME) else curve_name(key): value for key, value in row.items()}


def _name(record: Record, key: str) -> str:
    return f"{_NAMED[record['kind']]} {key}"


def _by_name(records: Sequence[Record]) -> Iterator[tuple[str, list[Record]]]:
    """Records by what they are of: all points of a curve together, every parameter and tag alone."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if record["kind"] in _NAMED:
            for key, value in record["values"].items():
                groups.setdefault(_name(record, key), []).append(record | {"values": {key: value}})
        else:
            name = record.get("name") or Path(record.get("path", "")).name
            groups.setdefault(f"{record['kind']} {name}".rstrip(), []).append(record)
    yield from groups.items()


def _run_id(run_dir: str | None) -> str | None:
    """MLflow's id of another run, from its account.
    Raises ConnectionError if it has none yet, so that its child tries again later.
    """
    if run_dir is None:
        return None
    found = read_state(Path(run_dir, "tracking", STATE)).get("run_id")
    if found is None:
        raise ConnectionError(f"{run_dir} is not in MLflow yet")
    return str(found)
