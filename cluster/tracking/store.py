"""Records of a run into MLflow. Sending a record twice changes nothing, so a replay after an outage needs no memory.

Names, parameters and tags are overwritten with what they are, a metric with the same key, time, step and value is one
row in MLflow's store, files and datasets go to the same place.
"""

import getpass
import os
import re
import shlex
import tempfile
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster.files.storage import without_credentials
from cluster.imports import uncollected
from cluster.settings import RunError, UserError
from cluster.tracking.config import connection_uri, store_file
from cluster.tracking.model import log_model, write_model
from cluster.tracking.pages import EXPERIMENT_KIND, NOTE, PARENT, placed, saved_view

RUN_TAG = "counterpoint.run"
"""Tag with the run's own id: finds the MLflow run again where a kill came between making and noting it."""
_REFUSED = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "MALFORMED_REQUEST", "ENDPOINT_NOT_FOUND", "NOT_IMPLEMENTED"}
"""Of one record, where the run itself is taken; the last two by a server that is older than the client."""
_NO_ANSWER = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "DEADLINE_EXCEEDED", "REQUEST_LIMIT_EXCEEDED"}
_NO_RIGHT = {"PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"}
UNANSWERED = "is it up and reachable? Once it is back"
"""What to do where there was no answer."""
SERVERS = ("http://", "https://")
STORES = ("sqlite:///", "postgresql", "mysql", "mssql")
"""How the URI of a database of runs begins."""
ANSWER_TIMEOUT_S = 5.0
REQUEST_S = 10
"""A request is given up after so long, and tried once more."""
_LIMITS = {"metrics": 1000, "params": 100, "tags": 100}

Record = Mapping[str, Any]


class Refused(RunError):
    """MLflow takes others of the run, but never this record: sending it again is no use."""


class MlflowStore:
    """One run in one MLflow store; ``state`` is the caller's to keep, and holds the run's id once it is known."""

    def __init__(self, uri: str, experiment: str, state: dict[str, Any], parent: Callable[[], str | None]) -> None:
        _import_mlflow()
        self._uri, self._experiment, self._parent = uri, experiment, parent
        self._state = state
        self._client: Any = None

    def send(self, records: Sequence[Record]) -> None:
        """Write records to the store, in order.

        Raises:
            Refused: if the store takes others of the run, but one of these never; so too where sending one raises what
                nobody foresaw, for the rest of the log must not wait for it.
            Exception: whatever MLflow raises while it cannot be reached or refuses the run (deleted, or its experiment;
                no right to write; out of date): send again later.
        """
        from mlflow.exceptions import MlflowException

        run = self._run()
        for kind, group in _grouped(records):
            try:
                _SENDERS[kind](self._client, run, group)
            except Exception as error:
                if not _is_of_record(error):
                    raise
                self._client.set_tag(run, RUN_TAG, self._state["identity"])  # raises where the run itself is refused
                raise Refused(str(error) if isinstance(error, (Refused, MlflowException)) else repr(error)) from error

    def _run(self) -> str:
        """The MLflow run's id: known, found by its tag, or made."""
        if self._client is None:
            self._client = _connect(self._uri)
            known = self._state.get("run_id")
            if known is not None and not self._has(known):
                del self._state["run_id"]
                raise ConnectionError(f"the run {known} was deleted for good; all is sent anew, to another")
        if "run_id" not in self._state:
            home = _experiment_id(self._client, self._experiment, self._uri)
            mark = self._state["identity"]
            found = self._client.search_runs([home], f"tags.`{RUN_TAG}` = '{mark}'", max_results=1)
            tags = {RUN_TAG: mark, "mlflow.user": _user(), "mlflow.source.name": "counterpoint"}
            parent = self._parent()
            if parent:
                tags[PARENT] = parent
            name, started = self._state["name"], self._state["started_ms"]
            run = found[0] if found else self._client.create_run(home, started, tags, name)
            self._state |= {"run_id": run.info.run_id, "experiment_id": home}
        run_id: str = self._state["run_id"]
        return run_id

    def _has(self, run_id: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        return True


def _is_of_record(error: Exception) -> bool:
    """Whether an error may be that of a record alone: MLflow refuses it, or a plain Python error that nobody foresaw.

    The libraries of stores have errors of their own for an outage, and those of the system are OSErrors.
    """
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        return error.error_code in _REFUSED
    plain = type(error).__module__ == "builtins" and not isinstance(error, (OSError, MemoryError))
    return plain or isinstance(error, Refused)


def _user() -> str:
    """Who runs this; in a container the number of a user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # Python 3.13 made it an OSError
        return str(os.getuid())


def _import_mlflow() -> None:
    """Import here, in the thread that makes the store: two threads that import MLflow at once break it for good."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the sender retries; MLflow alone blocks 247 s
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_S))
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    with uncollected(freeze=False):
        for module in ("mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store"):
            import_module(module)


def require_store(uri: str) -> None:
    """Refuse what is no URI of a store of MLflow, by a UserError that says how one is written."""
    if not uri.startswith((*SERVERS, *STORES)):
        raise UserError(f"{without_credentials(uri)}: no store of MLflow; write sqlite:///FILE or http://HOST:PORT")


def trouble(uri: str) -> str:
    """Why a server does not answer, without credentials; empty where it does, or where the store is a file.
    Raises UserError as `require_store` does.
    """
    require_store(uri)
    if not uri.startswith(SERVERS):
        return ""
    requests = import_module("requests")
    try:
        requests.get(f"{connection_uri(uri).rstrip('/')}/health", timeout=ANSWER_TIMEOUT_S).raise_for_status()
    except requests.RequestException as error:
        return without_credentials(str(error))
    return ""


