"""Classes or tags of a column by their names alone: no head is trained.

A class is its name in each prompt. The ensemble is the mean of the unit vectors of all prompts, brought to unit norm;
it is reported first, then each prompt. None is chosen on the test clips.

Source: arXiv:2103.00020, §3.1.4 (ensembles of prompts); arXiv:2407.18058 (the spread over prompts).

Shape suffixes: K clips, C classes, P prompts, d width of the space.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex
from evaluation.config import Task
from evaluation.metrics.neighbours import unit_rows
from evaluation.metrics.samples import MetricSamples
from evaluation.targets.target import Target, require_column
from evaluation.tasks.classes import Classes
from evaluation.tasks.kind import Columns
from evaluation.tasks.tags import Tags
from evaluation.tasks.text import Question, TextKind, TextModel, Texts, mean_over_clips
from evaluation.text_task import in_prompts

ACCURACY = "accuracy"


class ZeroShot(TextKind):
    """A categorical column, or one of several tags a clip."""

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Codes (K,) of classes, or tags (K, C)."""
        column_kind = require_column(index, name, task, "categorical", "multilabel")
        return (Tags() if column_kind == "multilabel" else Classes()).read(index, name, task)

    def known(self, values: NDArray[Any], task: Task) -> NDArray[np.bool_]:
        """Clips with a class, or with a tag."""
        return np.asarray(values.any(1) if values.ndim == 2 else values >= 0)

    def texts(self, index: ShardIndex, name: str, task: Task) -> Texts:
        """None: what is read are the names of the classes."""
        return ()

    def metric_names(self, task: Task, ks: Sequence[int]) -> list[str]:
        """Of the ensemble, then of each prompt."""
        measures = (ACCURACY, *Tags.probe_metrics)
        return [f"{measure}{suffix}" for suffix in _suffixes(task) for measure in measures]

    def why_undefined(self, name: str, task: Task, test: Target, split: str) -> str | None:
        """One class alone is always right, and tags that all clips have or lack rank nothing."""
        if test.values.ndim == 2:
            return Tags().why_undefined(name, task, test, split)
        if len(test.classes) < 2:
            return f"column {task.column} has one class, {test.classes[0]}; choose a column with several"
        return None

    def score(self, question: Question, model: TextModel) -> dict[str, MetricSamples]:
        """Metrics of the ensemble and of each prompt."""
        test, prompts = question.test, question.task.prompts
        texts_PCd = model.embed(in_prompts(test.classes, prompts)).reshape(len(prompts), len(test.classes), -1)
        ensemble_Cd = unit_rows(np.ascontiguousarray(texts_PCd.mean(0)))
        samples: dict[str, MetricSamples] = {}
        for suffix, texts_Cd in zip(_suffixes(question.task), (ensemble_Cd, *texts_PCd), strict=False):
            for name, found in self._measure(question, model.clips_Kd @ texts_Cd.T).items():
                samples[name + suffix] = found
        return samples

    def convention(self, question: Question, metric: str) -> str:
        """What is measured, and of which prompt."""
        base, _, number = metric.partition("_prompt_")
        prompts = question.task.prompts
        which = f'prompt "{prompts[int(number) - 1]}"' if number else f"ensemble of {len(prompts)} prompts, none chosen"
        what: Mapping[str, str] = {ACCURACY: "top-1 accuracy", **Tags.probe_metrics}
        return f"{what[base]}; cosine with the name of each class, {which}"

    def notes(self, question: Question) -> list[str]:
        """What always naming the commonest class would reach."""
        if question.test.values.ndim == 2:
            return []
        share = float(np.bincount(question.test.values).max() / len(question.test))
        return [f"{question.name}: the commonest class has {share:.1%} of the clips"]

    def _measure(self, question: Question, score_KC: NDArray[np.float32]) -> dict[str, MetricSamples]:
        test, resamples = question.test, question.resamples
        if test.values.ndim == 2:
            return Tags().score_probe(score_KC[None], test, resamples)
        best_KC = score_KC == score_KC.max(1, keepdims=True)
        right_K = best_KC[np.arange(len(test)), test.values] / best_KC.sum(1)  # a tie is broken at random
        return {ACCURACY: mean_over_clips(right_K, np.ones(len(test)), resamples)}


def _suffixes(task: Task) -> list[str]:
    """Of the metrics: nothing for the ensemble, and a number for each prompt where there are several."""
    several = len(task.prompts) > 1
    return ["", *(f"_prompt_{number}" for number in range(1, len(task.prompts) + 1) if several)]
