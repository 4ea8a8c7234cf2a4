"""The training loop. It knows torch.distributed through `collectives`, a small reporter, and nothing of Ray or MLflow.

Reading order: `pretrain.py` → here → `step.py` → `losses/`.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from cluster.memory import keep_freed_memory
from cluster.provenance import provenance
from cluster.settings import RunError, UserError, flatten, to_tree, validate
from cluster.storage import write_atomic
from data_shards.loader import MAX_NAMED, BatchLoader
from trainers import collectives
from trainers.batches import open_batches
from trainers.config import MANIFEST, ExperimentConfig, matches, may_differ_on_resume
from trainers.constant_loss import ADAM_EPSILON
from trainers.kernel_choice import KernelChoice
from trainers.losses.objective import ContrastiveLoss
from trainers.metrics_log import MetricsLog
from trainers.neighbours import QuickScore
from trainers.optim import learning_rate
from trainers.optim_config import OptimConfig
from trainers.snapshot import Snapshot, last_snapshot, link_best, open_snapshot, save_snapshot
from trainers.step import Learner, Learnt
from trainers.views import ViewMaker, Views, ViewStream, stream_views

STOP_FILE = "stop"
"""A file of this name in the run's folder asks for a snapshot and an orderly end (SIGTERM at the driver writes it)."""
QUICK = "quick/knn"
"""Figure of the steps that are scored, every `run.quick_every` and the last."""
STILL_STEPS = 100
"""A run whose first steps, so many or all it has, have no gradient is ended: nothing will ever move."""
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
    """Where figures go besides metrics.jsonl: Ray, a progress bar, nowhere."""

    def report(self, figures: Mapping[str, float]) -> None:
        """Called by every rank at the same steps; ``figures`` are the same on all."""
        ...


def train(config: ExperimentConfig, world: World, reporter: Reporter, *, make_views: ViewStream = stream_views) -> int:
    """Train to ``optim.steps``, from the last snapshot of ``run.dir`` when there is one.

    Args:
        config: the experiment.
        world: this process's place; its process group is already there when ``size`` > 1.
        reporter: told every ``run.report_every`` steps.
        make_views: turns batches into views.

    Returns:
        0 when done, 143 when asked to stop first (a snapshot was saved).

    Raises:
        UserError: if the folder holds another experiment.
        DivergedError: if the loss is not finite; the clips of that batch stand in ``nonfinite-step-N.json``.
    """
    if world.device.type == "cpu":
        keep_freed_memory()
    with open_batches(config, rank=world.rank, world=world.size, device=_reads_on(config, world)) as loader:
        trainer = _Trainer(config, world, loader)
        start = trainer.resume()
        return trainer.run(start, reporter, make_views)


def _reads_on(config: ExperimentConfig, world: World) -> torch.device:
    """Where batches go from the loader: to the trainer's device, or through Ray's object store to a pool."""
    return world.device if config.views.placement == "trainer" else torch.device("cpu")