def is_refusal(error: Exception) -> bool:
    """Whether MLflow answered, and will answer the same until somebody changes something."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code not in _NO_ANSWER


def remedy(error: Exception, uri: str) -> str:
    """What to do so that a run is taken again.

    Args:
        error: of the last attempt.
        uri: of the store, without credentials.
    """
    if "database schema" in str(error):
        return f"upgrade the store with: mlflow db upgrade {shlex.quote(uri)}"
    if not is_refusal(error):
        return UNANSWERED
    if getattr(error, "error_code", "") in _NO_RIGHT:
        return "give MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD of a user who may write there"
    return (
        "restore the run or its experiment in MLflow if it was deleted, or continue the run with another "
        "tracking.experiment (or tracking.name, where the name is refused)"
    )


def valid_key(key: str) -> str:
    """A name as MLflow takes it: ``key/weighted@10`` becomes ``key/weighted_at_10``.

    >>> valid_key("tempo/acc1@10"), valid_key("loss (global)")
    ('tempo/acc1_at_10', 'loss _global_')
    """
    return re.sub(r"[^\w/. :-]", "_", key.replace("@", "_at_"))


def _connect(uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    file = store_file(uri)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(tracking_uri=connection_uri(uri))


def _experiment_id(client: Any, name: str, uri: str) -> str:
    """Of an experiment by name; a new one in a local store keeps its files beside the database."""
    from mlflow.exceptions import MlflowException

    file = store_file(uri)
    files = file.parent.joinpath("mlartifacts", valid_key(name)).as_uri() if file is not None else None
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            made: str = client.create_experiment(name, files, tags=dict([EXPERIMENT_KIND]))
            return made
        except MlflowException:  # another run of this moment was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    identity: str = found.experiment_id
    kind, training = EXPERIMENT_KIND
    if kind not in found.tags:  # made by another program, or before the tag was
        client.set_experiment_tag(identity, kind, training)
    return identity


def _grouped(records: Sequence[Record]) -> list[tuple[str, list[Record]]]:
    """Neighbours of one kind together, at most as many values as MLflow takes in a request."""
    groups: list[tuple[str, list[Record]]] = []
    size = 0
    for record in records:
        kind = record["kind"]
        values = len(record["values"]) if kind in _LIMITS else 1
        if groups and groups[-1][0] == kind and size + values <= _LIMITS.get(kind, 1):
            groups[-1][1].append(record)
            size += values
        else:
            groups.append((kind, [record]))
            size = values
    return groups


def _send_metrics(client: Any, run: str, records: Sequence[Record]) -> None:
    from mlflow.entities import Metric

    client.log_batch(
        run,
        metrics=[
            Metric(valid_key(key), float(value), record["time_ms"], record["step"])
            for record in records
            for key, value in record["values"].items()
        ],
    )


def _send_params(client: Any, run: str, records: Sequence[Record]) -> None:
    from mlflow.entities import Param

    values = {valid_key(key): value for record in records for key, value in record["values"].items()}
    client.log_batch(run, params=[Param(key, value) for key, value in values.items()])


def _send_tags(client: Any, run: str, records: Sequence[Record]) -> None:
    from mlflow.entities import RunTag

    values = {valid_key(key): value for record in records for key, value in record["values"].items()}
    home = client.get_run(run).info.experiment_id if NOTE in values else ""
    client.log_batch(
        run, tags=[RunTag(key, placed(key, value, experiment_id=home, run_id=run)) for key, value in values.items()]
    )


def _send_file(client: Any, run: str, records: Sequence[Record]) -> None:
    for record in records:
        if Path(record["path"]).is_file():  # gone = it was sent before a kill came between that and the mark
            client.log_artifact(run, record["path"], record["folder"] or None)


def _send_dataset(client: Any, run: str, records: Sequence[Record]) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    for record in records:
        dataset = Dataset(record["name"], record["digest"], "local", record["source"])
        client.log_inputs(run, [DatasetInput(dataset, [InputTag("mlflow.data.context", record["context"])])])


def _send_view(client: Any, run: str, records: Sequence[Record]) -> None:
    view = {part: [valid_key(name) for name in names] for part, names in records[-1]["view"].items()}
    client.set_experiment_tag(client.get_run(run).info.experiment_id, *saved_view(run, view))


def _send_model(client: Any, run: str, records: Sequence[Record]) -> None:
    for record in records:
        if not Path(record["path"]).is_file():  # as a file's
            continue
        with tempfile.TemporaryDirectory(prefix="counterpoint-model-") as folder:
            try:
                size = {key: record[key] for key in ("samples", "width")}
                write_model(Path(folder), Path(record["path"]), **size, torch_version=record["torch"])
            except Exception as error:  # no outage: waiting mends nothing, and the rest of the log must not wait for it
                raise Refused(f"the encoder ({type(error).__name__}: {error})") from error
            log_model(client, run, Path(folder), record["step"])


def _send_status(client: Any, run: str, records: Sequence[Record]) -> None:
    status, time_ms = records[-1]["status"], records[-1]["time_ms"]
    client.update_run(run, status=status) if status == "RUNNING" else client.set_terminated(run, status, time_ms)


_SENDERS: dict[str, Callable[[Any, str, Sequence[Record]], None]] = {
    "metrics": _send_metrics,
    "params": _send_params,
    "tags": _send_tags,
    "file": _send_file,
    "dataset": _send_dataset,
    "view": _send_view,
    "model": _send_model,
    "status": _send_status,
}
