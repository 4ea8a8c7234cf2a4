"""What went wrong in which rank, in one message: who is gone, where it ran, where its log lies.

A collective that breaks says that somebody did not answer, not who. The ranks that are left call the roll through the
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

from cluster.settings import RunError
from cluster.storage import write_atomic
from trainers import collectives

ROLL_CALL_S = 5.0
"""How much later than its neighbours a rank may see that a collective broke."""
PLACES = "workers"
"""Folder of the run with a file for each rank: where it runs, and where its log lies on that machine."""
_NO_ROOM = ("out of memory", "OutOfMemory", "can't allocate memory", "running low on memory", "MemoryError")
"""What CUDA, Ray, torch's allocator on a CPU, Ray's monitor of a machine, and Python say."""
_BROKEN = ("gloo", "timed out", "nccl", "connection closed", "connection reset", "store")


@contextmanager
def absent_named(*, roll_call_s: float = ROLL_CALL_S) -> Iterator[None]:
    """Let a collective that fails inside the block name the ranks that did not answer.

    Raises:
        RunError: names them; whatever else is raised inside goes on as it is.
    """
    try:
        yield
    except RunError:
        raise
    except RuntimeError as error:  # gloo raises this itself, torch.distributed its subclasses
        absent = _absent(roll_call_s) if any(word in str(error).lower() for word in _BROKEN) else []
        if not absent:
            raise
        names = ", ".join(str(rank) for rank in absent)
        raise RunError(
            f"rank {names} of {collectives.world_size()} did not answer (frozen, killed or cut off); "
            f"rank {collectives.rank()} saw: {last_line(error)}"
        ) from error


def _absent(roll_call_s: float) -> list[int]:
    """Ranks that do not say within the time that they are here; rank 0 where the store itself is gone with it."""
    me, world = collectives.rank(), collectives.world_size()
    if world == 1:
        return []
    store = dist.distributed_c10d._get_default_store()
    deadline = time.monotonic() + roll_call_s
    try:
        store.set(f"here/{me}", "1")
        store.wait([f"here/{me}"], timedelta(seconds=roll_call_s))
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
    """Write down where a rank runs; ``place`` has its ``rank``, ``world``, ``node`` and ``log``."""
    write_atomic(folder / PLACES / f"rank-{place['rank']}.json", json.dumps(dict(place), indent=1))


def explain(error: Exception, folder: Path, logs: str) -> RunError:
    """One message out of Ray's: what each worker said, and for lack of memory the batch to try (docs/faults.md, 36).

    Args:
        error: what Ray Train raised.
        folder: the run's, where the ranks noted their places.
        logs: folder of the driver's machine where Ray writes logs.
    """
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {}) or {0: error}
    lines = [f"worker {rank}{_place(folder, rank)}: {last_line(failures[rank])}" for rank in sorted(failures)]
    message = f"training failed: {'; '.join(lines)}"
    if any(word in message for word in _NO_ROOM):
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
    """Where Ray's errors say what happened; the error's kind where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
