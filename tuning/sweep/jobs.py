"""What runs in a sweep and what it takes of the machines: jobs, where they come from, how many fit at a time."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import ceil
from pathlib import Path
from typing import Any, Protocol

from cluster.machine.cores import num_cores
from cluster.machine.resources import ResourcesConfig, uses_gpu
from cluster.ray_runtime.session import Session
from cluster.settings import UserError

DRIVER_MEMORY = 1 << 28
"""What the actor of a trial with workers of its own reserves instead of a core: trials never wait for each other."""
Curve = list[tuple[int, float]]
"""(step, value) in order."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a sweep: what travels to its actor."""

    name: str
    experiment: dict[str, Any]
    """Tree of an `ExperimentConfig`, its folder among it."""
    evaluation: dict[str, Any]
    """Tree of an `EvaluationConfig`."""
    metrics: tuple[str, ...]
    parent: str
    """Folder of the sweep, under which the tracker shows the run."""
    metric: str | None = None
    """Column of metrics.jsonl that is reported while the run is under way."""
    evaluation_cpus: float = 0.0
    """Cores, and GPUs, of a task that evaluates; 0 evaluates in the actor, which holds its own."""
    evaluation_gpus: float = 0.0

    @property
    def folder(self) -> Path:
        """Of the run."""
        return Path(self.experiment["run"]["dir"])

    def packed(self) -> dict[str, Any]:
        """As Tune carries it: one string, which is no search space."""
        return {"job": json.dumps(asdict(self))}

    @classmethod
    def unpacked(cls, config: Mapping[str, Any]) -> "Job":
        """From what Tune carried."""
        tree = json.loads(config["job"])
        return cls(**tree | {"metrics": tuple(tree["metrics"])})


class Source(Protocol):
    """Where jobs come from, and what is reported about them; numbers name them."""

    def next(self) -> tuple[int, Job] | None:
        """The next job; None when there is none left."""
        ...

    def reported(self, number: int, row: Mapping[str, Any]) -> None:
        """A metric of a job under way."""
        ...

    def done(self, number: int, result: Mapping[str, Any], curve: Curve) -> None:
        """A job has its values."""
        ...

    def stopped(self, number: int, curve: Curve) -> None:
        """The scheduler stopped it."""
        ...

    def crashed(self, number: int, reason: str) -> None:
        """It crashed and is started again."""
        ...

    def again(self, number: int) -> None:
        """Hand it out once more."""
        ...

    def failed(self, number: int, reason: str) -> None:
        """It crashed once too often."""
        ...


@dataclass(frozen=True)
class Need:
    """What one trial takes of the machines."""

    actor: dict[str, float]
    """Of the actor itself, in Tune's words."""
    evaluation_cpus: float
    evaluation_gpus: float
    cpus: float
    """Of a whole trial."""
    gpus: float


def need(resources: ResourcesConfig, gpus: int) -> Need:
    """A run in its actor takes what a worker would; a run with workers leaves its actor without a core."""
    workers = max(1, resources.num_workers)
    per_gpu = resources.gpus_per_worker if uses_gpu(resources, gpus) else 0.0
    cpus = workers * resources.cpus_per_worker
    if resources.num_workers == 0:
        actor = {"cpu": resources.cpus_per_worker} | ({"gpu": per_gpu} if per_gpu else {})
        return Need(actor, 0.0, 0.0, cpus, per_gpu)
    return Need({"memory": DRIVER_MEMORY}, resources.cpus_per_worker, per_gpu, cpus, workers * per_gpu)


def wanted(concurrency: int, resources: ResourcesConfig) -> int:
    """Trials at a time on this machine alone: as asked, else by its cores."""
    return concurrency or max(1, num_cores() // ceil(max(1, resources.num_workers) * resources.cpus_per_worker))


def concurrent(concurrency: int, resources: ResourcesConfig, session: Session) -> int:
    """Trials at a time in a session.

    Raises:
        UserError: if not even one fits.
    """
    one = need(resources, session.gpus)
    cores = min(session.cpus, num_cores()) if session.local and not concurrency else session.cpus
    fits = int(session.cpus // one.cpus)
    if fits < 1:
        raise UserError(
            f"a trial needs {one.cpus:g} cores ({max(1, resources.num_workers)} workers of "
            f"{resources.cpus_per_worker:g}), the cluster has {session.cpus:g}; lower resources.num_workers or "
            "resources.cpus_per_worker"
        )
    most = max(1, int(cores // one.cpus))
    if one.gpus:
        most = min(most, max(1, int(session.gpus // one.gpus)))
    return min(concurrency, fits) if concurrency else most
