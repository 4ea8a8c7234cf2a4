"""Pretraining as a user starts it: Ray Train around `loop.train`, or this process alone.

The driver owns the folder, the tracker and the signals; workers own the numbers. Figures travel through the run's
metrics.jsonl, which survives every restart, so an outage of Ray or of MLflow loses none of them.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from cluster.resources import threads_per_worker, train_environment, uses_gpu, worker_environment
from cluster.session import ray_session
from cluster.settings import RunError, UserError, flatten, to_tree, validate
from cluster.storage import write_atomic
from cluster.tracking import Tracker
from data_shards.loader import BatchLoader
from trainers import collectives
from trainers.config import ExperimentConfig
from trainers.loop import EXIT_DONE, STOP_FILE, DivergedError, World, refuse_another_experiment, train
from trainers.metrics_log import MetricsTail
from trainers.snapshot import last_snapshot
from trainers.views import window_frames

Watcher = Callable[[Mapping[str, Any]], None]
"""Told every row of metrics.jsonl, in order, once."""


def pretrain(config: ExperimentConfig, *, watch: Watcher | None = None, parent: Path | None = None) -> int:
    """Train, or resume, the experiment of ``config.run.dir``.

    Args:
        config: the experiment; ``resources.num_workers=0`` trains in this process, without Ray.
        watch: called in a thread of this process with each step's figures.
        parent: folder of the sweep or study that this run belongs to; the tracker shows it below.

    Returns:
        0 when done, 143 when SIGTERM or SIGINT asked for a snapshot and an orderly end.

    Raises:
        UserError: if the data, the batch or the folder do not allow it; nothing has started then.
        RunError: if training failed, with the remedy.
    """
    config = _with_absolute_paths(config)
    folder = Path(config.run.dir)
    summary, data_hash = check(config)
    last = last_snapshot(folder / "snapshots")
    if last is not None and last.step >= config.optim.steps:
        return EXIT_DONE
    folder.mkdir(parents=True, exist_ok=True)
    if config.resources.num_workers == 0 and _torchrun()[0] > 0:
        with _stop_on_signal(folder):
            return _in_process(config)  # rank 0 keeps the account
    with Tracker(config.tracking, folder, parent=parent) as tracker:
        tracker.params(flatten(to_tree(config)))
        tracker.params({f"data.realised.{key}": value for key, value in summary.items()})
        _log_datasets(tracker, config, data_hash)

        def forward(row: Mapping[str, Any]) -> None:
            figures = {key: value for key, value in row.items() if key != "step"}
            tracker.metrics(figures, step=int(row["step"]))
            if watch:
                watch(row)

        tail = MetricsTail(folder / "metrics.jsonl", after=last.step if last else 0, watch=forward)
        with _stop_on_signal(folder), tail:
            code = _in_process(config) if config.resources.num_workers == 0 else _on_ray(config)
        tracker.close("FINISHED" if code == EXIT_DONE else "KILLED")
    return code


def check(config: ExperimentConfig) -> tuple[dict[str, Any], str]:
    """Everything that can be refused before resources are taken.

    Returns:
        Realised shares and epochs of the sampler, and the manifest hash of the data.

    Raises:
        UserError: names what does not fit and the nearest that does.
    """
    frames = window_frames(config.views, config.augment)
    world = config.resources.num_workers or _torchrun()[1]
    _check_micro_batch(config, world)
    with BatchLoader(config.data, frames=frames, seed=config.seed, rank=0, world=world) as loader:
        last = last_snapshot(Path(config.run.dir) / "snapshots")
        if last is not None:
            refuse_another_experiment(last, config, loader.manifest_hash)
        return loader.sampler.summary(config.optim.steps), loader.manifest_hash


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
        with collectives.process_group(timeout_s=config.resources.collective_timeout_s):
            return train(config, World(rank=rank, size=size, device=device), _Silent())


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Run kernels on so many threads. They order the sums: a run resumed with as many has the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _on_ray(config: ExperimentConfig) -> int:
    resources = config.resources
    os.environ.update(train_environment(resources))
    with ray_session(workers=resources.num_workers, cpus_per_worker=resources.cpus_per_worker) as session:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        gpu = uses_gpu(resources, session.gpus)
        per_worker = {"CPU": resources.cpus_per_worker} | ({"GPU": resources.gpus_per_worker} if gpu else {})
        trainer = TorchTrainer(
            _worker,  # type: ignore[arg-type]  # Ray's annotation forbids the return value that its docs describe
            train_loop_config=to_tree(config),
            torch_config=TorchConfig(
                backend="nccl" if gpu else "gloo", timeout_s=round(resources.collective_timeout_s)
            ),
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers, use_gpu=gpu, resources_per_worker=per_worker
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=config.run.dir,
                failure_config=FailureConfig(max_failures=resources.max_failures),
                worker_runtime_env={  # type: ignore[call-arg]  # type checkers see the configuration of Train V1
                    "env_vars": worker_environment(resources, nodes=session.nodes)
                },
            ),
        )
        try:
            outcome = trainer.fit().return_value  # type: ignore[attr-defined]  # as above: Train V2's result
        except Exception as error:  # Ray wraps what a worker raised in its own exceptions
            raise explain(error, session.logs) from error
    if "diverged" in outcome:
        raise RunError(outcome["diverged"])
    return int(outcome["code"])


def _worker(tree: dict[str, Any]) -> dict[str, Any]:
    """Runs in every Ray Train worker, process group ready. A loss that is not finite is no reason to try again."""
    import ray.train
    from ray.train.torch import get_device

    config = validate(ExperimentConfig, tree, "the driver")
    context = ray.train.get_context()
    device = get_device()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    world = World(rank=context.get_world_rank(), size=context.get_world_size(), device=device)
    try:
        return {"code": train(config, world, _ToRay())}
    except DivergedError as error:
        return {"diverged": str(error)}


class _ToRay:
    """Ray sees the figures too: it shows them, and a sweep decides on them."""

    def report(self, figures: Mapping[str, float]) -> None:
        import ray.train

        ray.train.report(dict(figures))


class _Silent:
    def report(self, figures: Mapping[str, float]) -> None:
        """Without Ray, metrics.jsonl is the report."""


@contextmanager
def _stop_on_signal(folder: Path) -> Iterator[None]:
    """SIGTERM and the first Ctrl-C leave a request that rank 0 sees at its next step; a second Ctrl-C breaks off."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def request(number: int, _: Any) -> None:
        write_atomic(folder / STOP_FILE, f"signal {number}\n")
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, request) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _with_absolute_paths(config: ExperimentConfig) -> ExperimentConfig:
    """Workers run in folders of their own, so nothing relative may travel to them."""

    def absolute(path: str | None) -> str | None:
        return path if path is None or "://" in path else str(Path(path).expanduser().absolute())

    data = replace(config.data, labelled=absolute(config.data.labelled), unlabelled=absolute(config.data.unlabelled))
    if "://" in config.run.dir:
        raise UserError(f"run.dir={config.run.dir}: snapshots need a folder that all nodes mount, not a URI")
    run = replace(config.run, dir=str(absolute(config.run.dir)))
    return replace(config, data=data, run=run, init_from=absolute(config.init_from))


def _log_datasets(tracker: Tracker, config: ExperimentConfig, data_hash: str) -> None:
    for name in ("labelled", "unlabelled"):
        source = getattr(config.data, name)
        if source is not None:
            tracker.dataset(name, data_hash, source)


def explain(error: Exception, logs: str) -> RunError:
    """One message out of Ray's: what each worker said, and for lack of memory the batch to try (FAULTS 36)."""
    failures: Mapping[int, BaseException] = getattr(error, "worker_failures", {}) or {0: error}
    lines = {f"worker {rank}: {_last_line(failure)}" for rank, failure in failures.items()}
    message = f"training failed: {'; '.join(sorted(lines))}"
    if any(word in message for word in ("OutOfMemory", "out of memory", "OutOfMemoryError")):
        message += "; try half of data.batch, or more workers"
    return RunError(f"{message}. Logs of every worker: {logs}. The same command resumes from the last snapshot")


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
