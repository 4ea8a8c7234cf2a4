"""Metrics in the conventions of the field, each for many resamples of one test set at once.

Every function takes ``weights_RK``: how often each clip counts in each resample. A weight of 2 gives what scikit-learn
gives when the row stands twice, but ranks are sorted once, not a thousand times. Nothing is averaged over batches.

Shape suffixes: K clips, C tags or classes, R resamples, G distinct scores.
Source: scikit-learn (AUROC, step-sum average precision, R²), mir_eval (key).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

TEMPO_TOLERANCE = 0.04
TEMPO_FACTORS = (1.0, 2.0, 3.0, 1 / 2, 1 / 3)


def auroc_and_ap(scores_KC: Floats, truth_KC: Bools, weights_RK: Floats) -> tuple[Floats, Floats]:
    """Area under the ROC curve and average precision of every tag in every resample.

    Args:
        scores_KC: raw logits, float64; squashing them in float32 makes ties that cost up to .05 AUROC.
        truth_KC: which tags a clip has.
        weights_RK: counts of the clips, ≥ 0.

    Returns:
        Two arrays (R, C); NaN where a resample holds no positive (or, for AUROC, no negative) of the tag.
    """
    if scores_KC.shape != truth_KC.shape or weights_RK.shape[1] != len(scores_KC):
        raise ValueError(f"shapes disagree: {scores_KC.shape}, {truth_KC.shape}, {weights_RK.shape}")
    if not np.isfinite(scores_KC).all():
        raise ValueError("a score is not finite")
    columns = [_ranked(scores_KC[:, c], truth_KC[:, c], weights_RK) for c in range(scores_KC.shape[1])]
    return np.stack([auroc_R for auroc_R, _ in columns], 1), np.stack([ap_R for _, ap_R in columns], 1)


def _ranked(scores_K: Floats, truth_K: Bools, weights_RK: Floats) -> tuple[Floats, Floats]:
    order_K = np.argsort(-scores_K, kind="stable")
    ends_G = np.flatnonzero(np.append(np.diff(scores_K[order_K]), 1.0))  # last clip of each run of equal scores
    weights_RK = weights_RK[:, order_K]
    hits_RG = np.cumsum(weights_RK * truth_K[order_K], 1)[:, ends_G]
    taken_RG = np.cumsum(weights_RK, 1)[:, ends_G]
    misses_RG = taken_RG - hits_RG
    new_hits_RG = np.diff(hits_RG, axis=1, prepend=0)
    new_misses_RG = np.diff(misses_RG, axis=1, prepend=0)
    positives_R, negatives_R = hits_RG[:, -1], misses_RG[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        # Trapezoids: a tie counts half, as in the Mann-Whitney statistic.
        area_R = (new_misses_RG * (hits_RG - new_hits_RG / 2)).sum(1) / (positives_R * negatives_R)
        precision_RG = np.where(taken_RG > 0, hits_RG / taken_RG, 0.0)
        ap_R = (new_hits_RG * precision_RG).sum(1) / positives_R
    return area_R, ap_R


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


def r_squared(predicted_K: Floats, truth_K: Floats, weights_RK: Floats) -> Floats:
    """Coefficient of determination, shape (R,): 1 − residual over total sum of squares, both of the resample."""
    mass_R = weights_RK.sum(1)
    mean_R = weights_RK @ truth_K / mass_R
    # Centred on the whole set first: the difference of squares would lose digits on tempi.
    centred_K = truth_K - truth_K.mean()
    total_R = weights_RK @ centred_K**2 - mass_R * (mean_R - truth_K.mean()) ** 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(1 - weights_RK @ (truth_K - predicted_K) ** 2 / np.where(total_R > 0, total_R, np.nan))


def key_scores(reference: Sequence[str], estimates: Sequence[str]) -> Floats:
    """mir_eval's weighted key score of every reference with every estimate, shape (references, estimates).

    A fifth counts .5 only when the estimate lies above the reference, so the order matters.

    >>> key_scores(["C major"], ["C major", "G major", "F major", "A minor", "C minor"]).tolist()
    [[1.0, 0.5, 0.0, 0.3, 0.2]]
    """
    from mir_eval.key import weighted_score

    return np.array([[weighted_score(r, e) for e in estimates] for r in reference], np.float64)


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
