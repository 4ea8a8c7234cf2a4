"""From answers to metrics: the same judge for trained heads, neighbours, constants and chance.

Shape suffixes: S seeds, K test clips, k neighbours, C tags or classes, R resamples + 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.confidence import Resamples, as_row, bias_corrected, jackknife_interval, named
from evaluation.metrics import (
    key_scores,
    macro,
    pair_mean,
    r_squared,
    rank,
    ranked_auroc_and_ap,
    tag_precision,
    tempo_hits,
)
from evaluation.targets import Target
from evaluation.tasks import Kind, Task

Values = NDArray[Any]
"""Tags as bools or scores, classes as codes, or numbers, as the kind of the task says."""

CONVENTIONS = {
    "auroc": "macro AUROC over tags, on raw scores (scikit-learn)",
    "ap": "macro average precision over tags, step sum, raw scores (scikit-learn)",
    "accuracy": "top-1 accuracy",
    "weighted": "weighted key score; a fifth counts .5 only above the reference (mir_eval)",
    "r2": "coefficient of determination (scikit-learn)",
    "acc1": "tempo within 4% of the truth",
    "acc2": "tempo within 4% of 1, 2, 3, 1/2 or 1/3 times the truth",
    "p": "share of neighbours of the query's class",
    "tag_p": "share of a neighbour's tags that the query has",
}
PERCENTILE, JACKKNIFE = "percentile", "jackknife"
INTERVALS = {
    PERCENTILE: "percentiles of the clustered bootstrap",
    JACKKNIFE: "jackknife over groups of clusters, its bias removed",
}
"""Intervals by the name that a row has for its own."""
ANSWERED = {
    "tags": ("auroc", "ap"),
    "class": ("accuracy",),
    "key": ("weighted",),
    "tempo": ("acc1", "acc2"),
    "number": ("r2",),
}
"""Metrics of a probe by the kind of its task."""
NEIGHBOURED = {"tags": ("p",), "class": ("p",), "key": ("weighted",), "tempo": ("acc1", "acc2"), "number": ()}
"""Metrics of retrieval, each followed by ``@k``."""
RANKED_CLIPS = 1 << 20
"""Clips times heads that are kept in the order of their scores at once: 24 MB at most."""


@dataclass(frozen=True)
class Judged:
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


def metric_names(task: Task, ks: Sequence[int]) -> list[str]:
    """Every metric that a task has."""
    probed = list(ANSWERED[task.kind]) if task.probe else []
    return probed + [f"{name}@{k}" for name in NEIGHBOURED[task.kind] for k in ks if task.retrieval]


def judge_answers(kind: Kind, answers: Values, test: Target, resamples: Resamples) -> dict[str, Judged]:
    """Metrics of a probe.

    Args:
        kind: of the task.
        answers: scores (S, K, C) for tags; codes (S, K) for class and key; values (S, K) for tempo and number.
        test: the truth.
        resamples: shared by all models.
    """
    if kind == "tags":
        return _judge_tags(np.asarray(answers, np.float64), test, resamples)
    one_K, truth_K = np.ones(len(test)), np.asarray(test.values)
    if kind == "number":
        truth_K, answers = truth_K.astype(np.float64), np.asarray(answers, np.float64)
        values_RS = resamples.measure(
            lambda weights_BK: np.stack([r_squared(a, truth_K, weights_BK) for a in answers], 1)
        )
        return {"r2": Judged(resamples.over_seeds(values_RS.T), {})}
    judged = {}
    for name, score_SK in _pair_scores(kind, truth_K, answers, test.classes).items():
        values_RS = resamples.measure(partial(_means, score_SK, one_K))
        judged["accuracy" if name == "p" else name] = Judged(resamples.over_seeds(values_RS.T), {})
    return judged


def judge_neighbours(
    kind: Kind, found: Values, there_Kk: NDArray[np.bool_], test: Target, resamples: Resamples, ks: Sequence[int]
) -> dict[str, Judged]:
    """Metrics of retrieval, mean over all (query, neighbour) pairs.

    Args:
        kind: of the task.
        found: the neighbours' targets, nearest first: tags (K, k, C), or codes or values (K, k).
        there_Kk: False where a query has no such neighbour.
        test: the queries' own targets.
        resamples: of the queries.
        ks: neighbourhood sizes.
    """
    if kind == "tags":
        scores = {"p": tag_precision(np.asarray(test.values, np.bool_)[:, None], np.asarray(found, np.bool_))}
    else:
        kinds = _pair_scores(kind, np.asarray(test.values), found.T, test.classes)
        scores = {name: score_kK.T for name, score_kK in kinds.items()}
    judged = {}
    for name, score_Kk in scores.items():
        for k in ks:
            near_Kk = there_Kk[:, :k]
            sum_K, count_K = (score_Kk[:, :k] * near_Kk).sum(1), near_Kk.sum(1).astype(np.float64)
            judged[f"{name}@{k}"] = Judged(resamples.measure(partial(pair_mean, sum_K, count_K)), {})
    return judged


def _means(score_SK: NDArray[np.float64], count_K: NDArray[np.float64], weights_BK: NDArray[np.float64]) -> Values:
    """Means (B, S) of every seed's scores."""
    return np.stack([pair_mean(score_K, count_K, weights_BK) for score_K in score_SK], 1)


