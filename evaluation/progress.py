"""How long work tells how far it is, without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

Bar = Callable[[int, str], None]
"""Called with what is done so far and a few words on it."""


class Progress(Protocol):
    """What the front door offers."""

    def stage(self, name: str, total: int, /) -> AbstractContextManager[Bar]:
        """Open a stage of ``total`` units; the bar it yields is called as they are done."""
        ...


class Silent:
    """Nobody listens."""

    @contextmanager
    def stage(self, name: str, total: int, /) -> Iterator[Bar]:  # noqa: ARG002
        """A bar that shows nothing."""
        yield lambda _done, _words: None


SILENT = Silent()
