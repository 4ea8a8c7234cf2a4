"""What a run tells MLflow, from its driver alone: parameters, curves, datasets, files.

Every call writes one line to a spool in ``RUN/tracking/`` and returns; a thread brings the lines to MLflow. So an
outage blocks no step and loses nothing (FAULTS 45): what is left when a run ends is sent by the next process that opens
the run, or by `replay`. Values that look like secrets never reach the disk.
"""

import json
import logging
import re
import shutil
import threading
import time
import uuid
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cluster.mlflow_store import MlflowStore, Refused, trouble
from cluster.provenance import git_revision
from cluster.spool import Spool
from cluster.storage import without_credentials
from cluster.system_metrics import SystemMetrics
from cluster.tracking_config import TrackingConfig as TrackingConfig
from cluster.tracking_config import store_uri
from cluster.ui import TRAINING_PAGES

Status = Literal["FINISHED", "FAILED", "KILLED"]
SEND_INTERVAL_S = 1.0
LONGEST_WAIT_S = 30.0
DIGEST_CHARACTERS = 36  # MLflow takes no more
_SECRET = re.compile(
    r"(^|[._-])(password|passwd|secret|token|api_?key|access_?key|credentials?)($|[._-])", re.IGNORECASE
)
_log = logging.getLogger(__name__)


