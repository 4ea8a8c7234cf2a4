"""Map jobs over processes of this machine: the default `map_jobs` of a build."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from cluster.machine.cores import num_cores
from cluster.processes.pool_workers import end_with_parent
from cluster.settings import RunError

Job = TypeVar("Job")
Result = TypeVar("Result")


def run_jobs(function: Callable[[Job], Result], jobs: Sequence[Job], *, workers: int = 0) -> Iterator[Result]:
    """Yield results in the order of completion.

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
    # The fork server has imported the modules; its forks copy neither the threads nor the locks of this process.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_shards.build.build", "webdataset"])
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
