"""Sweeps: trials over a search space, each a whole run, stopped early where it lags, and the best of them confirmed.

Reading order: `config` (what a sweep is) → `space` → `plan` (checks) → here → `runner` (Ray Tune) → `trial` (one
trial) → `objective`; `journal` remembers, `outcome` and `confirm` conclude.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.files.locks import sole_writer
from cluster.files.storage import write_atomic
from cluster.imports import uncollected
from cluster.progress import Bar, Progress
from cluster.ray_runtime.session import ray_session
from cluster.ray_runtime.shared import Places, refuse_own_folder_of_a_job, require_shared
from cluster.settings import RunError, flatten, to_tree
from cluster.tracking import Tracker
from cluster.tracking.apart import shared
from cluster.tracking.config import TrackingConfig, store_uri
from cluster.tracking.pages import NOTE, description, objective_name, picture, trials_link
from data_shards.build.writer import BuildConfig
from trainers.loop import EXIT_DONE, EXIT_PREEMPTED
from tuning.placement import Need, concurrent, cores, need, places, wanted
from tuning.study.sets import compose
from tuning.sweep.confirm import FIRST_SEED, SIDES, ConfirmRuns, compare, is_done, verdict
from tuning.sweep.jobs import Curve, Job, Source
from tuning.sweep.journal import SweepJournal, claim
from tuning.sweep.outcome import SweepResult, importances, note, rows_of, write_best, write_table
from tuning.sweep.plan import SweepPlan, check_data

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from tuning.sweep.runner import Slots

COMPARE = trials_link("Compare the trials")
TABLE_SHARE = 0.05
CLIPS_PER_SHARD = 50
"""Of composed sets: a few hundred tracks are shared evenly among the cores."""
ANYWHERE = Need(bundles=(), alone=True)
"""Of jobs that are only looked for: whether one is done does not depend on where it ran."""


def run_sweep(plan: SweepPlan, *, progress: Progress) -> SweepResult:
    """Run what is not done yet of a sweep, and conclude. Raises UserError if the folder holds another sweep, the shards
    do not fit, or a trial does not fit the cluster, RunError if no trial could be evaluated.
    """
    config, folder = plan.config, plan.folder
    refuse_own_folder_of_a_job("sweep.dir", folder)
    with sole_writer(folder, "choose another sweep.dir"):
        claim(folder, plan.identity())
        if plan.build:
            sets = {folder / "shards" / name: corpus for name, corpus in config.corpora.items()}
            compose(sets, progress, BuildConfig(clips_per_shard=CLIPS_PER_SHARD))
            check_data(plan, str(folder))
        home = replace(
            config.tracking, uri=store_uri(config.tracking, folder), name=config.tracking.name or folder.name
        )
        with shared(), Tracker(home, folder, apart=True) as tracker:  # one process sends for the trials here too
            tracker.params(_tracked_params(plan))
            tracker.view([objective_name(metric) for metric in config.objective.metrics], list(plan.space))
            tracker.tags({NOTE: COMPARE})
            journal = SweepJournal(
                folder, config.sweep, plan.space, objectives=len(config.objective.metrics), first=plan.first
            )
            with ExitStack() as stack:
                start = lru_cache(lambda: stack.enter_context(_started(plan, home)))
                complete = _trials(plan, journal, start, tracker, progress)
                confirmed: dict[str, Any] = {}
                words: list[str] = []
                if complete:
                    complete, confirmed, words = _confirm(plan, journal, start, progress)
            result = _conclude(plan, journal, tracker, confirmed, words, complete=complete)
            tracker.close("FINISHED" if complete else "KILLED")
        return result


@contextmanager
def _started(plan: SweepPlan, home: TrackingConfig) -> Iterator["Slots"]:
    """Ray, for what is left to run: a sweep that has all shows its table without it."""
    from tuning.sweep.runner import Slots

    config = plan.config.sweep
    workers = wanted(config.concurrency, plan.experiment) * cores(plan.experiment)
    with ray_session(workers=workers, dashboard=plan.resources.num_workers > 0) as session:
        one = need(plan.experiment, session.machines, "a trial")
        if not session.local:
            require_shared(_places(plan, home), session.machines)
        at_a_time = concurrent(config.concurrency, one, session)
        yield Slots(storage=plan.folder, one=one, at_a_time=at_a_time, retries=config.retries)


def _places(plan: SweepPlan, home: TrackingConfig) -> Places:
    data = plan.experiment.data
    read = {f"data.{name}": getattr(data, name) for name in data.drawn_from}
    return places("sweep.dir", plan.folder, read | {"objective.shards": plan.evaluation.data.shards}, home)


def _tracked_params(plan: SweepPlan) -> dict[str, Any]:
    config = plan.config
    space = {f"space.{path}": spec for path, spec in config.space.items()}
    sections = {name: to_tree(getattr(config, name)) for name in ("sweep", "objective", "stop")}
    return flatten(sections) | {path: json.dumps(spec) for path, spec in space.items()}


def _trials(
    plan: SweepPlan, journal: SweepJournal, start: Callable[[], "Slots"], tracker: Tracker, progress: Progress
) -> bool:
    """Run the trials; False if somebody asked to stop."""
    config = plan.config
    open_trials = journal.counts()["running"] + config.sweep.trials - len(journal.trials)
    if open_trials <= 0:
        return True
    with uncollected(freeze=False):  # Ray takes seconds, and a finished sweep needs none
        from tuning.sweep.runner import run_jobs, scheduler_of

    slots = start()
    with progress.stage("trials", config.sweep.trials) as bar:
        return run_jobs(
            _Trials(plan, journal, slots.one, tracker, bar),
            slots,
            limit=open_trials,
            scheduler=scheduler_of(config.stop, plan.experiment.optim.steps, journal.curves()),
        )


class _Trials(Source):
    """The journal's trials as Tune's jobs; whatever ends one is written down at once."""

    def __init__(self, plan: SweepPlan, journal: SweepJournal, one: Need, tracker: Tracker, bar: Bar) -> None:
        self.plan, self.journal, self.one, self.tracker, self.bar = plan, journal, one, tracker, bar
        self.sign = 1.0 if plan.config.stop.mode == "max" else -1.0
        self._best: int | None = None
        self._next_table = 0.0
        self._write()

    def next(self) -> tuple[int, Job] | None:
        trial = self.journal.next()
        if trial is None:
            return None
        name = f"trial-{trial.number:03d}"
        folder = self.plan.folder / "trials" / f"{trial.number:03d}"
        self._show()
        return trial.number, self.plan.job(name, folder, trial.params, one=self.one)

    def reported(self, number: int, row: Mapping[str, Any]) -> None:
        self._show(f"trial {number}: step {row['step']}")

    def done(self, number: int, result: Mapping[str, Any], curve: Curve) -> None:
        self.journal.note(number, curve=curve, step=result["step"], seconds=result["seconds"])
        self.journal.done(number, result["values"])
        scores = zip(self.plan.config.objective.metrics, result["values"], strict=True)
        best = self.journal.best()
        assert best is not None
        metrics = {f"objective/{name.replace('/', '.')}": value for name, value in scores}
        # Trials end out of order, and a curve takes no step twice: it counts the evaluated ones.
        self.tracker.metrics(metrics | {"objective/best": best.values[0]}, step=self.journal.counts()["done"])
        self._write()

    def stopped(self, number: int, curve: Curve) -> None:
        self.journal.note(number, curve=curve)
        self.journal.stopped(number, [(step, self.sign * value) for step, value in curve])
        self._write()

    def crashed(self, number: int, reason: str) -> None:
        self.journal.note(number, crashes=[*self.journal.crashes(number), reason])
        self._show(f"trial {number} crashed and starts again: {reason[:80]}")

    def again(self, number: int) -> None:
        self.journal.again(number)

    def failed(self, number: int, reason: str) -> None:
        self.journal.failed(number, reason)
        self._write()

    def _write(self) -> None:
        """The table of thousands of trials takes seconds: it gets `TABLE_SHARE` of the time. The end writes all."""
        best = self.journal.best()
        if best is not None and best.number != self._best:
            self._best = best.number
            write_best(self.journal, self.plan, self.plan.folder)
        began = time.monotonic()
        if began >= self._next_table:
            write_table(rows_of(self.journal, self.plan), self.plan.folder)
            self._next_table = time.monotonic() + (time.monotonic() - began) / TABLE_SHARE
        self._show()

    def _show(self, words: str = "") -> None:
        counts, best = self.journal.counts(), self.journal.best()
        ended = counts["done"] + counts["stopped"] + counts["failed"]
        shown = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        top = f"best {best.values[0]:.3f} (trial {best.number})" if best else ""
        self.bar(ended, "; ".join(filter(None, (shown, top, words))))


def _confirm(
    plan: SweepPlan, journal: SweepJournal, start: Callable[[], "Slots"], progress: Progress
) -> tuple[bool, dict[str, Any], list[str]]:
    """Best and preset on fresh seeds: whether it came to an end, what was found, remarks."""
    best = journal.best()
    if best is None or not plan.config.sweep.confirm_seeds:
        return True, {}, []
    if best.user_attrs.get("preset"):
        return True, {}, ["the preset itself scored highest: there is nothing to confirm"]
    jobs = _on_fresh_seeds(plan, best, ANYWHERE)
    left = sum(not is_done(job) for job in jobs)
    slots = start() if left else None
    if slots:
        jobs = _on_fresh_seeds(plan, best, slots.one)
    with progress.stage("confirming", len(jobs)) as bar:
        source = ConfirmRuns(jobs, bar)
        if slots:
            from tuning.sweep.runner import run_jobs

            if not run_jobs(source, slots, limit=left):
                return False, {}, []
    words = [f"{name} failed: {reason}" for name, reason in source.reasons.items()]
    pairs = [(one, other) for one, other in zip(jobs[::2], jobs[1::2], strict=True) if is_done(one) and is_done(other)]
    if not pairs:
        return True, {}, [*words, "no seed ran for both; nothing is confirmed"]
    folders = {side: [pair[place].folder for pair in pairs] for place, side in enumerate(SIDES)}
    found = compare(folders, plan.config.objective.metrics)
    write_atomic(
        plan.folder / "confirm.json",
        json.dumps({"schema_version": 1, "trial": best.number, "metrics": found}, indent=1),
    )
    return True, found, [*words, *(verdict(metric, row) for metric, row in found.items())]


def _on_fresh_seeds(plan: SweepPlan, best: "FrozenTrial", one: Need) -> list[Job]:
    """The runs of a confirmation, best and preset by turns."""
    first = plan.experiment.seed + FIRST_SEED
    return [
        plan.job(
            f"{side}-seed-{seed}",
            plan.folder / "confirm" / (f"best-{best.number:03d}" if side == "best" else side) / f"seed-{seed}",
            best.params if side == "best" else {},
            one=one,
            seed=seed,
        )
        for seed in range(first, first + plan.config.sweep.confirm_seeds)
        for side in SIDES
    ]


def _conclude(
    plan: SweepPlan,
    journal: SweepJournal,
    tracker: Tracker,
    confirmed: dict[str, Any],
    words: list[str],
    *,
    complete: bool,
) -> SweepResult:
    """Write and track what there is."""
    folder = plan.folder
    rows, best = rows_of(journal, plan), journal.best()
    files = write_table(rows, folder)
    shares: dict[str, float] = {}
    if best is None and complete:
        reasons = "; ".join(sorted({row["reason"] for row in rows if row["reason"]})) or "every one was stopped"
        raise RunError(f"no trial of {len(rows)} could be evaluated: {reasons}. Folders: {folder}/trials")
    if best is not None:
        preset = write_best(journal, plan, folder)
        assert preset is not None
        shares = importances(journal, plan.config.sweep.seed, folder)
        files |= {"best": preset} | _figures(plan, rows, shares)
        tracker.metrics({f"importance/{path}": share for path, share in shares.items()}, step=len(rows))
    if confirmed:
        files["confirm"] = folder / "confirm.json"
        for name, found in confirmed.items():
            delta = {f"confirm/{name.replace('/', '.')}.{end}": x for end, x in found["difference"].items()}
            tracker.metrics({key: x for key, x in delta.items() if x is not None}, step=len(rows))
    if complete:
        shown = picture("figures/history.png") if "history" in files else ""
        tracker.tags({NOTE: description(COMPARE, shown, note(rows, plan, words))})
        for file in files.values():
            tracker.artifact(file, folder="figures" if file.suffix == ".png" else "sweep")
    return SweepResult(
        code=EXIT_DONE if complete else EXIT_PREEMPTED,
        rows=rows,
        best=best.number if best else None,
        files=files,
        importances=shares,
        confirmed=confirmed,
        words=words,
        tracking=tracker.trials_url if plan.config.tracking.enabled else "off",
    )


def _figures(plan: SweepPlan, rows: list[dict[str, Any]], shares: dict[str, float]) -> dict[str, Path]:
    """The figures by name; they are drawn where the table has changed since."""
    folder, metric = plan.folder, plan.config.objective.metrics[0]
    files = {name: folder / f"{name}.png" for name in ("history", "parallel", *(["importances"] if shares else []))}
    changed = (folder / "trials.csv").stat().st_mtime_ns
    if all(file.is_file() and file.stat().st_mtime_ns > changed for file in files.values()):
        return files
    from evaluation.report.canvas import png
    from tuning.sweep.plots import history, importance, parallel

    write_atomic(files["history"], png(history(rows, metric)))
    write_atomic(files["parallel"], png(parallel(rows, plan.space, metric)))
    if shares:
        evaluated = sum(row[metric] is not None for row in rows)
        write_atomic(files["importances"], png(importance(shares, metric, evaluated)))
    return files
