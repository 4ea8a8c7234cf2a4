"""A Ray session that starts what is missing, joins what is asked for, and shuts down what it started."""

import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster.entry_points import shipped_modules
from cluster.machine.placement import Machine
from cluster.machine.process import num_cores
from cluster.machine.scratch import ray_folder, use_as_tmpdir
from cluster.ray_runtime.credentials import ensure_token, reach, require_token, use_token
from cluster.ray_runtime.environment import require_same_versions
from cluster.ray_runtime.private import fewer_services, set_dashboard_timeout, show_token
from cluster.settings import ROOT, RunError, UserError, first_line

DASHBOARD_S = 300
"""As long a local Ray's dashboard may take to start."""
NICENESS = "RAY_worker_niceness"
"""Ray's own default of 15 lets a run starve beside anything else on the machine."""
PRESTART = "RAY_prestart_worker_first_driver"
"""Ray would start a process a core at once, and then others for actors and workers with an environment of their own."""
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray 2.60 warns of its own coming default at every start
}


@dataclass(frozen=True, kw_only=True)
class Session:
    """What a run may ask of the Ray it is in."""

    address: str
    """host:port of the control service."""
    dashboard: str
    """Where a browser sees the cluster; it asks for the token."""
    local: bool
    """Started by this session, and ended with it."""
    nodes: int
    """Machines with cores for work."""
    cores: int
    """Of the smallest of them."""
    cpus: float
    gpus: int
    logs: str
    """Folder of this node's logs, each worker's among them."""
    machines: tuple[Machine, ...] = ()
    """All that are there, those without a core for work too."""
    nested: bool = False
    """Ray was running in this process already: a trial, a row of a study, a task."""


@contextmanager
def ray_session(
    *, workers: int = 1, cpus_per_worker: float = 1.0, address: str | None = None, dashboard: bool = True
) -> Iterator[Session]:
    """Enter Ray: the job's own, the cluster asked for, else a local one with token authentication.

    Where Ray is already running in this process it is used and left running.

    Args:
        workers: processes that must fit beside the driver, ≥ 1; a local session offers as many cores, real or not.
        cpus_per_worker: cores each of them reserves, > 0.
        address: host:port of a cluster, "auto" for one on this machine, "local" for none;
            None = RAY_ADDRESS, else local.
        dashboard: a local Ray has its whole dashboard, eight processes; needed where runs are nested.

    Raises:
        UserError: if the cluster is not there, refuses the token, or has nodes with other versions than this process.
        RunError: if a local Ray cannot start.
    """
    import ray

    if ray.is_initialized():
        yield _describe(_start({"ignore_reinit_error": True}), local=False, nested=True)
        return
    os.environ.update({name: os.environ.get(name, value) for name, value in _QUIET.items()})
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if in_job():
        context = _start({})  # Ray hands the job its cluster, its token and its working directory
    elif address == "local":
        context = _start_local(math.ceil(workers * cpus_per_worker) + 1, dashboard=dashboard)
    else:
        context = _join(address)
    local = not in_job() and address == "local"
    try:
        if not local:
            require_same_versions()
        yield _describe(context, local=local)
    finally:
        ray.shutdown()


def in_job() -> bool:
    """Whether this process is the driver of a job that was submitted to a cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def has_cluster() -> bool:
    """Whether a session would join a cluster: the job's own, or that of RAY_ADDRESS."""
    return in_job() or os.environ.get("RAY_ADDRESS", "local") not in ("", "local")


def _start_local(needed_cpus: int, *, dashboard: bool) -> Any:
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        raise UserError("RAY_AUTH_MODE=disabled would let anyone who reaches this machine run code; unset it")
    folder = ray_folder()
    if folder:
        use_as_tmpdir(folder.parent)  # Ray's dashboard makes sockets of its own there
    ensure_token()
    use_token()
    os.environ.setdefault(NICENESS, "0")
    os.environ.setdefault(PRESTART, "0")
    set_dashboard_timeout(DASHBOARD_S)  # Ray would give up after a minute on a busy machine
    try:
        # Without its dashboard a nested run stopped early leaks its placement group.
        options = {"address": "local", "num_cpus": max(num_cores(), needed_cpus), "include_dashboard": dashboard}
        with fewer_services(dashboard=dashboard):
            return _start(options | ({"_temp_dir": str(folder)} if folder else {}) | _own_code())
    except Exception as error:  # Ray raises no class of its own
        raise RunError(f"a local Ray did not start: {first_line(error)}; {_remedy(str(error))}") from error


