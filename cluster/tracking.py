"""What a run tells MLflow, from its driver alone: parameters, curves, datasets, files.

Every call writes one line to a spool in ``RUN/tracking/`` and returns; a thread brings the lines to MLflow. So an
outage blocks no step and loses nothing (FAULTS 45): what is left when a run ends is sent by the next process that opens
the run, or by `replay`. Values that look like secrets never reach the disk.
"""

import json
import logging
import re
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cluster.mlflow_pages import run_page, trials_page
from cluster.mlflow_store import trouble
from cluster.provenance import git_revision
from cluster.settings import PreemptedError, UserError
from cluster.spool import Spool, waiting_bytes
from cluster.storage import without_credentials
from cluster.system_metrics import SystemMetrics
from cluster.tracking_config import TrackingConfig as TrackingConfig
from cluster.tracking_config import store_uri
from cluster.tracking_sender import Sender, remember

Status = Literal["FINISHED", "FAILED", "KILLED"]
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
        self.ended: Status = "FINISHED"
        """How an earlier start of the run ended: what is only added to it afterwards closes it so again."""
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
        self._spool = spool = _opened(config, self.uri, run_dir, parent)
        self._state = spool.state
        self._told: dict[str, Any] = deepcopy(spool.state.get("told", {}))
        for record in spool.take(1 << 30)[0]:
            remember(self._told, record)
        self.ended = self._told.get("ended", self.ended)
        self._sender = Sender(spool)
        self._sender.start()
        self._put({"kind": "status", "status": "RUNNING"})
        self.tags({"mlflow.source.git.commit": git_revision()})
        self._system = SystemMetrics(config.system_metrics_s, self._sample) if config.system_metrics_s else None

    def params(self, flat: Mapping[str, Any]) -> None:
        """Parameters by dotted key. One that differs from what an earlier start of this run told becomes a tag."""
        if not self._enabled:
            return
        values = _plain_params(flat)
        before: dict[str, str] = self._told.setdefault("params", {})
        same = {key: value for key, value in values.items() if before.get(key, value) == value}
        changed = {f"resumed.{key}": value for key, value in values.items() if key not in same}
        for kind, pairs in (("params", same), ("tags", changed)):
            if pairs:
                self._put({"kind": kind, "values": pairs})

    def metrics(self, values: Mapping[str, float], step: int, *, again: bool = False) -> None:
        """A point on each curve; a step that a curve already has is left as it is.

        Args:
            values: by the curve's name.
            step: of the point.
            again: tell it even so, as what was judged anew: MLflow keeps both values.
        """
        if not self._enabled:
            return
        last: dict[str, int] = self._told.setdefault("steps", {})
        new = {key: float(value) for key, value in values.items() if again or step > last.get(key, -1)}
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
        self._put({"kind": "file", "path": self._copied(path), "folder": folder})

    def model(self, program: Path, *, samples: int, width: int, step: int) -> None:
        """The trained encoder, as a logged model that MLflow loads without a pickle.

        Args:
            program: a torch.export program, waves (N, ``samples``) to embeddings (N, ``width``).
            samples: of a view.
            width: of an embedding.
            step: optimisation steps that it was trained for.
        """
        if self._enabled:
            path = self._copied(program)
            self._put({"kind": "model", "path": path, "samples": samples, "width": width, "step": step})

    def view(self, metrics: Sequence[str], keys: Sequence[str]) -> None:
        """How the page that compares the runs below this one opens: on these curves and parameters, in this order."""
        if self._enabled:
            self._put({"kind": "view", "view": {"metrics": list(metrics), "keys": list(keys)}})

    @property
    def url(self) -> str:
        """The run's page on an MLflow server, or the store that `counterpoint ui` opens."""
        return run_page(self.uri, self._state.get("experiment_id"), self._state.get("run_id"))

    @property
    def trials_url(self) -> str:
        """The page that compares the runs below this one; see `view`."""
        return trials_page(self.uri, self._state.get("experiment_id"), self._state.get("run_id"))

    def close(self, status: Status = "FINISHED", *, wait_s: float = 30.0) -> bool:
        """Tell the end, wait for MLflow a while, and let the folder go: it can be opened again, whatever MLflow does.

        The first call counts.

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
        killed = kind is not None and (issubclass(kind, PreemptedError) or not issubclass(kind, Exception))
        self.close("KILLED" if killed else "FAILED" if kind else "FINISHED")

    def _sample(self, values: Mapping[str, float]) -> None:
        last: dict[str, int] = self._told.setdefault("steps", {})
        self.metrics(values, 1 + max((last.get(key, -1) for key in values), default=-1))

    def _copied(self, path: Path) -> str:
        """A file as it is now, kept in the spool."""
        copy = self._spool.folder / "files" / uuid.uuid4().hex / path.name
        copy.parent.mkdir(parents=True)
        shutil.copyfile(path, copy)
        return str(copy.absolute())

    def _put(self, record: dict[str, Any]) -> None:
        record["time_ms"] = _now_ms()
        self._spool.put(record)
        remember(self._told, record)


def _opened(config: TrackingConfig, uri: str, run_dir: Path, parent: Path | None) -> Spool:
    """The run's spool, which knows where the run is told and what it is called."""
    spool = Spool(run_dir / "tracking")
    try:
        spool.state.setdefault("identity", uuid.uuid4().hex)
        spool.state.setdefault("name", config.name or run_dir.absolute().name)
        spool.state.setdefault("started_ms", _now_ms())
        home = {"uri": uri, "experiment": config.experiment}
        if any(spool.state.get(key, value) != value for key, value in home.items()):  # a new home: tell it all
            spool.state = {key: spool.state[key] for key in ("identity", "name", "started_ms")}
        spool.state |= home | {"parent": str(parent.absolute()) if parent else spool.state.get("parent")}
        spool.mark(spool.offset)
    except BaseException:
        spool.close()
        raise
    return spool