def masked_tags(test: Target) -> list[str]:
    """Tags that no test clip has, or that all have: no metric is defined for them, and none is averaged in."""
    share_C = np.asarray(test.values, np.float64).mean(0)
    return [tag for tag, share in zip(test.classes, share_C, strict=True) if share in (0.0, 1.0)]


def _judge_tags(scores_SKC: NDArray[np.float64], test: Target, resamples: Resamples) -> dict[str, Judged]:
    masked = set(masked_tags(test))
    kept = [c for c, tag in enumerate(test.classes) if tag not in masked]
    truth_KC = np.asarray(test.values, np.bool_)
    heads = [(scores_KC[:, c], truth_KC[:, c]) for scores_KC in scores_SKC for c in kept]
    judged, drawn = {}, len(resamples.seeds_RS)
    for name, values_XH in zip(("auroc", "ap"), _rank_heads(heads, resamples), strict=True):
        values_XSC = values_XH.reshape(len(values_XH), len(scores_SKC), len(kept))
        values_SX = np.stack([macro(values_XC) for values_XC in values_XSC.swapaxes(0, 1)])
        judged[name] = Judged(
            resamples.over_seeds(values_SX[:, :drawn]),
            dict(zip((test.classes[c] for c in kept), values_XSC[0].mean(0).tolist(), strict=True)),
            values_SX[:, drawn:].mean(0) if name == "ap" else None,
            float(values_SX[:, 0].var(ddof=1)) / len(values_SX) if len(values_SX) > 1 else 0.0,
        )
    return judged


def _rank_heads(heads: Sequence[tuple[Values, Values]], resamples: Resamples) -> tuple[Values, Values]:
    """AUROC and AP (X, H) of scores and truth of every head, on the set, its resamples and without each group."""
    rows = len(resamples.seeds_RS) + resamples.groups
    auroc_XH, ap_XH = np.empty((2, rows, len(heads)))
    held = max(1, RANKED_CLIPS // len(resamples.cluster_K))
    for first in range(0, len(heads), held):
        rankings, at = [rank(scores_K, truth_K) for scores_K, truth_K in heads[first : first + held]], 0
        here = slice(first, first + len(rankings))
        for weights_BK in chain(resamples.blocks(), resamples.left_out_blocks()):
            found = slice(at, at + len(weights_BK))
            auroc_XH[found, here], ap_XH[found, here] = ranked_auroc_and_ap(rankings, weights_BK)
            at += len(weights_BK)
    return auroc_XH, ap_XH


def _pair_scores(
    kind: Kind, truth_K: Values, answers_XK: Values, classes: tuple[str, ...]
) -> dict[str, NDArray[np.float64]]:
    """Scores of answers (X, K), by seed or by rank of the neighbour, against the truth (K,)."""
    if kind == "tempo":
        truth, answers = truth_K.astype(np.float64), answers_XK.astype(np.float64)
        hits = {name: tempo_hits(truth, answers, octaves=name == "acc2") for name in ("acc1", "acc2")}
        return {name: hit.astype(np.float64) for name, hit in hits.items()}
    codes, answers = truth_K.astype(np.int64), answers_XK.astype(np.int64)
    if kind == "key":
        return {"weighted": key_scores(classes, classes)[codes, answers]}
    return {"p": (codes == answers).astype(np.float64)}
