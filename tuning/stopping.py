"""SIGTERM and Ctrl-C at the driver of many runs: none starts any more, and those under way save themselves and end."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster.storage import write_atomic
from trainers.loop import STOP_FILE


@contextmanager
def asked_to_stop(parent: Path, runs: Callable[[], Iterable[Path]], noted: Callable[[], None]) -> Iterator[None]:
    """Hand a request to stop on to the runs below a folder; a second Ctrl-C breaks off.

    Args:
        parent: the folder; a request of an earlier start is removed from it by the caller.
        runs: folders of those that may be under way, which need not be there yet.
        noted: called first; nothing is started afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        noted()
        # In this order: a run looks at the parent's once its own folder is there and cleared of an old request. So one
        # that is too early for its own sees the parent's, and no moment lies between the two.
        write_atomic(parent / STOP_FILE, f"signal {number}\n")
        for folder in runs():
            if folder.is_dir():
                write_atomic(folder / STOP_FILE, f"signal {number}\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
