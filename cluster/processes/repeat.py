"""A thread beside a block of work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def repeated(call: Callable[[], object], every_s: float, name: str | None = None) -> Iterator[None]:
    """Call a function every so many seconds in a thread; the end of the block waits for a call under way."""
    ended = Event()

    def repeat() -> None:
        while not ended.wait(every_s):
            call()

    thread = Thread(target=repeat, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
