"""The thread that brings a run's account to MLflow, so that no step waits for it."""

import logging
import shlex
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cluster.files.json_lines import TIME, Row
from cluster.files.storage import without_credentials
from cluster.settings import UserError
from cluster.tracking.account import STATE, Account, is_waiting, read_state
from cluster.tracking.store import REQUEST_S, MlflowStore, Refused, is_refusal, remedy

SEND_INTERVAL_S = 1.0
LONGEST_WAIT_S = 30.0
LAST_REQUEST_S = 2.0 * REQUEST_S + 1
"""How long a run that ends waits for a request that is under way when the time to send is over."""
_NAMED = {"metrics": "metric", "params": "parameter", "tags": "tag"}
_KNOWN = ("run_id", "experiment_id")
_log = logging.getLogger(__name__)

Record = dict[str, Any]


class Sender(threading.Thread):
    """Sends what MLflow lacks, waiting longer after every failure; a daemon, so it never keeps a process alive."""

    def __init__(self, account: Account) -> None:
        super().__init__(name="tracking", daemon=True)
        state = account.state
        self._account = account
        self._store_state = {key: state[key] for key in ("identity", "name", "started_ms", *_KNOWN) if key in state}
        parent = state["parent"]
        self._store = MlflowStore(state["uri"], state["experiment"], self._store_state, lambda: _run_id(parent))
        self._ending, self._over = threading.Event(), threading.Event()
        self._rows: list[Row] = []
        self._cursor: dict[str, Any] = {}
        self._trouble: Exception | None = None

    def run(self) -> None:
        """Send until everything is sent after the end was announced, or the time is over."""
        wait_s = SEND_INTERVAL_S
        while not self._over.is_set():
            ending = self._ending.is_set()
            try:
                sent_all = self._send()
            except Exception as error:  # an outage: requests, sqlalchemy and MLflow itself have their own errors
                self._note(error)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                self._over.wait(SEND_INTERVAL_S) if ending else self._ending.wait(wait_s)
                continue
            self._trouble, wait_s = None, SEND_INTERVAL_S
            if sent_all and ending:
                return
            if sent_all:
                self._ending.wait(wait_s)  # at once when the run ends

    def finish(self, wait_s: float) -> bool:
        """Stop once everything is sent or the time is over, and close the account either way.

        A request under way is let end, or two senders might make the run twice. One that outlives even its own
        time-out is left alone: what it brings will be sent again, which changes nothing.

        Returns:
            Whether MLflow has everything; a warning says where the rest waits, and the remedy.
        """
        self._ending.set()
        self.join(wait_s)
        self._over.set()
        self.join(LAST_REQUEST_S)
        self._account.close()
        folder, state = self._account.folder, self._account.state
        if state["skipped"]:
            left_out = ", ".join(f"{name} ({count})" for name, count in state["skipped"].items())
            _log.warning("%s: MLflow takes no such values, they are left out: %s", folder.parent, left_out)
        try:
            waiting = is_waiting(folder.parent)
        except (OSError, UserError):
            waiting = True
        if waiting:
            uri = without_credentials(state["uri"])
            _log.warning(
                "%s takes nothing (%s): parts of the run's log wait in %s; %s, then: counterpoint replay %s",
                uri,
                _first_line(self._trouble) if self._trouble else "it has not answered yet",
                folder,
                remedy(self._trouble, uri),
                shlex.quote(str(folder.parent)),
            )
        return not waiting

    def _note(self, error: Exception) -> None:
        """Keep why nothing is sent. A refusal is said at once; that nobody answers was said when the run started."""
        if self._trouble is None and is_refusal(error):
            uri = without_credentials(self._account.state["uri"])
            _log.warning("%s takes nothing now (%s); %s", uri, _first_line(error), remedy(error, uri))
        self._trouble = error
        if (
            "run_id" not in self._store_state and "run_id" in self._account.state
        ):  # deleted for good: there is a new one
            self._account.forget_sent()
            self._rows = []

    def _send(self) -> bool:
        """Send what there is; True if nothing was left to send."""
        account, state = self._account, self._account.snapshot()
        if state["status"]["status"] == "RUNNING":
            self._send_status(state)
        if state["facts"] != state["sent"]["facts"]:
            self._bring(_facts(state))
            self._mark({"facts": state["facts"]})
        for file in state["files"]:
            path = account.folder / "files" / file["path"]
            self._bring([{**file, "path": str(path.absolute())}])
            account.remove_file(file)
        if not self._rows:
            self._rows, self._cursor = account.unsent_rows()
        more = bool(self._rows)
        self._bring([_metrics(row) for row in self._rows])
        self._rows = []
        self._mark(self._cursor)
        if not more:
            self._send_status(state)
        return not more

    def _send_status(self, state: dict[str, Any]) -> None:
        if state["status"] != state["sent"]["status"]:
            self._bring([{"kind": "status", **state["status"]}])
            self._mark({"status": state["status"]})

    def _mark(self, sent: dict[str, Any]) -> None:
        known = {key: self._store_state[key] for key in _KNOWN if key in self._store_state}
        if self._account.state["sent"].items() >= sent.items() and self._account.state.items() >= known.items():
            return
        with self._account.changing() as state:
            state["sent"] |= sent
            state |= known

    def _bring(self, records: list[Record]) -> None:
        """Send records; values that MLflow can never take are left out, counted by name, and named once."""
        skipped = self._account.state["skipped"]
        records = [kept for record in records if (kept := _without(record, skipped)) is not None]
        if not records:
            return
        try:
            self._store.send(records)
        except Refused:
            if self._over.is_set():  # Python may be shutting down under the request
                raise
            for name, group in _by_name(records):
                try:
                    self._store.send(group)
                except Refused as error:
                    _log.warning("MLflow refuses %s, it is left out: %s", name, error)
                    with self._account.changing() as state:
                        state["skipped"][name] = len(group)


def _facts(state: dict[str, Any]) -> list[Record]:
    facts: list[Record] = [{"kind": kind, "values": state[kind]} for kind in ("params", "tags") if state[kind]]
    facts += [{"kind": "dataset", **dataset} for dataset in state["datasets"]]
    return facts + ([{"kind": "view", "view": state["view"]}] if state["view"] else [])


def _metrics(row: Row) -> Record:
    values = {key: float(value) for key, value in row.items() if key not in ("step", TIME)}
    return {"kind": "metrics", "values": values, "step": row["step"], "time_ms": row[TIME]}


def _name(record: Record, key: str) -> str:
    return f"{_NAMED[record['kind']]} {key}"


def _without(record: Record, skipped: dict[str, int]) -> Record | None:
    """A record without the values that MLflow refused before, which are counted; None where nothing is left."""
    if record["kind"] not in _NAMED:
        return record
    for key in record["values"]:
        if _name(record, key) in skipped and record["kind"] == "metrics":
            skipped[_name(record, key)] += 1
    values = {key: value for key, value in record["values"].items() if _name(record, key) not in skipped}
    return record | {"values": values} if values else None


def _by_name(records: list[Record]) -> Iterator[tuple[str, list[Record]]]:
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


def _first_line(error: Exception) -> str:
    return without_credentials(f"{type(error).__name__}: {error}").split("\n")[0]


def _run_id(run_dir: str | None) -> str | None:
    """MLflow's id of another run, from its account; the parent comes first.

    Raises:
        ConnectionError: if the parent has no id yet, so that the child tries again later.
    """
    if run_dir is None:
        return None
    found = read_state(Path(run_dir, "tracking", STATE)).get("run_id")
    if found is None:
        raise ConnectionError(f"{run_dir} is not in MLflow yet")
    return str(found)
