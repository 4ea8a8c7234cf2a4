"""The runs of a study as tasks of one Ray session, as many at once as the machines hold.

The driver decides which run starts, by what the machines offer in all and what runs on them. A run of one process is
sent to its machine; the workers of a larger one are placed by Ray Train, as near to each other as there is room. A run
that is lost with its process or its machine starts again from its snapshot, alone, at most ``resources.max_failures``
times. Where the driver is lost, Ray ends its tasks, and the same command resumes. Why tasks and not Ray's jobs:
docs/decisions/020-rows-are-tasks.md.
"""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cluster.machine.placement import Machine, Placed, Room, offered
from cluster.ray_runtime.session import Session, machines_there, ray_session
from cluster.ray_runtime.shared import Places
from cluster.refusals import Refusals
from cluster.settings import RunError, UserError, first_line
from trainers.config import without_ray_train
from trainers.loop import EXIT_PREEMPTED, STOP_FILE
from trainers.state.places import absolute
from tuning.placement import Need, cores, need, places, wanted
from tuning.study.config import StudySettings
from tuning.study.plan import Plan, Run
from tuning.study.row_task import elsewhere, options_of, row_task, travelling
from tuning.study.runs import Outcome, Runner, is_done

POLL_S = 1.0
"""How often the driver looks at its tasks and at the machines."""
STOP_S = 300.0
"""A run that was asked to stop has so long to take its step and its snapshot."""
Needs = Mapping[Path, Need]
"""Folder of a run → what it takes."""


def needs_of(plan: Plan, machines: Sequence[Machine]) -> dict[Path, Need]:
    """What every run that is not done takes of these machines.
    The UserError names every row that they can never hold, and what there is; and rows that only this machine can run.
    """
    refusals = Refusals()
    found: dict[Path, Need] = {}
    for run in left_of(plan):
        with refusals.noted():
            one = found[run.folder] = need(run.experiment, machines, f"row {run.row}")
            for asked, config in run.evaluations:
                if config.device != "cpu" and not one.worker.gpus:
                    refusals.add(
                        f"row {run.row}: {asked.preset} is evaluated on device={config.device}, its worker has no GPU; "
                        "set the evaluation's device to cpu"
                    )
        if (text := run.experiment.text.path) and not Path(text).expanduser().is_absolute():
            refusals.add(f"row {run.row}: text.path={text} is relative, and rows run elsewhere; give an absolute path")
    refusals.require_none()
    return found


def left_of(plan: Plan) -> list[Run]:
    """Runs that are not done, those that rows start from first."""
    return [run for run in (*plan.starts, *plan.runs) if not is_done(run)]


def places_of(plan: Plan, folder: Path) -> Places:
    """What the machines must have in common to run a study's rows; sets that it builds lie in its folder."""
    read: dict[str, str | None] = {}
    for run in left_of(plan):
        data = elsewhere(run.experiment).data
        read |= {f"data.{name}": getattr(data, name) for name in data.drawn_from}
        read |= {
            f"{one.preset}: data.shards": config.data.shards and absolute(config.data.shards)
            for one, config in run.evaluations
        }
    return places("study.dir", folder, read, plan.runs[0].experiment.tracking)


def most_at_once(settings: StudySettings, plan: Plan, *, local: bool) -> int:
    """Runs at once: as asked; on a session of this machine alone as many as it has cores for; else all that fit."""
    if settings.parallel is not None:
        return settings.parallel
    return wanted(0, max((run.experiment for run in plan.runs), key=cores)) if local else len(plan.runs)


def local_cores(settings: StudySettings, plan: Plan) -> int:
    """Cores that a session of this machine offers, real or not, so that as many rows as asked find room."""
    largest = max(cores(run.experiment) for run in (*plan.starts, *plan.runs))
    return most_at_once(settings, plan, local=True) * largest


def session_of(plan: Plan, settings: StudySettings) -> AbstractContextManager[Session]:
    """The Ray session of a study; a local one has its dashboard only where runs with workers are nested in it."""
    nested = any(without_ray_train(run.experiment).resources.num_workers for run in left_of(plan))
    return ray_session(workers=local_cores(settings, plan), dashboard=nested)


def preview(plan: Plan, needs: Needs, machines: Sequence[Machine], most: int) -> dict[str, Any]:
    """Where the runs would lie if they started now, in plain JSON types: for ``--dry-run``."""
    room, started = Room(machines), 0
    shown: dict[str, Any] = {}
    for run in left_of(plan):
        takes = needs[run.folder]
        placed = room.take(takes.bundles) if started < most else None
        started += placed is not None
        anywhere = Room(machines).take(takes.bundles) if placed is None else placed
        shown[f"{run.row}, seed {run.seed}"] = {
            "workers": sum(one.kind == takes.worker.kind for one in takes.bundles),
            "cores": takes.cpus,
            "gpus": takes.gpus,
            "machines": dict(Counter(one.machine.address for one in anywhere or ())),
            "starts": "at once" if placed else "when others have ended" if anywhere else "when a machine was added",
        }
    return {"machines": offered(machines), "at_once": started, "runs": shown}


