"""The processes that train together: numbers of workers the batch allows, ranks of torchrun, this process's place."""

import os
from collections.abc import Sequence
from dataclasses import replace

import torch

from cluster.machine.placement import Bundle, Machine, worker_bundle
from cluster.machine.resources import uses_gpu
from cluster.settings import UserError
from trainers.config import ExperimentConfig
from trainers.loop import World


def world_sizes(config: ExperimentConfig) -> list[int]:
    """Numbers of workers that the run may have, ascending; between ``min_workers`` and ``num_workers`` those that share
    the batch evenly. Raises UserError if there is none.
    """
    fewest, most = config.resources.min_workers, config.resources.num_workers
    if fewest is None:
        return [most or torchrun()[1]]
    batch, micro = config.data.batch, config.optim.micro_batch or 1
    sizes = [size for size in range(1, batch + 1) if batch % size == 0 and batch // size % micro == 0]
    fitting = [size for size in sizes if fewest <= size <= most]
    if not fitting:
        raise UserError(
            f"no number of workers from resources.min_workers={fewest} to resources.num_workers={most} shares "
            f"data.batch={batch} evenly; {', '.join(map(str, sizes))} do"
        )
    return fitting


def world_of_torchrun(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment as a rank of torchrun runs it: without Ray, for the ranks have started.

    Raises UserError if ``resources.num_workers`` is not 0, its default of 1, or the number of ranks.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return config
    workers, size = config.resources.num_workers, torchrun()[1]
    if workers not in (0, 1, size) or config.resources.min_workers is not None or config.views.placement == "pool":
        raise UserError(
            f"torchrun started {size} ranks, and resources.num_workers={workers}, resources.min_workers and "
            "views.placement=pool need Ray; leave them out under torchrun, or start without it"
        )
    return replace(config, resources=replace(config.resources, num_workers=0))


def torchrun() -> tuple[int, int]:
    """Rank and world size where torchrun (or Slurm's srun through it) started this process; else 0 and 1."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def world_here(config: ExperimentConfig) -> World:
    """This process's place where Ray places none: a rank of torchrun, or the only one; it makes its GPU the current."""
    rank, size = torchrun()
    device = torch.device("cpu")
    if uses_gpu(replace(config.resources, num_workers=1), torch.cuda.device_count()):
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    return World(rank=rank, size=size, device=device)


def reserved(config: ExperimentConfig, machines: Sequence[Machine], *, workers: int, what: str) -> list[Bundle]:
    """What the processes of a run reserve on a cluster: its workers, then their view actors.
    Raises UserError if they do not fit the machines, one by one: they would wait for ever.
    """
    resources, views = config.resources, config.views
    actor = Bundle(cpus=resources.cpus_per_worker, gpus=views.pool_gpus, kind="view actor")
    actors = [actor] * (workers * views.pool_workers if views.placement == "pool" else 0)
    worker = worker_bundle(resources, machines, workers=workers, what=what, beside=actors)
    return [worker] * workers + actors
