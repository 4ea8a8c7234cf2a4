"""Folders that all machines of a cluster must see as one: tried from each of them before anything runs.

A run on another machine reads its shards there and writes where the driver reads. A folder that a machine has not
mounted would fill up unseen, so each machine shows that it reads what this one wrote, and this one that it reads what
the machine wrote.
"""

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cluster.machine.placement import Machine
from cluster.ray_runtime.environment import ASK_TIMEOUT_S
from cluster.ray_runtime.session import in_job
from cluster.refusals import Refusals
from cluster.settings import UserError, first_line

REACH_S = 5.0


@dataclass(frozen=True, kw_only=True)
class Places:
    """What the machines of a run have in common."""

    written: Mapping[str, Path]
    """Key of the configuration → folder that is written and read by several machines."""
    read: Mapping[str, str]
    """Key → local folder or file that each of them reads."""
    store: str | None = None
    """MLflow's URI, where runs are tracked."""


def require_shared(places: Places, machines: Sequence[Machine]) -> None:
    """Refuse folders that are not the same on each machine with a core for work, and an MLflow that only this one sees.

    An MLflow that nobody reaches is an outage as any other: runs keep what they could not send.
    """
    for folder in places.written.values():
        folder.mkdir(parents=True, exist_ok=True)
    seen = places if places.store and not _reach(places.store) else replace(places, store=None)
    mark = f".seen-{os.urandom(8).hex()}"
    refusals = Refusals()
    try:
        for folder in places.written.values():
            (folder / mark).write_text(mark)
        for one, wrong in _answers(seen, mark, [one for one in machines if one.cpus or one.gpus]):
            for words in wrong or _unseen(places.written, mark, one.id):
                refusals.add(f"{one.address}: {words}")
    finally:
        for folder in places.written.values():
            for file in folder.glob(f"{mark}*"):
                file.unlink(missing_ok=True)
    refusals.require_none()


def _answers(places: Places, mark: str, machines: Sequence[Machine]) -> Iterator[tuple[Machine, list[str]]]:
    """What each machine does not see."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray: Any = import_module("ray")  # published half without types
    ask = ray.remote(num_cpus=0, max_retries=0)(look)
    asked = []
    for one in machines:
        there = NodeAffinitySchedulingStrategy(one.id, soft=False)
        asked.append((one, ask.options(scheduling_strategy=there).remote(places, mark, one.id)))
    for one, answer in asked:
        try:
            yield one, ray.get(answer, timeout=ASK_TIMEOUT_S)
        except Exception as error:  # Ray has a class for each way a task can fail
            yield one, [f"the machine does not answer ({first_line(error)}); see its raylet.err"]


def refuse_own_folder_of_a_job(key: str, folder: Path) -> None:
    """Refuse results in the folder that Ray made for a job and removes with it. The UserError names the key."""
    if in_job() and folder.absolute().is_relative_to(Path.cwd()):
        raise UserError(
            f"{key}={folder}: lies in the job's own folder, which goes with the job; "
            "give an absolute path of a folder that all machines mount"
        )


def look(places: Places, mark: str, name: str) -> list[str]:
    """What this machine does not see, in words; runs on each of them.

    Args:
        places: of the run.
        mark: name and text of a file that the driver wrote into each folder.
        name: of this machine; it answers by a file.
    """
    wrong = []
    for key, folder in places.written.items():
        try:
            reason = "" if (folder / mark).read_text() == mark else "another file is there"
            if not reason:
                (folder / f"{mark}-{name}").write_text(mark)
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:
            wrong.append(f"{key}={folder} is not the driver's folder there ({reason}); mount it at the same path")
    wrong += [
        f"{key}={place} is not there; mount it at the same path, or give a URI such as s3://…"
        for key, place in places.read.items()
        if "://" not in place and not Path(place).exists()
    ]
    if places.store and (reason := _reach(places.store)):
        wrong.append(f"MLflow at {places.store} does not answer there ({reason}); give its machine's address")
    return wrong


def _unseen(written: Mapping[str, Path], mark: str, name: str) -> list[str]:
    """Folders in which this machine does not see the other's file; a listing asks NFS anew."""
    return [
        f"{key}={folder}: what it writes there is not seen here; mount one folder on all machines"
        for key, folder in written.items()
        if f"{mark}-{name}" not in {file.name for file in folder.iterdir()}
    ]


def _reach(store: str) -> str:
    """Why nothing answers at a store; empty where something does, or where it is a file."""
    parts = urlsplit(store)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return ""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), timeout=REACH_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
