"""Optuna's private interface (tests/cluster/test_private_names.py): a trial that a killed process left is opened again,
so is a journal, and the front of many trials is found without a copy of each.

Optuna's public `Study.ask` makes a new trial only, and `Study.best_trials` copies them all.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages.journal import _file
from optuna.study import _multi_objective
from optuna.trial import FrozenTrial


def reopen(study: optuna.Study, number: int, space: Mapping[str, BaseDistribution]) -> optuna.Trial:
    """A running trial of a study, with the values that it has; those that it lacks are drawn."""
    asked = optuna.Trial(study, study.trials[number]._trial_id)
    for path, distribution in space.items():
        asked._suggest(path, distribution)
    return asked


def lock_of(journal: Path) -> Path:
    """The link beside a journal while Optuna appends to it; one that was left is waited for half a minute."""
    return journal.with_name(journal.name + _file.LOCK_FILE_SUFFIX)


def pareto_front(study: optuna.Study, done: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Those of the evaluated trials that no other beats in every objective; `Study.best_trials`, but in place."""
    return _multi_objective._get_pareto_front_trials_by_trials(done, study.directions)
