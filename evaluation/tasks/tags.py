"""Tags: a multilabel column; AUROC and average precision of a probe, P@k of neighbours.

Shape suffixes: S seeds, K clips, C tags, H heads (seeds × tags), X the set, its resamples, and it without each group.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex
from evaluation.config import Task
from evaluation.metrics.confidence import Resamples
from evaluation.metrics.samples import MetricSamples
from evaluation.metrics.weighted import macro, rank, ranked_auroc_and_ap, tag_precision
from evaluation.targets.target import Target, in_vocabulary_order, require_column
from evaluation.tasks.kind import Columns, TaskKind, Values

RANKED_CLIPS = 1 << 20
"""Clips times heads that are kept in the order of their scores at once: 24 MB at most."""
SHOWN = 3
"""Tags that a message names."""


class Tags(TaskKind):
    """Several tags a clip, each with its own output of the head."""

    probe_metrics: ClassVar[Mapping[str, str]] = {
        "auroc": "macro AUROC over tags, on raw scores (scikit-learn)",
        "ap": "macro average precision over tags, step sum, raw scores (scikit-learn)",
    }
    retrieval_metrics: ClassVar[Mapping[str, str]] = {"p": "share of a neighbour's tags that the query has"}
    takes_untagged = True

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Tags (K, C) as bools, in the order of the task's vocabulary."""
        require_column(index, name, task, "multilabel")
        found = tuple(index.vocabularies[task.column])
        order = in_vocabulary_order(name, task, found)
        return np.asarray(index.labels(task.column), np.bool_)[:, order], tuple(found[i] for i in order)

    def known(self, values: Values, task: Task) -> NDArray[np.bool_]:
        """Clips with a tag, or all of them where the task takes untagged ones."""
        return np.asarray(values.any(1) | task.untagged)

    def probabilities(self, out_SPC: NDArray[np.float64]) -> NDArray[np.float64]:
        """In float64: the saturation of a float32 sigmoid makes ties."""
        return np.asarray(1 / (1 + np.exp(-out_SPC)))

    def pair_scores(self, truth: Values, answers: Values, classes: tuple[str, ...]) -> Sequence[NDArray[np.float64]]:
        """Share of each neighbour's tags that the query has."""
        precision_Kk = tag_precision(
            np.asarray(truth, np.bool_)[:, None], np.asarray(np.swapaxes(answers, 0, 1), np.bool_)
        )
        return [precision_Kk.T]

    def score_probe(self, answers: Values, test: Target, resamples: Resamples) -> dict[str, MetricSamples]:
        """Macro AUROC and AP over the tags that are not masked; average precision gets the jackknife's interval."""
        masked, scores_SKC = set(self.masked(test)), np.asarray(answers, np.float64)
        kept = [c for c, tag in enumerate(test.classes) if tag not in masked]
        truth_KC = np.asarray(test.values, np.bool_)
        heads = [(scores_KC[:, c], truth_KC[:, c]) for scores_KC in scores_SKC for c in kept]
        samples, drawn = {}, len(resamples.seeds_RS)
        for name, values_XH in zip(self.probe_metrics, _rank_heads(heads, resamples), strict=True):
            values_XSC = values_XH.reshape(len(values_XH), len(scores_SKC), len(kept))
            values_SX = np.stack([macro(values_XC) for values_XC in values_XSC.swapaxes(0, 1)])
            samples[name] = MetricSamples(
                resamples.over_seeds(values_SX[:, :drawn]),
                dict(zip((test.classes[c] for c in kept), values_XSC[0].mean(0).tolist(), strict=True)),
                values_SX[:, drawn:].mean(0) if name == "ap" else None,
                float(values_SX[:, 0].var(ddof=1)) / len(values_SX) if len(values_SX) > 1 else 0.0,
            )
        return samples

    def best_constant(self, train: Target) -> NDArray[np.bool_] | int | float:
        """The row (C,) of the clip that as everyone's neighbour had the highest P@k."""
        # Mean over queries of |its tags ∩ theirs| / |its tags|.
        rows_UC = np.unique(train.values, axis=0)
        return np.asarray(rows_UC[np.argmax(rows_UC @ train.values.mean(0) / np.maximum(rows_UC.sum(1), 1))])

    def baselines(self, train: Target, test: Target, seeds: int, rng: np.random.Generator) -> tuple[Values, Values]:
        """Random scores, and equal ones: a constant ranks nothing."""
        shape = (len(test), len(test.classes))
        return rng.random((seeds, *shape)), np.zeros((1, *shape))

    def masked(self, test: Target) -> list[str]:
        """Tags that no test clip has, or that all have."""
        share_C = np.asarray(test.values, np.float64).mean(0)
        return [tag for tag, share in zip(test.classes, share_C, strict=True) if share in (0.0, 1.0)]

    def scope(self, test: Target) -> str:
        """How many tags are averaged."""
        return f"; {len(test.classes) - len(self.masked(test))} of {len(test.classes)} tags"

    def why_untrainable(self, task: Task, train: Target, split: str) -> str | None:
        """Only a column without a tag gives no head."""
        return None if train.classes else f"column {task.column} has no tags; build the shards from labels with some"

    def why_undefined(self, name: str, task: Task, test: Target, split: str) -> str | None:
        """Every tag is masked."""
        if len(self.masked(test)) < len(test.classes):
            return None
        everywhere = [test.classes[c] for c in np.flatnonzero(test.values.all(0))]
        more = f" and {len(everywhere) - SHOWN} more" if len(everywhere) > SHOWN else ""
        shown = ", ".join(everywhere[:SHOWN]) + more
        which = f"have {shown}, and none has another tag" if everywhere else "have no tag"
        remedy = "build the shards with clips that have and clips that lack a tag"
        if not task.untagged:
            both = f" and tasks.{name}.retrieval=false" if task.retrieval else ""
            remedy = (
                "clips without any tag are left out: count them as clips of no tag with "
                f"tasks.{name}.untagged=true{both}"
            )
        return f"all {len(test)} {split} clips of column {task.column} {which}, so AUROC and AP are undefined; {remedy}"


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
