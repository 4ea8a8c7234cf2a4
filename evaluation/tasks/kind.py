"""What a kind of task defines: its target, metrics and their conventions, the probe's loss, and the baselines.

The kinds of `evaluation.config.KINDS` are one file each here. A kind of your own is a class that extends `TaskKind`, or
one of those; a task names it ``kind: module:Class``.

Shape suffixes: S seeds, K clips, k neighbours, C tags or classes, X answers to one clip (of seeds or
neighbours).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from cluster.entry_points import create
from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.config import KINDS, Task
from evaluation.metrics.confidence import Resamples
from evaluation.metrics.samples import MetricSamples
from evaluation.metrics.weighted import pair_mean
from evaluation.targets.target import Target

Values = NDArray[Any]
"""Tags as bools or scores, classes as codes, or numbers, as the kind of the task has them."""
Columns = tuple[Values, tuple[str, ...]]
"""A value for every clip of the index, and the names of the tags or classes."""


class Kind(ABC):
    """What every kind of task has, those about labels (`TaskKind`) and about texts (`evaluation.tasks.text`)."""

    probe_metrics: ClassVar[Mapping[str, str]]
    """Metric of a probe → its convention, for the report."""
    retrieval_metrics: ClassVar[Mapping[str, str]] = {}
    """Metric of retrieval, without its ``@k`` → its convention; none where neighbours have no metric."""
    reads_texts: ClassVar[bool] = False
    """Whether clips are compared with texts (`evaluation.tasks.text`): no probe, no neighbours."""
    finds_own_track: ClassVar[bool] = False
    """Whether the clips of the query's own track are what is looked for; else they are never its neighbours."""
    takes_untagged: ClassVar[bool] = False
    """Whether clips without a label may count as clips of none (``untagged``)."""

    @abstractmethod
    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """The task's column for all clips of a set; unknown values are −1 (whole numbers) or NaN.

        Raises:
            UserError: if the column is missing, or its values do not fit.
        """

    def known(self, values: Values, task: Task) -> NDArray[np.bool_]:
        """Clips (K,) whose value is known."""
        return np.asarray(values >= 0 if values.dtype == np.int64 else np.isfinite(values))

    def metric_names(self, task: Task, ks: Sequence[int]) -> list[str]:
        """Every metric that a task reports."""
        probed = list(self.probe_metrics) if task.probe else []
        return probed + [f"{name}@{k}" for name in self.retrieval_metrics for k in ks if task.retrieval]

    def why_undefined(self, name: str, task: Task, test: Target, split: str) -> str | None:
        """Why a metric is undefined on the clips that are reported."""
        return None


