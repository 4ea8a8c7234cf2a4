"""The training loop. It imports torch.distributed through `collectives`, and neither Ray nor MLflow.

Reading order: `pretrain.py` → here → `step.py` → `losses/`.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cluster.files.storage import write_atomic
from cluster.machine.process import keep_freed_memory
from cluster.provenance import provenance
from cluster.settings import RunError, to_tree
from data_shards.read.loader import MAX_NAMED, BatchLoader
from data_shards.sampling.sampler import LABELLED
from trainers.checks.constant_loss import ADAM_EPSILON
from trainers.checks.resume import refuse_another_experiment
from trainers.config import ExperimentConfig
from trainers.distributed import collectives
from trainers.inference.initial import open_initial
from trainers.kernel_choice import KernelChoice
from trainers.losses.objective import ContrastiveLoss
from trainers.monitor.knn import QuickScore
from trainers.state.background import SnapshotWriter
from trainers.state.metrics_log import MetricsLog
from trainers.state.snapshot import Snapshot, last_snapshot, link_best
from trainers.step import StepResult, StepTrainer
from trainers.views.batches import open_batches
from trainers.views.views import ViewMaker, Views, ViewStream, stream_views

STOP_FILE = "stop"
"""A file of this name in the run's folder asks for a snapshot and an orderly end (SIGTERM at the driver writes it)."""
QUICK = "quick/knn"
"""Metric of the steps that are scored: every `run.quick_every` and the last."""
STILL_STEPS = 100
"""A run ends whose gradient is 0 at its first steps, this many or all it has: no weight will ever move."""
GIB = 1 << 30
EXIT_DONE, EXIT_PREEMPTED = 0, 143


class DivergedError(RunError):
    """The loss is not finite; every rank raises it at the same step."""


class NothingToLearnError(RunError):
    """The gradient vanishes from the first step on; every rank raises it at the same step."""


@dataclass(frozen=True, kw_only=True)
class World:
    """This process among all that train together."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class Reporter(Protocol):
    """Receives the metrics besides metrics.jsonl: Ray, or a test."""

    def report(self, metrics: Mapping[str, float]) -> None:
        """Called by every rank at the same steps; ``metrics`` are the same on all."""
        ...


def train(
    config: ExperimentConfig,
    world: World,
    reporter: Reporter,
    *,
    make_views: ViewStream = stream_views,
    loader: BatchLoader | None = None,
    verified: Sequence[Snapshot] = (),
) -> int:
    """Train to ``optim.steps``, from the last snapshot of ``run.dir`` when there is one.

    Args:
        config: the experiment.
        world: this process's place; its process group is already there when ``size`` > 1.
        reporter: called every ``run.report_every`` steps.
        make_views: turns batches into views.
        loader: of this rank, open; None opens one.
        verified: snapshots that this process has verified; others are verified when they are opened.

    Returns:
        0 when done, 143 when asked to stop first (a snapshot was saved).

    Raises:
        UserError: if the folder holds another experiment.
        DivergedError: if the loss is not finite; ``nonfinite-step-N-rank-R.json`` lists the clips of that batch.
    """
    if world.device.type == "cpu":
        keep_freed_memory()
    opened = loader or open_batches(config, rank=world.rank, world=world.size, device=reads_on(config, world))
    with opened if loader is None else nullcontext():
        trainer = _Run(config, world, opened)
        start = trainer.resume(verified)
        try:
            code = trainer.run(start, reporter, make_views)
            trainer.snapshots.wait()
            return code
        finally:
            trainer.snapshots.close()


def reads_on(config: ExperimentConfig, world: World) -> torch.device:
    """The device that receives the loader's batches: the trainer's, or the CPU where Ray's object store takes them."""
    return world.device if config.views.placement == "trainer" else torch.device("cpu")


