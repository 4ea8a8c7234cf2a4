"""The same command on a cluster: ship the checkout, start it as a Ray job, follow it to its real exit code."""

import asyncio
import logging
import os
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.entry_points import entry_points_in, import_factory, shipped_modules
from cluster.files.storage import without_credentials
from cluster.provenance import git_revision
from cluster.ray_runtime.credentials import reach, require_token, use_token
from cluster.ray_runtime.private import each_shipped, jobs_api_version
from cluster.settings import ROOT, RunError, UserError, first_line, read_yaml

DEFAULT_CLUSTER = "http://127.0.0.1:8265"
UPLOAD_BYTES = 100 << 20
"""A checkout has a few megabytes; more is data that strayed into it. Ray itself ends at 512 MiB."""
NEVER_SHIPPED = ["*.tar", "*.db", "outputs/", ".venv/", ".git/"]
"""Excluded whatever .rayignore lists: shards and results stay where they are."""
EXIT_STOPPED = 143
STOP_WAIT_S = "120"
_POLL_S = 0.5
_SHIPPED_LOCK = "-r ${RAY_RUNTIME_ENV_CREATE_WORKING_DIR}/requirements.lock"
LOST_S = 120.0
"""How long a cluster may give no answer before following a job ends."""

Show = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Job:
    """One line of `counterpoint submit list`."""

    name: str
    status: str
    command: str
    started: datetime | None
    seconds: float


class Cluster:
    """The jobs API of one Ray cluster.
    Raises UserError if nothing answers at the URL, the token is missing or wrong, or its Ray is of another version.
    """

    def __init__(self, url: str | None = None) -> None:
        self.url = _url(url)
        parts = urlsplit(self.url)
        require_token()
        reach(f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}")
        use_token()
        try:
            self._client: Any = import_module("ray.job_submission").JobSubmissionClient(self.url)
            logging.getLogger("ray").setLevel(logging.ERROR)  # it logs every file it leaves out
        except Exception as error:  # Ray raises ConnectionError or RuntimeError around every HTTP status
            raise _explained(self.url, error) from error
        theirs, ours = self._client.get_version(), import_module("ray").__version__
        if theirs != jobs_api_version():
            raise UserError(
                f"{self.url}: its jobs API is version {theirs}; run Ray {ours} there, as requirements.lock has"
            )

    def submit(self, command: Sequence[str], *, root: Path = ROOT, install: bool = False) -> str:
        """Start ``counterpoint COMMAND…`` in the cluster and return the job's name.

        Args:
            command: words after ``counterpoint``.
            root: the checkout that is shipped.
            install: build an environment of its requirements.lock for the job, where the cluster has
                other versions.

        Raises:
            UserError: if there is nothing to run, the command holds a password, or the checkout is too large; nothing
                has been sent then.
            RunError: if the cluster does not take it.
        """
        if not command:
            raise UserError("nothing to submit; write `counterpoint submit -- pretrain conf/pretrain/… key=value`")
        _refuse_credentials(command)
        check_size(root)
        name = f"{command[0].strip('-') or 'job'}-{datetime.now():%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"
        shipped: dict[str, Any] = {"working_dir": str(root), "excludes": NEVER_SHIPPED, "env_vars": _environment()}
        if modules := _own_modules(command):
            shipped["py_modules"] = modules
        if install:
            shipped["uv"] = {
                "packages": [_SHIPPED_LOCK],
                "uv_pip_install_options": [],
            }  # Ray's default forgets its cache
        run = shlex.join(["python", "-m", "counterpoint", *command])
        entry = f"python -m cluster.ray_runtime.environment && exec {run}"
        try:
            self._client.submit_job(
                entrypoint=entry, submission_id=name, runtime_env=shipped, metadata={"command": shlex.join(command)}
            )
        except Exception as error:  # as above
            raise RunError(f"{self.url}: the cluster did not take the job: {first_line(error)}") from error
        return name

    def follow(self, job: str, show: Show) -> int:
        """Hand over the job's output as it comes, and return its exit code: 143 where it was stopped.
        Raises RunError if the cluster has not answered for two minutes; the job may live on.
        """
        shown, answered = _NewText(show), time.monotonic()
        broken = (OSError, RuntimeError, asyncio.IncompleteReadError, import_module("aiohttp").ClientError)
        while True:
            try:
                asyncio.run(self._tail(job, shown))  # ends with the job
                info = self._info(job)
                answered = time.monotonic()
                if info.status.is_terminal():
                    return _exit_code(info)
            except UserError:
                raise
            except broken as error:  # the way there
                if time.monotonic() - answered > LOST_S:
                    raise RunError(
                        f"{self.url}: no answer for {LOST_S:.0f} s ({first_line(error)}); the job may go on: "
                        f"counterpoint submit logs {job}"
                    ) from error
            time.sleep(_POLL_S)

    def logs(self, job: str) -> str:
        """Everything a job has written so far."""
        self._info(job)
        text: str = self._client.get_job_logs(job)
        return text

    def stop(self, job: str) -> str:
        """Ask a job to end, wait until it has, and return its last status; it gets SIGTERM, so a run saves itself."""
        self._info(job)
        self._client.stop_job(job)
        while not (info := self._info(job)).status.is_terminal():
            time.sleep(_POLL_S)
        return str(info.status.value)

    def jobs(self) -> list[Job]:
        """Submitted jobs, the newest first."""
        found = [entry for entry in self._client.list_jobs() if entry.submission_id]
        return [_job(entry) for entry in sorted(found, key=lambda entry: entry.start_time or 0, reverse=True)]

    async def _tail(self, job: str, shown: "_NewText") -> None:
        """Show what is new; the API starts from the first character each time."""
        shown.rewind()
        async for lines in self._client.tail_job_logs(job):
            shown.add(lines)

    def _info(self, job: str) -> Any:
        try:
            return self._client.get_job_info(job)
        except RuntimeError as error:
            if "404" in str(error) or "does not exist" in str(error):
                raise UserError(f"{job}: no such job on {self.url}; `counterpoint submit list` shows them") from None
            raise


