"""Pretraining as a user starts it: Ray Train around `loop.train`, or this process alone.

The driver owns the folder, the tracker and the signals; workers own the numbers. Metrics travel through the run's
metrics.jsonl, which survives every restart: the tracker and the progress bar follow the file, so an outage of Ray or of
MLflow loses none of them.
"""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from cluster.files.locks import sole_writer
from cluster.files.outputs import require_writable_folder
from cluster.files.storage import write_atomic
from cluster.machine.resources import num_gpus, threads_per_worker, uses_gpu
from cluster.processes.signals import on_request_to_stop
from cluster.settings import UserError, flatten, to_tree
from cluster.tracking import Tracker, set_aside
from trainers.batches import open_batches
from trainers.checks.constant_loss import check_data_can_be_learned
from trainers.checks.own_parts import check_own_parts
from trainers.config import ExperimentConfig, may_differ_on_resume
from trainers.distributed import collectives
from trainers.distributed.failures import absent_named
from trainers.loop import EXIT_DONE, EXIT_PREEMPTED, STOP_FILE, World, rate_change, refuse_another_experiment, train
from trainers.monitor.knn import check_quick
from trainers.monitor.run_page import describe, log_encoder
from trainers.state.metrics_log import METRICS, MetricsLog, MetricsTail, read_metrics
from trainers.state.snapshot import last_snapshot
from trainers.step import check_kernels, check_network

_log = logging.getLogger(__name__)

Watcher = Callable[[Mapping[str, Any]], None]
"""Told every row of metrics.jsonl, in order, once."""


def pretrain(config: ExperimentConfig, *, watch: Watcher | None = None, parent: Path | None = None) -> int:
    """Train, or resume, the experiment of ``config.run.dir``.

    Args:
        config: the experiment; ``resources.num_workers=0`` trains in this process, without Ray.
        watch: called in a thread of this process with each step's figures.
        parent: folder of the sweep or study that this run belongs to; the tracker shows it below. A request to stop
            in it is one to this run too, if it comes before the run can have a request of its own.

    Returns:
        0 when done, 143 when SIGTERM or SIGINT asked for a snapshot and an orderly end.

    Raises:
        UserError: if the data, the batch or the folder do not allow it, or another process runs in the folder; nothing
            has started then.
        RunError: if training failed, with the remedy.
    """
    config = _with_absolute_paths(world_of_torchrun(config))
    folder = Path(config.run.dir)
    summary, data_hash = check(config)
    stoppable = on_request_to_stop(partial(write_atomic, folder / STOP_FILE))  # rank 0 looks for it at every step
    if config.resources.num_workers == 0 and _torchrun()[0] > 0:
        with stoppable:
            return _in_process(config)  # rank 0 locks the folder and tracks the run
    if _is_done(config):
        return EXIT_DONE
    with sole_writer(folder, "choose another run.dir"):
        return _drive(config, summary, data_hash, stoppable, watch=watch, parent=parent)


def _is_done(config: ExperimentConfig) -> bool:
    last = last_snapshot(Path(config.run.dir) / "snapshots")
    return last is not None and last.step >= config.optim.steps


def _drive(
    config: ExperimentConfig,
    summary: Mapping[str, Any],
    data_hash: str,
    stoppable: AbstractContextManager[None],
    *,
    watch: Watcher | None,
    parent: Path | None,
) -> int:
    """What the driver does once the folder is its own: track, watch, train."""
    folder = Path(config.run.dir)
    last = last_snapshot(folder / "snapshots")  # another start may have saved one while this one was checked
    if last is not None and (changed := rate_change(last, config)):
        _log.warning("%s: %s", folder, changed)
    (folder / STOP_FILE).unlink(missing_ok=True)  # of an earlier start that never came to see it
    if parent and (parent / STOP_FILE).exists():  # written before those of the runs: none is lost by the line above
        return EXIT_PREEMPTED
    settings = flatten(to_tree(config))
    if last is None:
        deciding = {
            key: value for key, value in settings.items() if not may_differ_on_resume(key, config.run.may_differ)
        }
        set_aside(config.tracking, folder, deciding)
    done = last.step if last else 0
    # Rows of an attempt that left no snapshot are nobody's: their steps will be done again, perhaps otherwise.
    MetricsLog(folder / METRICS).cut_back(done)
    with Tracker(config.tracking, folder, parent=parent) as tracker:
        tracker.params(settings)
        tracker.params({f"data.realised.{key}": value for key, value in summary.items()})
        _log_datasets(tracker, config, data_hash)
        describe(tracker, config, {})
        tail = MetricsTail(folder / METRICS, after=done, watch=watch) if watch else nullcontext()
        with stoppable, tail:
            code = _in_process(config) if config.resources.num_workers == 0 else _on_ray(config)
        describe(tracker, config, max(read_metrics(folder / METRICS), key=itemgetter("step"), default={}))
        if code == EXIT_DONE and config.tracking.enabled and parent is None:  # a trial's snapshot is there to export
            log_encoder(tracker, folder)
        tracker.close("FINISHED" if code == EXIT_DONE else "KILLED")
    return code


def check(config: ExperimentConfig) -> tuple[dict[str, Any], str]:
    """Everything that can be refused before resources are taken.

    Returns:
        Realised shares and epochs of the sampler, and the manifest hash of the data.

    Raises:
        UserError: names what does not fit and the nearest that does.
    """
    config = world_of_torchrun(config)
    folder = Path(config.run.dir)
    if not os.path.isdir(folder):  # noqa: PTH112  # unlike Path's, it takes a name that is too long
        require_writable_folder(folder, "run.dir")
    check_own_parts(config)
    world = world_sizes(config)[-1]
    _check_micro_batch(config, world)
    with open_batches(config, world=world) as loader:
        last = last_snapshot(folder / "snapshots")
        if last is not None:
            refuse_another_experiment(last, config, loader.manifest_hash)
        if last is None or last.step < config.optim.steps:  # a finished run is only looked at
            require_writable_folder(folder, "run.dir")
        check_data_can_be_learned(config, loader)
        if config.resources.use_gpu == "no" or not (config.resources.num_workers or num_gpus()):
            check_kernels(config, num_tags=len(loader.vocabulary), device=torch.device("cpu"))
        check_network(config, num_tags=len(loader.vocabulary), fresh=last is None)
        if config.run.quick_every:
            check_quick(config)
        return loader.sampler.summary(config.optim.steps), loader.manifest_hash


def world_sizes(config: ExperimentConfig) -> list[int]:
    """Numbers of workers that the run may have, ascending; between ``min_workers`` and ``num_workers`` those that share
    the batch evenly.

    Raises:
        UserError: if there is none between them.
    """
    fewest, most = config.resources.min_workers, config.resources.num_workers
    if fewest is None:
        return [most or _torchrun()[1]]
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
    """The experiment as a rank of torchrun runs it: the ranks are there already, Ray is not started in each of them.

    ``resources.num_workers`` may be 0, its default of 1, or the number of ranks.

    Raises:
        UserError: if it asks for another number of workers than torchrun started.
    """
    if not {"RANK", "WORLD_SIZE"} <= os.environ.keys():
        return config
    asked, size = config.resources.num_workers, _torchrun()[1]
    if asked not in (0, 1, size) or config.resources.min_workers is not None or config.views.placement == "pool":
        raise UserError(
            f"torchrun started {size} ranks, and resources.num_workers={asked}, resources.min_workers and "
            "views.placement=pool ask Ray for others; leave them out under torchrun, or start without it"
        )
    return replace(config, resources=replace(config.resources, num_workers=0))


def _torchrun() -> tuple[int, int]:
    """This process's rank among how many, where torchrun (or Slurm's srun through it) started it; else 0 of 1."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _check_micro_batch(config: ExperimentConfig, world: int) -> None:
    share, micro = config.data.batch // world, config.optim.micro_batch
    if micro is not None and share % micro:
        fitting = [size for size in range(1, share + 1) if share % size == 0]
        nearest = min(fitting, key=lambda size: abs(size - micro))
        raise UserError(f"optim.micro_batch={micro} does not divide a worker's {share} clips; take {nearest}")


def _in_process(config: ExperimentConfig) -> int:
    """This process is the world; under torchrun, one rank of it."""
    rank, size = _torchrun()
    device = torch.device("cpu")
    if uses_gpu(replace(config.resources, num_workers=1), torch.cuda.device_count()):
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    with _threads(threads_per_worker(replace(config.resources, num_workers=size))):
        if size == 1:
            return train(config, World(device=device), _Silent())
        with collectives.process_group(timeout_s=config.resources.collective_timeout_s), absent_named():
            return train(config, World(rank=rank, size=size, device=device), _Silent())


def _on_ray(config: ExperimentConfig) -> int:
    from trainers.distributed.ray_train import train_on_ray

    return train_on_ray(config, world_sizes(config))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Run kernels on so many threads. They order the sums: a run resumed with as many has the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Silent:
    def report(self, figures: Mapping[str, float]) -> None:
        """Without Ray, metrics.jsonl is the report."""


def _with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Workers run in folders of their own, so nothing relative may travel to them."""

    def absolute(path: str | None) -> str | None:
        return path if path is None or "://" in path else str(Path(path).expanduser().absolute())

    data = replace(
        config.data,
        labelled=absolute(config.data.labelled),
        unlabelled=absolute(config.data.unlabelled),
        cache=absolute(config.data.cache),
    )
    if "://" in config.run.dir:
        raise UserError(f"run.dir={config.run.dir}: snapshots need a folder that all nodes mount, not a URI")
    run = replace(config.run, dir=str(absolute(config.run.dir)))
    return replace(config, data=data, run=run, init_from=absolute(config.init_from))


def _log_datasets(tracker: Tracker, config: ExperimentConfig, data_hash: str) -> None:
    sets = zip(("labelled", "unlabelled"), data_hash.split(":"), strict=True)
    for name, manifest in sets:
        if manifest != "-":  # a stream with share 0 reads nothing
            tracker.dataset(name, manifest, getattr(config.data, name))
