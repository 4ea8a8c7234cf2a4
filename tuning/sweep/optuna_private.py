"""Optuna's private interface: a trial that a killed process left is opened again (tests/cluster/test_private_names.py).

Optuna's public `Study.ask` makes a new trial only.
"""

from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution

from cluster.private_names import PrivateName

_USER = "tuning.sweep.journal"
USED = (
    PrivateName("optuna:Trial", _USER, "opening a trial that a killed sweep left", ("study", "trial_id")),
    PrivateName("optuna.trial:FrozenTrial", _USER, "the number of a trial in its storage, `_trial_id`", ("trial_id",)),
    PrivateName(
        "optuna:Trial._suggest", _USER, "values that a killed sweep had not drawn yet", ("name", "distribution")
    ),
)


def reopen(study: optuna.Study, number: int, space: Mapping[str, BaseDistribution]) -> optuna.Trial:
    """A running trial of a study, with the values that it has; those that it lacks are drawn."""
    asked = optuna.Trial(study, study.trials[number]._trial_id)
    for path, distribution in space.items():
        asked._suggest(path, distribution)
    return asked
