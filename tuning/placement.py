"""What a trial of a sweep, or a row of a study, takes of a cluster, and how many run at a time.

One that trains in a process of its own is an actor or a task that reserves what a worker would. One with workers (Ray
Train places them) is driven by a process that reserves memory instead of a core: a share of a core for each would keep
the last worker of a full machine out (docs/decisions/014). Its evaluation reserves what one worker does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from cluster.machine.placement import Bundle, Machine, copies
from cluster.machine.process import num_cores
from cluster.machine.resources import ResourcesConfig
from cluster.ray_runtime.session import Session
from cluster.ray_runtime.shared import Places
from cluster.tracking.config import TrackingConfig, store_file
from trainers.config import ExperimentConfig, without_ray_train

DRIVER_MEMORY = 1 << 28
"""Bytes that the driver of a run with workers of its own reserves."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """What one run with its evaluation takes."""

    bundles: tuple[Bundle, ...]
    """Of its workers, then of their view actors."""
    alone: bool
    """It trains in the process that runs it."""

    @property
    def worker(self) -> Bundle:
        """Of one worker, and of the evaluation."""
        return self.bundles[0]

    @property
    def driver(self) -> Bundle | None:
        """What the process that runs it reserves; None reserves `DRIVER_MEMORY` alone."""
        return self.worker if self.alone else None

    @property
    def cpus(self) -> float:
        """Of the whole run."""
        return sum(one.cpus for one in self.bundles)

    @property
    def gpus(self) -> float:
        """Of the whole run."""
        return sum(one.gpus for one in self.bundles)


def need(config: ExperimentConfig, machines: Sequence[Machine], what: str) -> Need:
    """What a run needs where these machines are. Raises UserError if it never fits them."""
    from trainers.distributed.world import (
        reserved,
        world_sizes,  # brings torch, which a wrong key need not wait for
    )

    run = without_ray_train(config)
    bundles = reserved(run, machines, workers=max(1, world_sizes(run)[0]), what=what)
    return Need(bundles=tuple(bundles), alone=run.resources.num_workers == 0)


def threads(resources: ResourcesConfig) -> int:
    """Threads of a run that shares its machine with others: as configured, else the cores that a worker reserves."""
    return resources.threads_per_worker or max(1, int(resources.cpus_per_worker))


def cores(config: ExperimentConfig) -> int:
    """Cores of a whole run, as far as its configuration tells."""
    resources, views = config.resources, config.views
    actors = views.pool_workers if views.placement == "pool" else 0
    return ceil(max(1, resources.num_workers) * (1 + actors) * resources.cpus_per_worker)


def wanted(asked: int, config: ExperimentConfig) -> int:
    """Runs at a time on this machine alone: as asked, else by its cores."""
    return asked or max(1, num_cores() // cores(config))


def here(cpus: float) -> tuple[Machine, ...]:
    """This machine as a session of its own would offer it, with so many cores at least."""
    from cluster.machine.resources import num_gpus

    return (Machine(address="this machine", cpus=max(float(num_cores()), cpus), gpus=float(num_gpus())),)


def places(key: str, folder: Path, read: Mapping[str, str | None], tracking: TrackingConfig) -> Places:
    """What the machines of a sweep or study must have in common; what it builds itself lies in its folder."""
    written, on = {key: folder}, tracking.enabled and tracking.uri is not None
    if on and (file := store_file(tracking.uri or "")):
        written["tracking.uri"] = file.parent
    return Places(
        written=written,
        read={name: place for name, place in read.items() if place and not place.startswith(f"{folder}/")},
        store=tracking.uri if on else None,
    )


def concurrent(asked: int, one: Need, session: Session) -> int:
    """Runs of one size at a time in a session, at least 1; they were found to fit one by one."""
    fits = max(1, copies(one.bundles, session.machines, asked or ceil(session.cpus / one.cpus)))
    if session.local and not asked:  # a local session offers more cores than there are
        fits = min(fits, max(1, int(min(session.cpus, num_cores()) // one.cpus)))
    return fits
