"""A function over many jobs on a Ray cluster: the same work as a process pool's, on more machines.

Independent of what the jobs are. What they read and write must lie where every machine sees it.
"""

from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, TypeVar

from cluster.ray_runtime.session import ray_session
from cluster.settings import RunError, UserError, first_line

Job = TypeVar("Job")
Result = TypeVar("Result")

QUEUED = 2
"""Tasks in flight a core of the cluster: one runs, the next waits on the node, and an autoscaler sees both."""
STOP_S = 30.0
"""Time that cancelled tasks have to end."""


def ray_map(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    name_of: Callable[[Job], str],
    workers: int = 0,
    address: str | None = None,
) -> Iterator[Result]:
    """Results in the order in which they are done; a task lost with its machine runs again elsewhere.

    The session begins with the first result that is asked for, and ends with the iterator. An iterator that is left
    early stops its tasks.

    Args:
        function: picklable, and safe to run again for the same job; one core a task.
        jobs: picklable.
        name_of: what an error calls a job.
        workers: tasks at a time; 0 takes what the cluster has.
        address: as `cluster.ray_runtime.session.ray_session`.

    Raises:
        UserError: a task raised one, or the cluster cannot be joined.
        RunError: a task failed for another reason; it names the job.
    """
    with ray_session(address=address):
        yield from _run(function, jobs, name_of, workers)


def _run(
    function: Callable[[Job], Result], jobs: Sequence[Job], name_of: Callable[[Job], str], workers: int
) -> Iterator[Result]:
    ray = import_module("ray")  # published half without types
    task = ray.remote(num_cpus=1)(function)
    waiting = iter(jobs)
    running: dict[Any, str] = {}
    try:
        while True:
            slots = workers or QUEUED * max(1, int(ray.cluster_resources().get("CPU", 1)))
            while len(running) < slots and (job := next(waiting, None)) is not None:
                running[task.remote(job)] = name_of(job)
            if not running:
                return
            (done,), _ = ray.wait(list(running), num_returns=1)
            yield _result(done, running.pop(done))
    finally:
        for reference in running:
            # An interrupt in mid-import would leave a broken module to the worker's next task: the worker goes too.
            ray.cancel(reference, force=True)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=STOP_S)


def _result(reference: Any, name: str) -> Any:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, UserError):
            raise cause from None
        what = str(cause) if isinstance(cause, RunError) else f"{type(cause).__name__}: {cause}"
        raise RunError(f"{name}: {what}") from error
    except RayError as error:  # its worker or its machine died, more often than Ray tries again
        raise RunError(
            f"{name}: its task was lost ({first_line(error)}), probably for want of memory; try fewer workers"
        ) from error
