"""What the processes of a run reserve of a cluster."""

from collections.abc import Sequence

from cluster.machine.placement import Bundle, Machine, worker_bundle
from trainers.config import ExperimentConfig


def reserved(config: ExperimentConfig, machines: Sequence[Machine], *, workers: int, what: str) -> list[Bundle]:
    """What the processes of a run reserve on a cluster: its workers, then their view actors.

    Raises:
        UserError: if they do not fit the machines, one by one: they would wait for ever.
    """
    resources, views = config.resources, config.views
    actor = Bundle(cpus=resources.cpus_per_worker, gpus=views.pool_gpus, kind="view actor")
    actors = [actor] * (workers * views.pool_workers if views.placement == "pool" else 0)
    worker = worker_bundle(resources, machines, workers=workers, what=what, beside=actors)
    return [worker] * workers + actors
