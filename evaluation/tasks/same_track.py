"""Same track: whether the nearest clips of a clip are of its own track; recall of retrieval, no probe."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.config import Task
from evaluation.metrics.confidence import Resamples
from evaluation.metrics.samples import MetricSamples
from evaluation.metrics.weighted import pair_mean
from evaluation.targets.target import Target
from evaluation.tasks.kind import Columns, TaskKind, Values

COLUMN = "track"
"""The index's own column."""


class SameTrack(TaskKind):
    """The tracks themselves. Every clip of the split is searched; queries are those whose track has another clip."""

    probe_metrics: ClassVar[Mapping[str, str]] = {}
    retrieval_metrics: ClassVar[Mapping[str, str]] = {"r": "share of queries with a clip of their own track"}
    finds_own_track: ClassVar[bool] = True

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Codes (K,) of the tracks. Raises UserError for another column."""
        if task.column != COLUMN:
            raise UserError(f"task {name}: kind {task.kind} is about tracks; set tasks.{name}.column={COLUMN}")
        tracks, codes_K = np.unique(np.asarray(index.track, np.str_), return_inverse=True)
        return codes_K.astype(np.int64), tuple(tracks.tolist())

    def score_neighbours(
        self, found: Values, there_Kk: NDArray[np.bool_], test: Target, resamples: Resamples, ks: Sequence[int]
    ) -> dict[str, MetricSamples]:
        """Recall at every k, mean over queries."""
        hits_Kk = (found == test.values[:, None]) & there_Kk
        query_K = ~alone(test)
        samples = {}
        for k in ks:
            hit_K = (hits_Kk[:, :k].any(1) & query_K).astype(np.float64)
            measure = partial(pair_mean, hit_K, query_K.astype(np.float64))
            samples[f"r@{k}"] = MetricSamples(resamples.measure(measure), {})
        return samples

    def retrieval_convention(self, metric: str, k: int, split: str, exclude: str) -> str:
        """Of the report."""
        return f"{self.retrieval_metrics[metric]} among the {k} nearest {split} clips, itself left out; cosine"

    def best_constant(self, train: Target) -> NDArray[np.bool_] | int | float:
        """The track with the most clips."""
        return int(np.argmax(np.bincount(train.values.astype(np.int64), minlength=len(train.classes))))

    def why_alone(self, test: Target, split: str, exclude: str) -> str | None:
        """No track with two clips, or no other track."""
        if not alone(test).all() and len(np.unique(test.values)) > 1:
            return None
        return (
            f"the {len(test)} {split} clips are of {len(np.unique(test.values))} tracks, and it needs one with two "
            "clips and another one; build the shards with several clips a track in that split"
        )

    def retrieval_notes(self, name: str, test: Target) -> list[str]:
        """How many clips are no queries."""
        single = int(alone(test).sum())
        return [f"{name}: {single} of {len(test)} clips are alone in their track: answers, no queries"] * bool(single)


def alone(test: Target) -> NDArray[np.bool_]:
    """Clips (K,) whose track has no other clip in the split."""
    _, code_K, count = np.unique(test.values, return_inverse=True, return_counts=True)
    return np.asarray(count[code_K] == 1)
