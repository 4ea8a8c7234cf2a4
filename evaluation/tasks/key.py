"""Musical keys, "C# minor": mir_eval's weighted score, of a probe's answers and of neighbours."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cluster.imports import import_alone
from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from evaluation.config import Task
from evaluation.metrics.weighted import key_scores
from evaluation.targets.target import Target, read_classes, require_column
from evaluation.tasks.classes import Classes
from evaluation.tasks.kind import Columns, Values

CONVENTION = "weighted key score; a fifth counts .5 only above the reference (mir_eval)"


class Key(Classes):
    """A categorical column of keys that mir_eval can read."""

    probe_metrics: ClassVar[Mapping[str, str]] = {"weighted": CONVENTION}
    retrieval_metrics: ClassVar[Mapping[str, str]] = {"weighted": CONVENTION}

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Codes (K,) of the keys."""
        validate_key = import_alone("mir_eval.key").validate_key  # the package imports scipy.stats, a second

        require_column(index, name, task, "categorical")
        codes, classes = read_classes(index, name, task)
        for key in classes:
            try:
                validate_key(key)
            except ValueError as error:
                raise UserError(f"task {name}: column {task.column}: {error}") from None
        return codes, classes

    def pair_scores(self, truth: Values, answers: Values, classes: tuple[str, ...]) -> Sequence[NDArray[np.float64]]:
        """The weighted score; the truth is the reference."""
        return [key_scores(classes, classes)[truth.astype(np.int64), answers.astype(np.int64)]]

    def best_constant(self, train: Target) -> NDArray[np.bool_] | int | float:
        """The key with the highest weighted score."""
        counts_C = np.bincount(train.values.astype(np.int64), minlength=len(train.classes))
        return int(np.argmax(counts_C @ key_scores(train.classes, train.classes)))