def replay(run_dir: Path, *, wait_s: float = 60.0) -> bool:
    """Send what an ended run could not send; True when nothing is left.

    Raises:
        UserError: if the run is still going on.
    """
    spool = Spool(run_dir / "tracking")
    if not spool.waiting() or "uri" not in spool.state:
        spool.close()
        return True
    sender = Sender(spool)
    sender.start()
    return sender.finish(wait_s)


def replay_below(folder: Path, *, wait_s: float = 60.0) -> Iterator[tuple[Path, str]]:
    """`replay` of every run at or below a folder whose log waits, parents first: the run, and what became of its log.

    Raises:
        UserError: if there is no run, once the iteration begins.
    """
    accounts = sorted(mark.parent for mark in folder.rglob("tracking/state.json"))
    if not accounts:
        raise UserError(f"{folder}: no run that tells MLflow of itself is at or below it; is it the folder of run.dir?")
    for account in accounts:
        try:
            if waiting_bytes(account):
                yield account.parent, "sent" if replay(account.parent, wait_s=wait_s) else "waits"
        except UserError as error:  # it runs: its own process sends; or it is damaged
            yield account.parent, str(error)


def set_aside(config: TrackingConfig, run_dir: Path, params: Mapping[str, Any]) -> None:
    """Close the account of an earlier attempt that told other parameters, so that the next Tracker begins a new run.

    For a folder that starts anew, its earlier attempt having left no snapshot: the curve of another experiment must not
    stand where this one's is expected. The old account is kept beside, as ``tracking-IDENTITY``.

    Args:
        config: where to.
        run_dir: the run's folder.
        params: those that decide its numbers, by dotted key.
    """
    if not config.enabled or not (run_dir / "tracking" / "state.json").is_file():
        return
    spool = Spool(run_dir / "tracking")
    told: dict[str, Any] = deepcopy(spool.state.get("told", {}))
    for record in spool.take(1 << 30)[0]:
        remember(told, record)
    spool.close()
    before: dict[str, str] = told.get("params", {})
    if all(before.get(key, plain) == plain for key, plain in _plain_params(params).items()):
        return
    aside = run_dir / f"tracking-{spool.state['identity'][:8]}"
    Tracker(config, run_dir).close("KILLED")
    (run_dir / "tracking").rename(aside)
    _log.warning("%s: an earlier attempt had other settings and left no snapshot; its account is %s", run_dir, aside)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _plain_params(flat: Mapping[str, Any]) -> dict[str, str]:
    return {key: _plain(key, value) for key, value in flat.items()}


def _plain(key: str, value: Any) -> str:
    """A value in the grammar of the command line, without what may be a secret."""
    if _SECRET.search(key) and value is not None:
        return "[redacted]"
    return without_credentials(value if isinstance(value, str) else json.dumps(value))
