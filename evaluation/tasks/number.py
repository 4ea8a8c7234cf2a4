"""Numbers: any value; R² of a probe. Neighbours have no metric."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex
from evaluation.config import Task
from evaluation.metrics.confidence import Resamples
from evaluation.metrics.samples import MetricSamples
from evaluation.metrics.weighted import r_squared
from evaluation.targets.target import Target, read_numbers
from evaluation.tasks.kind import Columns, TaskKind, Values


class Number(TaskKind):
    """A numeric column."""

    probe_metrics: ClassVar[Mapping[str, str]] = {"r2": "coefficient of determination (scikit-learn)"}

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Values (K,)."""
        return read_numbers(index, name, task), ()

    def probe_target(self, values: Values) -> Values:
        """The values themselves."""
        return np.asarray(values, np.float64)

    def score_probe(self, answers: Values, test: Target, resamples: Resamples) -> dict[str, MetricSamples]:
        """R² of the set and of every resample."""
        truth_K, answers_SK = np.asarray(test.values, np.float64), np.asarray(answers, np.float64)
        values_RS = resamples.measure(partial(_r_squared_of_seeds, answers_SK, truth_K))
        return {"r2": MetricSamples(resamples.over_seeds(values_RS.T), {})}

    def best_constant(self, train: Target) -> NDArray[np.bool_] | int | float:
        """The mean."""
        return float(train.values.mean())

    def why_undefined(self, name: str, task: Task, test: Target, split: str) -> str | None:
        """All values are equal."""
        if len(np.unique(test.values)) > 1:
            return None
        return (
            f"all {len(test)} {split} clips have the value {test.values[0]:g} in column {task.column}, so R² is "
            "undefined; build the shards with other values in that split"
        )


def _r_squared_of_seeds(
    answers_SK: NDArray[np.float64], truth_K: NDArray[np.float64], weights_BK: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.stack([r_squared(answers_K, truth_K, weights_BK) for answers_K in answers_SK], 1)
