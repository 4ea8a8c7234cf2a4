"""Metrics in the conventions of the field, each for many resamples of one test set at once.

Every function takes ``weights_RK``: how often each clip counts in each resample. A weight of 2 gives what scikit-learn
gives for a duplicated row, but scores are sorted once, not a thousand times. Nothing is averaged over batches.

Shape suffixes: K clips, C tags or classes, R resamples, B resamples of a block, P distinct scores of positives.
Source: scikit-learn (AUROC, step-sum average precision, R²), mir_eval (key).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cluster.imports import import_alone

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TEMPO_TOLERANCE = 0.04
TEMPO_FACTORS = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)


@dataclass(frozen=True)
class Ranking:
    """Clips in the order of one tag's scores, ranked once for all resamples.

    Both metrics are sums over positives, so that of all clips only counts between one positive's score and the next
    are needed; they are products of a sparse matrix with the weights.
    """

    taken_PK: "csr_array"
    """Clips from behind one score that a positive has to the next, the score's own included."""
    hits_PK: "csr_array"
    """Positives of each such score."""
    ties_PK: "csr_array"
    """Negatives of each such score."""

    def auroc_and_ap(self, weights_KB: Floats, total_B: Floats) -> tuple[Floats, Floats]:
        """Both metrics (B,) of some resamples; ``total_B`` is the sum of each one's weights."""
        new_hits_PB = self.hits_PK @ weights_KB
        hits_PB = np.cumsum(new_hits_PB, 0)
        taken_PB = np.cumsum(self.taken_PK @ weights_KB, 0)
        positives_B = hits_PB[-1] if len(hits_PB) else np.zeros_like(total_B)
        negatives_B = total_B - positives_B
        with np.errstate(invalid="ignore", divide="ignore"):
            ap_B = (new_hits_PB * np.where(taken_PB > 0, hits_PB / taken_PB, 0.0)).sum(0) / positives_B
            below_PB = negatives_B - (taken_PB - hits_PB)
            if self.ties_PK.nnz:  # a tie counts half, as in the Mann-Whitney statistic
                below_PB = below_PB + (self.ties_PK @ weights_KB) / 2
            auroc_B = (new_hits_PB * below_PB).sum(0) / (positives_B * negatives_B)
        return auroc_B, ap_B


def rank(scores_K: Floats, truth_K: Bools) -> Ranking:
    """Rank the clips for one tag.

    Args:
        scores_K: raw logits, float64; squashing them in float32 makes ties that cost up to .05 AUROC.
        truth_K: which clips have the tag.

    Raises:
        ValueError: if a score is not finite.
    """
    from scipy.sparse import csr_array  # not every task ranks, and it takes a quarter of a second

    if not np.isfinite(scores_K).all():
        raise ValueError("a score is not finite")
    clips = len(scores_K)
    order_K = np.argsort(-scores_K, kind="stable").astype(np.int32)
    truth_K = truth_K[order_K]
    group_K = np.cumsum(np.diff(scores_K[order_K], prepend=np.inf) != 0)  # equal scores have equal numbers, from 1
    ends_P = np.flatnonzero(np.diff(group_K, append=clips + 1))  # last clip of each run of equal scores
    groups = np.unique(group_K[truth_K])
    ends_P = ends_P[groups - 1] + 1

    def rows(chosen_K: NDArray[np.int64], bounds_P: NDArray[np.int64]) -> "csr_array":
        content = (np.ones(len(chosen_K)), order_K[chosen_K], np.append(0, bounds_P))
        return csr_array(content, shape=(len(groups), clips))

    positives = np.flatnonzero(truth_K)
    ties = np.flatnonzero(~truth_K & np.isin(group_K, groups))
    return Ranking(
        taken_PK=rows(np.arange(ends_P[-1] if len(ends_P) else 0), ends_P),
        hits_PK=rows(positives, np.searchsorted(positives, ends_P)),
        ties_PK=rows(ties, np.searchsorted(ties, ends_P)),
    )