def _remedy(message: str) -> str:
    """What helps where a local Ray did not start, by its message."""
    if "dashboard" in message:
        return (
            f"its dashboard did not answer within {DASHBOARD_S} s, on a machine that is very busy: the same command "
            "tries again and goes on where it was"
        )
    if "AF_UNIX path" in message:
        return "its sockets need a short path: set RAY_TMPDIR=/tmp"
    if "No space left" in message:
        return "free some space there, or set RAY_TMPDIR to a short path on another disk"
    if "Permission denied" in message:
        return "set RAY_TMPDIR to a short path that this user can write to"
    return "resources.num_workers=0 does without Ray, `counterpoint doctor` looks further"


def _join(address: str) -> Any:
    if "://" in address:
        raise UserError(
            f"{address}: a run joins a cluster by host:port (6379) from one of its machines; "
            f"from elsewhere send it there with `counterpoint submit --cluster {address} -- …`"
        )
    require_token()
    use_token()
    if address != "auto":
        reach(address)
        _show_token(address)
    try:
        # The other machines get this checkout; .rayignore keeps what is large or private at home.
        return _start({"address": address} | _own_code({"working_dir": str(ROOT)}))
    except Exception as error:  # Ray raises ConnectionError, RuntimeError, AuthenticationError, RaySystemError
        raise UserError(f"{address}: no Ray cluster answers ({first_line(error)}); is its head running?") from error


def _own_code(environment: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The runtime environment of workers, with the modules of the user's own parts."""
    shipped = dict(environment or {})
    if modules := shipped_modules():
        shipped["py_modules"] = modules
    return {"runtime_env": shipped} if shipped else {}


def _show_token(address: str) -> None:
    """Ray would try a wrong token for a minute and then report a failed connection."""
    from ray.exceptions import AuthenticationError

    try:
        show_token(address)
    except AuthenticationError as error:
        raise UserError(
            f"{address}: the cluster refuses this token; copy the head's ~/.ray/auth_token, or set RAY_AUTH_TOKEN"
        ) from error


def _start(options: dict[str, Any]) -> Any:
    import ray

    terminate = signal.getsignal(signal.SIGTERM)
    context = ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    mine = threading.current_thread() is threading.main_thread() and terminate not in (None, signal.SIG_DFL)
    if mine:  # ray.init takes the signal: a preempted run must still save and exit 143
        signal.signal(signal.SIGTERM, terminate)
    return context


def machines_there() -> tuple[Machine, ...]:
    """The living machines of the Ray that this process is in, in the order of their addresses."""
    nodes = import_module("ray").nodes()  # published without types
    found = [
        Machine(
            address=entry["NodeManagerAddress"],
            id=entry["NodeID"],
            cpus=float(entry["Resources"].get("CPU", 0.0)),
            gpus=float(entry["Resources"].get("GPU", 0.0)),
        )
        for entry in nodes
        if entry["Alive"]
    ]
    return tuple(sorted(found, key=lambda one: (one.address, one.id)))


def _describe(context: Any, *, local: bool, nested: bool = False) -> Session:
    total = import_module("ray").cluster_resources()  # published without types
    machines = machines_there()
    working = [int(one.cpus) for one in machines if one.cpus >= 1]
    return Session(
        address=context.address_info["gcs_address"],
        dashboard=f"http://{context.address_info['webui_url']}",
        local=local,
        nodes=max(1, len(working)),
        cores=num_cores() if local else min(working, default=1),
        cpus=float(total.get("CPU", 0.0)),
        gpus=int(total.get("GPU", 0.0)),
        logs=str(Path(context.address_info["session_dir"], "logs")),
        machines=machines,
        nested=nested,
    )
