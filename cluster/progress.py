"""How long work tells how far it is, without knowing who listens."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.console import Console

Bar = Callable[[int, str], None]
"""Called with what is done so far and a few words on it; empty ones leave those that stand."""


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


class TerminalProgress:
    """Bars with rate and remaining time; where the output is no terminal, one line when a stage ends.

    Args:
        console: where they are drawn.
    """

    def __init__(self, console: "Console") -> None:
        self._console = console

    @contextmanager
    def stage(self, name: str, total: int, /) -> Iterator[Bar]:
        """A bar of ``total`` units."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("{task.description:<20}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(compact=True),
            _rate_column(),
            TextColumn("{task.fields[words]}"),
        )
        with Progress(*columns, console=self._console) as bars:
            task = bars.add_task(name, total=total, words="")

            def show(done: int, words: str) -> None:
                bars.update(task, completed=done)
                if words:
                    bars.update(task, words=words)

            yield show


def _rate_column() -> Any:
    """Made here: rich is imported when the first bar is drawn."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            per_s = task.finished_speed or task.speed
            return Text(f"{per_s:.3g}/s" if per_s else "")

    return Rate()