class _NewText:
    """Shows a text that may start again from its beginning, each character once."""

    def __init__(self, show: Show) -> None:
        self._show = show
        self._shown = self._received = 0

    def rewind(self) -> None:
        self._received = 0

    def add(self, text: str) -> None:
        self._received += len(text)
        if self._received > self._shown:
            self._show(text[max(0, len(text) - (self._received - self._shown)) :])
            self._shown = self._received


def submit(
    command: Sequence[str],
    *,
    cluster: str | None = None,
    install: bool = False,
    show: Show,
    ask: Callable[[str], bool] = lambda _: False,
) -> int:
    """Run ``counterpoint COMMAND…`` on a cluster as if it ran here.

    Args:
        command: words after ``--``.
        cluster: URL of the cluster's dashboard; None = RAY_API_SERVER_ADDRESS, else this machine.
        install: see `Cluster.submit`.
        show: given the output, in pieces that end anywhere.
        ask: asked at Ctrl-C whether to stop the job; no leaves it running.

    Returns:
        The job's own exit code; 143 if it was stopped; 130 if it was left running.
    """
    there = Cluster(cluster)
    job = there.submit(command, install=install)
    show(f"{job} on {there.url}\n")
    try:
        return there.follow(job, show)
    except KeyboardInterrupt:
        if ask(f"stop {job}?"):
            there.stop(job)
            return EXIT_STOPPED
        show(f"{job} goes on; see it by: counterpoint submit logs {job}\n")
        return 130


