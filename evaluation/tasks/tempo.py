"""Tempi in beats a minute: Acc1 and Acc2, of a probe on log2 of the tempo and of neighbours."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.config import Task
from evaluation.metrics.weighted import tempo_hits
from evaluation.targets.target import Target, read_numbers
from evaluation.tasks.kind import Columns, TaskKind, Values

CONVENTIONS = {
    "acc1": "tempo within 4% of the truth",
    "acc2": "tempo within 4% of 1, 2, 3, 1/2 or 1/3 times the truth",
}


class Tempo(TaskKind):
    """A numeric column of tempi > 0."""

    probe_metrics: ClassVar[Mapping[str, str]] = CONVENTIONS
    retrieval_metrics: ClassVar[Mapping[str, str]] = CONVENTIONS

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Tempi (K,)."""
        values = read_numbers(index, name, task)
        wrong = np.flatnonzero(values <= 0)
        if len(wrong):
            raise UserError(
                f"task {name}: clip {index.key[wrong[0]]} has a tempo of {values[wrong[0]]}; it must be > 0"
            )
        return values, ()

    def probe_target(self, values: Values) -> Values:
        """log2 of the tempo."""
        return np.log2(np.asarray(values, np.float64))

    def decode(self, out: NDArray[np.float64]) -> Values:
        """Beats a minute."""
        return np.exp2(out)

    def pair_scores(self, truth: Values, answers: Values, classes: tuple[str, ...]) -> Sequence[NDArray[np.float64]]:
        """Whether each tempo is right, without and with octaves."""
        truth, answers = truth.astype(np.float64), answers.astype(np.float64)
        return [tempo_hits(truth, answers, octaves=octaves).astype(np.float64) for octaves in (False, True)]

    def best_constant(self, train: Target) -> NDArray[np.bool_] | int | float:
        """The tempo of train with the highest Acc1."""
        candidates = np.unique(train.values)
        return float(candidates[np.argmax(tempo_hits(train.values[None], candidates[:, None], octaves=False).sum(1))])
