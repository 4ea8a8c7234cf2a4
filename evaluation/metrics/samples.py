"""One metric of one model on the test set and on its resamples, and the interval that it gets.

Shape suffixes: R resamples + 1, G groups of clusters left out in turn.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.confidence import as_row, bias_corrected, jackknife_interval, named

PERCENTILE, JACKKNIFE = "percentile", "jackknife"
INTERVALS = {
    PERCENTILE: "percentiles of the clustered bootstrap",
    JACKKNIFE: "jackknife over groups of clusters, its bias removed",
}
"""Intervals by the name that a row has for its own."""


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
