"""Views made by Ray actors beside the trainer, for clusters whose augmentation is the bottleneck.

Each training worker owns ``views.pool_workers`` actors; they die with it. An actor makes all views of one step of that
worker, with the same code, chunks and threads, so on CPUs the numbers are those of ``views.placement=trainer`` bit for
bit. Batches and views travel through Ray's object store; at most one step more than there are actors is under way.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError
from torch import Tensor

from cluster.settings import RunError
from data_shards.format.records import Batch, TextRows, Windows
from trainers.augment.drawing import ViewParameters
from trainers.config import ExperimentConfig
from trainers.distributed.failures import last_line
from trainers.views.views import ViewMaker, Views

Arrays = tuple[NDArray[Any], ...]
"""Tensors as Ray hands them over without a copy."""


class ViewPool:
    """`stream_views` by actors: a `ViewStream`."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config

    def __call__(self, maker: ViewMaker, batches: Iterable[tuple[int, Batch]], *, seed: int) -> Iterator[Views]:
        """Views of each (step, batch) in order; so many steps ahead as there are actors. Raises RunError if actors get
        no resources or do not respond, or one died more often than ``resources.max_failures``.
        """
        actors = self._start()
        pending: deque[tuple[Any, TextRows | None]] = deque()
        try:
            for number, (step, batch) in enumerate(batches):
                # Ray sends the batch again to an actor that it restarts.
                made = actors[number % len(actors)].make.remote(ray.put(_arrays(batch)), step, seed)
                pending.append((made, batch.texts))  # texts need no actor
                del made  # else the object store would keep these views as long as the next ones
                if len(pending) > len(actors):
                    yield self._next(pending, maker.device)
            while pending:
                yield self._next(pending, maker.device)
        finally:
            for actor in actors:
                ray.kill(actor)

    def _start(self) -> list[Any]:
        views, resources = self.config.views, self.config.resources
        options = {
            "num_cpus": resources.cpus_per_worker,
            "num_gpus": views.pool_gpus,
            "max_restarts": resources.max_failures,
            "max_task_retries": -1,  # as often as the actor is restarted
        }
        actor = ray.remote(**options)(ViewActor)  # type: ignore[call-overload]  # made for literal options
        return [actor.remote(self.config, torch.get_num_threads()) for _ in range(views.pool_workers)]

    def _next(self, pending: deque[tuple[Any, TextRows | None]], device: torch.device) -> Views:
        made, texts = pending.popleft()
        return self._take(made, device)._replace(texts=texts)

    def _take(self, made: Any, device: torch.device) -> Views:
        resources = self.config.resources
        try:
            arrays = ray.get(made, timeout=resources.health_timeout_s)
        except GetTimeoutError:
            raise RunError(
                f"the view pool did not respond for resources.health_timeout_s={resources.health_timeout_s:g} s; it "
                f"needs {_needs(self.config)}: check the cluster, raise the limit, or set views.placement=trainer"
            ) from None
        except RayActorError as error:
            raise RunError(
                f"a view actor died more often than resources.max_failures={resources.max_failures} allows "
                f"({last_line(error)}); less memory is taken with a smaller views.chunk"
            ) from None
        return _views(arrays, [extra.effect for extra in self.config.augment.extra], device)


class ViewActor:
    """One maker of views in a process of its own."""

    def __init__(self, config: ExperimentConfig, threads: int) -> None:
        torch.set_num_threads(threads)
        device = "cuda" if config.views.pool_gpus else "cpu"
        self.maker = ViewMaker(config.views, config.augment, config.frontend, device=device)

    def make(self, batch: Arrays, step: int, seed: int) -> Arrays:
        """All views of a step's batch."""
        made = self.maker.make(Batch(*Windows._make(_tensor(values) for values in batch)), step=step, seed=seed)
        own = [made.received[name] for name in self.maker.own.names]
        return _arrays((*made[:3], *made.parameters, *own))


def num_processes(config: ExperimentConfig) -> int:
    """Training workers and their actors."""
    actors = config.views.pool_workers if config.views.placement == "pool" else 0
    return config.resources.num_workers * (1 + actors)


def _needs(config: ExperimentConfig) -> str:
    views, resources = config.views, config.resources
    return (
        f"{resources.num_workers * views.pool_workers} view actors of {resources.cpus_per_worker:g} CPUs and "
        f"{views.pool_gpus:g} GPUs each"
    )


def _arrays(tensors: Iterable[Tensor]) -> Arrays:
    return tuple(values.cpu().numpy() for values in tensors)


def _tensor(array: NDArray[Any], device: torch.device | None = None) -> Tensor:
    """A copy: what lies in the object store may not be written to."""
    tensor = torch.from_numpy(np.array(array))
    if device is None or device.type != "cuda":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def _views(arrays: Arrays, own: Sequence[str], device: torch.device) -> Views:
    input_N, clip_id_N, labels_NC = (_tensor(array, device) for array in arrays[:3])
    drawn = [_tensor(array) for array in arrays[3:]]
    count = len(ViewParameters._fields)
    parameters = ViewParameters(*drawn[:count])
    received = parameters.received | dict(zip(own, drawn[count:], strict=True))
    return Views(input_N, clip_id_N, labels_NC, parameters, received)
