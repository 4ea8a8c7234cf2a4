"""A function over many jobs in processes of this machine; `cluster.ray_runtime.map.ray_map` is the same on Ray."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing.process import BaseProcess
from typing import Literal, TypeVar

from cluster.settings import RunError

Job = TypeVar("Job")
Result = TypeVar("Result")
LOOK_S = 0.5
"""How often a caller is asked whether it gives up."""
SAVE_S = 60.0
"""How long workers may take to save themselves when one of them was killed."""
QUEUED = 4
"""Jobs a worker that are pickled ahead: of ten million clips all would be gigabytes."""


class WorkerLostError(RunError):
    """A process of the pool was killed; the results that are missing are lost."""


class Pool:
    """Processes for one map after another; what a process keeps of one is there for the next."""

    def __init__(self, executor: ProcessPoolExecutor, workers: int) -> None:
        self._executor, self._ahead = executor, QUEUED * workers
        self._others = set(multiprocessing.active_children())

    def map(
        self,
        function: Callable[[Job], Result],
        jobs: Iterable[Job],
        *,
        given_up: Callable[[], bool] | None = None,
    ) -> Iterator[Result]:
        """As `local_map`."""
        waiting, running = iter(jobs), set[Future[Result]]()
        try:
            while True:
                ahead = islice(waiting, self._ahead - len(running))
                running.update(self._executor.submit(function, job) for job in ahead)
                if not running:
                    return
                done, running = wait(running, timeout=LOOK_S if given_up else None, return_when=FIRST_COMPLETED)
                while done:
                    yield done.pop().result()
                if given_up and given_up():
                    self.kill()
                    return
        except (KeyboardInterrupt, GeneratorExit):  # a job may take minutes, and the pool waits for each
            self.kill()
            raise
        except BrokenProcessPool as error:  # the pool has asked the others to end
            self._end(given_up)
            raise WorkerLostError(
                "a worker process was killed (out of memory?); try fewer workers. What is finished is kept"
            ) from error

    def kill(self) -> None:
        """End the workers at once."""
        for worker in self._workers():
            worker.kill()

    def _end(self, given_up: Callable[[], bool] | None) -> None:
        """Wait until the workers have ended, `SAVE_S` seconds at most: one that saves itself when it is asked to end
        may then wait for a next job on a queue that the lost one has locked.
        """
        until = time.monotonic() + SAVE_S
        while time.monotonic() < until and not (given_up and given_up()):
            if not (left := [one.sentinel for one in self._workers()]):
                return
            multiprocessing.connection.wait(left, LOOK_S)
        self.kill()

    def _workers(self) -> set[BaseProcess]:
        """All children that multiprocessing has started since."""
        return set(multiprocessing.active_children()) - self._others


@contextmanager
def local_pool(
    *,
    workers: int,
    start: Literal["forkserver", "spawn"] = "forkserver",
    preload: Sequence[str] = (),
    ignore_interrupt: bool = False,
) -> Iterator[Pool]:
    """Processes of this machine, started when there is work; they end with it, at once if it is left by Ctrl-C.

    Args:
        workers: processes, ≥ 1.
        start: forkserver forks the workers from a server that has imported ``preload``, so neither this process's
            threads nor its locks are copied; spawn starts each with this process's environment variables of now.
        preload: modules.
        ignore_interrupt: Ctrl-C, which reaches every process of a terminal, is left to this process.
    """
    context = multiprocessing.get_context(start)
    if preload:
        context.set_forkserver_preload(list(preload))
    initializer = _start_ignoring if ignore_interrupt else end_with_parent
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=initializer)
    pool = Pool(executor, workers)
    try:
        yield pool
    except (KeyboardInterrupt, GeneratorExit):
        pool.kill()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def local_map(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    start: Literal["forkserver", "spawn"] = "forkserver",
    preload: Sequence[str] = (),
    ignore_interrupt: bool = False,
    given_up: Callable[[], bool] | None = None,
) -> Iterator[Result]:
    """Results in the order in which they are done. Where the caller breaks off, by Ctrl-C too, the workers are killed.

    Args:
        function: picklable.
        jobs: picklable; each is taken when a worker will soon be free.
        workers: processes, ≥ 1; this and the next three as for `local_pool`.
        start: how they start.
        preload: modules of the forkserver.
        ignore_interrupt: whether Ctrl-C is left to this process.
        given_up: looked at every `LOOK_S` seconds; once it is true the workers are killed and no result comes.

    Raises:
        WorkerLostError: if a worker process is killed.
    """
    count = min(workers, len(jobs))
    with local_pool(workers=count, start=start, preload=preload, ignore_interrupt=ignore_interrupt) as pool:
        yield from pool.map(function, jobs, given_up=given_up)


def _start_ignoring() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


def end_with_parent() -> None:
    """End this process when the one that made its pool is gone: a killed parent's workers would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