class _Trainer:
    """The state of a running training: what learns, what it learns from, its log."""

    def __init__(self, config: ExperimentConfig, world: World, loader: BatchLoader) -> None:
        self.config, self.world, self.loader = config, world, loader
        self.folder = Path(config.run.dir)
        self.learner = Learner(config, num_tags=len(loader.vocabulary), device=world.device)
        self.views = ViewMaker(config.views, config.augment, config.frontend, device=world.device)
        self.quick = QuickScore(config, self.views.frontend, world.device) if config.run.quick_every else None
        self.clock = 0.0
        self.still: int | None = 0
        """Steps without a gradient so far; None after the first with one."""
        self.replaced_before: list[Any] = []
        self.log = MetricsLog(self.folder / "metrics.jsonl") if world.rank == 0 else None

    def resume(self) -> int:
        """Load the last snapshot, or the warm start, and return the number of steps that are done."""
        last = last_snapshot(self.folder / "snapshots")
        if last is None:
            if self.config.init_from:
                self.learner.load_weights(open_snapshot(self.config.init_from))
        else:
            refuse_another_experiment(last, self.config, self.loader.manifest_hash)
            self.learner.resume(last)
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
        loss = self.learner.model.loss
        return [self.views.chain.choice, *([loss.choice] if isinstance(loss, ContrastiveLoss) else [])]

    def _resume_kernels(self, recorded: Sequence[Mapping[str, str | None]]) -> None:
        """Each rank goes on with its own code; other numbers of ranks with kernels where all had them."""
        for choice in self._choices():
            names = [rank.get(choice.key) for rank in recorded]
            if len(names) == self.world.size:
                choice.resume(names[self.world.rank])
            else:
                choice.resume(choice.plain if choice.plain in names else next(iter(names), None))

    def run(self, start: int, reporter: Reporter, make_views: ViewStream) -> int:
        """Steps ``start`` … ``optim.steps``. The host reads the figures of a step while the next one is under way."""
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
            if done % self.config.run.snapshot_every == 0 or done == steps or stop:
                # Its row comes first: a run killed in between does the step again, it never loses the row.
                stop = self._finish(pending, reporter) or stop
                pending = None
                self._save(done, launched.quick)
            if stop:
                if self.log:  # not before: a request that comes while workers start or restart must be seen by them
                    (self.folder / STOP_FILE).unlink(missing_ok=True)
                break
        return EXIT_DONE if done >= steps else EXIT_PREEMPTED

    def _launch(self, step: int, views: Views, wait_s: float, view_s: float) -> "_Pending":
        done, run = step + 1, self.config.run
        reported = done % run.report_every == 0 or done == self.config.optim.steps
        learnt = self.learner.learn(views, step, closely=reported)
        stop = self.world.rank == 0 and (self.folder / STOP_FILE).exists()
        replaced = self.loader.num_replaced * self.world.size  # the mean over ranks is then the sum
        of_host = torch.tensor([wait_s, view_s, replaced, stop], dtype=torch.float64)
        of_device = torch.stack([figure.to(torch.float64) for figure in learnt.figures.values()])
        vector = torch.cat([of_device, of_host.to(self.world.device, non_blocking=True)])
        vector = collectives.all_reduce(vector, "mean")
        # From launch to launch: the host cannot run ahead of a GPU by more than the step whose figures it reads.
        now = time.perf_counter()
        seconds, self.clock = now - self.clock, now
        quick = None
        if self.quick and (done % run.quick_every == 0 or done == self.config.optim.steps):
            quick = self.quick.score(*self.learner.judged())
            self.clock = time.perf_counter()  # no part of the next step
        return _Pending(step, views.clip_id_N, vector, learnt, seconds, quick, reported or quick is not None)

    def _finish(self, pending: "_Pending", reporter: Reporter) -> bool:
        """Write a step's figures; True if somebody asked to stop."""
        *values, wait_s, view_s, replaced, stop = pending.vector.tolist()
        figures = dict(zip(pending.learnt.figures, values, strict=True))
        if figures.pop("finite") < 1:
            self._refuse_nonfinite(pending, figures["loss"])
        self._refuse_standstill(pending.step, figures)
        # Of rank 0 alone: a GPU knows how long its phases took only after the step was reduced.
        phases = {"data_wait": wait_s, "views": view_s} | pending.learnt.clock.seconds()
        phases["other"] = max(0.0, pending.seconds - sum(phases.values()))
        row = {"step": pending.step + 1, **figures, "learning_rate": pending.learnt.rate}
        row |= {"data_wait_s": wait_s, "views_s": view_s, "step_s": pending.seconds}
        row |= {f"share/{name}": seconds / pending.seconds for name, seconds in phases.items()}
        row |= {"clips_per_s": self.config.data.batch / pending.seconds, "replaced": replaced}
        if self.world.device.type == "cuda":
            row["gpu_memory_gib"] = torch.cuda.max_memory_allocated(self.world.device) / GIB
        if pending.quick is not None:
            row[QUICK] = pending.quick
        if self.log:
            self.log.write(row)
        if pending.reported:
            reporter.report(row)
        return bool(stop > 0)

    def _save(self, done: int, score: float | None) -> None:
        here = collectives.gather_json(self.loader.replaced)
        kernels = collectives.gather_json({choice.key: choice.name for choice in self._choices()})
        replaced = [*self.replaced_before, *(one for rank in here for one in rank)][:MAX_NAMED]
        if self.world.rank != 0:
            return
        save_snapshot(
            self.folder / "snapshots",
            step=done,
            model=self.learner.model,
            optimizer=self.learner.optimizer,
            average=self.learner.average.state if self.learner.average else None,
            state={
                "config": to_tree(self.config),
                "data_hash": self.loader.manifest_hash,
                "vocabulary": self.loader.vocabulary,
                "score": score,
                "provenance": provenance() | {"world_size": self.world.size, "replaced": replaced, "kernels": kernels},
            },
            keep=self.config.run.keep,
        )

    def _refuse_standstill(self, step: int, figures: Mapping[str, float]) -> None:
        if self.still is None:
            return
        self.still = self.still + 1 if figures["grad_norm"] <= ADAM_EPSILON else None
        whole = self.still == step + 1 == self.config.optim.steps
        if self.still == STILL_STEPS or whole:
            raise NothingToLearnError(
                f"step {step + 1}: the gradient has been 0 (grad_norm <= {ADAM_EPSILON:g}, loss {figures['loss']:g}) "
                f"for {self.still} steps, so no weight moves; look at the clips (are all silent or the same?) with "
                "counterpoint views, and at data.*, views.count, loss.* and head.*"
            )

    def _refuse_nonfinite(self, pending: "_Pending", loss: float) -> None:
        file = self.folder / f"nonfinite-step-{pending.step + 1}-rank-{self.world.rank}.json"
        write_atomic(file, json.dumps({"step": pending.step + 1, "clip_ids": sorted(set(pending.clip_id_N.tolist()))}))
        raise DivergedError(
            f"step {pending.step + 1}: the loss or its gradient is not finite (loss {loss}); the update was left out. "
            f"The clips of the batch stand in {file}; look at them, or lower optim.learning_rate"
        )


