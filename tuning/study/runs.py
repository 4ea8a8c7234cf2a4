"""The runs of a study: each is pretrained and evaluated in a process of a pool, and never twice.

A run that is killed leaves its snapshot; the same command resumes it. A run that fails is named in the table, and the
others go on. A request to stop reaches the running ones as a file, so that each saves itself first.
"""

import json
import multiprocessing
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.files.storage import write_atomic
from cluster.processes.pool_workers import end_with_parent
from cluster.progress import Bar, Progress
from cluster.settings import RunError, UserError, first_line
from trainers.loop import EXIT_DONE, EXIT_PREEMPTED, STOP_FILE
from trainers.state.metrics_log import MetricsTail
from tuning.stopping import asked_to_stop
from tuning.study.plan import Plan, Run

DONE = "done.json"
"""In a run's folder, once it is trained and evaluated."""


@dataclass
class Ended:
    """How the runs of a study ended."""

    failed: dict[Path, str] = field(default_factory=dict)
    """Folder of a run → reason."""
    stopped: bool = False

    def stop(self) -> None:
        """Somebody asked the study to stop."""
        self.stopped = True


def run_all(plan: Plan, parent: Path, *, parallel: int, progress: Progress) -> Ended:
    """Train and evaluate what is not done yet.

    Args:
        plan: of the study.
        parent: the study's folder, under which the tracker shows every run.
        parallel: runs at once, ≥ 1.
        progress: shows the optimisation steps of all runs together.

    Raises:
        UserError: if a run's folder holds the results of another study.
    """
    todo = [run for run in plan.runs if not is_done(run)]
    ended = Ended()
    if not todo:
        return ended
    (parent / STOP_FILE).unlink(missing_ok=True)
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads
    with (
        ProcessPoolExecutor(min(parallel, len(todo)), mp_context=context, initializer=_start_worker) as pool,
        progress.stage("study", sum(run.experiment.optim.steps for run in todo)) as bar,
        _watched(todo, bar),
        asked_to_stop(parent, lambda: [run.folder for run in todo], ended.stop),
    ):
        futures = {pool.submit(work, run, parent): run for run in todo}
        for future in as_completed(futures):
            _note(future, futures[future], ended)
    return ended


def work(run: Run, parent: Path) -> int:
    """Pretrain a run and evaluate it: what a process of the pool does.

    Returns:
        0, or 143 if it was asked to stop first.
    """
    from evaluation.evaluate import evaluate
    from evaluation.report.tracking import log_report
    from trainers.pretrain import pretrain

    if (parent / STOP_FILE).exists():
        return EXIT_PREEMPTED
    code = pretrain(run.experiment, parent=parent)
    if code != EXIT_DONE:
        return code
    for number, (one, config) in enumerate(run.evaluations):
        report = evaluate(run.folder, config, evaluation_folder(run, number), trust_code=True)
        log_report(report, Path(one.preset).stem)
    write_atomic(run.folder / DONE, json.dumps({"fingerprint": run.fingerprint, "row": run.row, "seed": run.seed}))
    return EXIT_DONE


def evaluation_folder(run: Run, number: int) -> Path:
    """Where the report of one of a run's evaluations lies."""
    return run.folder / f"evaluation-{number}"


def is_done(run: Run) -> bool:
    """Whether a run was finished by an earlier start of the study.

    Raises:
        UserError: if its folder holds other numbers.
    """
    file = run.folder / DONE
    if not file.is_file():
        return False
    if json.loads(file.read_text(encoding="utf-8"))["fingerprint"] != run.fingerprint:
        raise UserError(f"{run.folder} holds results of other settings; choose another study.dir")
    return True


def _note(future: Future[int], run: Run, ended: Ended) -> None:
    try:
        ended.stopped |= future.result() == EXIT_PREEMPTED
    except BrokenProcessPool:
        ended.failed[run.folder] = "a process of the study was killed (out of memory?); the same command resumes"
    except (UserError, RunError) as error:
        ended.failed[run.folder] = first_line(error)
    except Exception as error:  # whatever it is, it is this run's reason; the others go on
        ended.failed[run.folder] = f"{type(error).__name__}: {first_line(error)}"


def _start_worker() -> None:
    """Ctrl-C reaches every process of the terminal; the study's own decides what it means, and is not outlived."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()


@contextmanager
def _watched(todo: list[Run], bar: Bar) -> Iterator[None]:
    """The steps of all runs under way, summed into one bar."""
    steps: dict[Path, int] = {}
    lock = threading.Lock()

    def follow(run: Run) -> MetricsTail:
        def seen(row: Mapping[str, Any]) -> None:
            with lock:
                steps[run.folder] = int(row["step"])
                bar(sum(steps.values()), f"{run.row}: loss {row['loss']:.3f}")

        return MetricsTail(run.folder / "metrics.jsonl", after=0, watch=seen)

    with ExitStack() as tails:
        for run in todo:
            tails.enter_context(follow(run))
        yield