def on_ray(parent: Path, needs: Needs, *, most: int, wait_s: float) -> Runner:
    """Runs in tasks of the Ray session that this process is in."""

    def run_on_ray(todo: Sequence[Run]) -> Iterator[Outcome]:
        tasks = _Tasks(parent, needs, todo, most)
        try:
            yield from tasks.outcomes(wait_s)
        finally:
            tasks.cancel()

    return run_on_ray


@dataclass(frozen=True, kw_only=True)
class _Started:
    run: Run
    placed: tuple[Placed, ...]


class _Tasks:
    """Runs that wait, and those under way."""

    def __init__(self, parent: Path, needs: Needs, todo: Sequence[Run], most: int) -> None:
        self._ray: Any = import_module("ray")  # published half without types
        self._parent, self._needs, self._most = parent, needs, most
        self._waiting = list(todo)
        self._running: dict[Any, _Started] = {}
        self._lost: Counter[Path] = Counter()

    def outcomes(self, wait_s: float) -> Iterator[Outcome]:
        """Every run's end, until all have ended, or somebody asked to stop and those under way have."""
        goes_on = stopped = time.monotonic()
        while self._running or (self._waiting and not self._stopping()):
            now, there = time.monotonic(), machines_there()
            if self._stopping():
                if now - stopped > STOP_S:
                    self.cancel()
            else:
                stopped = now
                self._start_what_fits(there)
            if not self._running:
                time.sleep(POLL_S)
            elif done := self._ray.wait(list(self._running), timeout=POLL_S)[0]:
                yield from filter(None, map(self._outcome, done))
            if self._stopping() or any(self._has_room(one.run, there) for one in self._running.values()):
                goes_on = now
            elif now - goes_on > wait_s:
                yield from self._given_up(there, wait_s)

    def cancel(self) -> None:
        """End what is still under way."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)

    def _stopping(self) -> bool:
        return (self._parent / STOP_FILE).exists()

    def _has_room(self, run: Run, machines: Sequence[Machine]) -> bool:
        """Whether these machines could hold a run; workers of one that they cannot wait for those that were lost."""
        waits = run.experiment.resources.autoscaling
        return waits or Room(machines).take(self._needs[run.folder].bundles) is not None

    def _start_what_fits(self, machines: Sequence[Machine]) -> None:
        under_way = [one for one in self._running.values() if self._has_room(one.run, machines)]
        room = Room(machines)
        for one in under_way:
            room.hold(one.placed)
        count = len(under_way)
        for run in list(self._waiting):
            placed = room.take(self._needs[run.folder].bundles) if count < self._most else None
            if placed is None and run.experiment.resources.autoscaling and not count:
                placed = []  # Ray asks for machines
            if placed is not None:
                count += 1
                self._waiting.remove(run)
                self._start(_Started(run=run, placed=tuple(placed)))

    def _start(self, one: _Started) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        takes = self._needs[one.run.folder]
        options = options_of(takes)
        if takes.alone and one.placed:  # soft: where it was lost meanwhile, Ray takes another
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(one.placed[0].machine.id, soft=True)
        task = self._ray.remote(**options)(row_task)
        self._running[task.remote(*travelling(one.run, takes), self._parent, takes)] = one

    def _outcome(self, reference: Any) -> Outcome | None:
        """Of a task that ended; None where its run starts again."""
        from ray.exceptions import RayError, RayTaskError

        run = self._running.pop(reference).run
        try:
            ended: Outcome = self._ray.get(reference)
            return ended
        except RayTaskError as error:  # what ours raises is caught there: a module is missing, for example
            return run.folder, RunError.exit_code, first_line(error.cause)
        except RayError as error:  # its process, its machine or its memory is gone
            if self._stopping():
                return run.folder, EXIT_PREEMPTED, ""
            self._lost[run.folder] += 1
            most = run.experiment.resources.max_failures
            if self._lost[run.folder] > most:
                reason = f"lost more often than resources.max_failures={most} allows: {first_line(error)}"
                return run.folder, RunError.exit_code, reason
            self._waiting.insert(0, run)
            return None

    def _given_up(self, machines: Sequence[Machine], wait_s: float) -> Iterator[Outcome]:
        """Runs that wait for machines that do not come back."""
        self.cancel()
        left = [*(one.run for one in self._running.values()), *self._waiting]
        self._running.clear()
        self._waiting.clear()
        for run in left:
            reason = (
                f"no room for study.machine_wait_s={wait_s:g} s: the cluster has {offered(machines)} left; "
                "the same command resumes when there are more"
            )
            yield run.folder, UserError.exit_code, reason
