"""A request to stop at the driver of many runs: none starts any more, and those under way save themselves and end."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from cluster.files.storage import write_atomic
from cluster.processes.repeat import repeated
from cluster.processes.signals import on_request_to_stop
from trainers.loop import EXIT_PREEMPTED, STOP_FILE

LOOK_S = 0.5
"""How often a request is looked for."""


def stop_overdue(parent: Path, seconds: float) -> Callable[[], bool]:
    """Whether a folder's request to stop is older than so many seconds; its age counts from the first look on."""
    seen: list[float] = []

    def overdue() -> bool:
        if not seen and (parent / STOP_FILE).exists():
            seen.append(time.monotonic())
        return bool(seen) and time.monotonic() - seen[0] > seconds

    return overdue


@contextmanager
def ended_by_request(parent: Path) -> Iterator[None]:
    """End this process at a folder's request to stop: what runs here meanwhile has nothing to save."""

    def look() -> None:
        if (parent / STOP_FILE).exists():
            os._exit(EXIT_PREEMPTED)

    with repeated(look, LOOK_S, "stopping"):
        yield


def asked_to_stop(
    parent: Path, runs: Callable[[], Iterable[Path]], noted: Callable[[], None]
) -> AbstractContextManager[None]:
    """Hand a request to stop on to the runs below a folder; a second Ctrl-C breaks off.

    Args:
        parent: the folder; a request of an earlier start is removed from it by the caller.
        runs: folders of those that may be under way, which need not be there yet.
        noted: called first; nothing is started afterwards.
    """

    def hand_on(request: str) -> None:
        noted()
        # In this order: a run looks at the parent's once its own folder is there and cleared of an old request. So one
        # that is too early for its own sees the parent's, and no moment lies between the two.
        write_atomic(parent / STOP_FILE, request)
        for folder in runs():
            if folder.is_dir():
                write_atomic(folder / STOP_FILE, request)

    return on_request_to_stop(hand_on)
