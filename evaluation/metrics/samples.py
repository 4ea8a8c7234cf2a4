"""One metric of one model on the test set and on its resamples, the interval that it gets, and both on disk.

Shape suffixes: R resamples + 1, G groups of clusters left out in turn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cluster.files.storage import atomic_file
from cluster.settings import UserError
from data_shards.format.columns import arrow_numbers, arrow_texts, validity
from evaluation.metrics.confidence import as_row, bias_corrected, jackknife_interval, named

PERCENTILE, JACKKNIFE = "percentile", "jackknife"
INTERVALS = {
    PERCENTILE: "percentiles of the clustered bootstrap",
    JACKKNIFE: "jackknife over groups of clusters, its bias removed",
}
"""Intervals by the name that a row has for its own."""
RESAMPLES = "resamples.parquet"


@dataclass(frozen=True)
class MetricSamples:
    """One metric of one model."""

    values_R: NDArray[np.float64]
    """Row 0 is the test set, the others its resamples; the mean over seeds."""
    by_tag: dict[str, float]
    """The metric of every tag that is not masked, mean over seeds; empty for other kinds."""
    left_out_G: NDArray[np.float64] | None = None
    """Without each group of clusters, mean over seeds, for a metric whose interval is the jackknife's."""
    seed_variance: float = 0.0
    """Of the mean over seeds."""

    def row(self, level: float) -> dict[str, Any]:
        """Value, low and high, and which interval it is; with the jackknife's also its bias-corrected value."""
        if self.left_out_G is None or len(self.left_out_G) < 2 or not np.isfinite(self.left_out_G).all():
            return as_row(self.values_R, level) | {"interval": PERCENTILE}
        value = float(self.values_R[0])
        ends = named(jackknife_interval(value, self.left_out_G, self.seed_variance, level))
        return ends | {"interval": JACKKNIFE, "corrected": bias_corrected(value, self.left_out_G)}


Kept = Mapping[str, Mapping[str, MetricSamples]]
"""Metric → model → what it was on every resample."""


def save_resamples(kept: Kept, path: Path) -> None:
    """Write a row a metric and model: ``metric``, ``model``, ``values`` (R), ``left_out`` (G), ``seed_variance``."""
    rows = [(metric, model, samples) for metric, row in kept.items() for model, samples in row.items()]
    table = pa.table(
        {
            "metric": arrow_texts([metric for metric, _, _ in rows]).cast(pa.string()),
            "model": arrow_texts([model for _, model, _ in rows]).cast(pa.string()),
            "values": _lists([one.values_R for _, _, one in rows]),
            "left_out": _lists([one.left_out_G for _, _, one in rows]),
            "seed_variance": arrow_numbers(np.array([one.seed_variance for _, _, one in rows], np.float64)),
        }
    )
    with atomic_file(path) as partial:
        pq.write_table(table, partial, compression="zstd")


def _lists(rows: Sequence[NDArray[np.float64] | None]) -> Any:
    """Arrow's array of rows of numbers, or None."""
    there = [np.empty(0) if row is None else row for row in rows]
    ends = np.append(0, np.cumsum([len(row) for row in there])).astype(np.int32)
    valid = validity(np.array([row is not None for row in rows], np.bool_))
    values = arrow_numbers(np.concatenate([np.empty(0), *there]))
    return pa.Array.from_buffers(pa.list_(pa.float64()), len(rows), [valid, pa.py_buffer(ends)], children=[values])


def load_resamples(path: Path) -> dict[str, dict[str, MetricSamples]]:
    """Metric → model → what was kept, without values by tag. Raises UserError if the report has none."""
    if not path.is_file():
        raise UserError(f"{path}: the report has no resamples; evaluate again")
    found: dict[str, dict[str, MetricSamples]] = {}
    for row in pq.ParquetFile(path).read().to_pylist():
        left_out = row.get("left_out")  # a report of an earlier release has none
        found.setdefault(row["metric"], {})[row["model"]] = MetricSamples(
            np.array(row["values"], np.float64),
            {},
            None if left_out is None else np.array(left_out, np.float64),
            row.get("seed_variance", 0.0),
        )
    return found
