"""Whether a text alone betrays that a word of it was swapped: then a text tower learns to spot swaps without the music.

A linear classifier reads the vectors of texts and of their swapped versions, without any audio, and is asked on pairs
it has not seen which of the two was swapped. Chance is one half.

Shape suffixes: P pairs, V columns of text vectors.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_shards.text.dictionary import tokenize
from data_shards.text.draws import Draws
from data_shards.text.text_views import TextViews

FOLDS = 5
RIDGE = 1.0
"""Added to the diagonal of the normal equations."""
Z_95 = 1.959964


class Betrayal(NamedTuple):
    """How often the classifier finds the swapped text of a pair."""

    accuracy: float
    low: float
    high: float
    """95% interval of Wilson (1927)."""
    pairs: int

    @property
    def is_betrayed(self) -> bool:
        """Whether the texts alone betray their swaps: the whole interval lies above chance."""
        return self.low > 0.5


def swap_pairs(views: TextViews, *, most: int = 2000) -> list[tuple[str, str]]:
    """Texts of different training clips, at the step where most texts are swapped, each with its swapped version."""
    pairs = []
    last = max(0, views.steps - 1)
    for stream, rows in enumerate(views.rows):
        for slot, row in enumerate(rows.tolist()[:most] if rows is not None else ()):
            reading = views.read(last, slot, stream, row)
            pairs += [(reading.text.text, hard.text) for hard in reading.hard[:1] if hard]
    return pairs


def find_betrayal(pairs: Sequence[tuple[str, str]]) -> Betrayal:
    """Ask a classifier of counted words which text of a pair was swapped, in `FOLDS`-fold cross-validation.

    ``pairs`` are (own text, swapped text) of different clips; raises ValueError for fewer than 2·`FOLDS`.
    """
    if len(pairs) < 2 * FOLDS:
        raise ValueError(f"{len(pairs)} pairs of texts are too few to learn from; give at least {2 * FOLDS}")
    from sklearn.linear_model import Ridge

    texts = [own for own, _ in pairs] + [hard for _, hard in pairs]
    x = word_counts(texts)
    x = x - x.mean(axis=0)
    own_PV, hard_PV = x[: len(pairs)], x[len(pairs) :]
    order = np.array(Draws("folds", 0).shuffled(range(len(pairs))))
    correct = 0.0
    for fold in range(FOLDS):
        test = order[fold::FOLDS]
        train = np.setdiff1d(order, test)
        classifier = Ridge(RIDGE, fit_intercept=False)
        classifier.fit(np.concatenate([own_PV[train], hard_PV[train]]), np.repeat([-1.0, 1.0], len(train)))
        margin = classifier.predict(hard_PV[test] - own_PV[test])
        correct += float((margin > 1e-9).sum()) + 0.5 * float((np.abs(margin) <= 1e-9).sum())
    return Betrayal(correct / len(pairs), *wilson(correct, len(pairs)), len(pairs))


def word_counts(texts: Sequence[str]) -> NDArray[np.float64]:
    """Counts of words and of neighbouring words: (number of texts, V)."""
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        tokenizer=lambda text: [token.word for token in tokenize(text)],
        token_pattern=None,
        lowercase=False,
        ngram_range=(1, 2),
    )
    return np.asarray(counter.fit_transform(texts).toarray(), np.float64)


def wilson(successes: float, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson, 1927).

    >>> [round(bound, 3) for bound in wilson(50, 100)]
    [0.404, 0.596]
    """
    share, z2 = successes / count, Z_95**2
    center = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    return center - half, center + half