class _Run:
    """The state of a running training: trainer, batches, views, log."""

    def __init__(self, config: ExperimentConfig, world: World, loader: BatchLoader) -> None:
        self.config, self.world, self.loader = config, world, loader
        self.folder = Path(config.run.dir)
        self.trainer = StepTrainer(config, num_tags=len(loader.vocabulary), device=world.device)
        self.views = ViewMaker(config.views, config.augment, config.frontend, device=world.device)
        self.quick: QuickScore | None = None
        if config.run.quick_every:
            self.quick = QuickScore(config, self.views.frontend, world.device, loader.sets[LABELLED])
        self.clock = 0.0
        self.still: int | None = 0
        """Steps without a gradient so far; None after the first with one."""
        self.replaced_before: list[Any] = []
        self.log = MetricsLog(self.folder / "metrics.jsonl") if world.rank == 0 else None
        run = config.run
        self.snapshots = SnapshotWriter(self.folder / "snapshots", keep=run.keep, background=run.background_snapshots)

    def resume(self, verified: Sequence[Snapshot]) -> int:
        """Load the last snapshot, or the warm start, and return the number of steps that are done."""
        last = last_snapshot(self.folder / "snapshots", *verified)
        if last is None:
            if self.config.init_from:
                self.trainer.load_weights(open_initial(self.config.init_from, *verified))
        else:
            refuse_another_experiment(last, self.config, self.loader.manifest_hash)
            self.trainer.resume(last)
            self.replaced_before = last.provenance.get("replaced", [])
            self._resume_kernels(last.provenance.get("kernels", []))
        start = last.step if last else 0
        if self.log:
            self.log.cut_back(start)
            if last:
                link_best(self.folder / "snapshots", last.path)  # the kill may have come between save and link
        collectives.barrier()
        return start

    def _choices(self) -> list[KernelChoice]:
        """Of the views, and of the loss where it has kernels."""
        loss = self.trainer.model.loss
        return [self.views.chain.choice, *([loss.choice] if isinstance(loss, ContrastiveLoss) else [])]

    def _resume_kernels(self, recorded: Sequence[Mapping[str, str | None]]) -> None:
        """Each rank resumes with its recorded code; another number of ranks takes kernels only where all had them."""
        for choice in self._choices():
            names = [rank.get(choice.key) for rank in recorded]
            if len(names) == self.world.size:
                choice.resume(names[self.world.rank])
            else:
                choice.resume(choice.plain if choice.plain in names else next(iter(names), None))

    def run(self, start: int, reporter: Reporter, make_views: ViewStream) -> int:
        """Steps ``start`` … ``optim.steps``. The host reads the metrics of a step while the next one is under way."""
        steps = self.config.optim.steps
        self.clock = time.perf_counter()
        batches = _Timed(enumerate(self.loader.batches(start, steps), start))
        stream = _Timed(make_views(self.views, batches, seed=self.config.seed))
        pending: _Pending | None = None
        done = start
        for step, views in enumerate(stream, start):
            wait_s = batches.taken_s()
            launched = self._launch(step, views, wait_s, stream.taken_s() - wait_s)
            stop = pending is not None and self._finish(pending, reporter)
            pending, done = launched, step + 1
            if step == start:
                self._reserve()
            if done % self.config.run.snapshot_every == 0 or done == steps or stop:
                # The row is written first: a run killed in between repeats the step and never loses the row.
                stop = self._finish(pending, reporter) or stop
                pending = None
                self._save(done, launched.quick)
            if stop:
                if self.log:  # only now: a request made while workers start or restart must reach them
                    (self.folder / STOP_FILE).unlink(missing_ok=True)
                break
        return EXIT_DONE if done >= steps else EXIT_PREEMPTED

    def _launch(self, step: int, views: Views, wait_s: float, view_s: float) -> "_Pending":
        done, run = step + 1, self.config.run
        reported = done % run.report_every == 0 or done == self.config.optim.steps
        result = self.trainer.train_step(views, step, log_details=reported)
        stop = self.world.rank == 0 and (self.folder / STOP_FILE).exists()
        replaced = self.loader.num_replaced * self.world.size  # the mean over ranks is then the sum
        of_host = torch.tensor([wait_s, view_s, replaced, stop], dtype=torch.float64)
        of_device = torch.stack([metric.to(torch.float64) for metric in result.metrics.values()])
        vector = torch.cat([of_device, of_host.to(self.world.device, non_blocking=True)])
        vector = collectives.all_reduce(vector, "mean")
        # From launch to launch: the host cannot run ahead of a GPU by more than the step whose metrics it reads.
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        quick = None
        if self.quick and (done % run.quick_every == 0 or done == self.config.optim.steps):
            quick = self.quick.score(*self.trainer.evaluated())
            self.clock = time.perf_counter()  # no part of the next step
        return _Pending(step, views.clip_id_N, vector, result, seconds, quick, reported or quick is not None)

    def _finish(self, pending: "_Pending", reporter: Reporter) -> bool:
        """Write a step's metrics; True if a stop was requested."""
        *values, wait_s, view_s, replaced, stop = pending.vector.tolist()
        metrics = dict(zip(pending.result.metrics, values, strict=True))
        if metrics.pop("finite") < 1:
            self._refuse_nonfinite(pending, metrics["loss"])
        self._refuse_standstill(pending.step, metrics)
        # Of rank 0 alone: a GPU knows how long its phases took only after the step was reduced.
        phases = {"data_wait": wait_s, "views": view_s} | pending.result.clock.seconds()
        phases["other"] = max(0.0, pending.seconds - sum(phases.values()))
        row = {"step": pending.step + 1, **metrics, "learning_rate": pending.result.rate}
        row |= {"data_wait_s": wait_s, "views_s": view_s, "step_s": pending.seconds}
        row |= {f"share/{name}": seconds / pending.seconds for name, seconds in phases.items()}
        row |= {"clips_per_s": self.config.data.batch / pending.seconds, "replaced": replaced}
        if self.world.device.type == "cuda":
            row["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.world.device) / GIB
        if pending.quick is not None:
            row[QUICK] = pending.quick
        if self.log:
            self.snapshots.check()
            self.log.write(row | self.snapshots.take_metrics())
        if pending.reported:
            reporter.report(row)
        return bool(stop > 0)

    def _reserve(self) -> None:
        """Memory for snapshots, once the first step has made the optimiser's state."""
        if self.world.rank == 0:
            trainer = self.trainer
            average = trainer.average.state if trainer.average else None
            self.snapshots.reserve(trainer.model, trainer.optimizer, average)

    def _save(self, done: int, score: float | None) -> None:
        here = collectives.gather_json(self.loader.replaced)
        kernels = collectives.gather_json({choice.key: choice.name for choice in self._choices()})
        replaced = [*self.replaced_before, *(one for rank in here for one in rank)][:MAX_NAMED]
        if self.world.rank != 0:
            return
        self.snapshots.save(
            done,
            self.trainer.model,
            self.trainer.optimizer,
            average=self.trainer.average.state if self.trainer.average else None,
            state={
                "config": to_tree(self.config),
                "data_hash": self.loader.manifest_hash,
                "vocabulary": self.loader.vocabulary,
                "score": score,
                "provenance": provenance() | {"world_size": self.world.size, "replaced": replaced, "kernels": kernels},
            },
        )

    def _refuse_standstill(self, step: int, metrics: Mapping[str, float]) -> None:
        if self.still is None:
            return
        self.still = self.still + 1 if metrics["grad_norm"] <= ADAM_EPSILON else None
        whole = self.still == step + 1 == self.config.optim.steps
        if self.still == STILL_STEPS or whole:
            raise NothingToLearnError(
                f"step {step + 1}: the gradient has been 0 (grad_norm <= {ADAM_EPSILON:g}, loss {metrics['loss']:g}) "
                f"for {self.still} steps, so no weight moves; look at the clips (are all silent or the same?) with "
                "counterpoint views, and at data.*, views.count, loss.* and head.*"
            )

    def _refuse_nonfinite(self, pending: "_Pending", loss: float) -> None:
        file = self.folder / f"nonfinite-step-{pending.step + 1}-rank-{self.world.rank}.json"
        write_atomic(file, json.dumps({"step": pending.step + 1, "clip_ids": sorted(set(pending.clip_id_N.tolist()))}))
        raise DivergedError(
            f"step {pending.step + 1}: the loss or its gradient is not finite (loss {loss}); the update was left out. "
            f"{file} lists the clips of the batch; look at them, or lower optim.learning_rate"
        )


@dataclass(frozen=True)
class _Pending:
    """A step that was launched and whose metrics the host has not read yet."""

    step: int
    clip_id_N: Tensor
    vector: Tensor
    """Metrics of the global batch, data wait, time of the views, clips replaced, and whether a stop was requested."""
    result: StepResult
    seconds: float
    quick: float | None
    reported: bool


Item = TypeVar("Item")


class _Timed(Iterator[Item]):
    """An iterator that measures how long its consumer waits."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items, self._seconds = items, 0.0

    def __next__(self) -> Item:
        began = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self._seconds += time.perf_counter() - began

    def taken_s(self) -> float:
        """Seconds waited since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
