"""Classes: one class a clip; top-1 accuracy of a probe, P@k of neighbours."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex
from evaluation.config import Task
from evaluation.targets.target import Target, read_classes
from evaluation.tasks.kind import Columns, TaskKind, Values


class Classes(TaskKind):
    """A categorical column, or one of whole numbers."""

    probe_metrics: ClassVar[Mapping[str, str]] = {"accuracy": "top-1 accuracy"}
    retrieval_metrics: ClassVar[Mapping[str, str]] = {"p": "share of neighbours of the query's class"}

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Codes (K,) of the classes."""
        return read_classes(index, name, task)

    def probabilities(self, out_SPC: NDArray[np.float64]) -> NDArray[np.float64]:
        """Softmax."""
        raised = np.exp(out_SPC - out_SPC.max(-1, keepdims=True))
        return np.asarray(raised / raised.sum(-1, keepdims=True))

    def decode(self, out: NDArray[np.float64]) -> Values:
        """Code of the highest output."""
        return np.asarray(out.argmax(-1), np.int64)

    def pair_scores(self, truth: Values, answers: Values, classes: tuple[str, ...]) -> Sequence[NDArray[np.float64]]:
        """One where the classes are equal."""
        return [(truth.astype(np.int64) == answers.astype(np.int64)).astype(np.float64)]

    def best_constant(self, train: Target) -> NDArray[np.bool_] | int | float:
        """The commonest class."""
        return int(np.argmax(np.bincount(train.values.astype(np.int64), minlength=len(train.classes))))