def check_size(root: Path, limit_bytes: int = UPLOAD_BYTES) -> int:
    """Bytes that would be shipped from ``root``, by Ray's own rules of what to leave out.
    Where they are more than ``limit_bytes`` the UserError names the largest.
    """
    sizes: dict[str, int] = {}

    def note(path: Path) -> None:
        if path.is_file() and not path.is_symlink():
            top = path.relative_to(root).parts[0]
            sizes[top] = sizes.get(top, 0) + path.stat().st_size

    each_shipped(root, NEVER_SHIPPED, note)
    total = sum(sizes.values())
    if total > limit_bytes:
        largest = sorted(sizes, key=lambda key: sizes[key], reverse=True)[:3]
        named = ", ".join(f"{key} ({sizes[key] / 2**20:.0f} MiB)" for key in largest)
        raise UserError(
            f"{root}: {total / 2**20:.0f} MiB would be shipped, at most {limit_bytes / 2**20:.0f} are; "
            f"the largest are {named}: move data out of the checkout, or name it in .rayignore"
        )
    return total


def _own_modules(command: Sequence[str]) -> list[str]:
    """Modules of the user's own parts: the ``module:factory`` of the command and of the files it names."""
    texts = [word.partition("=")[2] or word for word in command]
    read: set[str] = set()
    for text in texts:  # it grows: a sweep names its preset, a study its evaluations
        if text.endswith((".yaml", ".yml")) and text not in read:
            read.add(text)
            found = next((path for path in (Path(text), ROOT / text) if path.is_file()), None)
            texts += _values(read_yaml(found)) if found else []
    for name in (name for text in texts for name in entry_points_in(text)):
        with suppress(UserError):  # not every word with a colon is code; the job itself refuses what it lacks
            import_factory(name, "submit")
    return shipped_modules()


def _values(node: Any) -> list[str]:
    """All values of a tree as texts, those in lists too."""
    if isinstance(node, Mapping):
        node = list(node.values())
    return [text for part in node for text in _values(part)] if isinstance(node, list) else [str(node)]


def _refuse_credentials(command: Sequence[str]) -> None:
    """A job's command can be read by everyone on the cluster, as its environment can."""
    for word in command:
        if (shown := without_credentials(word)) != word:
            raise UserError(
                f"{shown}: it holds a password or key, which a job would show to everyone on the cluster; "
                "set it in the environment of the cluster's nodes instead"
            )


def _environment() -> dict[str, str]:
    """What the job must know of this side; secrets stay here, for a job's environment can be read in the dashboard."""
    known = {"COUNTERPOINT_REVISION": git_revision(), "RAY_USAGE_STATS_ENABLED": "0"}
    known["RAY_JOB_STOP_WAIT_TIME_S"] = STOP_WAIT_S  # Ray alone kills after 3 s, before a run has saved itself
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and without_credentials(uri) != uri:
        raise UserError(
            "MLFLOW_TRACKING_URI holds a password, which a job would show to everyone on the cluster; "
            "set it in the environment of the cluster's nodes instead"
        )
    return known | ({"MLFLOW_TRACKING_URI": uri} if uri else {})


def _url(given: str | None) -> str:
    url = given or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT_CLUSTER
    url = url if "://" in url else f"http://{url}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UserError(f"{url} is no URL of a cluster; write http://HOST:8265, the head's dashboard")
    return url.rstrip("/")


def _explained(url: str, error: Exception) -> UserError:
    if isinstance(error, import_module("ray.exceptions").AuthenticationError):  # Ray's, for a 401 and a 403 alone
        return UserError(
            f"{url}: the cluster refuses this token; copy the head's ~/.ray/auth_token, or set RAY_AUTH_TOKEN"
        )
    return UserError(f"{url}: no jobs API of Ray answers there ({first_line(error)}); is it the dashboard's URL?")


def _exit_code(info: Any) -> int:
    if info.status.value == "STOPPED":
        return EXIT_STOPPED
    if info.driver_exit_code is not None:
        return int(info.driver_exit_code)
    return 0 if info.status.value == "SUCCEEDED" else 1  # the driver never ran: no environment, no node


def _job(entry: Any) -> Job:
    started = datetime.fromtimestamp(entry.start_time / 1000) if entry.start_time else None
    end_s = entry.end_time / 1000 if entry.end_time else time.time()
    return Job(
        name=entry.submission_id,
        status=str(entry.status.value),
        command=(entry.metadata or {}).get("command", entry.entrypoint),
        started=started,
        seconds=end_s - started.timestamp() if started else 0.0,
    )
