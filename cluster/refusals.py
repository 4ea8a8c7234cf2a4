"""Refusals come all at once: what several checks find, in one message."""

from collections.abc import Iterator
from contextlib import contextmanager

from cluster.settings import UserError


class Refusals:
    """Collects what several checks refuse.

    >>> refusals = Refusals()
    >>> with refusals.noted():
    ...     raise UserError("batch must be > 0")
    >>> refusals.add("steps must be > 0")
    >>> refusals.require_none()
    Traceback (most recent call last):
    cluster.settings.UserError: batch must be > 0
    steps must be > 0
    """

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    def add(self, message: str) -> None:
        """Note a refusal; the same words once."""
        self._found |= dict.fromkeys(message.splitlines())

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the `UserError` that the block raises, and go on behind it."""
        try:
            yield
        except UserError as error:
            self.add(str(error))

    def require_none(self) -> None:
        """Refuse where anything was noted."""
        if self._found:
            raise UserError("\n".join(self._found))
