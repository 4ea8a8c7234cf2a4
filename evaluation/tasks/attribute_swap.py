"""Whether a clip's own caption scores above the same caption with one attribute swapped, by category of attribute.

The swapped captions are the same for every model. Chance is .5; a model that reads texts but does not listen is there.

Source: arXiv:2409.11498 (TextSwap as training); the test is ours.

Shape suffixes: K test clips, P pairs of captions, d width of the space.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_shards.format.index import ShardIndex
from data_shards.text.clip_words import ClipWords, build_lexicon
from data_shards.text.dictionary import load_dictionary
from data_shards.text.draws import Draws
from data_shards.text.swaps import Swapper, corpus_weights
from evaluation.config import Task
from evaluation.metrics.samples import MetricSamples
from evaluation.targets.target import Target
from evaluation.tasks.kind import Columns
from evaluation.tasks.text import Question, TextKind, TextModel, Texts, by_clip, mean_over_clips
from evaluation.tasks.text_retrieval import caption_counts

ACCURACY = "accuracy"
TRIES = 12
"""Draws of a swap for a caption; the first of each category is kept."""


class _Pair(NamedTuple):
    clip: int
    own: str
    swapped: str
    category: str


class AttributeSwap(TextKind):
    """Clips with captions in which a word of the dictionary stands."""

    def read(self, index: ShardIndex, name: str, task: Task) -> Columns:
        """Number of pairs of captions (K,); −1 for a clip without."""
        caption_counts(index, name)  # refuses a set without captions
        counts_K = np.array([len(texts) for texts in self.texts(index, name, task)], np.int64)
        return np.where(counts_K > 0, counts_K, -1), ()

    def texts(self, index: ShardIndex, name: str, task: Task) -> Texts:
        """Own caption, swapped caption and category of what was swapped, one triple after another."""
        dictionary = load_dictionary(task.dictionary)
        lexicon = build_lexicon([index], dictionary)
        words = ClipWords(index, lexicon, dictionary)
        swapper = Swapper(lexicon, corpus_weights(lexicon, words.matrix(np.arange(len(index)))))
        found: list[tuple[str, ...]] = []
        for row, captions in enumerate(index.captions):
            triples: list[str] = []
            for caption in captions[:1] if task.captions == "first" else captions:
                kept: dict[str, str] = {}
                for number in range(TRIES):
                    swapped = swapper.swap(caption, words.holds(row), Draws(name, str(index.key[row]), caption, number))
                    if swapped is not None:
                        kept.setdefault(lexicon.words[swapped.old].category, swapped.text)
                for category, text in sorted(kept.items()):
                    triples += [caption, text, category]
            found.append(tuple(triples))
        return tuple(found)

    def metric_names(self, task: Task, ks: Sequence[int]) -> list[str]:
        """One, with its values by category."""
        return [ACCURACY]

    def why_undefined(self, name: str, task: Task, test: Target, split: str) -> str | None:
        """Every clip here has a pair."""
        return None

    def score(self, question: Question, model: TextModel) -> dict[str, MetricSamples]:
        """Share of pairs whose own caption scores higher; a tie counts half."""
        test = question.test
        pairs = [
            _Pair(k, *texts[at : at + 3]) for k, texts in enumerate(test.texts_K) for at in range(0, len(texts), 3)
        ]
        clip_P = np.array([pair.clip for pair in pairs], np.int64)
        every = dict.fromkeys(text for pair in pairs for text in (pair.own, pair.swapped))
        place = {text: at for at, text in enumerate(every)}
        texts_Ud, clips_Pd = model.embed(list(place)), model.clips_Kd[clip_P]
        own_P = np.einsum("pd,pd->p", clips_Pd, texts_Ud[[place[pair.own] for pair in pairs]])
        swapped_P = np.einsum("pd,pd->p", clips_Pd, texts_Ud[[place[pair.swapped] for pair in pairs]])
        right_P = (own_P > swapped_P) + (own_P == swapped_P) / 2
        count_K = by_clip(np.ones(len(pairs)), clip_P, len(test))
        overall = mean_over_clips(by_clip(right_P, clip_P, len(test)), count_K, question.resamples)
        category_P = np.array([pair.category for pair in pairs])
        by_category = {str(name): float(right_P[category_P == name].mean()) for name in np.unique(category_P)}
        return {ACCURACY: MetricSamples(overall.values_R, by_category)}

    def convention(self, question: Question, metric: str) -> str:
        """What is compared."""
        return (
            "share of captions that score above themselves with one attribute swapped, mean over pairs; chance .5; "
            f"dictionary {question.task.dictionary}"
        )

    def notes(self, question: Question) -> list[str]:
        """Pairs by category."""
        categories = [texts[at] for texts in question.test.texts_K for at in range(2, len(texts), 3)]
        counts = ", ".join(f"{name} {categories.count(name)}" for name in sorted(set(categories)))
        return [f"{question.name}: {len(categories)} pairs ({counts})"]
