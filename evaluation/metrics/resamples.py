"""A report's metrics on every resample, kept beside it: so that two reports on one test set can be compared in pairs.

The resamples of a task depend on the configuration's seed and on the task's name, never on the encoder, so row r of
two reports with the same evaluation configuration and shards is the same draw of test clips. What the jackknife needs
is kept too, so that whoever averages reports has the interval that each of them has.

Shape suffixes: R resamples + 1; row 0 is the set itself. G groups of clusters left out in turn.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.files.storage import atomic_file
from cluster.settings import UserError
from evaluation.metrics.samples import MetricSamples

RESAMPLES = "resamples.parquet"
Kept = Mapping[str, Mapping[str, MetricSamples]]
"""Metric → model → what it was on every resample."""


def save_resamples(kept: Kept, path: Path) -> None:
    """Write a row a metric and model: ``metric``, ``model``, ``values`` (R), ``left_out`` (G), ``seed_variance``."""
    rows = [(metric, model, samples) for metric, row in kept.items() for model, samples in row.items()]
    table = pa.table(
        {
            "metric": [metric for metric, _, _ in rows],
            "model": [model for _, model, _ in rows],
            "values": pa.array([one.values_R.tolist() for _, _, one in rows], pa.list_(pa.float64())),
            "left_out": pa.array(
                [None if one.left_out_G is None else one.left_out_G.tolist() for _, _, one in rows],
                pa.list_(pa.float64()),
            ),
            "seed_variance": pa.array([one.seed_variance for _, _, one in rows], pa.float64()),
        }
    )
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def load_resamples(path: Path) -> dict[str, dict[str, MetricSamples]]:
    """Metric → model → what was kept, without values by tag.

    Raises:
        UserError: if the report has none.
    """
    if not path.is_file():
        raise UserError(f"{path}: the report has no resamples; evaluate again")
    found: dict[str, dict[str, MetricSamples]] = {}
    for row in pq.read_table(path).to_pylist():
        left_out = row.get("left_out")  # a report of an earlier release has none
        found.setdefault(row["metric"], {})[row["model"]] = MetricSamples(
            np.array(row["values"], np.float64),
            {},
            None if left_out is None else np.array(left_out, np.float64),
            row.get("seed_variance", 0.0),
        )
    return found
