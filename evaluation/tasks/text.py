"""What a task that compares clips with texts defines; a file for each kind beside this one.

Clips and texts are unit vectors of the space of two towers. Models are the two towers of every encoder, and those of
`TextKind.baselines`. Ties share their ranks, so that a constant scores at chance.

Shape suffixes: K test clips, k texts, d width of the space.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex
from evaluation.config import EvaluationConfig, Task
from evaluation.metrics.confidence import Resamples
from evaluation.metrics.samples import MetricSamples
from evaluation.targets.target import Target
from evaluation.tasks.kind import Kind

Vectors = NDArray[np.float32]
Texts = tuple[tuple[str, ...], ...]
RANDOM_WIDTH = 64
"""Of the vectors of the baseline ``random``."""


@dataclass(frozen=True)
class Question:
    """What is asked of every model."""

    name: str
    task: Task
    test: Target
    """The clips, with their texts."""
    config: EvaluationConfig
    resamples: Resamples
    """Of the clips."""
    rng: Callable[[str], np.random.Generator]
    """The generator of one purpose, the same for every model."""


@dataclass(frozen=True)
class TextModel:
    """Two towers, or a baseline."""

    clips_Kd: Vectors
    """Unit vectors of the test clips."""
    embed: Callable[[Sequence[str]], Vectors]
    """Texts to unit vectors (k, d)."""


class TextKind(Kind):
    """One kind of task about texts: no probe, no nearest neighbours, nothing trained."""

    probe_metrics: ClassVar[Mapping[str, str]] = {}
    reads_texts: ClassVar[bool] = True

    @abstractmethod
    def texts(self, index: ShardIndex, name: str, task: Task) -> Texts:
        """The texts that the task needs of each clip of a set, the same at every call; none for a clip without."""

    @abstractmethod
    def score(self, question: Question, model: TextModel) -> dict[str, MetricSamples]:
        """Metrics of a model on the test clips and their resamples."""

    @abstractmethod
    def convention(self, question: Question, metric: str) -> str:
        """How a metric is defined, for the report."""

    def notes(self, question: Question) -> list[str]:
        """What a reader must know."""
        return []

    def baselines(self, question: Question) -> dict[str, TextModel]:
        """Models of chance: ``random``, vectors drawn for each clip and text, and ``constant``, everything equal."""
        return {"random": random_model(question), "constant": constant_model(question)}


def random_model(question: Question) -> TextModel:
    """Vectors drawn for every clip and every text."""
    clips, texts = question.rng("random clips"), question.rng("random texts")
    return TextModel(
        clips.standard_normal((len(question.test), RANDOM_WIDTH)).astype(np.float32),
        lambda given: texts.standard_normal((len(given), RANDOM_WIDTH)).astype(np.float32),
    )


def constant_model(question: Question) -> TextModel:
    """Every clip fits every text equally well."""
    return TextModel(np.zeros((len(question.test), 1), np.float32), lambda given: np.zeros((len(given), 1), np.float32))


def mean_over_clips(sum_K: NDArray[np.float64], count_K: NDArray[np.float64], resamples: Resamples) -> MetricSamples:
    """The mean of values of which each clip has some: their sums and numbers by clip."""

    def weighted(weights_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(invalid="ignore"):
            return np.asarray((weights_BK @ sum_K) / (weights_BK @ count_K))

    return MetricSamples(resamples.measure(weighted), {})


def by_clip(values_O: NDArray[np.float64], clip_O: NDArray[np.int64], clips: int) -> NDArray[np.float64]:
    """Sums of values by the clip that each is of, shape (clips,)."""
    return np.bincount(clip_O, values_O, clips).astype(np.float64)