class TaskKind(Kind):
    """One kind of task. The methods without a body must be written; the others suit one value per clip."""

    def probe_target(self, values: Values) -> Values:
        """What heads are trained on; its type chooses the loss.

        Returns:
            bool (K, C) for binary cross-entropy, int64 (K,) for cross-entropy, or float64 (K,) for squared error;
            floats are standardised on the train split first.
        """
        return values

    def probabilities(self, out_SPC: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is averaged over a clip's chunks where ``chunking.aggregate`` is probabilities."""
        return out_SPC

    def decode(self, out: NDArray[np.float64]) -> Values:
        """Outputs of the heads to answers: (S, K, C), or (S, K) on the scale of `probe_target` where that is floats."""
        return out

    def pair_scores(self, truth: Values, answers: Values, classes: tuple[str, ...]) -> Sequence[NDArray[np.float64]]:
        """Score (X, K) of every answer, an array for each metric in the order of the kind's table.

        Args:
            truth: targets, (K,) or (K, C).
            answers: of heads or neighbours, (X, K) or (X, K, C).
            classes: names of the tags or classes.
        """
        raise NotImplementedError

    def score_probe(self, answers: Values, test: Target, resamples: Resamples) -> dict[str, MetricSamples]:
        """Metrics of a probe on the test set and its resamples.

        Args:
            answers: of `decode`.
            test: the truth.
            resamples: shared by all models.
        """
        one_K, scored = np.ones(len(test)), self.pair_scores(test.values, answers, test.classes)
        samples = {}
        for name, score_SK in zip(self.probe_metrics, scored, strict=True):
            values_RS = resamples.measure(partial(_seed_means, score_SK, one_K))
            samples[name] = MetricSamples(resamples.over_seeds(values_RS.T), {})
        return samples

    def score_neighbours(
        self, found: Values, there_Kk: NDArray[np.bool_], test: Target, resamples: Resamples, ks: Sequence[int]
    ) -> dict[str, MetricSamples]:
        """Metrics of retrieval, mean over all (query, neighbour) pairs.

        Args:
            found: the neighbours' targets, nearest first: (K, k), or (K, k, C) for tags.
            there_Kk: False where a query has no such neighbour.
            test: the queries' own targets.
            resamples: of the queries.
            ks: neighbourhood sizes.
        """
        samples = {}
        scored = self.pair_scores(test.values, np.swapaxes(found, 0, 1), test.classes)
        for name, score_kK in zip(self.retrieval_metrics, scored, strict=True):
            for k in ks:
                near_Kk = there_Kk[:, :k]
                sum_K, count_K = (score_kK.T[:, :k] * near_Kk).sum(1), near_Kk.sum(1).astype(np.float64)
                samples[f"{name}@{k}"] = MetricSamples(resamples.measure(partial(pair_mean, sum_K, count_K)), {})
        return samples

    @abstractmethod
    def best_constant(self, train: Target) -> NDArray[np.bool_] | int | float:
        """The one answer that scores best on the train split; ties go to the first class, the lowest number."""

    def baselines(self, train: Target, test: Target, seeds: int, rng: np.random.Generator) -> tuple[Values, Values]:
        """Answers of chance (S, K), drawn from the train split, and of the best constant (1, K)."""
        chance = rng.choice(train.values, (seeds, len(test)))
        return chance, np.full((1, len(test)), self.best_constant(train))

    def masked(self, test: Target) -> list[str]:
        """Tags or classes that no metric of the probe is defined for; none is averaged in."""
        return []

    def scope(self, test: Target) -> str:
        """Suffix of a probe's convention: which classes count."""
        return ""

    def why_untrainable(self, task: Task, train: Target, split: str) -> str | None:
        """Why no head can be trained on the train clips; ``split`` is the set's name of their split."""
        values = np.unique(train.values)
        if len(values) > 1:
            return None
        one = train.classes[int(values[0])] if train.classes else f"{values[0]:g}"
        return (
            f"all {len(train)} train clips have the same value in column {task.column}, {one}, and a probe needs two; "
            f"build the shards with others in split {split}"
        )

    def retrieval_convention(self, metric: str, k: int, split: str, exclude: str) -> str:
        """How a metric of retrieval is computed, for the report."""
        return (
            f"{self.retrieval_metrics[metric]}; cosine, {k} nearest {split} clips of another {exclude}, mean over pairs"
        )

    def why_alone(self, test: Target, split: str, exclude: str) -> str | None:
        """Why no clip of the split that is reported has a neighbour, with the remedy."""
        if len(np.unique(test.track_K if exclude == "track" else test.artist_K)) > 1:
            return None
        other = " or exclude=track" if exclude == "artist" and len(np.unique(test.track_K)) > 1 else ""
        return (
            f"all {len(test)} {split} clips with a value are of one {exclude}, and clips of the query's own "
            f"{exclude} are no neighbours; build the shards with more {exclude}s in that split{other}"
        )

    def retrieval_notes(self, name: str, test: Target) -> list[str]:
        """What a reader must know of the task's clips."""
        return []


def kind_of(task: Task) -> Kind:
    """The kind of a task. Raises UserError if ``module:Class`` cannot be imported, or is no `Kind` with metrics."""
    kind = create(KINDS.get(task.kind, task.kind), {}, "kind")
    if not isinstance(kind, Kind):
        raise UserError(
            f"kind={task.kind}: gives a {type(kind).__name__}, not a kind of task; let the class extend "
            "counterpoint.TaskKind"
        )
    if not (kind.reads_texts or kind.finds_own_track) and not getattr(kind, "probe_metrics", None):
        raise UserError(f"kind={task.kind}: probe_metrics is empty; name each metric with its convention")
    return kind


def label_kind_of(task: Task) -> TaskKind:
    """The kind of a task about labels, which has heads or neighbours."""
    kind = kind_of(task)
    assert isinstance(kind, TaskKind), task.kind
    return kind


def metric_names(task: Task, ks: Sequence[int]) -> list[str]:
    """Every metric that a task reports."""
    return kind_of(task).metric_names(task, ks)


def _seed_means(score_SK: NDArray[np.float64], count_K: NDArray[np.float64], weights_BK: NDArray[np.float64]) -> Values:
    """Means (B, S) of every seed's scores."""
    return np.stack([pair_mean(score_K, count_K, weights_BK) for score_K in score_SK], 1)
