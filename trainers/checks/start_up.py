"""The checks before a run starts. Sets and snapshots are opened and verified here once, and handed on."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from cluster.files.outputs import require_writable_folder
from cluster.machine.resources import num_gpus
from cluster.settings import UserError
from data_shards.read.loader import BatchLoader
from data_shards.sampling.sampler import LABELLED
from trainers.checks.constant_loss import check_data_can_be_learned
from trainers.checks.own_parts import check_own_loss, check_own_parts
from trainers.checks.resume import refuse_another_experiment
from trainers.config import ExperimentConfig
from trainers.distributed.world import world_here, world_of_torchrun, world_sizes
from trainers.inference.initial import open_initial
from trainers.loop import World, reads_on
from trainers.monitor.knn import check_quick
from trainers.state.places import absolute, absolute_source
from trainers.state.snapshot import Snapshot, last_snapshot
from trainers.step import check_kernels, check_network
from trainers.views.batches import open_batches


@dataclass(frozen=True, kw_only=True)
class Checked:
    """An experiment that passed the checks, with what they opened."""

    config: ExperimentConfig
    """Its paths absolute, its workers those of torchrun where that started this process."""
    summary: dict[str, Any]
    """Realised shares and epochs of the sampler."""
    data_hash: str
    """Manifest hashes of the data."""
    last: Snapshot | None
    """The run's last snapshot, verified."""
    initial: Snapshot | None
    """That of ``init_from`` where a new run starts from it, verified."""
    world: World | None
    """This process's place where it trains itself, else None."""
    loader: BatchLoader | None
    """Open where this process trains itself, else None: Ray's workers open their own."""

    @property
    def is_done(self) -> bool:
        """Whether all steps have been taken."""
        return self.last is not None and self.last.step >= self.config.optim.steps


def check(config: ExperimentConfig) -> Checked:
    """Everything that can be refused before resources are taken, by a UserError as of `checked`."""
    with checked(config, train_here=False) as found:
        return found


@contextmanager
def checked(config: ExperimentConfig, *, train_here: bool = True) -> Iterator[Checked]:
    """`check` with the loader open inside the block; with ``train_here`` this process trains next, unless the
    experiment leaves that to Ray's workers. The UserError names what does not fit and the nearest value that does.
    """
    absolute = with_absolute_paths(world_of_torchrun(config))
    config = replace(config, resources=absolute.resources)  # messages name the paths as the user gave them
    folder = Path(config.run.dir)
    if not os.path.isdir(folder):  # noqa: PTH112  # unlike Path's, it takes a name that is too long
        require_writable_folder(folder, "run.dir")
    check_own_parts(config)
    size = world_sizes(config)[-1]
    _check_micro_batch(config, size)
    world = world_here(config) if train_here and config.resources.num_workers == 0 else None
    with ExitStack() as stack:
        place = world or World(size=size)
        loader = open_batches(config, rank=place.rank, world=place.size, device=reads_on(config, place))
        stack.enter_context(loader)
        last = last_snapshot(folder / "snapshots")
        if last is not None:
            refuse_another_experiment(last, config, loader.manifest_hash)
        if last is None or last.step < config.optim.steps:  # a finished run writes nothing
            require_writable_folder(folder, "run.dir")
        check_data_can_be_learned(config, loader)
        tags = len(loader.vocabulary)
        if config.resources.use_gpu == "no" or not (config.resources.num_workers or num_gpus()):
            check_kernels(config, num_tags=tags, device=torch.device("cpu"))
        initial = open_initial(config.init_from) if config.init_from and last is None else None
        check_network(config, num_tags=tags, initial=initial)
        check_own_loss(config, rows=config.data.batch // size, num_tags=tags)
        if config.run.quick_every:
            check_quick(config, loader.sets[LABELLED])
        found = Checked(
            config=absolute,
            summary=loader.sampler.summary(config.optim.steps),
            data_hash=loader.manifest_hash,
            last=last,
            initial=initial,
            world=world,
            loader=loader,
        )
        if world is None:
            stack.close()
            found = replace(found, loader=None)
            del loader  # its index would stay in memory beside the workers'
        yield found


def _check_micro_batch(config: ExperimentConfig, world: int) -> None:
    share, micro = config.data.batch // world, config.optim.micro_batch
    if micro is not None and share % micro:
        fitting = [size for size in range(1, share + 1) if share % size == 0]
        nearest = min(fitting, key=lambda size: abs(size - micro))
        raise UserError(f"optim.micro_batch={micro} does not divide a worker's {share} clips; take {nearest}")


def with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Make every path absolute: a worker's working directory is another. Raises UserError if ``run.dir`` is a URI."""
    given = {name: getattr(config.data, name) for name in ("labelled", "unlabelled", "cache")}
    places: dict[str, Any] = {name: absolute(place) for name, place in given.items() if place is not None}
    data = replace(config.data, **places)
    if "://" in config.run.dir:
        raise UserError(f"run.dir={config.run.dir}: snapshots need a folder that all nodes mount, not a URI")
    run = replace(config.run, dir=absolute(config.run.dir))
    return replace(config, data=data, run=run, init_from=config.init_from and absolute_source(config.init_from))
