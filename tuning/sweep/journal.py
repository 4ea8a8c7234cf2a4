"""The memory of a sweep: Optuna's study in a journal of JSON lines, which a killed driver cannot damage.

Tune runs trials and forgets; what was tried, what came of it and what was under way stands here alone. A trial whose
driver was killed is handed out again under its number, so it goes on in its folder from its last snapshot.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from cluster.files.storage import write_atomic
from cluster.settings import UserError, flatten
from tuning.sweep.config import SettingsConfig
from tuning.sweep.optuna_private import lock_of, pareto_front, reopen
from tuning.sweep.space import Space, Value, as_optuna

SCHEMA_VERSION = 1
JOURNAL = "study.journal"
CHUNK_BYTES = 1 << 16
STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
SAMPLERS: dict[str, Callable[[int, int], BaseSampler]] = {
    "tpe": lambda seed, startup: TPESampler(seed=seed, n_startup_trials=startup, constant_liar=True),
    "nsga2": lambda seed, startup: NSGAIISampler(seed=seed, population_size=max(2, startup)),
    "random": lambda seed, startup: RandomSampler(seed=seed),  # noqa: ARG005
}


class SweepJournal:
    """The study of one folder, which the caller alone writes (`cluster.files.locks.sole_writer`). All objectives are
    maximised; the preset, where it is given, is tried first.

    Optuna copies every trial where a study is asked for its trials: seconds with 10,000. Here they are read in place.
    """

    def __init__(
        self,
        folder: Path,
        settings: SettingsConfig,
        space: Space,
        *,
        objectives: int,
        first: Mapping[str, Value] | None = None,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.settings = settings
        self._space = {path: as_optuna(distribution) for path, distribution in space.items()}
        _mend(folder / JOURNAL)
        self.study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name="sweep",
            directions=["maximize"] * objectives,
            load_if_exists=True,
        )
        if first is not None and not self._in_state(*STATES):
            self.study.enqueue_trial(dict(first), user_attrs={"preset": True})
        self._again = [trial.number for trial in self._in_state(TrialState.RUNNING)]
        self._asked: dict[int, optuna.Trial] = {}
        self._known_front: tuple[int, list[FrozenTrial]] = (0, [])

    def next(self) -> FrozenTrial | None:
        """The trial to run now: one that a killed driver left, else a new one; None when all are handed out."""
        if self._again:
            number = self._again.pop(0)
            self.study.sampler = self._sampler(number)
            self._asked[number] = reopen(self.study, number, self._space)  # a kill while it was asked left some out
            return self._trial(number)
        started = len(self.trials)
        if started >= self.settings.trials:
            return None
        # A sampler of its own for every trial: what is drawn depends on the seed, the number and the trials reported
        # before, not on how often the sweep was killed.
        self.study.sampler = self._sampler(started)
        asked = self.study.ask(self._space)
        self._asked[asked.number] = asked
        return self._trial(asked.number)

    def _sampler(self, number: int) -> BaseSampler:
        seed = self.settings.seed * 100_003 + number
        return SAMPLERS[self.settings.sampler](seed, self.settings.startup)

    def again(self, number: int) -> None:
        """Hand a trial under way out once more."""
        self._again.append(number)

    def note(self, number: int, **facts: Any) -> None:
        """Remember plain JSON types with a trial."""
        for name, value in facts.items():
            self._asked[number].set_user_attr(name, value)

    def done(self, number: int, values: Sequence[float]) -> None:
        """A trial was evaluated."""
        self.study.tell(self._asked[number], list(values), state=TrialState.COMPLETE)

    def stopped(self, number: int, curve: Sequence[tuple[int, float]]) -> None:
        """A trial was stopped early; TPE uses its ``curve`` of (step, value, more is better) too."""
        if len(self.study.directions) == 1:
            for step, value in curve:
                self._asked[number].report(value, step)
        self.study.tell(self._asked[number], state=TrialState.PRUNED)

    def failed(self, number: int, reason: str) -> None:
        """A trial crashed once too often."""
        self.note(number, reason=reason)
        self.study.tell(self._asked[number], state=TrialState.FAIL)

    @property
    def trials(self) -> list[FrozenTrial]:
        """All that were handed out; to be read only."""
        return self._in_state(*(STATES.keys() - {TrialState.WAITING}))

    def best(self) -> FrozenTrial | None:
        """The trial with the highest objective; of several objectives, the front's highest in the first."""
        return max(self._front(), key=lambda trial: (trial.values[0], -trial.number), default=None)

    def front(self) -> set[int]:
        """Numbers of the trials that no other beats in every objective."""
        return {trial.number for trial in self._front()}

    def _front(self) -> list[FrozenTrial]:
        """The front; it changes only where another trial is done."""
        done = self._in_state(TrialState.COMPLETE)
        if len(done) != self._known_front[0]:
            self._known_front = len(done), pareto_front(self.study, done)
        return self._known_front[1]

    def curves(self) -> list[list[tuple[int, float]]]:
        """(step, value) of every trial that has ended, in order: what a stopping rule compares with."""
        ended = self._in_state(TrialState.COMPLETE) + self._in_state(TrialState.PRUNED)
        return [[(step, value) for step, value in trial.user_attrs.get("curve", [])] for trial in ended]

    def crashes(self, number: int) -> list[str]:
        """Reasons for which a trial was started again."""
        return list(self._asked[number].user_attrs.get("crashes", []))

    def counts(self) -> dict[str, int]:
        """Trials by state."""
        return {name: len(self._in_state(state)) for state, name in STATES.items() if name != "waiting"}

    def _in_state(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _trial(self, number: int) -> FrozenTrial:
        return deepcopy(self.study.get_trials(deepcopy=False)[number])


def _mend(journal: Path) -> None:
    """Take away what a killed writer or a full disk left: a line without its end, and Optuna's lock.

    The next line would be glued to that one, and the study never be read again; the lock would be waited for.
    """
    lock_of(journal).unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - CHUNK_BYTES)
            file.seek(begin)
            whole = file.read(end - begin).rfind(b"\n") + 1
            if whole or not begin:
                file.truncate(begin + whole)
                return
            end = begin


def claim(folder: Path, identity: Mapping[str, Any]) -> None:
    """Make a folder this sweep's; where it is another's the UserError names every key that differs."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sweep.json"
    if not file.exists():
        write_atomic(file, json.dumps({"schema_version": SCHEMA_VERSION, **identity}, indent=1))
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    if there.pop("schema_version", None) != SCHEMA_VERSION:
        raise UserError(f"{file} was written by another release; choose another sweep.dir")
    old, new = flatten(there), flatten(json.loads(json.dumps(identity)))
    changed = [
        f"{key}: {old.get(key)!r} there, {new.get(key)!r} now"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if changed:
        raise UserError(f"{folder} holds another sweep ({'; '.join(changed)}); choose another sweep.dir")
