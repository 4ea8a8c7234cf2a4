"""A report's metrics on every resample, kept beside it: so that two reports on one test set can be compared in pairs.

The resamples of a task depend on the configuration's seed and on the task's name, never on the encoder, so row r of
two reports with the same evaluation configuration and shards is the same draw of test clips.

Shape suffix: R resamples + 1; row 0 is the set itself.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.settings import UserError
from cluster.storage import atomic_file
from evaluation.judge import Judged
from evaluation.robustness import Curves
from evaluation.score import Scored

RESAMPLES = "resamples.parquet"
Values = Mapping[str, Mapping[str, NDArray[np.float64]]]
"""Metric → model → values (R,)."""


def by_metric(scored: Mapping[str, Scored]) -> dict[str, dict[str, Judged]]:
    """``task/metric`` → model → values."""
    return {f"{name}/{metric}": row for name, task in scored.items() for metric, row in task.metrics.items()}


def by_condition(curves: Curves) -> dict[str, dict[str, NDArray[np.float64]]]:
    """``task/metric under condition`` → model → values."""
    return {
        f"{metric} under {condition}": {model: found[condition] for model, found in row.items()}
        for metric, row in curves.items()
        for condition in next(iter(row.values()))
    }


def save_resamples(values: Values, path: Path) -> None:
    """Write a row a metric and model: ``metric``, ``model``, ``values`` (R float64)."""
    rows = [(metric, model, values_R) for metric, row in values.items() for model, values_R in row.items()]
    table = pa.table(
        {
            "metric": [metric for metric, _, _ in rows],
            "model": [model for _, model, _ in rows],
            "values": pa.array([values_R.tolist() for _, _, values_R in rows], pa.list_(pa.float64())),
        }
    )
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def load_resamples(path: Path) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Metric → model → values (R,).

    Raises:
        UserError: if the report has none.
    """
    if not path.is_file():
        raise UserError(f"{path}: the report has no resamples; evaluate again")
    found: dict[str, dict[str, NDArray[np.float64]]] = {}
    for row in pq.read_table(path).to_pylist():
        found.setdefault(row["metric"], {})[row["model"]] = np.array(row["values"], np.float64)
    return found
