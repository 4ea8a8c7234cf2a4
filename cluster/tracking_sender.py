"""The thread that brings a run's spool to MLflow, so that no step waits for it."""

import json
import logging
import shlex
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.mlflow_store import REQUEST_S, MlflowStore, Refused
from cluster.spool import Spool
from cluster.storage import without_credentials

SEND_INTERVAL_S = 1.0
LONGEST_WAIT_S = 30.0
LAST_REQUEST_S = 2.0 * REQUEST_S + 1
"""How long a run that ends waits for a request that is under way when the time to send is over."""
_log = logging.getLogger(__name__)


class Sender(threading.Thread):
    """Takes from a spool and sends, waiting longer after every failure; a daemon, so it never keeps a process alive."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(name="tracking", daemon=True)
        state = spool.state
        self._spool = spool
        self._store = MlflowStore(state["uri"], state["experiment"], state, lambda: _run_id(state["parent"]))
        self._ending, self._over = threading.Event(), threading.Event()
        self._trouble = ""

    def run(self) -> None:
        """Send until everything is sent after the end was told, or the time is over."""
        wait_s = SEND_INTERVAL_S
        while not self._over.is_set():
            ending = self._ending.is_set()
            try:
                records, mark = self._spool.take()
                if ending and mark == self._spool.offset:
                    return
                self._send(records, mark)
            except Exception as error:  # MLflow is away: requests, sqlalchemy and MLflow itself have their own errors
                self._trouble = without_credentials(f"{type(error).__name__}: {error}").split("\n")[0]
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                self._over.wait(SEND_INTERVAL_S) if ending else self._ending.wait(wait_s)
            else:
                wait_s = SEND_INTERVAL_S
                self._ending.wait(wait_s)  # at once when the run ends

    def _send(self, records: list[dict[str, Any]], mark: int) -> None:
        if mark == self._spool.offset:
            return
        if records:  # else there were damaged lines alone
            self._bring(records)
        told = self._spool.state.setdefault("told", {})
        for record in records:
            remember(told, record)
        if not self._spool.mark(mark):
            return
        for record in records:
            if record["kind"] in ("file", "model"):
                shutil.rmtree(Path(record["path"]).parent, ignore_errors=True)
        self._trouble = ""

    def _bring(self, records: list[dict[str, Any]]) -> None:
        try:
            self._store.send(records)
        except Refused:
            for record in records:
                try:
                    self._store.send([record])
                except Refused as error:
                    _log.warning("MLflow refuses %s, it is left out: %s", record["kind"], error)

    def finish(self, wait_s: float) -> bool:
        """Stop once everything is sent or the time is over, and close the spool either way.

        A request under way is let end, or two senders might make the run twice. One that outlives even its own
        time-out is left alone: what it brings will be sent again, which changes nothing.
        """
        self._ending.set()
        self.join(wait_s)
        self._over.set()
        self.join(LAST_REQUEST_S)
        if waiting := self._spool.waiting():
            _log.warning(
                "%s is not reachable (%s): %d bytes of the run's log wait in %s; once it is back: "
                "counterpoint replay %s",
                without_credentials(self._spool.state["uri"]),
                self._trouble or "it has not answered yet",
                waiting,
                self._spool.folder,
                shlex.quote(str(self._spool.folder.parent)),
            )
        self._spool.close()
        return not waiting


def remember(told: dict[str, Any], record: Mapping[str, Any]) -> None:
    """Note the last step of each curve, the first value of each parameter, and how the run ended."""
    if record["kind"] == "metrics":
        told.setdefault("steps", {}).update(dict.fromkeys(record["values"], record["step"]))
    elif record["kind"] == "params":
        told["params"] = record["values"] | told.get("params", {})
    elif record["kind"] == "status" and record["status"] != "RUNNING":
        told["ended"] = record["status"]


def _run_id(run_dir: str | None) -> str | None:
    """MLflow's id of another run, from its spool; the parent comes first.

    Raises:
        ConnectionError: if the parent has no id yet, so that the child tries again later.
    """
    if run_dir is None:
        return None
    mark = Path(run_dir, "tracking", "state.json")
    found = json.loads(mark.read_text(encoding="utf-8")).get("run_id") if mark.exists() else None
    if found is None:
        raise ConnectionError(f"{run_dir} is not in MLflow yet")
    return str(found)
