"""Jobs over processes of this machine: every result once, the first error raised, a killed worker named."""

import math
import operator
import os
import signal
from functools import partial

import pytest

from cluster.processes.map import WorkerLostError, local_map


@pytest.mark.dist
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_every_job_has_its_result(start: str) -> None:
    found = local_map(math.factorial, range(6), workers=2, start=start)  # type: ignore[arg-type]
    assert sorted(found) == [1, 1, 2, 6, 24, 120]


@pytest.mark.dist
def test_an_error_of_a_job_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        list(local_map(partial(operator.truediv, 1), [1, 0], workers=1))


@pytest.mark.dist
def test_a_killed_worker_is_named_with_the_remedy() -> None:
    with pytest.raises(WorkerLostError, match=r"killed .*fewer workers"):
        list(local_map(os._exit, [9], workers=1))


@pytest.mark.dist
@pytest.mark.parametrize("ignore", [True, False])
def test_an_interrupt_of_the_terminal_is_left_to_this_process_where_asked(ignore: bool) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of a shell's background ignores it
    try:
        (handler,) = local_map(signal.getsignal, [signal.SIGINT], workers=1, start="spawn", ignore_interrupt=ignore)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (handler == signal.SIG_IGN) == ignore
