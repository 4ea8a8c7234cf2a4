"""Where a run is tracked, and under which name. A configuration must not import MLflow.

A configuration names a store and never holds the key to it. User and password stand in MLFLOW_TRACKING_URI (or in
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which MLflow reads itself), and each process that talks to the
store takes them from there. So none reaches a snapshot, a report, a run's account or another machine.
"""

import os
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from cluster.files.storage import without_credentials
from cluster.settings import Config

STORE_VARIABLE = "MLFLOW_TRACKING_URI"
SQLITE = "sqlite:///"


@dataclass(frozen=True, kw_only=True)
class TrackingConfig(Config):
    """Keys ``tracking.*``; they never change a result."""

    enabled: bool = True
    """Whether the run is shown in MLflow; metrics.jsonl is written either way."""
    uri: str | None = None
    """MLflow's store: sqlite:///FILE or http://HOST:PORT; None = MLFLOW_TRACKING_URI, else a file all runs share."""
    experiment: str = "counterpoint"
    """The group of runs it is compared with."""
    name: str | None = None
    """What the run is called; None = the name of its folder."""
    system_metrics_s: float = 10.0
    """Seconds between samples of the driver machine's load, ≥ 1; 0 = none."""

    def __post_init__(self) -> None:
        if self.system_metrics_s and self.system_metrics_s < 1:
            raise ValueError(f"system_metrics_s must be 0 or >= 1, got {self.system_metrics_s}")
        if not self.experiment:
            raise ValueError("experiment must have a name, got ''")
        if self.uri and (shown := without_credentials(self.uri)) != self.uri:
            raise ValueError(
                f"uri must hold no user, password or key, got {shown}; put it into {STORE_VARIABLE}, or them into "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


def store_uri(config: TrackingConfig, run_dir: Path) -> str:
    """Where a run is tracked: as configured, as MLFLOW_TRACKING_URI says, else one file for all runs of a folder.

    That file is ``outputs/mlflow.db`` for every run below a folder called outputs, otherwise it lies beside the run.
    A file's path is absolute: workers and trials run in folders of their own. It never holds a password.
    """
    uri = config.uri or _keyless(os.environ.get(STORE_VARIABLE, "")) or default_store(run_dir)
    file = store_file(uri)
    return uri if file is None else f"{SQLITE}{file.expanduser().absolute()}"


def store_file(uri: str) -> Path | None:
    """The file of a SQLite store: what stands behind ``sqlite:///``, to the letter; None for another store."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def connection_uri(uri: str) -> str:
    """The store as MLflow connects to it: the path of a file quoted, else `with_key`.

    ``?``, ``#`` and ``%`` are letters of a path here, and have a meaning in the URIs of SQLAlchemy. With the driver's
    name MLflow leaves the quoted path alone; else it makes a folder of that name.

    >>> connection_uri("sqlite:////data/mlflow.db"), connection_uri("sqlite:////data/a?b/mlflow.db")
    ('sqlite:////data/mlflow.db', 'sqlite+pysqlite:////data/a%3Fb/mlflow.db')
    """
    file = store_file(uri)
    if file is None:
        return with_key(uri)
    url = import_module("sqlalchemy").URL.create("sqlite+pysqlite", database=str(file))
    quoted: str = url.render_as_string()
    return uri if quoted.endswith(f"://{uri.removeprefix('sqlite://')}") else quoted


def with_key(uri: str) -> str:
    """The same store with the user and password that MLFLOW_TRACKING_URI of this process has for it.

    For the connection alone: what this returns is never written down, shown or sent to another process.
    """
    given = os.environ.get(STORE_VARIABLE, "")
    return given if _keyless(given).rstrip("/") == uri.rstrip("/") else uri


def _keyless(uri: str) -> str:
    """A URI without user, password and keys.

    >>> _keyless("http://ann:secret@host:5000"), _keyless("postgresql://db/runs?password=secret&sslmode=require")
    ('http://host:5000', 'postgresql://db/runs?sslmode=require')
    """
    shown = without_credentials(uri).replace("://[redacted]@", "://")
    return re.sub(r"(?<=[?&])[\w.-]+=\[redacted\]&?", "", shown).rstrip("?&")


def default_store(run_dir: Path) -> str:
    """The SQLite store that runs below one ``outputs`` folder share.

    >>> default_store(Path("/home/ann/outputs/sweep/trial-3"))
    'sqlite:////home/ann/outputs/mlflow.db'
    >>> default_store(Path("/scratch/mine"))
    'sqlite:////scratch/mlflow.db'
    """
    path = run_dir.absolute()
    home = next((folder for folder in path.parents if folder.name == "outputs"), path.parent)
    return f"sqlite:///{home / 'mlflow.db'}"
