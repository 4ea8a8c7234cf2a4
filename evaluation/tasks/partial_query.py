"""Queries of a few tags: mean average precision of all clips that have them.

A query is a balanced subset of the tags of one test clip, written as a list; equal queries count once for each clip.
Right are all test clips with these tags, so chance is their share: the value of the constant.

Shape suffixes: K test clips, Q different queries, C words, d width of the space.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.settings import UserError
from data_shards.format.index import ShardIndex
from data_shards.text.clip_words import ClipWords, build_lexicon, tag_columns
from data_shards.text.dictionary import load_dictionary
from data_shards.text.draws import Draws
from data_shards.text.lexicon import balanced_order
from data_shards.text.templates import Templates
from evaluation.config import Task
from evaluation.metrics.samples import MetricSamples
from evaluation.metrics.weighted import auroc_and_ap
from evaluation.targets.target import Target
from evaluation.tasks.kind import Columns
from evaluation.tasks.text import Question, TextKind, TextModel, Texts, mean_over_clips

PRECISION = "map"


class PartialQuery(TextKind):
    """Clips with tags in any column that holds words of texts."""

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Which words a clip has by its tags (K, C)."""
        dictionary = load_dictionary(task.dictionary)
        if not tag_columns(index, dictionary):
            raise UserError(
                f"task {name}: the shards have no column of tags; build them from a table with some, or leave the task "
                f"out with tasks.{name}.optional=true"
            )
        lexicon = build_lexicon([index], dictionary)
        words = ClipWords(index, lexicon, dictionary)
        has_KC = np.zeros((len(index), len(lexicon)), np.bool_)
        for row in range(len(index)):
            has_KC[row, list(words.tags(row))] = True
        return has_KC, tuple(word.name for word in lexicon.words)

    def known(self, values: NDArray[Any], task: Task) -> NDArray[np.bool_]:
        """Clips with enough tags for a query."""
        return np.asarray(values.sum(1) >= task.tags)

    def texts(self, index: ShardIndex, name: str, task: Task) -> Texts:
        """The query of a clip, then the codes of its words."""
        dictionary = load_dictionary(task.dictionary)
        lexicon = build_lexicon([index], dictionary)
        words, templates = ClipWords(index, lexicon, dictionary), Templates(lexicon)
        found: list[tuple[str, ...]] = []
        for row in range(len(index)):
            tags = words.tags(row)
            if len(tags) < task.tags:
                found.append(())
                continue
            draws = Draws(name, str(index.key[row]))
            query = sorted(balanced_order(lexicon, tags, draws)[: task.tags])
            found.append((templates.join(query), *map(str, query)))
        return tuple(found)

    def metric_names(self, task: Task, ks: Sequence[int]) -> list[str]:
        """One."""
        return [PRECISION]

    def why_undefined(self, name: str, task: Task, test: Target, split: str) -> str | None:
        """One clip has nothing to be distinguished from."""
        if len(np.unique(test.track_K)) > 1:
            return None
        return f"all {len(test)} {split} clips with {task.tags} tags are of one track; build the shards with more"

    def score(self, question: Question, model: TextModel) -> dict[str, MetricSamples]:
        """Mean over clips of the average precision of their query."""
        test = question.test
        places: dict[tuple[str, ...], int] = {}
        query_K = np.array([places.setdefault(texts, len(places)) for texts in test.texts_K], np.int64)
        texts_Qd = model.embed([text for text, *_ in places])
        right_KQ = np.stack([test.values[:, [int(code) for code in codes]].all(1) for _, *codes in places], 1)
        score_KQ = (model.clips_Kd @ texts_Qd.T).astype(np.float64)
        precision_Q = auroc_and_ap(score_KQ, right_KQ, np.ones((1, len(test))))[1][0]
        return {PRECISION: mean_over_clips(precision_Q[query_K], np.ones(len(test)), question.resamples)}

    def convention(self, question: Question, metric: str) -> str:
        """What a query is, and what is right."""
        return (
            f"mean average precision of queries of {question.task.tags} tags of a clip, balanced over categories; "
            f"right are all of the {len(question.test):,} clips with these tags; chance is the constant's"
        )

    def notes(self, question: Question) -> list[str]:
        """How many queries differ."""
        different = len(set(question.test.texts_K))
        return [f"{question.name}: {different} different queries"]
