"""BERT's tokenizer: lower case without accents, punctuation apart, then the longest pieces of a vocabulary.

Agrees with ``tokenizer.json`` of BERT models as the library tokenizers reads it (tests hold a table of its ids), except
for marks that are younger than Unicode 8: here they are punctuation.

Source: arXiv:1810.04805 and google-research/bert, tokenization.py.
"""

import hashlib
import unicodedata
from collections.abc import Mapping, Sequence

MAX_WORD = 100
"""Longer words are unknown."""
_LEFT_OUT = {"Cc", "Cf", "Co", "Cs"}
"""Categories that are no text: control, format, private use, surrogates."""
_IDEOGRAPHS = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF),
    (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
"""Ranges whose characters are words of their own."""


def basic_words(text: str, *, lower: bool = True, strip_accents: bool | None = None) -> list[str]:
    """The words and punctuation marks of a text.

    Args:
        text: any.
        lower: in lower case.
        strip_accents: "é" becomes "e"; as ``lower`` unless given.

    >>> basic_words("A Café-style waltz!")
    ['a', 'cafe', '-', 'style', 'waltz', '!']
    """
    kept = "".join(_spaced(char) for char in text if not _is_no_text(char))
    if lower if strip_accents is None else strip_accents:
        kept = "".join(char for char in unicodedata.normalize("NFD", kept) if unicodedata.category(char) != "Mn")
    if lower:  # character by character: Python lowers a final sigma by its place in the word
        kept = "".join(char.lower() for char in kept)
    return "".join(f" {char} " if _is_punctuation(char) else char for char in kept).split()


class WordPiece:
    """A vocabulary and its greedy longest match. Raises ValueError if a special token is missing."""

    def __init__(self, vocabulary: Mapping[str, int], *, lower: bool = True, strip_accents: bool | None = None) -> None:
        missing = [token for token in ("[UNK]", "[CLS]", "[SEP]") if token not in vocabulary]
        if missing:
            raise ValueError(f"the vocabulary has no {' and no '.join(missing)}")
        self.vocabulary, self.lower, self.strip_accents = dict(vocabulary), lower, strip_accents

    def ids(self, text: str, max_tokens: int) -> tuple[list[int], bool]:
        """Ids of [CLS], the pieces and [SEP], at most ``max_tokens`` of them, and whether pieces were cut off."""
        ids: list[int] = []
        room = max_tokens - 2
        for word in basic_words(text, lower=self.lower, strip_accents=self.strip_accents):
            ids += self._pieces(word)
            if len(ids) > room:
                break
        return [self.vocabulary["[CLS]"], *ids[:room], self.vocabulary["[SEP]"]], len(ids) > room

    def state(self) -> bytes:
        """Digest of all that determines the ids."""
        pieces = sorted(self.vocabulary.items(), key=lambda item: item[1])
        content = repr((pieces, self.lower, self.strip_accents))
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()

    def _pieces(self, word: str) -> Sequence[int]:
        unknown = [self.vocabulary["[UNK]"]]
        if len(word) > MAX_WORD:
            return unknown
        ids, start = [], 0
        while start < len(word):
            for end in range(len(word), start, -1):
                found = self.vocabulary.get(("##" if start else "") + word[start:end])
                if found is not None:
                    break
            else:
                return unknown
            ids.append(found)
            start = end
        return ids


def _is_no_text(char: str) -> bool:
    return char not in "\t\n\r" and (char == "\ufffd" or unicodedata.category(char) in _LEFT_OUT)


def _spaced(char: str) -> str:
    code = ord(char)
    return f" {char} " if any(first <= code <= last for first, last in _IDEOGRAPHS) else char


def _is_punctuation(char: str) -> bool:
    code = ord(char)
    ascii_mark = 33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
    return ascii_mark or unicodedata.category(char).startswith("P")
