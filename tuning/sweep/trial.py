"""A trial as Tune holds it: an actor around a whole run, pretraining and evaluation.

The run is in a thread; each step of the actor waits for the next metric of it. So a trial is stopped as any run is, by
a request that rank 0 sees: workers leave with a snapshot, and no placement group is torn from under them. An evaluation
has nothing to save: a request to stop the sweep leaves it where it is.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from ray import tune

from cluster.files.storage import write_atomic
from cluster.imports import uncollected
from cluster.settings import RunError, validate
from evaluation.config import EvaluationConfig
from trainers.config import ExperimentConfig
from tuning.sweep.jobs import Job
from tuning.sweep.objective import evaluate_run

LONGEST_STOP_S = 300.0
"""A run that was asked to stop has so long to take its step and its snapshot."""
LOOK_S = 0.5
"""How often an evaluation is looked at for a request to stop."""
PREEMPTED: Mapping[str, Any] = {"done": True, "preempted": True}
"""Of a trial that ends because the sweep was asked to; it goes on with the sweep's next start."""


class SweepTrial(tune.Trainable):
    """One trial; its reports are those of `run_job`."""

    def setup(self, config: dict[str, Any]) -> None:
        """Nothing runs yet: Tune starts an actor for a trial that it then gives to one which became free meanwhile."""
        self._job = Job.unpacked(config)
        with uncollected():  # the first trial of a process imports all that it will need at once
            import_module("trainers.pretrain")
            if not self._job.evaluation_cpus:
                import_module("evaluation.evaluate")
        self._items: queue.Queue[dict[str, Any] | RunError] = queue.Queue()
        self._evaluating = threading.Event()
        self._run = threading.Thread(target=self._work, name=self._job.name, daemon=True)

    def step(self) -> dict[str, Any]:
        """Start the run, once; wait for its next metric, its values, or the reason of a crash."""
        if self._run.ident is None:
            self._run.start()
        while True:
            try:
                item = self._items.get(timeout=LOOK_S)
            except queue.Empty:
                if self._evaluating.is_set() and _asked_to_stop(self._job):
                    return dict(PREEMPTED)
                continue
            if isinstance(item, RunError):
                raise item
            return item

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """The next trial in the same process; one that was stopped leaves first."""
        self.cleanup()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        """End the run in order, if it is still under way; an evaluation ends with the process."""
        if self._run.is_alive() and not self._evaluating.is_set():
            write_atomic(_stop_file(self._job.folder), "the sweep\n")
            self._run.join(LONGEST_STOP_S)

    def _work(self) -> None:
        try:
            self._items.put(run_job(self._job, self._items.put, self._evaluating.set))
        except Exception as error:  # whatever it is, it is this trial's reason; others go on
            self._items.put(RunError(f"{type(error).__name__}: {error}"))


def run_job(
    job: Job, report: Callable[[dict[str, Any]], None], evaluating: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Pretrain and evaluate, or go on where an earlier start was killed.

    Args:
        job: the trial.
        report: called with each step's number and metric.
        evaluating: called once the training is done.

    Returns:
        ``done`` with ``values`` and seconds, or with ``preempted`` where somebody asked the run to stop.
    """
    from trainers.loop import EXIT_DONE
    from trainers.pretrain import pretrain

    began = time.monotonic()
    config = validate(ExperimentConfig, job.experiment, job.name)
    last: dict[str, Any] = {}

    def watch(row: Mapping[str, Any]) -> None:
        if job.metric is not None and job.metric in row:
            last.update({"step": int(row["step"]), "metric": float(row[job.metric])})
            if last["step"] < config.optim.steps:  # the last one comes with the values
                report(dict(last))

    code = pretrain(config, watch=watch, parent=Path(job.parent))
    if code != EXIT_DONE or _asked_to_stop(job):
        return dict(PREEMPTED)
    evaluating()
    trained_s = time.monotonic() - began
    values = _evaluate(job)
    seconds = {
        "seconds": round(time.monotonic() - began, 1),
        "evaluation_s": round(time.monotonic() - began - trained_s, 1),
    }
    return {"done": True, "values": values, **last, "step": config.optim.steps, **seconds}


def _asked_to_stop(job: Job) -> bool:
    return _stop_file(Path(job.parent)).exists()


def _stop_file(folder: Path) -> Path:
    from trainers.loop import STOP_FILE  # imports torch, which waits for the first trial

    return folder / STOP_FILE


def _evaluate(job: Job) -> list[float]:
    if not job.evaluation_cpus:
        return _evaluate_here(asdict(job))
    import ray

    # The actor holds no core of its own; the task waits for one, and holds nothing while it waits. "DEFAULT" takes it
    # out of the trial's placement group, which has none to give.
    cpus, gpus = job.evaluation_cpus, job.evaluation_gpus
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0, scheduling_strategy="DEFAULT")(_evaluate_here)
    values: list[float] = ray.get(task.remote(asdict(job)))
    return values


def _evaluate_here(tree: dict[str, Any]) -> list[float]:
    job = Job(**tree)
    evaluation = validate(EvaluationConfig, job.evaluation, job.name)
    return evaluate_run(job.folder, evaluation, job.metrics, job.folder / "evaluation")