class Tracker:
    """One run's account of itself. Opened again on the same folder it continues the same MLflow run.

    A step is told once: where a resumed run repeats steps, what was told before the kill stands.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path, *, parent: Path | None = None) -> None:
        """Open the run's spool and start sending.

        Args:
            config: where to, and under which name.
            run_dir: the run's folder.
            parent: folder of the run this one is nested under, such as a sweep's.

        Raises:
            UserError: if another process is running in ``run_dir``, or the store is of no kind that MLflow has.
        """
        self._enabled = config.enabled
        self._state: Mapping[str, Any] = {}
        self.uri = store_uri(config, run_dir)
        if not config.enabled:
            return
        if reason := trouble(self.uri):
            _log.warning(
                "%s does not answer (%s): the run goes on, its log waits in %s and is sent when MLflow is back; "
                "is the server up, is tracking.uri or MLFLOW_TRACKING_URI right?",
                without_credentials(self.uri),
                reason,
                run_dir / "tracking",
            )
        self._spool = spool = Spool(run_dir / "tracking")
        spool.state.setdefault("identity", uuid.uuid4().hex)
        spool.state.setdefault("name", config.name or run_dir.absolute().name)
        spool.state.setdefault("started_ms", _now_ms())
        home = {"uri": self.uri, "experiment": config.experiment}
        if any(spool.state.get(key, value) != value for key, value in home.items()):
            spool.state = {
                key: spool.state[key] for key in ("identity", "name", "started_ms")
            }  # a new home: tell it all
        spool.state |= home | {"parent": str(parent.absolute()) if parent else spool.state.get("parent")}
        self._state = spool.state
        spool.mark(spool.offset)
        self._told: dict[str, Any] = deepcopy(spool.state.get("told", {}))
        for record in spool.take(1 << 30)[0]:
            _remember(self._told, record)
        self._sender = _Sender(spool)
        self._sender.start()
        self._put({"kind": "status", "status": "RUNNING"})
        self.tags({"mlflow.source.git.commit": git_revision()})
        self._system = SystemMetrics(config.system_metrics_s, self._sample) if config.system_metrics_s else None

    def params(self, flat: Mapping[str, Any]) -> None:
        """Parameters by dotted key. One that differs from what an earlier start of this run told becomes a tag."""
        if not self._enabled:
            return
        values = {key: _plain(key, value) for key, value in flat.items()}
        before: dict[str, str] = self._told.setdefault("params", {})
        same = {key: value for key, value in values.items() if before.get(key, value) == value}
        changed = {f"resumed.{key}": value for key, value in values.items() if key not in same}
        for kind, pairs in (("params", same), ("tags", changed)):
            if pairs:
                self._put({"kind": kind, "values": pairs})

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """A point on each curve; a step that a curve already has is left as it is."""
        if not self._enabled:
            return
        last: dict[str, int] = self._told.setdefault("steps", {})
        new = {key: float(value) for key, value in values.items() if step > last.get(key, -1)}
        if new:
            self._put({"kind": "metrics", "values": new, "step": step})

    def tags(self, values: Mapping[str, Any]) -> None:
        """Words to find the run by: the snapshot's hash, the recipe."""
        if self._enabled:
            self._put({"kind": "tags", "values": {key: _plain(key, value) for key, value in values.items()}})

    def dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        """What the run read: its name, the hash of its manifest, where it lies."""
        if not self._enabled:
            return
        source = json.dumps({"uri": without_credentials(source), "manifest": digest})
        short = digest[:DIGEST_CHARACTERS]
        self._put({"kind": "dataset", "name": name, "digest": short, "source": source, "context": context})

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file as it is now (report, figure), shown under ``folder``; a copy waits in the spool until it is sent."""
        if not self._enabled:
            return
        copy = self._spool.folder / "files" / uuid.uuid4().hex / path.name
        copy.parent.mkdir(parents=True)
        shutil.copyfile(path, copy)
        self._put({"kind": "file", "path": str(copy.absolute()), "folder": folder})

    @property
    def url(self) -> str:
        """The run's page on an MLflow server, or the store that `counterpoint ui` opens."""
        return run_url(self.uri, self._state.get("experiment_id"), self._state.get("run_id"))

    def close(self, status: Status = "FINISHED", *, wait_s: float = 30.0) -> bool:
        """Tell the end, and wait for MLflow a while. The first call counts.

        Returns:
            Whether everything has been sent. What has not stays in the spool, and a warning says where.
        """
        if not self._enabled:
            return True
        self._enabled = False
        if self._system:
            self._system.stop()
        self._put({"kind": "status", "status": status})
        return self._sender.finish(wait_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        killed = kind is not None and not issubclass(kind, Exception)
        self.close("KILLED" if killed else "FAILED" if kind else "FINISHED")

    def _sample(self, values: Mapping[str, float]) -> None:
        last: dict[str, int] = self._told.setdefault("steps", {})
        self.metrics(values, 1 + max((last.get(key, -1) for key in values), default=-1))

    def _put(self, record: dict[str, Any]) -> None:
        record["time_ms"] = _now_ms()
        self._spool.put(record)
        _remember(self._told, record)


class _Sender(threading.Thread):
    """Takes from a spool and sends, waiting longer after every failure; a daemon, so it never keeps a process alive."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(name="tracking", daemon=True)
        state = spool.state
        self._spool = spool
        self._store = MlflowStore(state["uri"], state["experiment"], state, lambda: _run_id(state["parent"]))
        self._ending = threading.Event()
        self._trouble = ""

    def run(self) -> None:
        wait_s = SEND_INTERVAL_S
        while True:
            ending = self._ending.is_set()
            records, mark = self._spool.take()
            if not records and ending:
                return
            try:
                self._send(records, mark)
            except Exception as error:  # MLflow is away: requests, sqlalchemy and MLflow itself have their own errors
                self._trouble = without_credentials(f"{type(error).__name__}: {error}").split("\n")[0]
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                time.sleep(SEND_INTERVAL_S) if ending else self._ending.wait(wait_s)
            else:
                wait_s = SEND_INTERVAL_S
                self._ending.wait(wait_s)  # at once when the run ends

    def _send(self, records: list[dict[str, Any]], mark: int) -> None:
        if not records:
            return
        try:
            self._store.send(records)
        except Refused:
            self._send_one_by_one(records)
        told = self._spool.state.setdefault("told", {})
        for record in records:
            _remember(told, record)
        self._spool.mark(mark)
        for record in records:
            if record["kind"] == "file":
                shutil.rmtree(Path(record["path"]).parent, ignore_errors=True)
        self._trouble = ""

    def _send_one_by_one(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            try:
                self._store.send([record])
            except Refused as error:
                _log.warning("MLflow refuses %s, it is left out: %s", record["kind"], error)

    def finish(self, wait_s: float) -> bool:
        """Stop once everything is sent or the time is over."""
        self._ending.set()
        self.join(wait_s)
        if self.is_alive():
            _log.warning(
                "%s is not reachable (%s): %d bytes of the run's log wait in %s until the run is opened again",
                without_credentials(self._spool.state["uri"]),
                self._trouble or "it has not answered yet",
                self._spool.waiting(),
                self._spool.folder,
            )
            return False
        self._spool.close()
        return True


def replay(run_dir: Path, *, wait_s: float = 60.0) -> bool:
    """Send what an ended run could not send; True when nothing is left.

    Raises:
        UserError: if the run is still going on.
    """
    spool = Spool(run_dir / "tracking")
    if not spool.waiting() or "uri" not in spool.state:
        spool.close()
        return True
    sender = _Sender(spool)
    sender.start()
    return sender.finish(wait_s)


def run_url(uri: str, experiment_id: str | None, run_id: str | None) -> str:
    """The page of a run where MLflow is a server, else the store; without credentials."""
    base = without_credentials(uri).rstrip("/")
    page = f"{base}/#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_PAGES}"
    return page if run_id and base.startswith("http") else base


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _remember(told: dict[str, Any], record: Mapping[str, Any]) -> None:
    """Note the last step of each curve and the first value of each parameter."""
    if record["kind"] == "metrics":
        told.setdefault("steps", {}).update(dict.fromkeys(record["values"], record["step"]))
    elif record["kind"] == "params":
        told["params"] = record["values"] | told.get("params", {})


def _plain(key: str, value: Any) -> str:
    """A value in the grammar of the command line, without what may be a secret."""
    if _SECRET.search(key) and value is not None:
        return "[redacted]"
    return without_credentials(value if isinstance(value, str) else json.dumps(value))


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
