"""What a run shows in MLflow, from its driver alone: parameters, curves, datasets, files.

Every call writes to the run's folder and returns; a thread, or a process of its own, sends to MLflow what it lacks, the
rows of metrics.jsonl too. So an outage blocks no step and loses nothing (fault 45): what is left when a run ends is
sent by the next process that opens the run, or by `replay`. Values that look like secrets never reach the disk.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cluster.files.storage import without_credentials
from cluster.provenance import git_revision
from cluster.settings import PreemptedError, UserError
from cluster.tracking.account import ROWS, STATE, Account, is_waiting, now_ms, read_state
from cluster.tracking.apart import Apart
from cluster.tracking.config import TrackingConfig, store_uri
from cluster.tracking.delivery import Delivery
from cluster.tracking.pages import run_page, trials_page
from cluster.tracking.sender import Sender
from cluster.tracking.store import trouble

Status = Literal["FINISHED", "FAILED", "KILLED"]
DIGEST_CHARACTERS = 36  # MLflow takes no more
_SECRET = re.compile(
    r"(^|[._-])(password|passwd|secret|token|api_?key|access_?key|credentials?)($|[._-])", re.IGNORECASE
)
_log = logging.getLogger(__name__)


class Tracker:
    """One run in MLflow. Opened again on the same folder it continues the same MLflow run.

    A step is sent once: where a resumed run repeats steps, what was sent before the kill stands.
    """

    def __init__(
        self, config: TrackingConfig, run_dir: Path, *, parent: Path | None = None, apart: bool = False
    ) -> None:
        """Open the run's account and start sending; rows of ``run_dir/metrics.jsonl`` are sent as they appear.

        Args:
            config: where to, and under which name.
            run_dir: the run's folder.
            parent: folder of the run this one is nested under, such as a sweep's.
            apart: send from a process of its own, for a process that trains.

        Raises:
            UserError: if another process tracks ``run_dir``, or the store is of no kind that MLflow has.
        """
        self._enabled = config.enabled
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
        self._account = Account(run_dir)
        with _closed_on_error(self._account):
            self._account.set_home(self.uri, config.experiment)
            with self._account.changing() as state:
                state.setdefault("name", config.name or run_dir.absolute().name)
                state["parent"] = str(parent.absolute()) if parent else state.get("parent")
                self.ended = state.get("ended", self.ended)
                state["status"] = {"status": "RUNNING", "time_ms": now_ms()}
            self._sender = Sender(self._account, Apart if apart else Delivery, config.system_metrics_s)
        self._sender.start()
        self.tags({"mlflow.source.git.commit": git_revision()})

    def params(self, flat: Mapping[str, Any]) -> None:
        """Parameters by dotted key. One that differs from that of an earlier start of this run becomes a tag."""
        if not self._enabled:
            return
        with self._account.changing() as state:
            for key, value in _plain_params(flat).items():
                if state["params"].setdefault(key, value) != value:
                    state["tags"][f"resumed.{key}"] = value
            state["facts"] += 1

    def metrics(self, values: Mapping[str, float], step: int, *, again: bool = False) -> None:
        """A point on each curve; a step that a curve already has is left as it is.

        Args:
            values: by the curve's name.
            step: of the point, ≥ 0.
            again: add it even so, as what was evaluated anew: MLflow keeps both values.
        """
        if not self._enabled:
            return
        last = self._account.last_steps
        new = {key: float(value) for key, value in values.items() if again or step > last.get(key, -1)}
        if new:
            self._account.add_row(new, step)

    def tags(self, values: Mapping[str, Any]) -> None:
        """Words to find the run by: the snapshot's hash, the recipe."""
        if self._enabled:
            with self._account.changing() as state:
                state["tags"] |= {key: _plain(key, value) for key, value in values.items()}
                state["facts"] += 1

    def dataset(self, name: str, digest: str, source: str, context: str = "training") -> None:
        """What the run read: its name, the hash of its manifest, where it lies."""
        if not self._enabled:
            return
        source = json.dumps({"uri": without_credentials(source), "manifest": digest})
        new = {"name": name, "digest": digest[:DIGEST_CHARACTERS], "source": source, "context": context}
        with self._account.changing() as state:
            if new not in state["datasets"]:
                state["datasets"].append(new)
                state["facts"] += 1

    def artifact(self, path: Path, folder: str = "") -> None:
        """A file as it is now (report, figure), shown under ``folder``; a copy waits until it is sent."""
        if self._enabled:
            self._account.add_file(path, {"kind": "file", "folder": folder})

    def model(self, program: Path, *, samples: int, width: int, step: int) -> None:
        """The trained encoder, as a logged model that MLflow loads without a pickle."""
        if self._enabled:
            about = {"kind": "model", "samples": samples, "width": width, "step": step}
            self._account.add_file(program, about | {"torch": str(import_module("torch").__version__)})

    def view(self, metrics: Sequence[str], keys: Sequence[str]) -> None:
        """How the page that compares the runs below this one opens: on these curves and parameters, in this order."""
        if self._enabled:
            with self._account.changing() as state:
                state["view"] = {"metrics": list(metrics), "keys": list(keys)}
                state["facts"] += 1

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run, once it has one."""
        return self._account.state.get("run_id") if hasattr(self, "_account") else None

    @property
    def url(self) -> str:
        """The run's page on an MLflow server, or the store that `counterpoint ui` opens."""
        return run_page(self.uri, self._experiment_id, self.run_id)

    @property
    def trials_url(self) -> str:
        """The page that compares the runs below this one; see `view`."""
        return trials_page(self.uri, self._experiment_id, self.run_id)

    @property
    def _experiment_id(self) -> str | None:
        return self._account.state.get("experiment_id") if hasattr(self, "_account") else None

    def close(self, status: Status = "FINISHED", *, wait_s: float = 30.0) -> bool:
        """Note the end, wait for MLflow a while, and let the folder go: it can be opened again, whatever MLflow does.
        The first call counts.

        Returns whether MLflow has everything. What it lacks stays in the run's folder, and a warning says where.
        """
        if not self._enabled:
            return True
        self._enabled = False
        with self._account.changing() as state:
            state["status"] = {"status": status, "time_ms": now_ms()}
            state["ended"] = status
        return self._sender.finish(wait_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        killed = kind is not None and (issubclass(kind, PreemptedError) or not issubclass(kind, Exception))
        self.close("KILLED" if killed else "FAILED" if kind else "FINISHED")


@contextmanager
def _closed_on_error(account: Account) -> Iterator[None]:
    """Release the folder where the start fails, or it could not be opened again in this process."""
    try:
        yield
    except BaseException:
        account.close()
        raise


def replay(run_dir: Path, *, wait_s: float = 60.0) -> bool:
    """Send what an ended run could not send; True when nothing is left.
    Raises UserError if the run is still going on, or its account is damaged.
    """
    if not is_waiting(run_dir):
        return True
    account = Account(run_dir)
    with _closed_on_error(account):
        sender = Sender(account)
    sender.start()
    return sender.finish(wait_s)


def replay_below(folder: Path, *, wait_s: float = 60.0) -> Iterator[tuple[Path, str]]:
    """`replay` of every run at or below a folder whose log waits, parents first: the run, and what became of its log.
    Raises UserError if there is no run, once the iteration begins.
    """
    runs = sorted(mark.parent.parent for mark in folder.rglob(f"tracking/{STATE}"))
    if not runs:
        raise UserError(f"{folder}: no run that is tracked in MLflow is at or below it; is it the folder of run.dir?")
    for run in runs:
        try:
            if is_waiting(run):
                yield run, "sent" if replay(run, wait_s=wait_s) else "waits"
        except UserError as error:  # it runs: its own process sends; or it is damaged
            yield run, str(error)


def set_aside(config: TrackingConfig, run_dir: Path, params: Mapping[str, Any], *, apart: bool = False) -> None:
    """Close the account of an earlier attempt with other parameters, so that the next Tracker begins a new MLflow run.

    For a folder that starts anew, its earlier attempt having left no snapshot: the curve of another experiment must not
    stand where this one's is expected. Account and rows of the old attempt are kept in ``attempt-IDENTITY``, from where
    `replay` sends what MLflow lacks. Raises UserError if another process tracks ``run_dir``.
    """
    if not config.enabled:
        return
    state = read_state(run_dir / "tracking" / STATE)
    before: dict[str, str] = state.get("params", {})
    if all(before.get(key, plain) == plain for key, plain in _plain_params(params).items()):
        return
    Tracker(config, run_dir, apart=apart).close("KILLED")
    aside = run_dir / f"attempt-{state['identity'][:8]}"
    aside.mkdir(exist_ok=True)
    (run_dir / "tracking").rename(aside / "tracking")
    if (run_dir / ROWS).exists():
        (run_dir / ROWS).rename(aside / ROWS)
    _log.warning("%s: an earlier attempt had other settings and left no snapshot; it is kept in %s", run_dir, aside)


def _plain_params(flat: Mapping[str, Any]) -> dict[str, str]:
    return {key: _plain(key, value) for key, value in flat.items()}


def _plain(key: str, value: Any) -> str:
    """A value in the grammar of the command line, without what may be a secret."""
    if _SECRET.search(key) and value is not None:
        return "[redacted]"
    return without_credentials(value if isinstance(value, str) else json.dumps(value))
