"""Which words of the lexicon hold for a clip of a set: from columns of its index, computed when they are asked for.

Shape suffixes: K clips, C words.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex
from data_shards.text.dictionary import SwapDictionary, column_categories
from data_shards.text.lexicon import Lexicon

_CACHED_CLIPS = 1 << 12


def tag_columns(index: ShardIndex, dictionary: SwapDictionary) -> dict[str, tuple[str, ...]]:
    """Columns whose labels are words of texts: the multi-label ones, and classes that the dictionary knows."""
    known = column_categories(dictionary)
    classes = {name: labels for name, labels in index.classes.items() if name.casefold() in known}
    return {**index.vocabularies, **classes}


def build_lexicon(indexes: Iterable[ShardIndex | None], dictionary: SwapDictionary) -> Lexicon:
    """The words of some sets together and of a dictionary."""
    columns: dict[str, tuple[str, ...]] = {}
    for index in indexes:
        for column, tags in tag_columns(index, dictionary).items() if index is not None else ():
            columns[column] = tuple(dict.fromkeys((*columns.get(column, ()), *tags)))
    return Lexicon(dictionary, columns)


class ClipWords:
    """Words and captions of the clips of one set."""

    def __init__(self, index: ShardIndex, lexicon: Lexicon, dictionary: SwapDictionary) -> None:
        self.index, self.lexicon = index, lexicon
        self._columns: list[tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]] = []
        for column, tags in tag_columns(index, dictionary).items():
            codes = np.array([-1 if (code := lexicon.code(tag)) is None else code for tag in tags], np.int64)
            if column in index.classes:
                known = index.target(column) >= 0
                flat = index.target(column)[known].astype(np.int32)
                ends = np.concatenate([[0], np.cumsum(known)]).astype(np.int64)
            else:
                flat, ends = index.targets[f"multilabel.{column}"]
            self._columns.append((flat, ends, codes))

    @lru_cache(maxsize=_CACHED_CLIPS)  # noqa: B019 a set lives as long as its run
    def tags(self, row: int) -> tuple[int, ...]:
        """Codes of the tags of a clip, each once, in the order of the columns."""
        found: list[int] = []
        for flat, ends, codes in self._columns:
            found += codes[flat[ends[row] : ends[row + 1]]].tolist()
        return tuple(code for code in dict.fromkeys(found) if code >= 0)

    def has_tags(self) -> NDArray[np.bool_]:
        """Whether each clip has a tag, (K,)."""
        has_K = np.zeros(len(self.index), np.bool_)
        for _, ends, _ in self._columns:
            has_K |= np.diff(ends) > 0
        return has_K

    @lru_cache(maxsize=_CACHED_CLIPS)  # noqa: B019
    def captions(self, row: int) -> tuple[tuple[str, tuple[int, ...] | None], ...]:
        """The stored captions of a clip, each with the tags that it is known to show, None where that is not known."""
        shown = self.index.tags_of_captions(row)
        return tuple(
            (text, self.lexicon.codes(tags) if tags else None)
            for text, tags in zip(self.index.captions[row], shown, strict=True)
        )

    @lru_cache(maxsize=_CACHED_CLIPS)  # noqa: B019
    def holds(self, row: int) -> frozenset[int]:
        """What holds or may hold of a clip: its tags, what its captions say, synonyms and exclusions of both."""
        codes = list(self.tags(row))
        for text, shown in self.captions(row):
            codes += self.lexicon.says(text) if shown is None else shown
        return self.lexicon.may_hold(codes)

    def matrix(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some clips has which words by its tags, or by one caption where it has no tags: (K, C)."""
        has_KC = np.zeros((len(rows), len(self.lexicon)), np.bool_)
        for place, row in enumerate(rows.tolist()):
            codes: Sequence[int] = self.tags(row)
            if not codes and len(self.index.captions[row]):
                codes = self.lexicon.says(self.index.captions[row][0])
            has_KC[place, list(codes)] = True
        return has_KC


def evenly(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """At most so many of the rows, evenly spaced.

    >>> evenly(np.arange(10), 4).tolist(), evenly(np.arange(3), 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    places = np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(np.int64)
    return rows[places]
