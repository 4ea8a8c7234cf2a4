"""A run of a study as it travels to another machine, and what the task does there."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster.files.locks import wait_for_writer
from cluster.settings import RunError
from evaluation.config import WorkersConfig
from trainers.config import ExperimentConfig, without_ray_train
from trainers.state.places import absolute
from tuning.placement import DRIVER_MEMORY, Need, threads
from tuning.stopping import ended_by_request
from tuning.study.plan import Run
from tuning.study.runs import Outcome, attempt, evaluate_all

LOCK_S = 120.0
"""A run whose machine was lost may hold the lock of its folder so long."""


def options_of(takes: Need) -> dict[str, Any]:
    """What a run's task reserves, in Ray's words. Ray starts none again: the study's driver does."""
    if takes.driver is None:
        return {"max_retries": 0, "num_cpus": 0, "memory": DRIVER_MEMORY}
    return {"max_retries": 0, "num_cpus": takes.driver.cpus, "num_gpus": takes.driver.gpus}


def elsewhere(config: ExperimentConfig) -> ExperimentConfig:
    """The same experiment where another machine runs it: absolute paths."""
    from trainers.checks.start_up import with_absolute_paths  # brings torch, which a wrong key need not wait for

    return with_absolute_paths(config)


def travelling(run: Run, takes: Need) -> tuple[Run, ExperimentConfig]:
    """A run with its evaluations at absolute paths, and what its task trains: with the resources that it was given.

    `Run.fingerprint` stays that of the plan.
    """
    evaluations = tuple(
        (one, replace(config, data=replace(config.data, shards=config.data.shards and absolute(config.data.shards))))
        for one, config in run.evaluations
    )
    config = elsewhere(without_ray_train(run.experiment))
    resources = replace(
        config.resources,
        threads_per_worker=threads(config.resources),
        use_gpu="yes" if takes.worker.gpus else "no",
    )
    return replace(run, evaluations=evaluations), replace(config, resources=resources)


def row_task(run: Run, experiment: ExperimentConfig, parent: Path, takes: Need) -> Outcome:
    """Pretrain and evaluate a run on the machine that Ray chose."""
    if not wait_for_writer(run.folder, LOCK_S):
        return run.folder, RunError.exit_code, f"{run.folder}: another process has written there for {LOCK_S:g} s"
    if takes.alone:
        _note_place(run.folder)
    here: Callable[[Run], None] = partial(_evaluate, parent=parent)
    evaluated = here if takes.alone else partial(_evaluate_beside, parent=parent, takes=takes)
    return attempt(run, parent=parent, experiment=experiment, evaluated=evaluated)


def _note_place(folder: Path) -> None:
    """What the ranks of a larger run write themselves."""
    from trainers.distributed.failures import note_place

    node = import_module("ray").util.get_node_ip_address()  # published without types
    log = str(Path("/proc/self/fd/2").readlink())
    note_place(folder, {"rank": 0, "world": 1, "node": node, "pid": os.getpid(), "log": log})


def _evaluate(run: Run, *, parent: Path) -> None:
    """All evaluations in this process: it holds what is theirs, and might wait for Ray's workers for ever."""
    evaluations = tuple((one, replace(config, resources=WorkersConfig())) for one, config in run.evaluations)
    with ended_by_request(parent):
        evaluate_all(replace(run, evaluations=evaluations))


def _evaluate_beside(run: Run, *, parent: Path, takes: Need) -> None:
    """The same in a task that reserves what a worker does: the driver of workers holds none of it."""
    ray: Any = import_module("ray")  # published half without types
    task = ray.remote(num_cpus=takes.worker.cpus, num_gpus=takes.worker.gpus, max_retries=0)(_evaluate)
    ray.get(task.remote(run, parent=parent))
