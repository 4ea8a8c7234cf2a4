"""Pretraining as a user starts it: Ray Train around `loop.train`, or this process alone.

Reading order: here → `loop.py` → `step.py` → `losses/`. The driver owns the folder, the tracker and the signals;
workers own the numbers. Metrics travel through the run's
metrics.jsonl, which survives every restart: the tracker and the progress bar follow the file, so an outage of Ray or of
MLflow loses none of them.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch

from cluster.files.locks import sole_writer
from cluster.files.storage import write_atomic
from cluster.machine.resources import threads_per_worker
from cluster.processes.signals import on_request_to_stop
from cluster.settings import flatten, to_tree
from cluster.tracking import Tracker, set_aside
from trainers.checks.resume import rate_change
from trainers.checks.start_up import Checked, checked
from trainers.config import ExperimentConfig, may_differ_on_resume
from trainers.distributed import collectives
from trainers.distributed.failures import absent_named
from trainers.distributed.world import world_sizes
from trainers.loop import EXIT_DONE, EXIT_PREEMPTED, STOP_FILE, World, train
from trainers.monitor.run_page import describe, log_encoder
from trainers.state.metrics_log import METRICS, MetricsLog, follow_metrics, read_metrics
from trainers.state.snapshot import last_snapshot

_log = logging.getLogger(__name__)

Watcher = Callable[[Mapping[str, Any]], None]
"""Called with every row of metrics.jsonl, in order, once."""


def pretrain(config: ExperimentConfig, *, watch: Watcher | None = None, parent: Path | None = None) -> int:
    """Train, or resume, the experiment of ``config.run.dir``.

    Args:
        config: the experiment; ``resources.num_workers=0`` trains in this process, without Ray.
        watch: called in a thread of this process with each step's metrics.
        parent: folder of the sweep or study that this run belongs to; the tracker shows the run below it. A stop file
            there that exists when the run starts stops the run too.

    Returns:
        0 when done, 143 when SIGTERM or SIGINT asked for a snapshot and an orderly end.

    Raises:
        UserError: if the data, the batch or the folder do not allow it, or another process runs in the folder; nothing
            has been started or written then.
        RunError: if training failed, with the remedy.
    """
    with checked(config) as start:
        return pretrain_checked(start, watch=watch, parent=parent)


def pretrain_checked(start: Checked, *, watch: Watcher | None = None, parent: Path | None = None) -> int:
    """`pretrain` of an experiment that passed `trainers.checks.start_up.checked`."""
    if start.is_done:  # on every rank: none waits for the others in a process group
        return EXIT_DONE
    folder = Path(start.config.run.dir)
    stoppable = on_request_to_stop(partial(write_atomic, folder / STOP_FILE))  # rank 0 looks for the file at every step
    if start.world and start.world.rank > 0:
        with stoppable:
            return _in_process(start)  # rank 0 locks the folder and tracks the run
    with sole_writer(folder, "choose another run.dir"):
        return _drive(start, stoppable, watch=watch, parent=parent)


def _drive(
    start: Checked, stoppable: AbstractContextManager[None], *, watch: Watcher | None, parent: Path | None
) -> int:
    """What the driver does while it holds the folder's lock: track, watch, train."""
    config, folder = start.config, Path(start.config.run.dir)
    last = last_snapshot(folder / "snapshots", start.last)  # another start may have saved one before the lock
    if last is not None and (changed := rate_change(last, config)):
        _log.warning("%s: %s", folder, changed)
    (folder / STOP_FILE).unlink(missing_ok=True)  # of an earlier start that ended before it read it
    if parent and (parent / STOP_FILE).exists():  # written before those of the runs: none is lost by the line above
        return EXIT_PREEMPTED
    settings = flatten(to_tree(config))
    apart = start.world is not None  # this process trains: MLflow would take its time from the steps
    if last is None:
        deciding = {
            key: value for key, value in settings.items() if not may_differ_on_resume(key, config.run.may_differ)
        }
        set_aside(config.tracking, folder, deciding, apart=apart)
    done = last.step if last else 0
    # Rows behind the last snapshot are dropped: their steps will be taken again, perhaps with other results.
    MetricsLog(folder / METRICS).cut_back(done)
    with Tracker(config.tracking, folder, parent=parent, apart=apart) as tracker:
        tracker.params(settings)
        tracker.params({f"data.realised.{key}": value for key, value in start.summary.items()})
        _log_datasets(tracker, config, start.data_hash)
        describe(tracker, config, {})
        tail = follow_metrics(folder / METRICS, after=done, watch=watch) if watch else nullcontext()
        with stoppable, tail:
            code = _in_process(replace(start, last=last)) if start.world else _on_ray(config)
        describe(tracker, config, max(read_metrics(folder / METRICS), key=itemgetter("step"), default={}))
        if code == EXIT_DONE and config.tracking.enabled and parent is None:  # a trial's snapshot is there to export
            log_encoder(tracker, folder)
        tracker.close("FINISHED" if code == EXIT_DONE else "KILLED")
    return code


def _in_process(start: Checked) -> int:
    """This process is the world; under torchrun, one rank of it."""
    config, world = start.config, start.world or World()
    verified = [snapshot for snapshot in (start.last, start.initial) if snapshot]
    with _threads(threads_per_worker(replace(config.resources, num_workers=world.size))), ExitStack() as stack:
        if world.size > 1:
            stack.enter_context(collectives.process_group(timeout_s=config.resources.collective_timeout_s))
            stack.enter_context(absent_named())
        return train(config, world, _Silent(), loader=start.loader, verified=verified)


def _on_ray(config: ExperimentConfig) -> int:
    from trainers.distributed.ray_train import train_on_ray

    return train_on_ray(config, world_sizes(config))


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Run kernels on ``number`` threads. The number decides the order of sums, and so the bits of a resumed run."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Silent:
    def report(self, metrics: Mapping[str, float]) -> None:
        """Do nothing: without Ray, metrics.jsonl is the only report."""


def _log_datasets(tracker: Tracker, config: ExperimentConfig, data_hash: str) -> None:
    sets = zip(("labelled", "unlabelled"), data_hash.split(":"), strict=True)
    for name, manifest in sets:
        if manifest != "-":  # a stream with share 0 reads nothing
            tracker.dataset(name, manifest, getattr(config.data, name))
