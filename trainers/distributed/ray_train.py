"""`loop.train` on Ray Train: on several workers and machines, through the loss of some.

A fixed number of workers waits for a replacement; an elastic one (``resources.min_workers``) goes on with those that
are there. Both resume from the last snapshot and see the same global batches.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, FixedScalingPolicy

from cluster.machine.resources import ResourcesConfig, train_environment, worker_environment
from cluster.ray_runtime.session import Session, ray_session
from cluster.ray_runtime.shared import Places, require_shared
from cluster.settings import RunError, UserError, to_tree, validate
from trainers.config import ExperimentConfig
from trainers.distributed.failures import absent_named, explain, note_place
from trainers.distributed.world import reserved
from trainers.loop import DivergedError, NothingToLearnError, World, train
from trainers.views.pool import ViewPool, num_processes
from trainers.views.views import stream_views

CLEANER = "PlacementGroupCleanerCallback"
"""Of a nested run: it removes what a controller that died has left behind in a session that goes on."""


def train_on_ray(config: ExperimentConfig, sizes: Sequence[int]) -> int:
    """Train with Ray Train to the end, through the loss of workers and nodes.

    Returns:
        The loop's exit code.

    Raises:
        UserError: if the cluster can never hold the workers, or a machine does not see the run's folder or shards; for
            a fault of the configuration that only a worker could find.
        RunError: if training failed, with the remedy.
    """
    resources = config.resources
    os.environ.update(train_environment(resources))
    cpus = resources.cpus_per_worker
    with ray_session(workers=num_processes(config), cpus_per_worker=cpus, dashboard=False) as session:
        worker = reserved(config, session.machines, workers=sizes[0], what="the run")[0]
        if not (session.local or session.nested):
            data = config.data
            read = {f"data.{name}": getattr(data, name) for name in data.drawn_from}
            require_shared(Places(written={"run.dir": Path(config.run.dir)}, read=read), session.machines)
        trainer = _trainer(config, sizes, session, gpu=worker.gpus > 0)
        try:
            outcome = trainer.fit().return_value  # type: ignore[attr-defined]  # seen as Train V1's result
        except Exception as error:  # Ray wraps what a worker raised in its own exceptions
            raise explain(error, Path(config.run.dir), session.logs) from error
    if "refused" in outcome:
        raise (UserError if outcome["users"] else RunError)(outcome["refused"])
    return int(outcome["code"])


def _trainer(config: ExperimentConfig, sizes: Sequence[int], session: Session, *, gpu: bool) -> "_Trainer":
    resources = config.resources
    environment = worker_environment(resources, cores=session.cores, nodes=session.nodes)
    trainer = _Trainer(
        _worker,  # type: ignore[arg-type]  # Ray's annotation forbids the return value that its docs describe
        train_loop_config=to_tree(config),
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo", timeout_s=round(resources.collective_timeout_s)),
        scaling_config=_scaling(resources, sizes[-1], gpu),
        run_config=RunConfig(
            name="ray",
            storage_path=config.run.dir,
            failure_config=FailureConfig(max_failures=resources.max_failures),
            worker_runtime_env={"env_vars": environment},  # type: ignore[call-arg]  # seen as Train V1's
        ),
    )
    trainer.sizes = tuple(sizes)
    if session.local:
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"  # no node is taken away from this machine alone
        trainer.unneeded = (*trainer.unneeded, CLEANER)
        trainer.alone = True
    return trainer


def _scaling(resources: ResourcesConfig, most: int, gpu: bool) -> ScalingConfig:
    per_worker = {"CPU": resources.cpus_per_worker} | ({"GPU": resources.gpus_per_worker} if gpu else {})
    if resources.min_workers is None:
        return ScalingConfig(num_workers=resources.num_workers, use_gpu=gpu, resources_per_worker=per_worker)
    return ScalingConfig(
        num_workers=(resources.min_workers, most),  # type: ignore[arg-type]  # seen as Train V1's
        use_gpu=gpu,
        resources_per_worker=per_worker,
        elastic_resize_monitor_interval_s=resources.resize_every_s,  # type: ignore[call-arg]  # as above
    )


class _Trainer(TorchTrainer):
    """Ray's trainer with our rules: Ctrl-C is the driver's to handle, and the workers divide the batch.

    Nothing here reads a Ray dataset, and a session that ends with the run leaves no placement group behind: the actors
    for both, two CPU-seconds each, are not started.
    """

    sizes: tuple[int, ...] = ()
    unneeded: tuple[str, ...] = ("DatasetsCallback",)
    """Class names of Ray's own callbacks."""
    alone = False
    """On this machine, with nobody to ask for more."""

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        options["callbacks"] = [one for one in options["callbacks"] if type(one).__name__ not in self.unneeded]
        if self.scaling_config.elasticity_enabled:  # type: ignore[attr-defined]  # seen as Train V1's
            options["scaling_policy"] = DividingPolicy(self.scaling_config, self.sizes)
        elif self.alone:
            options["scaling_policy"] = LocalPolicy(self.scaling_config)  # type: ignore[arg-type]  # as above
        return super()._initialize_and_run_controller(**options)  # type: ignore[misc]  # as above

    def _register_sigint_handler(self, controller: Any) -> None:
        """Ray's would stop the run; ours asks it for a snapshot."""


class LocalPolicy(FixedScalingPolicy):
    """A fixed number of workers; no autoscaler is asked for them, by an actor that takes two seconds to start."""

    def after_controller_start(self, train_run_context: Any) -> None:
        """Ask for nothing."""

    def _maybe_send_resource_request(self) -> None:
        """As above."""


class DividingPolicy(ElasticScalingPolicy):
    """The most workers that fit the resources, among the numbers that divide the batch."""

    def __init__(self, scaling_config: Any, sizes: Sequence[int]) -> None:
        super().__init__(scaling_config)
        self._sizes = tuple(sizes)

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        most = super()._count_possible_workers(reserved_resources)
        return max((size for size in self._sizes if size <= most), default=0)


def _worker(tree: dict[str, Any]) -> dict[str, Any]:
    """Runs in every Ray Train worker, with its process group; returns an error that all ranks raise alike: no retry."""
    config = validate(ExperimentConfig, tree, "the driver")
    context = ray.train.get_context()
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=get_device())
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    node = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
    log = str(Path("/proc/self/fd/2").readlink())
    note_place(
        Path(config.run.dir),
        {"rank": world.rank, "world": world.size, "node": node, "pid": os.getpid(), "log": log},
    )
    make_views = ViewPool(config) if config.views.placement == "pool" else stream_views
    try:
        with absent_named():
            return {"code": train(config, world, _ToRay(), make_views=make_views)}
    except (DivergedError, NothingToLearnError, UserError) as error:
        return {"refused": str(error), "users": isinstance(error, UserError)}


class _ToRay:
    """Reports the metrics to Ray, which shows them; sweeps read them."""

    def report(self, metrics: Mapping[str, float]) -> None:
        ray.train.report(dict(metrics))
