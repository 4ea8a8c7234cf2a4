"""Progress of long work, independent of how it is shown."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol

from cluster.processes.repeat import repeated

if TYPE_CHECKING:
    from rich.console import Console

LINE_EVERY_S = 30.0
"""Between two lines of progress where the output is no terminal."""
Bar = Callable[[int, str], None]
"""Called with what is done so far and a few words on it; empty ones leave those that stand."""


class Progress(Protocol):
    """What the command line passes in."""

    def stage(self, name: str, total: int, /) -> AbstractContextManager[Bar]:
        """Open a stage of ``total`` units; the bar it yields is called as they are done."""
        ...


@contextmanager
def alive(bar: Bar, words: str, every_s: float = 5.0) -> Iterator[None]:
    """Call a bar at 0 again and again while a library works that says nothing itself, so that time is seen to pass."""
    bar(0, words)
    with repeated(lambda: bar(0, ""), every_s):
        yield


class Silent:
    """No-op progress."""

    @contextmanager
    def stage(self, name: str, total: int, /) -> Iterator[Bar]:  # noqa: ARG002
        """A bar that shows nothing."""
        yield lambda _done, _words: None


SILENT = Silent()


class TerminalProgress:
    """Bars with rate and remaining time; where the output is no terminal, a plain line every half minute."""

    def __init__(self, console: "Console", clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock

    @contextmanager
    def stage(self, name: str, total: int, /) -> Iterator[Bar]:
        """A bar of ``total`` units."""
        if not self._console.is_terminal:
            yield self._lines(name, total)
            return
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

    def _lines(self, name: str, total: int) -> Bar:
        """A line when half a minute has passed since the last, and one at the end, for a log that is read later."""
        started = last = self._clock()
        first: int | None = None  # a run that resumes begins with the steps that it has
        note = ""

        def show(done: int, words: str) -> None:
            nonlocal last, first, note
            first, note = done if first is None else first, words or note
            now = self._clock()
            if now - last < LINE_EVERY_S and done < total:
                return
            last = now
            left = (now - started) * (total - done) / (done - first) if done > first else None
            parts = [f"{name} {done}/{total}", note, f"{_hours(now - started)} so far"]
            if left is not None and done < total:
                parts.append(f"about {_hours(left)} left")
            self._console.print(", ".join(filter(None, parts)), highlight=False, soft_wrap=True, markup=False)

        return show


def _hours(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> _hours(3725.4)
    '1:02:05'
    """
    return str(timedelta(seconds=round(seconds)))


def _rate_column() -> Any:
    """Made here: rich is imported when the first bar is drawn."""
    from rich.progress import ProgressColumn, Task
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            per_s = task.finished_speed or task.speed
            return Text(f"{per_s:.3g}/s" if per_s else "")

    return Rate()
