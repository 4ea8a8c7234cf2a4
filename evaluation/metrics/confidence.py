"""Clustered paired bootstrap: every number's interval, and the interval of a difference.

Average precision alone is different: it reads high on few positives, a resample repeats that bias, and percentiles of
it miss the truth nearly always on a small set. Its interval is the jackknife's, less the bias that the jackknife finds
(docs/evaluation.md has the coverage of both). In a difference of two encoders the bias cancels, and percentiles serve.

A resample is a weight per clip (how often its cluster was drawn) and a draw of probe seeds. The same resamples serve
every model, so a difference between two models is paired. Row 0 is the set itself: its metric is the reported value.

Shape suffixes: K test clips, R resamples + 1, S seeds, G groups of clusters left out in turn.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Claim = TypeVar("Claim")
MAX_GROUPS = 100
"""Of the jackknife."""
POWER = 0.8
"""Probability that a test of `data_needed` finds a difference that is there."""
BLOCK_WEIGHTS = 1 << 20
"""Weights held at once: 8 MB, whatever the number of clips and resamples."""


@dataclass(frozen=True)
class Resamples:
    """Draws that every model of a task shares; weights are drawn again, block by block, whenever they are needed."""

    cluster_K: NDArray[np.int64]
    """Number of each clip's cluster."""
    clusters: int
    """Independent units that are drawn from."""
    generator: Any
    """State of the generator (PCG64) before the first draw."""
    seeds_RS: NDArray[np.int64]
    """Probe seeds of each resample, drawn with replacement; row 0 is each seed once."""
    group_K: NDArray[np.int64]
    """Group of clusters that each clip is left out with."""

    @property
    def groups(self) -> int:
        """Groups of clusters that the jackknife leaves out in turn."""
        return min(self.clusters, MAX_GROUPS)

    def blocks(self) -> Iterator[Floats]:
        """Times each clip counts in each resample, some rows (B, K) after others; the first row of all is all ones."""
        clips, rows = len(self.cluster_K), max(1, BLOCK_WEIGHTS // max(len(self.cluster_K), self.clusters))
        bits = np.random.PCG64()
        bits.state = self.generator
        rng = np.random.Generator(bits)
        yield np.ones((1, clips))
        for first in range(1, len(self.seeds_RS), rows):
            count = min(rows, len(self.seeds_RS) - first)
            drawn = rng.integers(self.clusters, size=(count, self.clusters))
            weights_KB = np.empty((clips, count))
            for row, clusters in enumerate(drawn):
                weights_KB[:, row] = np.bincount(clusters, minlength=self.clusters)[self.cluster_K]
            yield weights_KB.T  # a clip's weights lie side by side: metrics pick clips in the order of their scores

    def left_out_blocks(self) -> Iterator[Floats]:
        """Zero for the clips of one group of clusters after the other, one for all others, some rows (B, K) at once."""
        rows = max(1, BLOCK_WEIGHTS // len(self.group_K))
        for first in range(0, self.groups, rows):
            yield (self.group_K[:, None] != np.arange(first, min(first + rows, self.groups))).astype(np.float64).T

    def measure(self, metric: Callable[[Floats], Floats]) -> Floats:
        """A metric, from weights (B, K) to values (B,), of the set and of every resample, shape (R,)."""
        return np.concatenate([metric(weights_BK) for weights_BK in self.blocks()])

    def over_seeds(self, values_SR: Floats) -> Floats:
        """Mean of a metric by seed (or of one row without seeds) over each resample's own draw of seeds, shape (R,)."""
        if len(values_SR) == 1:
            one_R: Floats = values_SR[0]
            return one_R
        rows_R1 = np.arange(values_SR.shape[1])[:, None]
        picked_RS: Floats = values_SR[self.seeds_RS, rows_R1]
        return np.asarray(picked_RS.mean(1))


def draw_resamples(clusters_K: Sequence[str], *, resamples: int, seeds: int, rng: np.random.Generator) -> Resamples:
    """Draw clusters with replacement, as many as there are, ``resamples`` times.

    One cluster alone has no resamples: each would be the set itself, and an interval of no width would look certain.

    Args:
        clusters_K: name of each clip's cluster (its artist, or its track).
        resamples: draws beside the set itself.
        seeds: probe seeds to draw from, ≥ 1.
        rng: source of the draws, of PCG64; it is left behind them.
    """
    if not clusters_K:
        raise ValueError("nothing to resample")
    names, code_K = np.unique(np.asarray(clusters_K, dtype=np.str_), return_inverse=True)
    resamples = resamples if len(names) > 1 else 0
    state = rng.bit_generator.state
    rows = max(1, BLOCK_WEIGHTS // len(names))
    for first in range(0, resamples, rows):  # the seeds are drawn behind the clusters
        rng.integers(len(names), size=(min(rows, resamples - first), len(names)))
    seeds_RS = rng.integers(seeds, size=(resamples, seeds))
    groups = min(len(names), MAX_GROUPS)
    return Resamples(
        cluster_K=code_K.astype(np.int64),
        clusters=len(names),
        generator=state,
        seeds_RS=np.concatenate([np.arange(seeds)[None], seeds_RS]),
        group_K=(rng.permutation(len(names)) % groups)[code_K],
    )


def interval(values_R: Floats, level: float) -> tuple[float, float, float]:
    """Value, low and high: row 0 and the percentiles of the resamples.

    A resample in which the metric is undefined (no positive was drawn) is left out of the percentiles.
    """
    drawn = values_R[1:][np.isfinite(values_R[1:])]
    if not len(drawn):
        return float(values_R[0]), float("nan"), float("nan")
    tail = (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(values_R[0]), float(low), float(high)


def jackknife_interval(
    value: float, left_out_G: Floats, seed_variance: float, level: float
) -> tuple[float, float, float]:
    """Value, low and high by the jackknife over groups: less its estimate of the bias, Student's t, within [0, 1].

    The interval is stretched to its own value, which a bias may leave outside.

    Args:
        value: of the whole set.
        left_out_G: without each group, ≥ 2 groups.
        seed_variance: of the mean over probe seeds.
        level: coverage.

    Source: Efron & Tibshirani 1993, chapters 10 and 11.
    """
    from scipy.special import stdtrit  # scipy.stats gives the same number and takes a second to import

    groups = len(left_out_G)
    bias = (groups - 1) * (left_out_G.mean() - value)
    variance = (groups - 1) * left_out_G.var() + seed_variance
    reach = float(stdtrit(groups - 1, (1 + level) / 2)) * math.sqrt(variance)
    low, high = max(0.0, value - bias - reach), min(1.0, value - bias + reach)
    return value, min(low, value), max(high, value)


def bias_corrected(value: float, left_out_G: Floats) -> float:
    """The value less the bias that the jackknife over groups finds, within [0, 1]; the centre of its interval."""
    return min(1.0, max(0.0, value - (len(left_out_G) - 1) * float(left_out_G.mean() - value)))


def as_row(values_R: Floats, level: float) -> dict[str, float | None]:
    """Value, low and high as JSON has them: None for what is undefined."""
    return named(interval(values_R, level))


def named(ends: tuple[float, float, float]) -> dict[str, float | None]:
    """The same of an interval."""
    return {name: x if math.isfinite(x) else None for name, x in zip(("value", "low", "high"), ends, strict=True)}


def two_sided_p(difference_R: Floats) -> float:
    """Bootstrap p-value of "no difference": twice the rarer sign's share, never below 2/(resamples + 1)."""
    drawn = difference_R[1:][np.isfinite(difference_R[1:])]
    rarer = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(drawn) + 1))


def data_needed(difference_R: Floats, *, level: float = 0.95) -> float:
    """How many times as much data would show a difference of this size: what a null result says about its own study.

    The standard error is that of the resamples and falls with the root of the data, clusters and training seeds alike.
    At most 1 where the data are enough; infinite for a difference of 0, NaN without resamples.

    Args:
        difference_R: of the whole set, and of its resamples.
        level: of the two-sided test, which would find a difference that is there with probability `POWER`.

    Source: the sample size of a two-sided z-test, (z_{1 − α/2} + z_power)² σ² / δ² (Cohen 1988, chapter 2).

    >>> error_R = np.random.default_rng(0).normal(size=100_000)
    >>> round(data_needed(np.concatenate([[2.8], 2.8 + error_R])), 2)
    1.0
    """
    from scipy.special import ndtri

    drawn = difference_R[1:][np.isfinite(difference_R[1:])]
    if len(drawn) < 2:
        return math.nan
    reach = float(ndtri((1 + level) / 2) + ndtri(POWER)) * float(drawn.std(ddof=1))
    size = abs(float(difference_R[0]))
    return (reach / size) ** 2 if size else math.inf


def holm(p_values: Mapping[Claim, float]) -> dict[Claim, float]:
    """Adjusted p-values of a family of claims (Holm 1979): reject those ≤ α, and the family errs with probability ≤ α.

    >>> holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted: dict[Claim, float] = {}
    highest = 0.0
    for rank, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p))
        adjusted[name] = highest
    return adjusted
