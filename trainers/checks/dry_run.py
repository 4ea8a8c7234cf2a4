"""What a run would do, before it takes resources: warnings, time, memory, shares and epochs, then the configuration."""

from collections.abc import Mapping
from typing import Any

import psutil

from cluster.machine.resources import num_gpus, threads_per_worker, uses_gpu
from cluster.progress import SILENT, Progress
from cluster.settings import to_tree
from trainers.checks.cost import Asked, table
from trainers.checks.footprint import Step, extrapolate, measure_steps
from trainers.checks.resume import rate_change
from trainers.checks.start_up import check
from trainers.config import ExperimentConfig
from trainers.distributed.world import world_of_torchrun, world_sizes
from trainers.encoders.config import PROJECTION_WIDTH

BUDGET_S = 25.0
"""What measuring takes at most, about, so that a dry run ends within half a minute."""
MANY_EPOCHS = 200
MIB = 1 << 20
DATA = (
    "labelled_a_batch",
    "b_s_realised",
    "p_s_realised",
    "labelled_clips",
    "labelled_available",
    "unlabelled_clips",
    "left_out_short",
    "labelled_epochs",
    "unlabelled_epochs",
    "num_tags",
)
"""Keys of the sampler's summary that a dry run shows; the others repeat the configuration, which comes last."""


def plan(
    config: ExperimentConfig, *, asked: Asked | None = None, progress: Progress = SILENT, budget_s: float = BUDGET_S
) -> dict[str, Any]:
    """What follows from a configuration; small steps of one worker are measured on this machine in another process.

    Args:
        config: validated; relative folders count from here.
        asked: ranks, GPU and link whose costs are wanted besides; None: none.
        progress: shows the sizes that are measured.
        budget_s: seconds that measuring may take, about.

    Returns:
        Plain JSON types: ``warnings``, ``estimate``, ``worker``, ``data``, ``cost`` where asked and, last, ``config``.

    Raises:
        UserError: if the data, the batch or the run's folder do not allow the run.
        RunError: if not even a small step could be measured.
    """
    config = world_of_torchrun(config)
    if asked:
        asked.check(config)
    start = check(config)
    shares, last = start.summary, start.last
    world = world_sizes(config)[-1]
    clips = config.data.batch // world
    gpu = uses_gpu(config.resources, num_gpus())
    with progress.stage("measuring steps", clips) as bar:
        steps = measure_steps(
            config,
            clips=clips,
            gpu=gpu,
            threads=threads_per_worker(config.resources),
            budget_s=budget_s,
            watch=lambda step: bar(min(step.clips, clips), f"{step.clips} clips take {step.seconds:.2f} s"),
        )
    worker = _worker(config, extrapolate(steps, clips), world=world, gpu=gpu)
    done = last.step if last else 0
    jump = rate_change(last, config) if last else None
    hours = max(0, config.optim.steps - done) * worker["seconds_a_step"] / 3600
    estimate = {
        "steps_done": done,
        "steps_left": config.optim.steps - done,
        "hours": round(hours, 3),
        "basis": f"steps of {steps[-1].clips} of {clips} clips, measured here; no exchange between workers",
    }
    warnings = [*repeats(shares), *_memory_warnings(worker, config, gpu=gpu), *([jump] if jump else [])]
    return {
        "warnings": warnings,
        "estimate": estimate,
        "worker": worker,
        "data": {key: shares[key] for key in DATA},
        **({"cost": table(config, asked, steps, shares["num_tags"])} if asked else {}),
        "config": to_tree(config),
    }


def repeats(summary: Mapping[str, Any]) -> list[str]:
    """Warnings for a run whose batches, or whose steps, repeat the same clips."""
    found = []
    batch, labelled = summary["batch"], summary["labelled_a_batch"]
    for name, drawn in (("labelled", labelled), ("unlabelled", batch - labelled)):
        clips, epochs = summary[f"{name}_clips"], summary[f"{name}_epochs"]
        if drawn > clips > 0:
            found.append(
                f"every batch repeats clips: it draws {drawn:,} {name} clips and data.{name} has {clips:,}; lower "
                f"data.batch (now {batch:,}) or data.b_s, or give more clips"
            )
        elif epochs >= MANY_EPOCHS:
            found.append(
                f"the run goes {epochs:,.0f} times through the {clips:,} {name} clips; lower optim.steps or give more"
            )
    return found


def _worker(config: ExperimentConfig, step: Step, *, world: int, gpu: bool) -> dict[str, Any]:
    """Memory and time of one worker's step; several workers also keep DDP's buckets and the projections of all."""
    rows = config.data.batch * config.views.count
    width = (config.head.width or PROJECTION_WIDTH) * (1 + len(config.head.variant))
    shared = 4 * (step.parameters + 2 * rows * width) if world > 1 else 0
    gpu_bytes, host_bytes = (step.gpu_bytes + shared, step.host_bytes) if gpu else (0, step.host_bytes + shared)
    return {
        "of": world,
        "device": "GPU" if gpu else "CPU",
        "clips_a_step": step.clips,
        "parameters": step.parameters,
        "memory_mib": round((gpu_bytes or host_bytes) / MIB),
        **({"host_memory_mib": round(host_bytes / MIB)} if gpu else {}),
        "memory_of": "peak of the worker's process" if not gpu else "peak that torch reserves on the GPU",
        "seconds_a_step": round(step.seconds, 3),
    }


def _memory_warnings(worker: Mapping[str, Any], config: ExperimentConfig, *, gpu: bool) -> list[str]:
    if gpu:
        import torch

        there, needed = torch.cuda.get_device_properties(0).total_memory / MIB, worker["memory_mib"]
    else:
        there, needed = psutil.virtual_memory().total / MIB, worker["memory_mib"] * worker["of"]
    if needed <= there:
        return []
    return [
        f"{worker['of']} worker(s) need {needed:,} MiB and this machine has {there:,.0f} MiB; lower data.batch (now "
        f"{config.data.batch:,}), set optim.micro_batch with encoder.batch_norm=micro, or spread workers over machines"
    ]
