"""Jobs over the cores of this machine: the default `map_jobs` of a build."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cluster.cores import num_cores
from cluster.pool_workers import end_with_parent
from cluster.settings import RunError

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int = 0) -> Iterator[Result]:
    """Results in the order in which they are done.

    Args:
        function: picklable.
        jobs: picklable.
        workers: processes; 0 takes one for each core that this process may use, 1 stays in this process.

    Raises:
        RunError: if a worker process dies.
    """
    workers = min(workers or num_cores(), len(jobs))
    if workers <= 1:
        yield from map(function, jobs)
        return
    # A server that has the imports done forks the workers: neither this process's threads nor its locks are copied.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_shards.build", "webdataset"])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent)
    try:
        for future in as_completed([pool.submit(function, job) for job in jobs]):
            yield future.result()
    except BrokenProcessPool:
        raise RunError(
            "a worker process died, probably for want of memory; try fewer build.workers. Finished shards are kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