@dataclass(frozen=True)
class _Pending:
    """A step that was launched and whose figures the host has not read yet."""

    step: int
    clip_id_N: Tensor
    vector: Tensor
    """Figures of the global batch, data wait, time of the views, clips replaced, and whether somebody asked to stop."""
    learnt: Learnt
    seconds: float
    quick: float | None
    reported: bool


def refuse_another_experiment(last: Snapshot, config: ExperimentConfig, data_hash: str) -> None:
    """A folder continues only the experiment that it holds (docs/faults.md, 13).

    Raises:
        UserError: names every key that differs and what to do.
    """
    # A key that a later release added had the effect of its default.
    old = flatten(to_tree(ExperimentConfig())) | flatten(last.config)
    new, told = flatten(to_tree(config)), config.run.may_differ
    keys = sorted(
        key for key in old.keys() | new.keys() if old.get(key) != new.get(key) and not may_differ_on_resume(key, told)
    )
    jump = rate_change(last, config)
    if jump and not any(matches(rule, "optim.steps") for rule in told):
        keys = sorted([*keys, "optim.steps"])
    if keys:
        changes = ", ".join(f"{key}: {old.get(key)!r} there, {new.get(key)!r} now" for key in keys)
        raise UserError(
            f"{config.run.dir} holds another experiment ({changes}{f'; {jump}' if jump else ''}); choose another "
            f"run.dir, or let it go on as another: run.may_differ='{json.dumps([*told, *keys])}'"
        )
    if last.data_hash != data_hash and not may_differ_on_resume(MANIFEST, told):
        raise UserError(
            f"{config.run.dir}: the shards have changed since its snapshot (manifest {last.data_hash[:12]} there, "
            f"{data_hash[:12]} now); bring them back, choose another run.dir, or let it go on with these: "
            f"run.may_differ='{json.dumps([*told, MANIFEST])}'"
        )


def rate_change(last: Snapshot, config: ExperimentConfig) -> str | None:
    """What other ``optim.steps`` than those of a snapshot do to the learning rate; None where they do nothing to it."""
    now, step = config.optim, last.step
    if now.schedule == "constant" or now.steps == last.config["optim"]["steps"] or step >= now.steps:
        return None
    before = validate(OptimConfig, last.config["optim"], str(last.path))
    return (
        f"optim.schedule={now.schedule} ends at optim.steps, so the learning rate of step {step + 1} goes from "
        f"{learning_rate(step, before):.3g} to {learning_rate(step, now):.3g} and reaches 0 at step {now.steps}"
    )


Item = TypeVar("Item")


class _Timed(Iterator[Item]):
    """An iterator that knows how long it was waited for."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items, self._seconds = items, 0.0

    def __next__(self) -> Item:
        began = time.perf_counter()
        try:
            return next(self._items)
        finally:
            self._seconds += time.perf_counter() - began

    def taken_s(self) -> float:
        """Seconds waited since this was asked last."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds
