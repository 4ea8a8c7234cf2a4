"""Progress in a log: a plain line every half minute, and one at the end."""

import io
from threading import Event

from rich.console import Console

from cluster.progress import LINE_EVERY_S, TerminalProgress, alive


class Clock:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def shown(steps: list[tuple[float, int]], total: int) -> list[str]:
    """Lines of a stage whose steps are done at these seconds."""
    output, clock = io.StringIO(), Clock()
    with TerminalProgress(Console(file=output, width=40), clock).stage("[pretraining]", total) as bar:
        for clock.now, done in steps:
            bar(done, f"loss {done}.0")
    return output.getvalue().splitlines()


def test_redirected_output_shows_a_line_every_half_minute() -> None:
    lines = shown([(float(second), second) for second in range(1, 101)], 1000)
    assert len(lines) == 100 // int(LINE_EVERY_S)
    assert lines[0] == "[pretraining] 30/1000, loss 30.0, 0:00:30 so far, about 0:16:43 left"


def test_the_end_is_a_line_however_soon_it_comes() -> None:
    assert shown([(1.0, 1), (2.0, 2)], 2) == ["[pretraining] 2/2, loss 2.0, 0:00:02 so far"]


def test_a_resumed_stage_is_not_taken_for_a_fast_one() -> None:
    (line,) = shown([(0.0, 900), (30.0, 930)], 1000)
    assert line.endswith("about 0:01:10 left")


def test_a_terminal_has_bars() -> None:
    output = io.StringIO()
    with TerminalProgress(Console(file=output, force_terminal=True, width=120)).stage("clips", 2) as bar:
        bar(2, "done")
    assert "2/2" in output.getvalue()
    assert "\x1b[" in output.getvalue()


def test_a_library_that_says_nothing_is_seen_to_be_alive() -> None:
    called: list[tuple[int, str]] = []
    again = Event()

    def bar(done: int, words: str) -> None:
        called.append((done, words))
        if len(called) > 2:
            again.set()

    with alive(bar, "t-SNE", every_s=0.001):
        assert again.wait(60)
    count = len(called)
    assert called[0] == (0, "t-SNE")
    assert set(called[1:]) == {(0, "")}
    assert len(called) == count  # nothing after the block
