"""Jobs through Ray Tune: as many at a time as fit, stopped by its scheduler, started again when they crash.

Tune keeps nothing that is read again: a source hands out jobs and receives what becomes of them.
"""

import logging
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune import Callback
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from cluster.settings import RunError
from trainers.loop import STOP_FILE
from tuning.placement import DRIVER_MEMORY, Need
from tuning.stopping import asked_to_stop
from tuning.sweep.config import StopConfig
from tuning.sweep.jobs import Curve, Job, Source
from tuning.sweep.trial import SweepTrial

_TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial may be asked to stop, or end, before its first metric
}
_RAISED = re.compile(r"^([\w.]+(Error|Exception|Died)\w*(\(\w+\))?)(: ?|$)")
_DIED = re.compile(r"Worker exit detail: (.+?)(?: Some common causes|$)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Slots:
    """What jobs may take."""

    storage: Path
    """Folder for what Tune writes; it is removed."""
    one: Need
    """What a trial takes."""
    at_a_time: int
    retries: int
    """Restarts of a trial that crashed."""

    @property
    def actor(self) -> dict[str, float]:
        """What a trial's actor takes, in Tune's words."""
        if self.one.driver is None:
            return {"memory": DRIVER_MEMORY}
        return {"cpu": self.one.driver.cpus} | ({"gpu": self.one.driver.gpus} if self.one.driver.gpus else {})


def run_jobs(source: Source, slots: Slots, *, limit: int, scheduler: TrialScheduler | None = None) -> bool:
    """Run a source dry. False if SIGTERM or Ctrl-C asked to stop; what ran has saved itself."""
    os.environ.update(_TUNE)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # crashes are reported by their reason, without tracebacks
    (slots.storage / STOP_FILE).unlink(missing_ok=True)  # of an earlier start
    for attempt in range(slots.retries + 1):
        search = _Search(source)
        try:
            with asked_to_stop(slots.storage, search.folders, search.stop):
                _tuner(search, slots, limit, scheduler).fit()
        except RuntimeError as error:
            # Tune takes an actor that Ray killed for memory for a fault of its own, and leaves.
            if "low on memory" not in str(error):
                raise
            for trial_id in search.running:
                source.crashed(search.numbers[trial_id], "killed by Ray: the machine was low on memory")
                source.again(search.numbers[trial_id])
            if search.stopping:
                return False
            if attempt == slots.retries:
                raise RunError(
                    "trials were killed because the machine was low on memory; lower sweep.concurrency or data.batch; "
                    "the same command goes on where they are"
                ) from None
        else:
            return not search.stopping
        finally:
            shutil.rmtree(slots.storage / "tune", ignore_errors=True)
    raise AssertionError("the last attempt returns or raises")


def _tuner(search: "_Search", slots: Slots, limit: int, scheduler: TrialScheduler | None) -> tune.Tuner:
    return tune.Tuner(
        tune.with_resources(SweepTrial, slots.actor),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler or FIFOScheduler(),  # type: ignore[no-untyped-call]
            num_samples=limit,
            max_concurrent_trials=slots.at_a_time,
            reuse_actors=True,  # importing torch and MLflow takes longer than a small trial
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(slots.storage),
            verbose=0,
            callbacks=[_Crashes(search)],
            failure_config=tune.FailureConfig(max_failures=slots.retries),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # a run has its own snapshots
        ),
    )


def scheduler_of(stop: StopConfig, steps: int, curves: Sequence[Curve]) -> TrialScheduler | None:
    """Tune's rule, with the curves of an earlier start's trials."""
    if stop.rule == "none":
        return None
    about: dict[str, Any] = {"time_attr": "step", "metric": "metric", "mode": stop.mode}
    grace = stop.grace_steps or max(1, steps // 4)
    rule: TrialScheduler = (
        ASHAScheduler(**about, max_t=steps, grace_period=grace, reduction_factor=stop.reduction)
        if stop.rule == "asha"
        else MedianStoppingRule(**about, grace_period=grace, min_samples_required=stop.min_trials, hard_stop=True)
    )
    controller: Any = SimpleNamespace(get_live_trials=list)  # the median rule asks whether anyone waits
    for number, curve in enumerate(curves):
        trial: Any = _Past(f"before-{number}")
        rule.on_trial_add(controller, trial)
        for step, value in curve:
            rule.on_trial_result(controller, trial, {"step": step, "metric": value})
    return rule


@dataclass(frozen=True)
class _Past:
    """All that a rule looks at in a trial."""

    trial_id: str


class _Search(Searcher):
    """Tune's door to a source."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.source = source
        self.stopping = False
        self.numbers: dict[str, int] = {}
        self.running: dict[str, Job] = {}
        self._curves: dict[str, Curve] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its searcher beside its own state; neither is ever read

    def stop(self) -> None:
        """Suggest nothing more."""
        self.stopping = True

    def folders(self) -> list[Path]:
        """Of the trials that were suggested and have not ended."""
        return [job.folder for job in self.running.values()]

    def suggest(self, trial_id: str) -> Any:
        found = None if self.stopping else self.source.next()
        if found is None:
            return Searcher.FINISHED
        self.numbers[trial_id], self.running[trial_id] = found
        self._curves[trial_id] = []
        return found[1].packed()

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if "metric" in result:
            self._curves[trial_id].append((result["step"], result["metric"]))
            self.source.reported(self.numbers[trial_id], result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.running.pop(trial_id, None)
        if error or not result or "preempted" in result:
            return  # its reason comes by `_Crashes`, or it goes on with the next start
        number, curve = self.numbers[trial_id], self._curves[trial_id]
        if "metric" in result and (not curve or curve[-1][0] < result["step"]):
            curve.append((result["step"], result["metric"]))  # the one that ended it
        if "values" in result:
            self.source.done(number, result, curve)
        else:
            self.source.stopped(number, curve)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal remembers."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: a sweep is rebuilt from its journal."""


class _Crashes(Callback):
    """Reports to the source what crashed, and why."""

    def __init__(self, search: _Search) -> None:
        self._search = search

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_recover(self, trial: Trial, **_: Any) -> None:  # type: ignore[override]  # Tune calls it by keyword
        self._search.source.crashed(self._search.numbers[trial.trial_id], _reason_of(trial))

    def on_trial_error(self, trial: Trial, **_: Any) -> None:  # type: ignore[override]
        self._search.source.failed(self._search.numbers[trial.trial_id], _reason_of(trial))


def _reason_of(trial: Trial) -> str:
    """From the file that Tune writes here at once; its copy in the storage comes later."""
    file = Path(trial.error_file or "")
    return reason(file.read_text(encoding="utf-8") if file.is_file() else "")


def reason(text: str) -> str:
    r'''The last exception of Tune's error file, in one line.

    >>> reason("""Failure # 1
    ... ray.exceptions.RayTaskError(RunError): x
    ... cluster.settings.RunError: not finite""")
    'not finite'
    >>> reason("Failure # 2\nThe actor died. Worker exit detail: Connection lost. Some common causes include")
    'its process died: Connection lost.'
    '''
    last = text.rpartition("Failure #")[2]
    if died := _DIED.search(last):
        return f"its process died: {died[1]}"
    raised = [line for line in map(str.strip, last.splitlines()) if _RAISED.match(line)]
    if not raised:
        return "ended without an error message"
    return _RAISED.sub("", raised[-1]) or raised[-1]
