"""The runs of a study: each is pretrained and evaluated in a process of its own, and never twice.

A run that is killed leaves its snapshot; the same command resumes it. A run that fails is named in the table, and the
others go on. A request to stop reaches the running ones as a file, so that each saves itself first; one that has not
ended `STOP_S` later, in a long step or an evaluation, is killed.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cluster.files.storage import write_atomic
from cluster.processes.map import WorkerLostError, local_map
from cluster.progress import Bar, Progress
from cluster.ray_runtime.session import has_cluster
from cluster.settings import RunError, UserError, first_line
from trainers.config import ExperimentConfig, without_ray_train
from trainers.loop import EXIT_DONE, EXIT_PREEMPTED, STOP_FILE
from trainers.state.metrics_log import follow_metrics
from tuning.stopping import asked_to_stop, stop_overdue
from tuning.study.plan import Plan, Run

DONE = "done.json"
"""In a run's folder, once it is trained and evaluated."""

STOP_S = 7.0
"""A run in a process of this machine that was asked to stop has so long to take its step and its snapshot."""


@dataclass
class Ended:
    """How the runs of a study ended."""

    failed: dict[Path, str] = field(default_factory=dict)
    """Folder of a run → reason."""
    stopped: bool = False

    def stop(self) -> None:
        """Somebody asked the study to stop."""
        self.stopped = True


Outcome = tuple[Path, int, str]
"""A run's folder, its exit code, and the reason where it failed."""
Runner = Callable[[Sequence[Run]], Iterator[Outcome]]
"""Trains and evaluates runs, in the order in which they end: `in_pool`, or `tuning.study.on_ray`."""


def run_all(plan: Plan, parent: Path, *, runner: Runner, progress: Progress) -> Ended:
    """Train and evaluate what is not done yet. Raises UserError if a run's folder holds results of another study."""
    todo = [run for run in plan.runs if not is_done(run)]
    ended = Ended()
    if not todo:
        return ended
    (parent / STOP_FILE).unlink(missing_ok=True)
    with (
        progress.stage("study", sum(run.experiment.optim.steps for run in todo)) as bar,
        _watched(todo, bar),
        asked_to_stop(parent, lambda: [run.folder for run in todo], ended.stop),
    ):
        for folder, code, reason in runner(todo):
            ended.stopped |= code == EXIT_PREEMPTED
            if reason:
                ended.failed[folder] = reason
    return ended


def in_pool(parent: Path, parallel: int) -> Runner:
    """Runs in processes of this machine."""

    def run_in_pool(todo: Sequence[Run]) -> Iterator[Outcome]:
        left = {run.folder for run in todo}
        code, reason = EXIT_PREEMPTED, ""
        try:
            for outcome in local_map(
                partial(attempt, parent=parent),
                todo,
                workers=parallel,
                start="spawn",  # a fork would inherit torch's threads; each run has the environment of this process
                ignore_interrupt=True,
                given_up=stop_overdue(parent, STOP_S),
            ):
                left.discard(outcome[0])
                yield outcome
        except WorkerLostError:
            if not (parent / STOP_FILE).exists():
                code = RunError.exit_code
                reason = "a process of the study was killed (out of memory?); the same command resumes"
        yield from ((folder, code, reason) for folder in left)

    return run_in_pool


def evaluate_all(run: Run) -> None:
    """All evaluations of a trained run."""
    from evaluation.evaluate import evaluate
    from evaluation.report.tracking import log_report

    for number, (one, config) in enumerate(run.evaluations):
        report = evaluate(run.folder, config, evaluation_folder(run, number), trust_code=True)
        log_report(report, Path(one.preset).stem)


def attempt(
    run: Run,
    *,
    parent: Path,
    experiment: ExperimentConfig | None = None,
    evaluated: Callable[[Run], None] = evaluate_all,
) -> Outcome:
    """Pretrain a run and evaluate it, or go on where an earlier start ended: what a process of the pool or of Ray does.
    With code 143 if it was asked to stop first; whatever else ends it is its reason, and the other runs go on.
    """
    try:
        return run.folder, _work(run, parent, experiment or run.experiment, evaluated), ""
    except (UserError, RunError) as error:
        return run.folder, error.exit_code, first_line(error)
    except Exception as error:
        if (parent / STOP_FILE).exists():  # a task of its evaluation was ended
            return run.folder, EXIT_PREEMPTED, ""
        return run.folder, RunError.exit_code, f"{type(error).__name__}: {first_line(error)}"


def _work(run: Run, parent: Path, experiment: ExperimentConfig, evaluated: Callable[[Run], None]) -> int:
    from trainers.pretrain import pretrain

    if (parent / STOP_FILE).exists():
        return EXIT_PREEMPTED
    code = pretrain(experiment if has_cluster() else without_ray_train(experiment), parent=parent)
    if code != EXIT_DONE:
        return code
    evaluated(run)
    write_atomic(run.folder / DONE, json.dumps({"fingerprint": run.fingerprint, "row": run.row, "seed": run.seed}))
    return EXIT_DONE


def evaluation_folder(run: Run, number: int) -> Path:
    """Where the report of one of a run's evaluations lies."""
    return run.folder / f"evaluation-{number}"


def is_done(run: Run) -> bool:
    """Whether an earlier start of the study finished a run. Raises UserError if its folder holds other numbers."""
    file = run.folder / DONE
    if not file.is_file():
        return False
    if json.loads(file.read_text(encoding="utf-8"))["fingerprint"] != run.fingerprint:
        raise UserError(f"{run.folder} holds results of other settings; choose another study.dir")
    return True


@contextmanager
def _watched(todo: list[Run], bar: Bar) -> Iterator[None]:
    """The steps of all runs under way, summed into one bar."""
    steps: dict[Path, int] = {}
    lock = threading.Lock()

    def follow(run: Run) -> AbstractContextManager[None]:
        def seen(row: Mapping[str, Any]) -> None:
            with lock:
                steps[run.folder] = int(row["step"])
                bar(sum(steps.values()), f"{run.row}: loss {row['loss']:.3f}")

        return follow_metrics(run.folder / "metrics.jsonl", after=0, watch=seen)

    with ExitStack() as tails:
        for run in todo:
            tails.enter_context(follow(run))
        yield
