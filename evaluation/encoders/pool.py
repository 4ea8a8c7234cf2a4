"""Encoders that work through jobs in order: in this process, or in Ray actors on the cores and GPUs of a cluster.

In this process built-in encoders on a CPU work through as many jobs at a time as torch has threads, each on one:
reading one job goes on beside the products of another, and no core waits for the small steps of a network.

Jobs are cut the same way whatever the number of workers, so every worker sees the batches that one process would.
Jobs are drawn as they are needed and results handed out in order, so nothing waits in memory but a few of each.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from cluster.machine.process import keep_freed_memory
from cluster.machine.resources import ResourcesConfig, uses_gpu
from cluster.settings import RunError
from evaluation.config import WorkersConfig
from evaluation.encoders.devices import device_of

Job = TypeVar("Job")
Result = TypeVar("Result")
Encoders = Mapping[str, Any]
AHEAD = 2
"""Jobs that may wait for each worker."""
RETRIES = 3
"""Times that a job is given to another process after its own died."""


class Pool(Mapping[str, Any]):
    """Encoders by name, and a way to have them work. This one works in this process."""

    def __init__(self, encoders: Encoders) -> None:
        self._encoders = dict(encoders)

    def __getitem__(self, name: str) -> Any:
        return self._encoders[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._encoders)

    def __len__(self) -> int:
        return len(self._encoders)

    def only(self, names: Iterable[str]) -> "Pool":
        """The same workers with some of the encoders."""
        return Pool({name: self[name] for name in names})

    def map(self, work: Callable[[Encoders, Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Results of ``work(encoders, job)`` in the order of the jobs."""
        threads = torch.get_num_threads() if all(map(_may_share, self._encoders.values())) else 1
        keep_freed_memory()
        if threads == 1:
            for job in jobs:
                yield work(self, job)
            return
        waiting: deque[Future[Result]] = deque()
        with ThreadPoolExecutor(threads, "encoder", torch.set_num_threads, (1,)) as workers:
            try:
                for job in jobs:
                    if len(waiting) >= AHEAD * threads:
                        yield waiting.popleft().result()
                    waiting.append(workers.submit(work, self, job))
                while waiting:
                    yield waiting.popleft().result()
            finally:
                workers.shutdown(cancel_futures=True)
                torch.set_num_threads(threads)  # MKL has one number for all threads


class RayPool(Pool):
    """The same in Ray actors; each holds a copy of the encoders."""

    def __init__(self, encoders: Encoders, actors: Sequence[Any]) -> None:
        super().__init__(encoders)
        self._actors = actors

    def only(self, names: Iterable[str]) -> "RayPool":
        """The same workers with some of the encoders."""
        return RayPool({name: self[name] for name in names}, self._actors)

    def map(self, work: Callable[[Encoders, Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """See `Pool.map`. Raises RunError if workers die again and again."""
        import ray

        shared, names = ray.put(work), tuple(self)
        waiting: deque[Any] = deque()
        for number, job in enumerate(jobs):
            if len(waiting) >= AHEAD * len(self._actors):
                yield _result(waiting.popleft())
            waiting.append(self._actors[number % len(self._actors)].run.remote(shared.hex(), shared, names, job))
        while waiting:
            yield _result(waiting.popleft())


def as_pool(encoders: Encoders) -> Pool:
    """A pool as it is; any other mapping works in this process."""
    return encoders if isinstance(encoders, Pool) else Pool(encoders)


@contextmanager
def open_pool(encoders: Encoders, config: WorkersConfig) -> Iterator[Pool]:
    """The pool that a configuration asks for; its workers, which move the encoders to their own devices, end with the
    block. Raises UserError if GPUs are required and there are too few, or the cluster is not there.
    """
    if not config.num_workers:
        yield Pool(encoders)
        return
    import ray

    from cluster.ray_runtime.session import ray_session

    with ray_session(workers=config.num_workers, cpus_per_worker=config.cpus_per_worker) as session:
        wanted = ResourcesConfig(
            num_workers=config.num_workers, use_gpu=config.use_gpu, gpus_per_worker=config.gpus_per_worker
        )
        gpus = config.gpus_per_worker if uses_gpu(wanted, session.gpus) else 0
        _by_value(encoders)
        actor: Any = ray.remote(_Worker).options(
            num_cpus=config.cpus_per_worker, num_gpus=gpus, max_restarts=RETRIES, max_task_retries=RETRIES
        )
        arguments = ray.put(dict(encoders)), max(1, int(config.cpus_per_worker)), gpus > 0
        actors = [actor.remote(*arguments) for _ in range(config.num_workers)]
        try:
            yield RayPool(encoders, actors)
        finally:
            for one in actors:
                ray.kill(one)


class _Worker:
    """One process with its copy of the encoders."""

    def __init__(self, encoders: Encoders, threads: int, gpu: bool) -> None:
        torch.set_num_threads(threads)
        keep_freed_memory()
        device = "cuda" if gpu else "cpu"
        self._encoders = {n: e.to(device) if isinstance(e, nn.Module) else e for n, e in encoders.items()}
        self._kept: tuple[str, Any] = ("", None)

    def run(self, key: str, work: Callable[[Encoders, Any], Any], names: Sequence[str], job: Any) -> Any:
        # Ray unpickles the work anew for every call; what it opened (shards) stays with the first copy.
        if self._kept[0] != key:
            self._kept = (key, work)
        return self._kept[1]({name: self._encoders[name] for name in names}, job)


def _may_share(encoder: Any) -> bool:
    """Whether several threads may call an encoder at a time: nobody knows that of a user's own."""
    return getattr(encoder, "may_be_shared", False) and device_of(encoder).type == "cpu"


def _by_value(encoders: Encoders) -> None:
    """Other machines have not a user's module: its code travels with the encoder."""
    for encoder in encoders.values():
        inner = getattr(encoder, "inner", encoder)
        module = import_module(type(inner).__module__)
        if Path(getattr(module, "__file__", None) or "/").parent == Path.cwd():
            import_module("ray.cloudpickle").register_pickle_by_value(module)


def _result(reference: Any) -> Any:
    import ray
    from ray.exceptions import RayActorError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None  # the worker's own message, not Ray's traceback around it
    except RayActorError as error:
        raise RunError(
            f"an embedding worker died {RETRIES + 1} times, probably out of memory; "
            f"lower resources.num_workers or batch ({str(error).splitlines()[0]})"
        ) from error
