"""SIGTERM and Ctrl-C as a request to end in order."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def on_request_to_stop(request: Callable[[str], None]) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C call ``request`` with the signal as a line of text; a second Ctrl-C breaks off.

    Outside of the main thread, which alone has signals, it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: Any) -> None:
        request(f"signal {number}\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