def auroc_and_ap(scores_KC: Floats, truth_KC: Bools, weights_RK: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve and average precision of every tag in every resample.

    Args:
        scores_KC: raw logits, see `rank`.
        truth_KC: which tags a clip has.
        weights_RK: counts of the clips, ≥ 0.

    Returns:
        Two arrays (R, C); NaN where a resample holds no positive (or, for AUROC, no negative) of the tag.
    """
    if scores_KC.shape != truth_KC.shape or weights_RK.shape[1] != len(scores_KC):
        raise ValueError(f"shapes disagree: {scores_KC.shape}, {truth_KC.shape}, {weights_RK.shape}")
    ranked = (rank(scores_K, truth_K) for scores_K, truth_K in zip(scores_KC.T, truth_KC.T, strict=True))
    return ranked_auroc_and_ap(list(ranked), weights_RK)


def ranked_auroc_and_ap(rankings: Sequence[Ranking], weights_RK: Floats) -> tuple[Floats, Floats]:
    """The same of clips that are ranked already, a tag after the other."""
    weights_KR, shape = np.ascontiguousarray(weights_RK.T), (len(weights_RK), len(rankings))
    auroc_RC, ap_RC, total_R = np.empty(shape), np.empty(shape), weights_KR.sum(0)
    for c, ranking in enumerate(rankings):
        auroc_RC[:, c], ap_RC[:, c] = ranking.auroc_and_ap(weights_KR, total_R)
    return auroc_RC, ap_RC


def macro(values_RC: Floats) -> Floats:
    """Mean over the tags that are defined in each resample, shape (R,); NaN where none is."""
    defined_RC = np.isfinite(values_RC)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(defined_RC, values_RC, 0.0).sum(1) / defined_RC.sum(1))


def pair_mean(sum_K: Floats, count_K: Floats, weights_RK: Floats) -> Floats:
    """Mean of values over all (query, neighbour) pairs, or over all clips when ``count_K`` is one, shape (R,).

    Args:
        sum_K: a query's values, summed over its neighbours.
        count_K: its number of neighbours.
        weights_RK: counts of the queries.
    """
    with np.errstate(invalid="ignore"):
        return np.asarray((weights_RK @ sum_K) / (weights_RK @ count_K))


def weighted_median(sorted_K: Floats, weights_RK: Floats) -> Floats:
    """Median of values in ascending order that each count so often, shape (R,); NaN where nothing counts.

    >>> weighted_median(np.array([1.0, 2.0, 9.0]), np.array([[1, 1, 1], [1, 1, 0], [0, 0, 4], [0, 0, 0]])).tolist()
    [2.0, 1.5, 9.0, nan]
    """
    if not len(sorted_K):
        return np.full(len(weights_RK), np.nan)
    cumulative_RK = np.cumsum(weights_RK, 1)
    total_R1 = cumulative_RK[:, -1:]
    lower_R, upper_R = (2 * cumulative_RK >= total_R1).argmax(1), (2 * cumulative_RK > total_R1).argmax(1)
    return np.where(total_R1[:, 0] > 0, (sorted_K[lower_R] + sorted_K[upper_R]) / 2, np.nan)


def r_squared(predicted_K: Floats, truth_K: Floats, weights_RK: Floats) -> Floats:
    """Coefficient of determination, shape (R,): 1 − residual over total sum of squares, both of the resample.

    NaN where the truth of a resample does not vary, or nothing is in it.
    """
    if not len(truth_K):
        return np.full(len(weights_RK), np.nan)
    mass_R = weights_RK.sum(1)
    # Centred on the whole set first: the difference of squares would lose digits on tempi.
    centred_K = truth_K - truth_K.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        square_R = weights_RK @ centred_K**2
        total_R = square_R - (weights_RK @ centred_K) ** 2 / mass_R
        # Of equal values the difference is rounding, which as a divisor would make an R² of −1e16.
        total_R = np.where(total_R > 1e-12 * square_R, total_R, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - weights_RK @ (truth_K - predicted_K) ** 2 / total_R)


def key_scores(reference: Sequence[str], estimates: Sequence[str]) -> Floats:
    """mir_eval's weighted key score of every reference with every estimate, shape (references, estimates).

    A fifth counts .5 only when the estimate lies above the reference, so the order matters.

    >>> key_scores(["C major"], ["C major", "G major", "F major", "A minor", "C minor"]).tolist()
    [[1.0, 0.5, 0.0, 0.3, 0.2]]
    """
    weighted_score = import_alone("mir_eval.key").weighted_score  # the package imports scipy.stats, a second

    scores = [[weighted_score(r, e) for e in estimates] for r in reference]
    return np.array(scores, np.float64).reshape(len(reference), len(estimates))


def tempo_hits(truth: Floats, estimate: Floats, *, octaves: bool) -> Bools:
    """Whether a tempo is right within 4% (Acc1), or so at 2, 3, ½ or ⅓ of the truth (Acc2, ``octaves``).

    The tolerance is relative to factor × truth. Arguments broadcast.

    >>> tempo_hits(np.array([100.0]), np.array([104.0, 104.1, 200.0, 33.0]), octaves=False).tolist()
    [True, False, False, False]
    >>> tempo_hits(np.array([100.0]), np.array([104.0, 104.1, 200.0, 33.0]), octaves=True).tolist()
    [True, False, True, True]
    """
    hits = np.zeros(np.broadcast_shapes(np.shape(truth), np.shape(estimate)), np.bool_)
    for factor in TEMPO_FACTORS if octaves else TEMPO_FACTORS[:1]:
        goal = factor * truth
        hits |= np.abs(estimate - goal) <= TEMPO_TOLERANCE * goal * (1 + 1e-12)  # 104 of 100 is inside, in floats too
    return hits


def tag_precision(query_KC: Bools, found_KC: Bools) -> Floats:
    """Share of a neighbour's tags that the query has, per pair, shape (K,).

    >>> tag_precision(np.array([[True, True, False]]), np.array([[True, False, True]])).tolist()
    [0.5]
    """
    return np.asarray((query_KC & found_KC).sum(-1) / np.maximum(found_KC.sum(-1), 1), np.float64)
