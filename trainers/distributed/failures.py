"""One message for a failure: which ranks do not respond, where they ran, and where their logs are.

The error of a failed collective does not name the missing ranks. The others check which ranks respond through the
process group's key-value store, which needs no collective.
"""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from cluster.files.storage import write_atomic
from cluster.settings import RunError
from trainers.distributed import collectives

RESPONSE_TIMEOUT_S = 5.0
"""How much later than the other ranks a rank may see that a collective failed."""
PLACES = "workers"
"""Folder of the run with a file for each rank: where it runs, and where its log is on that machine."""
_OUT_OF_MEMORY = ("out of memory", "OutOfMemory", "can't allocate memory", "running low on memory", "MemoryError")
"""In the messages of CUDA, Ray, torch's allocator on a CPU, Ray's memory monitor, and Python."""
_BROKEN = ("gloo", "timed out", "nccl", "connection closed", "connection reset", "store")


@contextmanager
def absent_named(*, timeout_s: float = RESPONSE_TIMEOUT_S) -> Iterator[None]:
    """Name, in a RunError, the ranks that do not respond when a collective fails inside the block; other errors go on
    as they are.
    """
    try:
        yield
    except RunError:
        raise
    except RuntimeError as error:  # gloo raises this itself, torch.distributed its subclasses
        absent = _absent(timeout_s) if any(word in str(error).lower() for word in _BROKEN) else []
        if not absent:
            raise
        names = ", ".join(str(rank) for rank in absent)
        raise RunError(
            f"rank {names} of {collectives.world_size()} did not answer (frozen, killed or cut off); "
            f"rank {collectives.rank()} saw: {last_line(error)}"
        ) from error


def _absent(timeout_s: float) -> list[int]:
    """Ranks that do not respond in time; rank 0, which holds the store, where the store is gone."""
    me, world = collectives.rank(), collectives.world_size()
    if world == 1:
        return []
    store = dist.distributed_c10d._get_default_store()
    deadline = time.monotonic() + timeout_s
    try:
        store.set(f"here/{me}", "1")
        store.wait([f"here/{me}"], timedelta(seconds=timeout_s))
    except (RuntimeError, ValueError):
        return [0]
    absent = []
    for rank in range(world):
        try:
            store.wait([f"here/{rank}"], timedelta(seconds=max(0.01, deadline - time.monotonic())))
        except (RuntimeError, ValueError):
            absent.append(rank)
    return absent


def note_place(folder: Path, place: Mapping[str, Any]) -> None:
    """Record where a rank runs; ``place`` has its ``rank``, ``world``, ``node`` and ``log``."""
    write_atomic(folder / PLACES / f"rank-{place['rank']}.json", json.dumps(dict(place), indent=1))


def explain(error: Exception, folder: Path, logs: str) -> RunError:
    """One message from Ray's error: the last line of each worker, and the batch to try if memory ran out
    (docs/faults.md, 36).
    """
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {}) or {0: error}
    lines = [f"worker {rank}{_place(folder, rank)}: {last_line(failures[rank])}" for rank in sorted(failures)]
    message = f"training failed: {'; '.join(lines)}"
    if any(word in message for word in _OUT_OF_MEMORY):
        message += "; try half of data.batch, or more workers"
    return RunError(
        f"{message}. Logs: {logs} on the driver's machine, for every worker {folder / PLACES}. "
        "The same command resumes from the last snapshot"
    )


def _place(folder: Path, rank: int) -> str:
    file = folder / PLACES / f"rank-{rank}.json"
    if not file.exists():
        return ""
    place = json.loads(file.read_text(encoding="utf-8"))
    return f" on {place['node']} (log {place['log']})"


def last_line(error: BaseException) -> str:
    """The last line of a message, which in Ray's errors is the cause; the error's type where it has no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
