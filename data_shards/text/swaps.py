"""Hard negatives of a text: one attribute swapped for another that the clip does not have.

TextSwap of arXiv:2409.11498; its dictionaries and shares are not known, so these are ours. A text alone must not betray
its swap (`data_shards.text.swap_check`): the new word is drawn by how often the corpus has it, and a draw of the word
that is already there swaps nothing. So any word is swapped for another as often as the other for it.

Shape suffixes: K clips, C words.
"""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_shards.text.dictionary import tokens_of
from data_shards.text.draws import Draws
from data_shards.text.lexicon import Lexicon, Span, plural
from data_shards.text.templates import article


class Swapped(NamedTuple):
    """A text in which one word was replaced."""

    text: str
    old: int
    """Code of the word that was replaced."""
    new: int
    """Code of the word in its place."""


class Swapper:
    """Swaps one word of a text.

    Args:
        lexicon: the words and their groups.
        weight_C: how often each word is drawn, relative to others of its group; see `corpus_weights`.
    """

    def __init__(self, lexicon: Lexicon, weight_C: NDArray[np.float64]) -> None:
        self.lexicon = lexicon
        self._groups = [lexicon.group_of(code) for code in range(len(lexicon))]
        self._weights = [float(weight) for weight in weight_C]

    def swap(self, text: str, holds: Collection[int], draws: Draws) -> Swapped | None:
        """The text with one word replaced by another of its group; None where there is nothing to swap.

        Args:
            text: any text about a clip.
            holds: codes of what the clip has, by its tags and texts; it never receives one of them, nor a synonym.
            draws: choose the word and what replaces it.
        """
        spans = self.lexicon.find(text)
        said = [span.code for span in spans]
        excluded = self.lexicon.may_hold({*holds, *said})
        times: dict[str, int] = {}
        for code in said:
            meaning = self.lexicon.words[code].meaning
            times[meaning] = times.get(meaning, 0) + 1
        for span in draws.shuffled(spans):
            group = self._groups[span.code]
            once = times[self.lexicon.words[span.code].meaning] == 1  # twice: the text would contradict itself
            if not once or not self._may_leave(text, span):
                continue
            new = draws.weighted(group, [self._weights[code] for code in group])
            if new not in excluded:
                return Swapped(replace_word(text, span, self.lexicon.words[new].name), span.code, new)
        return None

    def can_swap(self, text: str, holds: Collection[int]) -> bool:
        """Whether any draw would swap a word of the text."""
        spans = self.lexicon.find(text)
        excluded = self.lexicon.may_hold({*holds, *(span.code for span in spans)})
        candidates = (code for span in spans if self._may_leave(text, span) for code in self._groups[span.code])
        return any(self._weights[code] > 0 and code not in excluded for code in candidates)

    def _may_leave(self, text: str, span: Span) -> bool:
        """Whether a word may be replaced: one that would be swapped in as well, as it is spelt, and is not denied.

        A word that is only ever replaced, such as a synonym or one that no clip is tagged with, would mark a text that
        was not swapped.
        """
        if span.negated or not self._groups[span.code] or not self._weights[span.code]:
            return False
        spelt = tokens_of(text[span.start : span.end])
        name = self.lexicon.words[span.code].name
        return spelt in (tokens_of(name), tokens_of(plural(name)))


def replace_word(text: str, span: Span, name: str) -> str:
    """A text with another word in a place: case, plural and a/an follow.

    >>> replace_word("An Organ plays.", Span(3, 8, 0, False, False), "flute")
    'A Flute plays.'
    """
    old = text[span.start : span.end]
    new = plural(name) if span.plural else name
    if old.isupper() and len(old) > 1:
        new = new.upper()
    elif old[:1].isupper():
        new = " ".join(word[:1].upper() + word[1:] for word in new.split(" ")) if old.istitle() else _capital(new)
    before = text[: span.start]
    for given in ("an", "a"):
        word = before.rstrip(" ").rpartition(" ")[2]
        if before.endswith(" ") and word.lower() == given:
            at = len(before.rstrip(" ")) - len(word)
            fitting = article(new.lower() if old[:1].isupper() else new)
            before = before[:at] + (_capital(fitting) if word[0].isupper() else fitting) + before[at + len(word) :]
            break
    return before + new + text[span.end :]


def corpus_weights(lexicon: Lexicon, has_KC: NDArray[np.bool_]) -> NDArray[np.float64]:
    """How often each word is drawn for a swap, (C,), so that swaps go both ways equally often; 0 for one that no clip
    has.

    For words of a group that exclude each other, such as tempos, that is the share of clips f that have it; where a
    clip may have several of a group, such as instruments, the odds f/(1 − f).
    """
    share_C = has_KC.mean(axis=0) if len(has_KC) else np.zeros(len(lexicon))
    weight_C = share_C.copy()
    for group in {lexicon.group_of(code) for code in range(len(lexicon))}:
        codes = list(group)
        if codes and (has_KC[:, codes].sum(axis=1) > 1).any():
            # A word of every clip has infinite odds; half a clip without it bounds them.
            without = np.maximum(1 - share_C[codes], 0.5 / len(has_KC))
            weight_C[codes] = share_C[codes] / without
    return weight_C


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
