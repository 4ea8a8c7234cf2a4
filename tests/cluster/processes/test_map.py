"""Jobs over processes of this machine: every result once, the first error raised, a killed worker named."""

import math
import multiprocessing
import operator
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cluster.processes.map import WorkerLostError, local_map, local_pool


@pytest.mark.dist
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_every_job_has_its_result(start: str) -> None:
    found = local_map(math.factorial, range(6), workers=2, start=start)  # type: ignore[arg-type]
    assert sorted(found) == [1, 1, 2, 6, 24, 120]


@pytest.mark.dist
def test_the_processes_of_a_pool_serve_one_map_after_another_until_one_is_left_early() -> None:
    with local_pool(workers=1) as pool:
        first, second = (list(pool.map(call, [os.getpid])) for _ in range(2))
        assert first == second != [os.getpid()]
        jobs: list[Callable[[], Any]] = [partial(math.factorial, 3), partial(time.sleep, 3600)]
        left = pool.map(call, jobs)
        assert next(left) == 6
        assert isinstance(left, Generator)
        left.close()
        assert until_no_child()


@pytest.mark.dist
def test_a_pool_that_is_left_by_ctrl_c_waits_for_no_job(tmp_path: Path) -> None:
    def leave() -> None:
        jobs: list[Callable[[], Any]] = [(tmp_path / "begun").touch, partial(time.sleep, 3600)]
        with local_pool(workers=2) as pool:
            next(pool.map(call, jobs))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        leave()
    assert until_no_child()


def until_no_child() -> bool:
    """Whether the processes end that were told to."""
    for child in multiprocessing.active_children():
        child.join(60)
    return not multiprocessing.active_children()


@pytest.mark.dist
def test_an_error_of_a_job_is_raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        list(local_map(partial(operator.truediv, 1), [1, 0], workers=1))


@pytest.mark.dist
def test_a_killed_worker_is_named_with_the_remedy() -> None:
    with pytest.raises(WorkerLostError, match=r"killed .*fewer workers"):
        list(local_map(os._exit, [9], workers=1))


@pytest.mark.dist
def test_a_worker_killed_while_it_waits_ends_the_map_though_its_neighbour_only_saves_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that waits holds the lock of the queue; the other takes the pool's SIGTERM for a request to stop."""
    monkeypatch.setattr("cluster.processes.map.SAVE_S", 2.0)
    results = local_map(save_when_asked, [tmp_path, None], workers=2, start="spawn")
    idle = next(results)
    while not (tmp_path / "begun").exists():
        os.sched_yield()
    os.kill(idle, signal.SIGKILL)
    with pytest.raises(WorkerLostError, match=r"killed .*fewer workers"):
        next(results)
    assert (tmp_path / "saved").exists()
    assert not multiprocessing.active_children()


def save_when_asked(folder: Path | None) -> int:
    """A job that takes SIGTERM as training does: it saves itself, and returns; without a folder one that is done."""
    if folder is not None:
        asked = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: asked.set())
        (folder / "begun").touch()
        while not asked.wait(0.05):
            pass
        (folder / "saved").touch()
    return os.getpid()


@pytest.mark.dist
@pytest.mark.parametrize("ignore", [True, False])
def test_an_interrupt_of_the_terminal_is_left_to_this_process_where_asked(ignore: bool) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job of a shell's background ignores it
    try:
        (handler,) = local_map(signal.getsignal, [signal.SIGINT], workers=1, start="spawn", ignore_interrupt=ignore)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (handler == signal.SIG_IGN) == ignore


@pytest.mark.dist
@pytest.mark.parametrize("how", ["given up", "closed", "interrupted"])
def test_a_caller_that_breaks_off_waits_for_no_job(how: str, tmp_path: Path) -> None:
    """Each of these jobs would take an hour; one of them says that it has begun."""
    begun = tmp_path / "begun"
    jobs = [partial(begun.touch), *[partial(time.sleep, 3600)] * 2]
    results = local_map(call, jobs, workers=2, given_up=begun.exists if how == "given up" else None)
    if how == "given up":
        assert list(results) in ([], [None])
    else:
        assert next(results) is None
        if how == "closed":
            assert isinstance(results, Generator)
            results.close()
        else:
            with pytest.raises(KeyboardInterrupt), interrupted():
                next(results)
    assert not multiprocessing.active_children()


def call(job: Callable[[], Any]) -> Any:
    return job()


@contextmanager
def interrupted() -> Iterator[None]:
    """Ctrl-C at this process alone, once it waits."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
