"""Which text of its clip a place of the batch reads at a step: a pure function of (seed, step, slot).

A clip has a fixed number of views: stored captions, sentences from its tags, lists of tags. A step draws one; what a
view says depends on the run's seed and on the clip alone, so that a locked text tower may keep its vector.

Shape suffixes: B clips of this rank's part of a batch, H = B·each hard texts, R = B + H rows, C words.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from data_shards.format.index import ShardIndex
from data_shards.format.records import TextRows
from data_shards.text.clip_words import ClipWords, build_lexicon, evenly
from data_shards.text.config import TextViewsConfig
from data_shards.text.dictionary import load_dictionary
from data_shards.text.draws import Draws
from data_shards.text.lexicon import partial_tags
from data_shards.text.swaps import Swapper, corpus_weights
from data_shards.text.templates import Templates

_CACHED_TEXTS = 1 << 14
MAX_COUNTED_CLIPS = 20_000
"""Clips, evenly spaced, whose words are counted for swaps: shares to about one in a hundred, in a second."""
ABSENT = -1
"""Hash of a hard text that a place has not."""


class Text(NamedTuple):
    """A text and the codes of what it shows."""

    text: str
    shown: tuple[int, ...]


class Reading(NamedTuple):
    """What a place of the batch reads at a step."""

    text: Text
    hard: tuple[Text | None, ...]
    """``swap.each`` swapped texts; None where the place has none at this step."""
    holds: frozenset[int]
    """Codes of what holds or may hold of the clip."""


class TextViews:
    """Draws the texts of a run's clips. Holds no state that changes.

    Args:
        config: keys ``text.*``.
        indexes: of the labelled and the unlabelled set; None for one that is not drawn from.
        rows: of each set, the training clips that are drawn from.
        seed: of the run.
        steps: of the run, over which the share of swaps rises.

    Raises:
        UserError: no such dictionary.
    """

    def __init__(
        self,
        config: TextViewsConfig,
        indexes: Sequence[ShardIndex | None],
        rows: Sequence[NDArray[np.int64] | None],
        *,
        seed: int,
        steps: int,
    ) -> None:
        self.config, self.seed, self.steps = config, seed, steps
        dictionary = load_dictionary(config.swap.dictionary)
        self.lexicon = build_lexicon(indexes, dictionary)
        self.sets = [None if index is None else ClipWords(index, self.lexicon, dictionary) for index in indexes]
        self.rows = rows
        self._templates = Templates(self.lexicon)
        drawn = [(words, some) for words, some in zip(self.sets, rows, strict=True) if words and some is not None]
        self._swapper: Swapper | None = None
        if config.swap.each:
            parts = [words.matrix(evenly(some, MAX_COUNTED_CLIPS)) for words, some in drawn]
            has_KC = np.concatenate([*parts, np.zeros((0, len(self.lexicon)), np.bool_)])
            self._swapper = Swapper(self.lexicon, corpus_weights(self.lexicon, has_KC))

    @property
    def words(self) -> tuple[str, ...]:
        """The C words of `TextRows.tags_BC`, in order."""
        return tuple(word.name for word in self.lexicon.words)

    def read(self, step: int, slot: int, stream: int, row: int) -> Reading:
        """The texts of a place at a step.
        Raises ValueError if the clip has neither tags nor captions, see `data_shards.text.checks`.
        """
        text = self._draw(stream, row, Draws("text", self.seed, step, slot))
        holds = self._words(stream).holds(row)
        share = self.config.swap.share_at(step, self.steps)
        hard: list[Text | None] = []
        for number in range(self.config.swap.each):
            draws = Draws("swap", self.seed, step, slot, number)
            made = self._swap(text, holds, draws) if draws.uniform() < share else None
            hard.append(None if made in hard else made)
        return Reading(text, tuple(hard), holds)

    def gather(self, readings: Sequence[Reading]) -> TextRows:
        """The texts of a rank's part of a batch as rows."""
        hard = [one for reading in readings for one in reading.hard]
        texts = [*(reading.text for reading in readings), *hard]
        tags_BC = np.zeros((len(readings), len(self.lexicon)), np.bool_)
        for place, reading in enumerate(readings):
            tags_BC[place, list(reading.holds)] = True
        said_RC = np.zeros((len(texts), len(self.lexicon)), np.bool_)
        hash_R = np.full(len(texts), ABSENT, np.int64)
        for place, one in enumerate(texts):
            if one:
                said_RC[place, list(one.shown)] = True
                hash_R[place] = text_hash(one.text)
        return TextRows(
            text=tuple(reading.text.text for reading in readings),
            hard=tuple(one.text if one else None for one in hard),
            tags_BC=torch.from_numpy(tags_BC),
            tags_text_RC=torch.from_numpy(said_RC),
            hash_R=torch.from_numpy(hash_R),
        )

    def captions(self, stream: int, row: int) -> list[tuple[str, int]]:
        """Views of a clip that are captions, (kind, number): ``stored``, or written by templates, ``full``/``partial``.

        A stored caption is partial if it is known to leave out some of the clip's tags.
        """
        words = self._words(stream)
        stored: list[tuple[str, int]] = []
        if self.config.captions != "templates":
            stored = [("stored", number) for number in self._admitted(words, row)]
        written = self._views() if self.config.captions != "stored" and words.tags(row) else []
        return stored + written

    def can_swap(self, stream: int, row: int, text: Text) -> bool:
        """Whether some draw swaps a word of this text of a clip."""
        return self._swapper is not None and self._swapper.can_swap(text.text, self._words(stream).holds(row))

    def _draw(self, stream: int, row: int, draws: Draws) -> Text:
        words = self._words(stream)
        wants_caption = draws.uniform() < self.config.p_cap
        has_tags = bool(words.tags(row))
        captions = self.captions(stream, row) if wants_caption or not has_tags else []
        if captions:
            return self._caption(words, row, draws.choice(captions))
        if not has_tags:
            raise ValueError(f"clip {words.index.key[row]} has neither tags nor captions that text.views admits")
        return self._list(words, row, draws.choice(self._views()))

    def _words(self, stream: int) -> ClipWords:
        words = self.sets[stream]
        assert words is not None
        return words

    def _admitted(self, words: ClipWords, row: int) -> list[int]:
        """Numbers of the stored captions that ``text.views`` admits."""
        if self.config.views == "mixed":
            return list(range(len(words.index.captions[row])))
        tags = set(words.tags(row))
        partial = [shown is not None and not tags <= set(shown) for _, shown in words.captions(row)]
        return [number for number, part in enumerate(partial) if part == (self.config.views == "partial")]

    def _views(self) -> list[tuple[str, int]]:
        kinds = {"full": ("full",), "partial": ("partial",), "mixed": ("full", "partial")}[self.config.views]
        return [(kind, number) for kind in kinds for number in range(self.config.partial.each)]

    @lru_cache(maxsize=_CACHED_TEXTS)  # noqa: B019 the views of a clip never change
    def _list(self, words: ClipWords, row: int, view: tuple[str, int]) -> Text:
        """The bare tags of a view."""
        codes = tuple(self._draws("order", words, row, view).shuffled(self._subset(words, row, view)))
        return Text(self._templates.join(codes), codes)

    @lru_cache(maxsize=_CACHED_TEXTS)  # noqa: B019
    def _caption(self, words: ClipWords, row: int, view: tuple[str, int]) -> Text:
        kind, number = view
        if kind == "stored":
            text, shown = words.captions(row)[number]
            said = self.lexicon.says(text)
            return Text(text, said if shown is None else tuple(dict.fromkeys((*shown, *said))))
        codes = self._subset(words, row, view)
        return Text(self._templates.write(codes, self._draws("template", words, row, view)), codes)

    def _subset(self, words: ClipWords, row: int, view: tuple[str, int]) -> tuple[int, ...]:
        codes = words.tags(row)
        if view[0] == "full":
            return codes
        partial = self.config.partial
        draws = self._draws("subset", words, row, view)
        return partial_tags(self.lexicon, codes, draws, least=partial.least, balanced=partial.balanced)

    def _draws(self, purpose: str, words: ClipWords, row: int, view: tuple[str, int]) -> Draws:
        return Draws(purpose, self.seed, int(words.index.id_hash[row]), *view)

    def _swap(self, text: Text, holds: frozenset[int], draws: Draws) -> Text | None:
        assert self._swapper is not None
        made = self._swapper.swap(text.text, holds, draws)
        if made is None:
            return None
        return Text(made.text, tuple(made.new if code == made.old else code for code in text.shown))


def text_hash(text: str) -> int:
    """63 bits that equal texts share, ≥ 0, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little") >> 1
