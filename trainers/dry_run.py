"""What a run would do, told before it takes anything: configuration, realised shares, epochs, memory, time."""

import time
from pathlib import Path
from typing import Any

import psutil
import torch

from cluster.resources import num_gpus, threads_per_worker, uses_gpu
from cluster.settings import to_tree
from data_shards.read.loader import BatchLoader
from trainers.batches import open_batches
from trainers.config import ExperimentConfig
from trainers.pretrain import check, world_sizes
from trainers.state.snapshot import last_snapshot
from trainers.step import StepTrainer
from trainers.views.views import ViewMaker

MEASURED_STEPS = 2
MIB = 1 << 20


def plan(config: ExperimentConfig) -> dict[str, Any]:
    """The resolved configuration and what follows from it; two real steps of one worker are timed on this machine.

    Args:
        config: validated; relative folders count from here.

    Returns:
        Plain JSON types: ``config``, ``data``, ``worker``, ``estimate``.

    Raises:
        UserError: if the data, the batch or the run's folder do not allow the run.
    """
    shares, _ = check(config)
    world = world_sizes(config)[-1]
    with open_batches(config, world=world) as loader:
        measured = _measure(config, loader, world)
    last = last_snapshot(Path(config.run.dir) / "snapshots")
    remaining = config.optim.steps - (last.step if last else 0)
    clips = config.data.batch // world
    return {
        "config": to_tree(config),
        "data": shares,
        "worker": {"clips_a_step": clips, "views_a_step": clips * config.views.count, **measured},
        "estimate": {
            "steps_done": last.step if last else 0,
            "steps_left": remaining,
            "hours": round(max(0, remaining) * measured["seconds_a_step"] / 3600, 3),
            "basis": "two steps of one worker on this machine; exchange between workers is not in it",
        },
    }


def _measure(config: ExperimentConfig, loader: BatchLoader, world: int) -> dict[str, Any]:
    gpu = uses_gpu(config.resources, num_gpus())
    device = torch.device("cuda" if gpu else "cpu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads_per_worker(config.resources))
    resident = psutil.Process().memory_info().rss
    trainer = StepTrainer(config, num_tags=len(loader.vocabulary), device=device)
    maker = ViewMaker(config.views, config.augment, config.frontend, device=device)
    seconds = []
    try:
        for step, batch in enumerate(loader.batches(0, MEASURED_STEPS)):
            began = time.perf_counter()
            views = maker.make(batch, step=step, seed=config.seed)
            float(trainer.train_step(views, step).metrics["loss"])  # waits for a GPU
            seconds.append(time.perf_counter() - began)
    finally:
        torch.set_num_threads(before)
    peak = torch.cuda.max_memory_allocated(device) if gpu else psutil.Process().memory_info().rss - resident
    return {
        "of": world,
        "device": "GPU" if gpu else "CPU",
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "memory_mib": round(peak / MIB),
        "seconds_a_step": round(min(seconds), 3),
    }
